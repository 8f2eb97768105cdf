"""What held-out rows say about an embedding and about the rows that it was made from."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.sparse import csr_array, issparse
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.neighbors import KNeighborsRegressor

from sklearn_hscl import HSCLEmbedder, diagnose
from sklearn_hscl.encoders.preprocessing import TablePreprocessor
from sklearn_hscl.reports.training_report import is_below_floor
from sklearn_hscl.training.batches.tensors import LabelledRows
from sklearn_hscl.training.callbacks.early_stopping import (
    HeldOutEarlyStopping,
    OutOfFoldEarlyStopping,
)
from sklearn_hscl.training.floor import axes_as_passed
from sklearn_hscl.training.readout import OutOfFoldReadout, compare, read_out

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 6))
SIGNAL = X @ RNG.normal(size=(6, 2))
CLASSES = (SIGNAL[:, 0] > 0).astype(int) + (SIGNAL[:, 1] > 0)
LABELS = (SIGNAL > 0).astype(int)
KEYS = {
    "embedding_neighbors",
    "embedding_linear",
    "rows_neighbors",
    "rows_linear",
    "difference",
    "standard_error",
}
WITH_HELD_OUT = {
    "numbers": (SIGNAL, {}),
    "labels": (LABELS, {}),
    "classes": (CLASSES, {"early_stopping": True, "ce_weight": 0}),
    "images": (CLASSES, {"early_stopping": True, "encoder": "conv"}),
}


def fit(X, y, **params):
    return HSCLEmbedder(max_epochs=2, random_state=0, **params).fit(X, y)


def test_readouts_are_those_of_scikit_learn():
    train, held_out, targets, truth = X[:200], X[200:], SIGNAL[:200], SIGNAL[200:]
    found = read_out(train, targets, held_out, truth)
    for errors, model in (
        (found.neighbors, KNeighborsRegressor(10)),
        (found.linear, Ridge()),
    ):
        predicted = model.fit(train, targets).predict(held_out)
        assert_allclose(errors, np.mean((predicted - truth) ** 2, axis=1))
    assert_allclose(found.both, (found.neighbors + found.linear) / 2)


@pytest.mark.parametrize(("y", "params"), WITH_HELD_OUT.values(), ids=WITH_HELD_OUT)
def test_fits_with_held_out_rows_know_their_floor(y, params, tmp_path):
    rows = np.tile(X[:, :4].reshape(-1, 2, 2), (1, 4, 4)) if "encoder" in params else X
    embedder = fit(rows, y, **params)
    found = embedder.held_out_readout_
    assert found.keys() == KEYS
    assert max(found[name] for name in KEYS - {"difference", "standard_error"}) <= 1
    means = [
        (found[f"{name}_neighbors"] + found[f"{name}_linear"]) / 2
        for name in ("embedding", "rows")
    ]
    assert_allclose(found["difference"], means[0] - means[1], atol=1e-9)
    diagnosis = diagnose(embedder, rows, y)
    assert f"{found['embedding_linear']:.2f}" in diagnosis["floor"].summary
    assert "R2 of held-out targets" in embedder._repr_html_()
    embedder.save(tmp_path / "file")
    assert HSCLEmbedder.load(tmp_path / "file").held_out_readout_ == found


WITHOUT_HELD_OUT = {
    "classes": (CLASSES, {}),
    "no targets": (None, {"early_stopping": True}),
    "all rows": (SIGNAL, {"early_stopping": False}),
}


@pytest.mark.parametrize(("y", "params"), WITHOUT_HELD_OUT.values(), ids=WITHOUT_HELD_OUT)
def test_other_fits_do_not(y, params):
    embedder = fit(X, y, **params)
    assert not hasattr(embedder, "held_out_readout_")
    names = [finding.name for finding in diagnose(embedder, X, y).findings]
    assert "floor" not in names


def test_an_embedding_below_the_floor_is_said_once():
    with pytest.warns(UserWarning, match="worse from the embedding than from X") as found:
        embedder = fit(X, SIGNAL, encoder="mlp", n_components=1, early_stopping=True)
    assert len(found) == 1
    assert found[0].filename == __file__
    assert embedder.held_out_readout_["difference"] < 0
    assert diagnose(embedder, X, SIGNAL)["floor"].severity == "warning"


class Held:
    """Targets of readouts."""

    targets, truth = SIGNAL[:200], SIGNAL[200:]


@pytest.mark.parametrize(
    ("noise", "warns"), [(0.0, False), (0.001, False), (3.0, True)], ids=str
)
def test_chance_is_no_reason_to_warn(noise, warns):
    rows = read_out(X[:200], Held.targets, X[200:], Held.truth)
    noisy = X + noise * np.random.default_rng(1).normal(size=X.shape)
    embedding = read_out(noisy[:200], Held.targets, noisy[200:], Held.truth)
    found = compare(embedding, rows, Held)
    assert is_below_floor(found) == warns


FEW_OR_ALIKE = {
    "few rows": (SIGNAL[:5], X[:5]),
    "one target": (np.repeat(SIGNAL[:1], 40, 0), X[:40]),
}


@pytest.mark.parametrize(("y_val", "X_val"), FEW_OR_ALIKE.values(), ids=FEW_OR_ALIKE)
def test_held_out_rows_that_say_nothing_leave_no_readout(y_val, X_val):
    same = np.repeat(SIGNAL[:1], 300, 0) if len(y_val) > 20 else SIGNAL
    targets = np.where(np.arange(300)[:, None] < 290, same, SIGNAL)
    embedder = HSCLEmbedder(max_epochs=2, random_state=0, encoder="mlp")
    embedder.fit(X, targets, X_val=X_val, y_val=y_val)
    assert np.isfinite(list(getattr(embedder, "held_out_readout_", {}).values())).all()
    if len(y_val) < 20:
        assert not hasattr(embedder, "held_out_readout_")


def test_tiny_differences_do_not_matter():
    found = {"difference": -2e-4, "standard_error": 1e-6}
    assert not is_below_floor(found)
    assert is_below_floor(found | {"difference": -0.02})


def unit_rows(n, n_columns):
    rows = np.random.default_rng(1).normal(size=(n, n_columns)) * np.linspace(
        1, 3, n_columns
    )
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


COMPARABLE = {
    "norm 1": (unit_rows(80, 6), True),
    "half precision": (unit_rows(80, 6).astype(np.float16).astype(np.float32), True),
    "sparse": (csr_array(np.abs(unit_rows(80, 6))), True),
    "sparse zeros": (csr_array((80, 6)), False),
    "columns of a table": (X[:80], False),
    "one column": (np.ones((80, 1)), False),
}


@pytest.mark.parametrize(("rows", "expected"), COMPARABLE.values(), ids=COMPARABLE)
def test_comparable_columns_keep_their_units(rows, expected):
    prepare = TablePreprocessor.fit(rows)
    axes = axes_as_passed(rows, prepare)
    assert (axes is not None) == expected
    if axes is not None:
        dense = rows.toarray() if issparse(rows) else rows
        prepared = prepare(dense, torch.float64).numpy()
        reference = PCA(5) if not issparse(rows) else TruncatedSVD(5, random_state=0)
        components = reference.fit(rows).transform(rows)
        found = prepared @ axes
        assert_allclose(found.std(0), components.std(0), rtol=1e-4)
        assert_allclose(np.abs(np.corrcoef(found[:, 0], components[:, 0])[0, 1]), 1)


def test_rows_of_norm_1_without_targets_keep_their_distances():
    rows = unit_rows(200, 12)
    embedder = HSCLEmbedder(max_epochs=1, random_state=0).fit(rows)
    linear = embedder.transform(rows)[:, -11:]
    distances = pdist(PCA(11).fit_transform(rows))
    assert_allclose(pdist(linear), distances, rtol=1e-3)


def test_numbers_of_sparse_rows_are_predicted_from_components_as_passed():
    rng = np.random.default_rng(2)
    rows = np.where(rng.random((240, 12)) < 0.3, rng.random((240, 12)), 0)
    rows *= np.logspace(-2, 0, 12)
    y = rows.sum(1) + 0.1 * rng.normal(size=240)
    components = TruncatedSVD(11, random_state=0).fit_transform(rows)
    ridge = RidgeCV(np.logspace(-2, 5, 15)).fit(components, y)
    for form, expected in ((csr_array, True), (np.asarray, False)):
        linear = fit(form(rows), y, target_type="continuous").transform(form(rows))[:, -1]
        correlation = np.corrcoef(linear, ridge.predict(components))[0, 1]
        assert (correlation > 1 - 1e-6) == expected, correlation


def test_each_fold_is_read_out_after_learning_from_the_others():
    rows, targets = (torch.from_numpy(part).float() for part in (X, SIGNAL))
    folds = torch.arange(len(X)) % 4
    found = OutOfFoldReadout.of(LabelledRows(rows, targets), folds).of_rows(None)
    every, truth = rows.double().numpy(), targets.double().numpy()
    expected = []
    for fold in range(4):
        known = folds.numpy() != fold
        models = KNeighborsRegressor(10), Ridge()
        predicted = [
            m.fit(every[known], truth[known]).predict(every[~known]) for m in models
        ]
        errors = [(p - truth[~known]) ** 2 for p in predicted]
        expected.append(np.stack([error.mean(1) for error in errors], axis=1))
    assert_allclose(np.stack(found, axis=1), np.vstack(expected), rtol=1e-9)


# Where members do not see a part of the samples, none are held out for the floor.
SCORED = {
    "numbers": (SIGNAL, {}, None, True),
    "labels": (LABELS, {}, None, True),
    "fine groups": (SIGNAL, {}, np.arange(300) // 10, True),
    "coarse groups": (SIGNAL, {}, np.arange(300) // 100, False),
    "one member": (SIGNAL, {"n_members": 1}, None, False),
    "no head": (SIGNAL, {"ce_weight": 0.0}, None, False),
}


@pytest.mark.parametrize(
    ("y", "params", "groups", "by_members"), SCORED.values(), ids=SCORED
)
def test_members_score_the_samples_that_they_do_not_see(
    y, params, groups, by_members, monkeypatch
):
    n_rows, scoring = [], [HeldOutEarlyStopping, OutOfFoldEarlyStopping]
    for stopping in scoring:
        begin = stopping.on_train_begin

        def noted(self, net, X, y, begin=begin, **kwargs):
            n_rows.append((type(self), len(y)))
            begin(self, net, X, y, **kwargs)

        monkeypatch.setattr(stopping, "on_train_begin", noted)
    embedder = HSCLEmbedder(max_epochs=2, random_state=0, **params)
    embedder.fit(X, y, groups=groups)
    [(stopping, n_trained)] = n_rows
    assert stopping is scoring[by_members]
    assert (n_trained == len(X)) == by_members
    assert embedder.held_out_readout_.keys() == KEYS
