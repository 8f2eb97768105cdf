"""Fits that are interrupted, and resume from their checkpoint."""

import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import killed_fits as kills
from helpers.callbacks import QuietCallback
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from skorch.callbacks import EpochScoring

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.augment import FeatureCorruption
from sklearn_hscl.losses import ContrastiveLoss, LinearBeta
from sklearn_hscl.model_selection import BatchedGridSearchCV
from sklearn_hscl.runtime.threads import torch_threads
from sklearn_hscl.training.callbacks import checkpoint as checkpoint_module

SETTINGS = kills.MLP | {"max_epochs": 6, "early_stopping": True}


def embedder(directory=None, **parameters):
    return HSCLEmbedder(**(SETTINGS | {"checkpoint_dir": directory} | parameters))


class Stopped(Exception):  # noqa: N818
    """An error that ends a fit from outside."""


class StopAfter(QuietCallback):
    """scikit-learn callback that fails after some epochs."""

    def __init__(self, epoch, error=Stopped):
        self.epoch = epoch
        self.error = error

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "epoch" and context.task_id == self.epoch:
            raise self.error


@pytest.fixture
def every_epoch(monkeypatch):
    """Checkpoints at the end of each epoch, however long they take."""
    monkeypatch.setattr(checkpoint_module, "_MAX_TIME_FRACTION", 1.0)


def stopped(fitted, X, y, epoch=3, error=Stopped):
    """Begin a fit, and end it in the given epoch, before that is written."""
    begun = clone(fitted).set_callbacks(StopAfter(epoch, error))
    with pytest.raises(error):
        begun.fit(X, y)
    return begun


def test_killed_processes():
    cases = ["members", "memory map"]
    command = [sys.executable, kills.__file__, "2", "0", *cases]  # twice, seed 0
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert len(lines) == len(cases)
    assert all(line.endswith("True") for line in lines), result.stdout + result.stderr


@pytest.mark.parametrize("case", kills.CASES)
def test_every_epoch_is_a_place_to_go_on_from(case, tmp_path, every_epoch):
    settings, data = kills.CASES[case]
    X, y = data(tmp_path)
    whole = HSCLEmbedder(**settings).fit(X, y)
    begun = HSCLEmbedder(**settings, checkpoint_dir=tmp_path, resume=True)
    for epoch in (1, 4):
        stopped(begun, X, y, epoch)
    resumed = clone(begun).fit(X, y)
    assert kills.bits(resumed, X) == kills.bits(whole, X)
    again = clone(begun).fit(X, y)  # which has no epoch left
    assert kills.bits(again, X) == kills.bits(whole, X)
    assert os.listdir(tmp_path).count("checkpoint.pt") == 1


def test_seeds_of_no_random_state_are_kept(iris, tmp_path, every_epoch):
    begun = embedder(tmp_path, random_state=None, resume=True)
    stopped(begun, *iris)
    first = clone(begun).fit(*iris)
    second = clone(begun).fit(*iris)
    assert kills.bits(first, iris[0]) == kills.bits(second, iris[0])
    anew = clone(begun).set_params(resume=False).fit(*iris)
    assert kills.bits(anew, iris[0]) != kills.bits(first, iris[0])


def test_ctrl_c_leaves_something_to_go_on_from(iris, tmp_path, every_epoch):
    begun = embedder(tmp_path, resume=True)
    with pytest.warns(UserWarning, match="interrupted after 4 of 6 epochs"):
        begun.set_callbacks(StopAfter(3, KeyboardInterrupt)).fit(*iris)
    assert np.isfinite(begun.transform(iris[0])).all()
    resumed = clone(begun).set_callbacks().fit(*iris)
    whole = embedder().fit(*iris)
    assert kills.bits(resumed, iris[0]) == kills.bits(whole, iris[0])


def test_warm_start_goes_on_in_the_middle(iris, tmp_path, every_epoch):
    first = embedder(warm_start=True).fit(*iris)
    weights = kills.bits(first, iris[0])
    expected = clone(first).fit(*iris).fit(*iris)
    first.set_params(checkpoint_dir=tmp_path, resume=True)
    first.set_callbacks(StopAfter(2))
    with pytest.raises(Stopped):
        first.fit(*iris)
    assert kills.bits(first, iris[0]) == weights  # as it was before
    first.set_callbacks().fit(*iris)
    assert first.n_iter_ == 12
    assert kills.bits(first, iris[0]) == kills.bits(expected, iris[0])
    with pytest.raises(ValueError, match="weights that training starts from"):
        first.fit(*iris)


def test_a_pipeline_resumes(iris, tmp_path, every_epoch):
    pipe = make_pipeline(embedder(tmp_path, resume=True), LogisticRegression())
    stopped(pipe[0], *iris)
    expected = make_pipeline(embedder(), LogisticRegression()).fit(*iris)
    assert_array_equal(
        pipe.fit(*iris).predict_proba(iris[0]), expected.predict_proba(iris[0])
    )


def test_without_resume_a_fit_starts_anew(iris, tmp_path, every_epoch):
    stopped(embedder(tmp_path), *iris)
    other = embedder(tmp_path, beta=2.0).fit(*iris)
    expected = embedder(beta=2.0).fit(*iris)
    assert kills.bits(other, iris[0]) == kills.bits(expected, iris[0])


# What must be the same --------------------------------------------------------------


def test_other_data_are_named(iris, tmp_path):
    X, y = iris
    embedder(tmp_path).fit(X, y)
    other_X = X.copy()
    other_X[7, 1] += 1e-3
    resumed = embedder(tmp_path, resume=True)
    for rows, labels, name in [(other_X, y, "X "), (X, np.where(y == 1, 2, y), "y ")]:
        with pytest.raises(ValueError, match=f"another fit, which differs in {name}"):
            clone(resumed).fit(rows, labels)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta", 2.0),
        ("random_state", 1),
        ("max_epochs", 7),
        ("net_params", {"optimizer__eps": 1e-7}),
        ("lr_backoff", 0.5),
        ("loss", ContrastiveLoss("hscl", tau_plus=0.1)),
    ],
)
def test_other_parameters_are_named(iris, tmp_path, name, value):
    embedder(tmp_path).fit(*iris)
    with pytest.raises(ValueError, match=rf"differs in {name} \(then .*, now .*\)"):
        embedder(tmp_path, resume=True, **{name: value}).fit(*iris)


@pytest.mark.parametrize(
    "settings",
    [{"tau_plus": 0.1}, {"label_smoothing": 0.1}, {"hardening": "top_k", "top_k": 3}],
)
def test_other_settings_of_a_loss_are_noticed(iris, tmp_path, settings):
    usual = {"hardening": "top_k"} if "hardening" in settings else {}
    embedder(tmp_path, loss=ContrastiveLoss("hscl", **usual), max_epochs=1).fit(*iris)
    other, name = ContrastiveLoss("hscl", **settings), list(settings)[-1]
    with pytest.raises(ValueError, match=rf"differs in {name} of loss \(then"):
        embedder(tmp_path, loss=other, max_epochs=1, resume=True).fit(*iris)


@pytest.mark.parametrize("share", [1, 2])
def test_other_threads_draw_a_warning(iris, tmp_path, monkeypatch, share):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    with torch_threads(1):
        whole = embedder(tmp_path, n_threads=1).fit(*iris)
        resumed = embedder(tmp_path, resume=True, n_threads=share, verbose=0)
        if share == 1:
            resumed.fit(*iris)
        else:
            with pytest.warns(UserWarning, match=r"n_threads_ \(then 1, now 2\)"):
                resumed.fit(*iris)
    assert kills.bits(whole, iris[0]) == kills.bits(resumed, iris[0])


def test_other_versions_draw_a_warning(iris, tmp_path, monkeypatch):
    embedder(tmp_path).fit(*iris)
    monkeypatch.setattr(
        "sklearn_hscl.training.callbacks.checkpoint._version", lambda name: "0.1"
    )
    with pytest.warns(UserWarning, match=r"torch \(then 2.*, now 0.1\)"):
        embedder(tmp_path, resume=True).fit(*iris)


# What cannot be kept ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"beta": "auto"}, "train several"),
        ({"net_callbacks": [EpochScoring("accuracy")]}, "state that cannot be stored"),
    ],
)
def test_refused_clearly(iris, tmp_path, parameters, message):
    with pytest.raises(ValueError, match=message):
        embedder(tmp_path, **parameters).fit(*iris)


def test_partial_fit_is_refused(iris, tmp_path):
    with pytest.raises(ValueError, match="checkpoint_dir=.*partial_fit"):
        embedder(tmp_path).partial_fit(*iris)


def test_resume_needs_a_directory(iris):
    with pytest.raises(ValueError, match="resume=True .* checkpoint_dir=None"):
        embedder(resume=True).fit(*iris)


def test_searches_fit_alone(iris, tmp_path):
    pipe = make_pipeline(embedder(tmp_path, max_epochs=1), LogisticRegression())
    search = BatchedGridSearchCV(pipe, {"hsclembedder__beta": [0.0, 1.0]}, cv=2)
    search.fit(*iris)
    assert all("checkpoint_dir" in batched.reason for batched in search.batched_)


# Equal values -----------------------------------------------------------------------


f32, f64, i64 = np.float32, np.float64, np.int64
SGD = {"optimizer": torch.optim.SGD, "optimizer__nesterov": True}
WEIGHTS = ["1.layers.0.weight"]
# Parameters of a fit, and the same in other words.
EQUAL_VALUES = {
    "whole numbers": (
        {"beta": 1.0, "tau_plus": 0.0, "negative_mass": 3.0, "ce_weight": 1.0}
        | {"dropout": 0.0, "weight_decay": 0.0, "clip_norm": 1.0, "tol": 0.0},
        {"beta": 1, "tau_plus": 0, "negative_mass": 3, "ce_weight": 1}
        | {"dropout": 0, "weight_decay": 0, "clip_norm": 1, "tol": 0},
    ),
    "numbers of numpy": (
        {"temperature": 0.5, "beta": 2.0, "tau_plus": 0.0, "ce_weight": 0.5, "lr": 0.5}
        | {"weight_decay": 0.25, "clip_norm": 1.0, "lr_backoff": 0.5, "dropout": 0.0},
        {"temperature": f32(0.5), "beta": i64(2), "tau_plus": f32(0), "lr": f64(0.5)}
        | {"ce_weight": f32(0.5), "weight_decay": f32(0.25), "clip_norm": f32(1)}
        | {"lr_backoff": f32(0.5), "dropout": f32(0)},
    ),
    "integers of numpy": (
        {"unlabeled_label": -1, "n_components": 4, "projection_dim": 6, "n_views": 2}
        | {"batch_size": 32, "device_batch_size": 16, "max_epochs": 1, "random_state": 3},
        {"unlabeled_label": i64(-1), "n_components": i64(4), "projection_dim": i64(6)}
        | {"n_views": i64(2), "batch_size": np.int32(32), "device_batch_size": i64(16)}
        | {"max_epochs": np.uint8(1), "random_state": i64(3)},
    ),
    "flags": (
        {"early_stopping": True, "detach_weights": False, "normalize": True}
        | {"validation_fraction": 0.25, "n_iter_no_change": 5, "tol": 0.0},
        {"early_stopping": np.True_, "detach_weights": np.False_, "normalize": np.True_}
        | {"validation_fraction": f32(0.25), "n_iter_no_change": i64(5), "tol": f64(0)},
    ),
    "names": (
        {"encoder": "mlp", "loss": "hscl", "reduction": "pairs", "lr_schedule": "constant"}
        | {"precision": "float64", "device": "cpu", "hardening": "top_k", "top_k": 3},
        {"encoder": np.str_("mlp"), "loss": np.str_("hscl"), "reduction": np.str_("pairs")}
        | {"lr_schedule": np.str_("constant"), "precision": np.str_("float64")}
        | {"device": torch.device("cpu"), "hardening": np.str_("top_k"), "top_k": i64(3)},
    ),
    "tuples": (
        {"hidden_layer_sizes": [8, 8], "freeze": WEIGHTS, "categorical_features": [0]},
        {"hidden_layer_sizes": (i64(8), 8), "freeze": (np.str_(WEIGHTS[0]),)}
        | {"categorical_features": (i64(0),)},
    ),
    "arrays": (
        {"hidden_layer_sizes": (8, 8), "freeze": WEIGHTS, "categorical_features": [0]},
        {"hidden_layer_sizes": np.array([8, 8]), "freeze": np.array(WEIGHTS)}
        | {"categorical_features": np.array([0])},
    ),
    "the optimizer": (
        {"net_params": {"optimizer__betas": (0.5, 0.75), "optimizer__eps": 0.25}},
        {"net_params": {"optimizer__eps": f32(0.25), "optimizer__betas": [0.5, f64(0.75)]}},
    ),
    "arrays for the optimizer": (
        {"net_params": {"optimizer__betas": (0.5, 0.75), "optimizer__amsgrad": True}},
        {
            "net_params": {"optimizer__betas": np.array([0.5, 0.75])}
            | {"optimizer__amsgrad": np.True_}
        },
    ),
    "another optimizer": (
        {"net_params": SGD | {"optimizer__momentum": 0.5}},
        {
            "net_params": SGD
            | {"optimizer__momentum": f32(0.5), "optimizer__nesterov": True}
        },
    ),
    "a loss": (
        {"loss": ContrastiveLoss(beta=2.0, temperature=0.5)},
        {"loss": ContrastiveLoss(beta=torch.tensor(2.0), temperature=f32(0.5))},
    ),
    "objects": (
        {"beta": LinearBeta(0.0, 2.0), "augment": FeatureCorruption(p=0.25)},
        {"beta": LinearBeta(f32(0), i64(2)), "augment": FeatureCorruption(p=f32(0.25))},
    ),
}


@pytest.mark.parametrize("case", EQUAL_VALUES)
def test_equal_values_are_the_same_fit_everywhere(case, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # which takes most of the time
    rng = np.random.default_rng(0)
    X, y = np.round(rng.normal(size=(60, 5))), np.arange(60) % 2
    settings = {"encoder": "mlp", "hidden_layer_sizes": (8,), "max_epochs": 2}
    settings |= {"random_state": 0, "resume": True}
    both = [settings | given for given in EQUAL_VALUES[case]]
    expected = HSCLEmbedder(**both[0] | {"resume": False}).fit(X, y).transform(X)
    for given, in_other_words in (both, both[::-1]):
        directory = tmp_path / str(given is both[0])
        fitted = HSCLEmbedder(**given, checkpoint_dir=directory).fit(X, y)
        assert_array_equal(fitted.transform(X), expected)
        resumed = HSCLEmbedder(**in_other_words, checkpoint_dir=directory).fit(X, y)
        assert_array_equal(resumed.transform(X), expected)
        fitted.save(tmp_path / "model", optimizer=True)
        loaded = HSCLEmbedder.load(tmp_path / "model")
        assert_array_equal(loaded.transform(X), expected)
        assert_array_equal(pickle.loads(pickle.dumps(fitted)).transform(X), expected)
        for again in (loaded, clone(fitted)):
            assert_array_equal(again.fit(X, y).transform(X), expected)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("beta", 1, 1.5),
        ("clip_norm", 1, None),
        ("hidden_layer_sizes", (8,), (8, 8)),
        ("categorical_features", ["1"], ["1.0"]),
        ("categorical_features", ["a", "b"], ["b", "a"]),
        ("net_params", {"optimizer__amsgrad": True}, {"optimizer__amsgrad": False}),
        ("net_params", {"optimizer__eps": 1e-8}, {"optimizer__eps": np.float64(1e-7)}),
    ],
)
def test_other_values_are_another_fit(name, first, second):
    before, now = ({name: repr(value)} for value in (first, second))
    assert checkpoint_module._describe_changes(before, now).startswith(name)


def test_schedules_of_numpy_are_resumed(iris, tmp_path, every_epoch):
    class Rising:
        def beta_at(self, progress):
            return np.float64(progress)

        def __repr__(self):
            return "Rising()"

    begun = embedder(tmp_path, beta=Rising(), lr_schedule=np.cos, resume=True)
    whole = clone(begun).set_params(checkpoint_dir=None, resume=False).fit(*iris)
    stopped(begun, *iris)
    assert kills.bits(begun.fit(*iris), iris[0]) == kills.bits(whole, iris[0])


# Disks and files --------------------------------------------------------------------


def test_a_directory_that_cannot_be_written_to(iris, tmp_path):
    (tmp_path / "file").write_text("")
    fitted = embedder().fit(*iris)
    before = fitted.transform(iris[0])
    fitted.set_params(checkpoint_dir=tmp_path / "file" / "directory")
    with pytest.raises(ValueError, match="checkpoint_dir=.* cannot be created"):
        fitted.fit(*iris)
    assert_array_equal(fitted.transform(iris[0]), before)


def test_a_disk_that_is_full_from_the_start(iris, tmp_path, small_files):
    small_files(1000)
    with pytest.raises(ValueError, match="checkpoint_dir=.* cannot be written"):
        embedder(tmp_path).fit(*iris)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up(iris, tmp_path, small_files, every_epoch):
    class FillsUp(StopAfter):
        def on_fit_task_end(self, estimator, context):
            if context.task_name == "epoch" and context.task_id == self.epoch:
                small_files(1000)

    begun = embedder(tmp_path).set_callbacks(FillsUp(2))
    with pytest.warns(UserWarning, match=r"No checkpoint .* after epoch 3"):
        begun.fit(*iris)
    expected = embedder().fit(*iris)
    assert kills.bits(begun, iris[0]) == kills.bits(expected, iris[0])
    small_files(None)
    assert os.listdir(tmp_path) == ["checkpoint.pt"]
    resumed = embedder(tmp_path, resume=True).fit(*iris)
    assert kills.bits(resumed, iris[0]) == kills.bits(expected, iris[0])


@pytest.fixture
def small_files():
    """Limit the size of files by calling this, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        size = soft if size is None else size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    yield limit
    limit(None)


def test_broken_files_are_named(iris, tmp_path):
    embedder(tmp_path, max_epochs=1).fit(*iris)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    resumed = embedder(tmp_path, max_epochs=1, resume=True)
    for broken in (b"", whole[:100], whole[: len(whole) // 2], b"\x80\x04." + whole):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"checkpoint\.pt, which cannot be read"):
            clone(resumed).fit(*iris)
    torch.save({"format": 1}, path)
    with pytest.raises(ValueError, match="it lacks"):
        clone(resumed).fit(*iris)


def test_single_bits_that_flip(iris, tmp_path):
    settings = {"max_epochs": 1, "early_stopping": False, "hidden_layer_sizes": (8,)}
    fitted = embedder(tmp_path, **settings).fit(*iris)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    n_refused = 0
    for i, position in enumerate(np.linspace(0, len(whole) - 1, 60).astype(int)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << i % 8
        path.write_bytes(damaged)
        try:
            resumed = embedder(tmp_path, resume=True, **settings).fit(*iris)
        except ValueError:
            n_refused += 1
        else:
            assert kills.bits(resumed, iris[0]) == kills.bits(fitted, iris[0])
    assert n_refused > 10


def test_files_of_earlier_versions_have_no_checksum(iris, tmp_path, every_epoch):
    whole = embedder().fit(*iris)
    begun = stopped(embedder(tmp_path, resume=True), *iris)
    path = tmp_path / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    checksum = content.pop("checksum")
    torch.save(content, path)
    with pytest.raises(ValueError, match="it is damaged"):
        clone(begun).fit(*iris)
    torch.save(content | {"checksum": checksum[::-1]}, path)
    with pytest.raises(ValueError, match="it is damaged"):
        clone(begun).fit(*iris)
    torch.save(content | {"format": 1}, path)
    resumed = clone(begun).fit(*iris)
    assert kills.bits(resumed, iris[0]) == kills.bits(whole, iris[0])


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_reading_executes_nothing(iris, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "payload": Payload()}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        embedder(tmp_path, resume=True).fit(*iris)
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


def test_leftovers_of_a_killed_process_go(iris, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "checkpoint.pt").symlink_to("elsewhere/state.pt")
    (tmp_path / "elsewhere" / "state.pt.123.part").write_bytes(b"half")
    embedder(tmp_path, max_epochs=1).fit(*iris)
    assert (tmp_path / "checkpoint.pt").is_symlink()
    assert os.listdir(tmp_path / "elsewhere") == ["state.pt"]


def test_writing_is_rare_where_epochs_are_short(iris, tmp_path, monkeypatch):
    written = []
    write = checkpoint_module.Checkpoint._write
    monkeypatch.setattr(
        checkpoint_module.Checkpoint,
        "_write",
        lambda self, net: written.append(len(net.history)) or write(self, net),
    )
    monkeypatch.setattr(checkpoint_module, "_MAX_TIME_FRACTION", 0.05)
    embedder(tmp_path, max_epochs=40, early_stopping=False).fit(*iris)
    assert written[0] == 0 and written[-1] == 40
    assert len(written) < 30
