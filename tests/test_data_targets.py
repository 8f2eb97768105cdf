"""Targets beyond one class label per row, and the options of the loss, in the estimator."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.losses import (
    ContrastiveLoss,
    CosineBeta,
    LinearBeta,
    StepBeta,
    WarmUpBeta,
)


def embedder(**parameters):
    return HSCLEmbedder(**({"max_epochs": 3, "random_state": 0} | parameters))


def same_weights(first, second):
    pairs = zip(first.module_.parameters(), second.module_.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_unlabeled_rows_help_and_are_not_a_class(iris):
    X, y = iris
    few = np.where(np.arange(150) % 10 == 0, y, -1)
    fitted = embedder(unlabeled_label=-1, max_epochs=20).fit(X, few)
    assert_array_equal(fitted.classes_, [0, 1, 2])
    assert fitted.net_.n_views == 2  # rows without label have their views only
    assert fitted.history_[0]["skipped_anchors"] == 0
    labeled = few >= 0
    classifier = LogisticRegression().fit(fitted.transform(X[labeled]), y[labeled])
    assert classifier.score(fitted.transform(X), y) > 0.85


def test_unlabeled_strings_and_early_stopping(iris):
    X, y = iris
    names = np.asarray(["a", "b", "c", "?"])
    few = names[np.where(np.arange(150) % 3 == 0, y, 3)]
    fitted = embedder(unlabeled_label="?", early_stopping=True, ce_weight=0.3).fit(X, few)
    assert_array_equal(fitted.classes_, ["a", "b", "c"])
    assert all(0 <= epoch["valid_score"] <= 1 for epoch in fitted.history_)


def test_minus_one_is_an_everyday_label(iris):
    X, y = iris
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        signed = embedder().fit(X, np.where(y > 0, 1, -1))
    assert same_weights(signed, embedder().fit(X, (y > 0).astype(int)))
    with pytest.warns(UserWarning, match="unlabeled_label=-1") as caught:
        embedder(max_epochs=1).fit(X, y - 1)
    assert len(caught) == 1


def test_several_labels_per_row(iris):
    X, y = iris
    labels = np.column_stack([y == 0, y > 0, X[:, 0] > 6]).astype(int)
    fitted = embedder(max_epochs=20, early_stopping=True).fit(X, labels)
    assert fitted.net_.target_kind == "multilabel"
    assert not hasattr(fitted, "classes_")
    scores = cross_val_score(LogisticRegression(), fitted.transform(X), X[:, 0] > 6)
    assert scores.mean() > 0.8


@pytest.mark.parametrize("target_type", ["auto", "continuous"])
def test_continuous_targets(iris, target_type):
    X, _ = iris
    target = X[:, 0] * 1.37 if target_type == "auto" else (X[:, 0] * 10).astype(int)
    pipe = make_pipeline(embedder(target_type=target_type, max_epochs=20), Ridge())
    assert pipe.fit(X[:, 1:], target).score(X[:, 1:], target) > 0.6
    assert pipe[0].net_.target_kind == "continuous"


def test_integers_that_look_like_numbers_must_be_declared(iris):
    X, _ = iris
    with pytest.raises(ValueError, match="target_type='continuous'"):
        embedder().fit(X, np.arange(150))
    assert embedder(target_type="class").fit(X, np.arange(150)).net_.n_views == 2
    embedder(target_type="continuous").fit(X, np.arange(150))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("rest", [0, -1])
def test_few_integers_of_a_single_row_are_classes(iris, n_classes, rest):
    X, _ = iris
    y = np.full(150, rest)
    y[:n_classes] = np.arange(n_classes) + 1
    unlabeled = {"unlabeled_label": -1} if rest == -1 else {}
    fitted = embedder(max_epochs=1, encoder="mlp", **unlabeled).fit(X, y)
    assert set(fitted.classes_) == set(y) - set(unlabeled.values())


def test_joint_cross_entropy(iris):
    X, y = iris
    fitted = embedder(encoder="mlp", ce_weight=0.5, max_epochs=20).fit(X, y)
    scores = fitted.net_.module_.classifier(torch.from_numpy(fitted.transform(X)).float())
    assert (scores.argmax(1).numpy() == y).mean() > 0.9
    assert embedder(loss="schane").fit(X, y).net_.module_.classifier.out_features == 3
    assert embedder(encoder="mlp").fit(X, y).net_.module_.classifier is None
    assert embedder(ce_weight=0.0).fit(X, y).net_.module_.classifier is None
    tabular = embedder().fit(X, y).net_  # half of its loss
    assert tabular.module_.classifier.out_features == 3
    assert tabular.criterion_.options.ce_weight == 0.5


@pytest.mark.parametrize("loss", ["supcon", "sscl", "schane"])
def test_related_losses_separate_classes(iris, loss):
    X, y = iris
    fitted = embedder(loss=loss, max_epochs=20).fit(X, y)
    assert cross_val_score(LogisticRegression(), fitted.transform(X), y).mean() > 0.9
    assert np.isfinite(fitted.loss_curve_).all()


def test_options_reach_the_loss(iris):
    options = {
        "tau_plus": 0.05,
        "negative_mass": "batch",
        "reduction": "classes",
        "detach_weights": False,
        "positives": "view",
    }
    fitted = embedder(loss="hscl", max_epochs=1, **options).fit(*iris)
    found = fitted.net_.criterion_.options
    assert {name: getattr(found, name) for name in options} == options
    assert fitted.net_.n_views == 2  # twins are views
    official = embedder(loss="hscl", preset="official", max_epochs=1).fit(*iris)
    assert official.net_.criterion_.options.reduction == "pairs"


@pytest.mark.parametrize("hardening", ["polynomial", "top_k", torch.tanh])
def test_hardenings(iris, hardening):
    fitted = embedder(hardening=hardening, top_k=3).fit(*iris)
    assert fitted.loss_curve_[-1] < fitted.loss_curve_[0]
    if hardening == "top_k":
        assert fitted.history_[0]["effective_negatives"] == pytest.approx(3, abs=0.1)


def test_a_custom_loss(iris):
    loss = ContrastiveLoss("hscl", beta=2.0, reduction="classes")
    plain = partial(embedder, encoder="mlp")
    fitted = plain(loss=loss, beta=7.0).fit(*iris)
    assert fitted.net_.criterion_ is not loss
    assert fitted.net_.criterion_.options.beta == 2.0
    named = plain(loss="hscl", beta=2.0, reduction="classes").fit(*iris)
    assert same_weights(fitted, named)
    few = np.where(np.arange(150) % 3 == 0, iris[1], 9)  # 9: no label
    custom, same = (
        plain(loss=given, unlabeled_label=9).fit(iris[0], few)
        for given in (ContrastiveLoss("hscl"), "hscl")
    )
    assert same_weights(custom, same)
    grid = {"loss": [loss, "scl"]}
    search = GridSearchCV(
        embedder(max_epochs=1), grid, cv=2, scoring=lambda e, X, y: e.transform(X).std()
    )
    assert len(search.fit(*iris).cv_results_["params"]) == 2


SCHEDULES = {
    WarmUpBeta(beta=4.0, share=0.5): [0.0, 2.0, 4.0, 4.0, 4.0],
    LinearBeta(start=4.0, end=0.0): [4.0, 3.0, 2.0, 1.0, 0.0],
    CosineBeta(start=0.0, end=2.0): [0.0, 1 - 2**-0.5, 1.0, 1 + 2**-0.5, 2.0],
    StepBeta(start=2.0, end=0.0, n_steps=3): [2.0, 2.0, 1.0, 0.0, 0.0],
}


@pytest.mark.parametrize(("schedule", "betas"), SCHEDULES.items(), ids=str)
def test_schedules_of_beta(iris, schedule, betas):
    fitted = embedder(beta=schedule, max_epochs=5).fit(*iris)
    assert [epoch["beta"] for epoch in fitted.history_] == pytest.approx(betas)
    assert fitted.net_.criterion_.options.beta == pytest.approx(betas[-1])


def test_a_schedule_that_leaves_the_range():
    X, y = np.arange(12.0).reshape(6, 2), [0, 1] * 3
    with pytest.raises(ValueError, match=r"gave -1\.0, which must be >= 0"):
        embedder(beta=LinearBeta(start=1.0, end=-1.0)).fit(X, y)
