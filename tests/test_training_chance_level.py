"""Chance level of the training loss, and what else a fit notes for its readers."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine

from sklearn_hscl import HSCLEmbedder, diagnose
from sklearn_hscl.metrics.knn import nearest_rows
from sklearn_hscl.reports.training_report import training_report

X, Y = load_wine(return_X_y=True)


class Constant(torch.nn.Module):
    """A network that has collapsed."""

    def __init__(self):
        super().__init__()
        self.point = torch.nn.Parameter(torch.ones(4))

    def forward(self, rows):
        return self.point.expand(len(rows), 4) + 0 * rows.sum()


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"loss": "hucl"},
        {"loss": "scl", "preset": "official"},
        {"loss": "supcon", "reduction": "classes"},
        {"n_views": 2, "batch_size": 40},
        {"hardening": "top_k"},
        {"loss": "sscl"},
    ],
)
def test_chance_level_is_the_training_loss_of_a_collapsed_network(params):
    embedder = HSCLEmbedder(
        encoder=Constant(), projection_dim=None, max_epochs=1, lr=1e-8, random_state=0
    )
    embedder.set_params(**params).fit(X, Y)
    # Batches differ by a row or two.
    assert embedder.chance_loss_ == pytest.approx(embedder.loss_curve_[0], rel=0.01)
    record = training_report(embedder)
    assert record["loss"].severity == "problem"
    assert "collapsed" in record["loss"].summary


def test_chance_level_of_an_ensemble_with_cross_entropy():
    embedder = HSCLEmbedder(n_members=4, max_epochs=1, random_state=0).fit(X, Y)
    counts = np.bincount(Y)  # every round holds all rows
    contrastive = np.sum(counts * np.log1p(counts.sum() - counts)) / counts.sum()
    assert embedder.chance_loss_ == pytest.approx((contrastive + np.log(3)) / 2, rel=0.01)


def test_chance_level_costs_no_random_number():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    params = {"encoder": "mlp", "max_epochs": 2, "random_state": 0}
    first = HSCLEmbedder(loss="sscl", **params).fit(X, Y)
    second = HSCLEmbedder(loss="sscl", **params).fit(X, Y)
    assert first.chance_loss_ == second.chance_loss_
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("params", "labels", "name"),
    [
        ({"encoder": "mlp", "early_stopping": True}, Y, "k-NN accuracy"),
        ({"encoder": "mlp", "early_stopping": True}, None, "negative loss"),
        ({"encoder": "tabular"}, Y, "negative Brier score"),
        ({"encoder": "mlp"}, Y, None),
    ],
)
def test_the_held_out_score_has_a_name(params, labels, name):
    embedder = HSCLEmbedder(max_epochs=2, random_state=0, **params).fit(X, labels)
    assert getattr(embedder, "valid_score_name_", None) == name


def test_a_fit_without_score_forgets_the_name_of_the_one_before():
    embedder = HSCLEmbedder(encoder="mlp", early_stopping=True, max_epochs=2).fit(X, Y)
    embedder.set_params(early_stopping=False).fit(X, Y)
    assert not hasattr(embedder, "valid_score_name_")


def test_a_curve_that_is_still_falling_asks_for_more_epochs():
    params = {"encoder": "mlp", "lr_schedule": "constant", "random_state": 0}
    short = HSCLEmbedder(lr=1e-4, max_epochs=10, **params).fit(X, Y)
    assert training_report(short)["epochs"].severity == "warning"
    long = HSCLEmbedder(lr=2e-3, max_epochs=60, **params).fit(X, Y)
    assert training_report(long)["epochs"].severity == "ok"


def test_a_retained_epoch_near_chance_is_reported():
    params = {"encoder": "mlp", "early_stopping": True, "random_state": 0}
    fitted = HSCLEmbedder(max_epochs=10, **params).fit(X, Y)
    assert "chance" not in training_report(fitted)["epochs"].summary
    fitted.best_epoch_ = 1
    for finding in (training_report(fitted)["epochs"], diagnose(fitted, X, Y)["epochs"]):
        assert finding.severity == "warning"
        assert "near chance level" in finding.summary
        assert "`validation_fraction`" in finding.advice


def test_anchors_without_positive_are_in_the_record():
    labels = np.r_[np.zeros(20), np.ones(20), np.arange(2, 14)].astype(int)
    embedder = HSCLEmbedder(
        encoder="mlp", n_views=1, target_type="class", max_epochs=2, random_state=0
    ).fit(X[:52], labels)
    finding = training_report(embedder)["positives"]
    assert finding.severity == "warning"
    assert finding.values["fraction"] == pytest.approx(12 / 52)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nearest_rows_are_those_of_all_cosines(dtype):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(700, 5)).astype(dtype)
    queries = rng.normal(size=(30, 5)).astype(dtype)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for asked in (None, queries):
        places, cosines = nearest_rows(rows, 7, asked)
        others = unit if asked is None else queries
        others = others / np.linalg.norm(others, axis=1, keepdims=True)
        table = others @ unit.T
        if asked is None:
            np.fill_diagonal(table, -2)
        assert np.array_equal(places, np.argsort(-table, axis=1)[:, :7])
        assert cosines == pytest.approx(-np.sort(-table, axis=1)[:, :7], abs=1e-6)


def test_equally_near_rows_come_in_their_order():
    places, cosines = nearest_rows(np.ones((40, 3)), 4)
    assert places[0].tolist() == [1, 2, 3, 4]
    assert places[2].tolist() == [0, 1, 3, 4]
    assert cosines == pytest.approx(1.0)
