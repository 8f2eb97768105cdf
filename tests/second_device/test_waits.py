"""No step of training waits for the device."""

import numpy as np
import pytest
import torch
from torch import nn

from second_device.agreement import embedder
from second_device.backend import NAME, WAITS
from sklearn_hscl.augment import ClassCorruption, FeatureCorruption, ImageTransforms
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.losses.presets import LOSSES
from sklearn_hscl.training.loop import net as loop


def own():
    return nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 8))


CASES = {
    "default": {"encoder": "tabular"},
    "two views": {"encoder": "tabular", "loss": "hucl"},
    "dropout": {"encoder": "tabular", "dropout": 0.2},
    "mlp": {"encoder": "mlp"},
    "own": {"encoder": own()},
    "chunks": {"encoder": own(), "device_batch_size": 8},
    "batch norm": {"encoder": nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))},
    "clipped": {"clip_norm": 0.5},
    "corruption": {"augment": FeatureCorruption(), "n_views": 2},
    "class corruption": {"augment": ClassCorruption(), "n_views": 2, "encoder": "tabular"},
    "balanced": {"sampler": "balanced"},
    **{loss: {"loss": loss} for loss in LOSSES},
    "threshold": {"hardening": "threshold"},
    "top k": {"hardening": "top_k"},
    "debiased": {"loss": "hucl", "tau_plus": 0.1},
    "no averaging": {"encoder": "tabular", "n_members": 1},
}


def waits_by_epoch(monkeypatch, X, y, **parameters):
    """Return the waits of each epoch: of its steps, and of all."""
    counts = []
    run_epoch = loop.run_epoch

    def counted(*arguments):
        WAITS.clear()
        stats = run_epoch(*arguments)
        counts.append(dict(WAITS))
        return stats

    monkeypatch.setattr(loop, "run_epoch", counted)
    embedder(NAME, max_epochs=3, early_stopping=False, **parameters).fit(X, y)
    return counts


@pytest.mark.parametrize("name", CASES)
def test_steps_on_tables(monkeypatch, table, name):
    parameters = {"batch_size": 32} | CASES[name]
    assert waits_by_epoch(monkeypatch, *table, **parameters) == [{}, {}, {}]


@pytest.mark.parametrize("encoder", ["conv", "resnet18", "own"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_steps_on_images(monkeypatch, images, encoder, precision):
    X, y = images[0][:16], images[1][:16]
    if encoder == "own":
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    parameters = {"encoder": encoder, "hidden_layer_sizes": None, "precision": precision}
    found = waits_by_epoch(monkeypatch, X, y, n_views=2, batch_size=8, **parameters)
    assert found == [{}, {}, {}]


@pytest.mark.parametrize("n_channels", [1, 3])
def test_image_transforms_do_not_wait(n_channels):
    images = torch.rand(6, n_channels, 9, 9)
    augment = ImageTransforms(blur=0.5, erase=0.5).fitted(images.to(NAME))
    generator = torch.Generator(NAME).manual_seed(0)
    rows = images.to(NAME)
    WAITS.clear()
    views = [augment(rows, generator) for _ in range(2)]
    assert not WAITS
    assert not torch.equal(*[view.cpu() for view in views])


@pytest.mark.parametrize("encoder", ["tabular", "mlp"])
def test_one_wait_an_epoch(table, encoder):
    waits = []
    for max_epochs in (3, 8):
        WAITS.clear()
        embedder(NAME, encoder=encoder, max_epochs=max_epochs, early_stopping=False).fit(
            *table
        )
        waits.append(sum(WAITS.values()))
    assert waits[1] - waits[0] == 5


def test_transform_waits_once_for_many_rows(table):
    X, y = table
    model = embedder(NAME).fit(X, y)
    for n_rows, expected in ((100, 1), (2**16, 1), (2**16 + 1, 2)):
        rows = np.resize(X, (n_rows, 4)).astype(np.float32)
        WAITS.clear()
        model.transform(rows)
        assert sum(WAITS.values()) == expected


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_alone(loss):
    criterion = ContrastiveLoss(loss)
    z = torch.randn(40, 8).to(NAME).requires_grad_()
    y = (torch.arange(40) % 4).to(NAME)
    ids = torch.arange(20).repeat(2).to(NAME)
    logits = torch.randn(40, 4).to(NAME)
    given = {"logits": logits} if criterion.options.ce_weight else {}
    criterion(z, y, view_ids=ids, **given).backward()
    WAITS.clear()
    criterion(z, y, view_ids=ids, **given).backward()
    assert not WAITS


def test_the_counter_sees_what_waits():
    """Otherwise none of these tests could fail."""
    here = torch.arange(4.0).to(NAME)
    causes = {
        "item": lambda: here.sum().item(),
        "branch": lambda: bool(here.any()),
        "nonzero": lambda: here.nonzero(),
        "mask": lambda: here[here > 1],
        "copy": lambda: here.cpu(),
        "unpinned": lambda: torch.ones(3).to(NAME),
        "number": lambda: torch.tensor(0.5, device=NAME),
        "index of the host": lambda: here[torch.tensor([0, 2])],
        "unique": lambda: here.unique(),
        "equal": lambda: torch.equal(here, here),
    }
    for cause, action in causes.items():
        WAITS.clear()
        action()
        assert sum(WAITS.values()) == 1, cause
    free = {
        "pinned": lambda: torch.ones(3).pin_memory().to(NAME, non_blocking=True),
        "full": lambda: here.new_full((2,), 0.5),
        "index": lambda: here[torch.arange(2, device=NAME)],
        "where": lambda: torch.where(here > 1, here, 0.0),
    }
    for cause, action in free.items():
        WAITS.clear()
        action()
        assert not WAITS, cause
