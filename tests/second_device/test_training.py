"""Losses, views, batches and every way to train learn the same on both devices."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from second_device.agreement import assert_agree, embedder
from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.augment import (
    ClassCorruption,
    FeatureCorruption,
    ImageTransforms,
    RandomShift,
)
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.losses.hardening import HARDENINGS
from sklearn_hscl.losses.presets import LOSSES
from sklearn_hscl.training.callbacks import checkpoint


def dropped(normalized=True):
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(16) if normalized else nn.LayerNorm(16)
    parts = (nn.Linear(4, 16), norm, nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 8))
    return nn.Sequential(*parts)


def half_labelled(y):
    return np.where(np.arange(len(y)) % 2, y, -1)


def warmth(progress):
    return 1 - progress / 2


CASES = {
    **{f"loss {name}": {"loss": name} for name in LOSSES},
    **{f"hardening {name}": {"hardening": name} for name in HARDENINGS},
    "views of labels": {"loss": "hucl", "n_views": 3},
    "official": {"loss": "hscl", "preset": "official"},
    "one positive": {"positives": "view", "n_views": 2},
    "reduction": {"reduction": "pairs"},
    "debiased": {"loss": "hucl", "tau_plus": 0.1},
    "auto scales": {"beta": "auto", "temperature": "auto", "early_stopping": True},
    "corruption": {"augment": FeatureCorruption(), "n_views": 2},
    "class corruption": {"augment": ClassCorruption(), "n_views": 2},
    "members, class corruption": {
        "augment": ClassCorruption(), "n_views": 2, "encoder": "tabular"
    },
    "shuffle": {"sampler": "shuffle"},
    "balanced": {"sampler": "balanced"},
    "clipped": {"clip_norm": 0.1},
    "schedule": {"lr_schedule": warmth},
    "backoff": {"lr_backoff": 0.5},
    "early stopping": {"early_stopping": True, "validation_fraction": 0.3},
    "out of fold": {"encoder": "tabular", "early_stopping": "auto", "max_epochs": 4},
    "chunks": {"device_batch_size": 7},
    "chunks, dropout": {"device_batch_size": 7, "encoder": dropped(normalized=False)},
    "chunks, dropout of ours": {"device_batch_size": 7, "dropout": 0.3},
    "chunks, statistics": {"device_batch_size": 16, "encoder": dropped()},
    "sgd": {"net_params": {"optimizer": torch.optim.SGD, "optimizer__momentum": 0.9}},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_tables(table, name):
    X, y = table
    # The numbers of the optimizer grow rounding errors; those of a view do not.
    parameters = {"precision": "float64"} | CASES[name]
    assert_agree(lambda device: embedder(device, **parameters).fit(X, y).transform(X), 1e-9)


@pytest.mark.parametrize("name", ["loss hscl", "loss hucl", "loss sscl", "chunks, dropout"])
def test_in_float32(table, name):
    X, y = table
    parameters = CASES[name]
    assert_agree(lambda device: embedder(device, **parameters).fit(X, y).transform(X))


TARGETS = {
    "classes": (lambda y: y, {}),
    "half": (half_labelled, {"unlabeled_label": -1}),
    "half, members": (half_labelled, {"unlabeled_label": -1, "encoder": "tabular"}),
    "none": (lambda y: None, {}),
    "indicators": (lambda y: np.eye(3, dtype=int)[y], {"target_type": "multilabel"}),
    "numbers": (lambda y: y + 0.5, {"target_type": "continuous"}),
    "columns": (lambda y: np.c_[y, -y] + 0.5, {"target_type": "continuous"}),
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets(table, name):
    X, y = table
    targets, parameters = TARGETS[name]
    y = targets(y)
    assert_agree(lambda device: embedder(device, **parameters).fit(X, y).transform(X))


@pytest.mark.parametrize(
    "augment", [RandomShift(), ImageTransforms(blur=0.5, erase=0.5), ImageTransforms()]
)
def test_views_of_images(images, augment):
    X, y = images
    X = np.repeat(X[:, None], 3, axis=1)
    parameters = {"encoder": nn.Sequential(nn.Flatten(), nn.Linear(192, 8))}
    parameters |= {"augment": augment, "n_views": 2, "max_epochs": 1, "channels": "first"}
    assert_agree(lambda device: embedder(device, **parameters).fit(X, y).transform(X))


# Trained in parts --------------------------------------------------------------------


def warm(device, X, y, path):
    model = embedder(device, warm_start=True).fit(X, y)
    return model.set_params(max_epochs=1).fit(X, y).transform(X)


def chunks(device, X, y, path):
    model = embedder(device)
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        model.partial_fit(X[rows], y[rows], classes=np.unique(y))
    return model.transform(X)


class Crash:
    """scikit-learn callback that fails at the end of the third epoch."""

    def setup(self, estimator, context):
        pass

    teardown = on_fit_task_begin = setup

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "epoch" and context.task_id == 2:
            raise OSError("the power went")


def crashed_and_resumed(device, directory, X, y):
    settings = {"checkpoint_dir": directory, "resume": True, "precision": "float64"}
    settings |= {"encoder": dropped()}
    begun = embedder(device, **settings, max_epochs=4)
    with pytest.raises(OSError, match="the power went"):
        clone(begun).set_callbacks(Crash()).fit(X, y)
    return begun.fit(X, y)


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    """Checkpoints at the end of each epoch, however long they take."""
    monkeypatch.setattr(checkpoint, "_MAX_TIME_FRACTION", 1.0)


def resumed(device, X, y, path):
    return crashed_and_resumed(device, path / device, X, y).transform(X)


def held_out(device, X, y, path):
    return embedder(device).fit(X[::2], y[::2], X_val=X[1::2], y_val=y[1::2]).transform(X)


@pytest.mark.parametrize("way", [warm, chunks, resumed, held_out])
def test_in_parts(table, tmp_path, way):
    assert_agree(lambda device: way(device, *table, tmp_path), 3e-4)


def test_resumed_to_the_same_bits(table, tmp_path):
    X, y = table
    exact = {"encoder": dropped(), "max_epochs": 4, "precision": "float64"}
    whole = embedder("second", **exact).fit(X, y)
    resumed = crashed_and_resumed("second", tmp_path / "crashed", X, y)
    np.testing.assert_array_equal(resumed.transform(X), whole.transform(X))


def test_random_state_of_the_device_is_left_alone(table):
    model = embedder("second", encoder=dropped())
    torch.second.manual_seed(3)
    before = torch.second.get_rng_state()
    model.fit(*table)
    assert torch.equal(torch.second.get_rng_state(), before)


def test_generators_of_other_devices_are_not_touched(table, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a fit on the CPU called the accelerator")

    model = embedder("cpu", encoder=dropped(), device_batch_size=7)
    for name in ("manual_seed", "manual_seed_all", "get_rng_state", "set_rng_state"):
        monkeypatch.setattr(torch.second, name, refuse)
    model.fit(*table).transform(table[0])


# The loss alone ----------------------------------------------------------------------


KERNELS = [
    (kernel, loss)
    for kernel in ("dense", "tiled", "streaming", "auto")
    for loss in LOSSES
    if kernel != "streaming" or loss in ("ucl", "scl", "hucl", "hscl")
]


@pytest.mark.parametrize(("kernel", "loss"), KERNELS)
def test_kernels(kernel, loss):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 8, generator=generator)
    logits = torch.randn(40, 4, generator=generator)

    def value_and_gradient(device):
        torch.manual_seed(0)
        if device != "cpu":
            torch.second.manual_seed(0)
        z = rows.clone().to(device).requires_grad_()
        ids = torch.arange(20).repeat(2).to(device)
        y = (torch.arange(40) % 4).to(device)
        criterion = ContrastiveLoss(loss, kernel=kernel)
        given = {"logits": logits.to(device)} if criterion.options.ce_weight else {}
        value = criterion(z, y, view_ids=ids, **given)
        value.backward()
        return value.detach().cpu(), z.grad.cpu()

    assert_agree(value_and_gradient, 1e-5)


def test_default_fit_of_a_table(table):
    """With all its defaults, but fewer epochs."""
    X, y = table

    def fit(device):
        model = HSCLEmbedder(device=device, random_state=0, max_epochs=3, batch_size=50)
        return model.fit(X, y).transform(X)

    assert_agree(fit, 3e-4)
