"""The hardness path: one stacked run along beta, and its figure."""

import matplotlib
import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.metrics import alignment, knn_accuracy, uniformity
from sklearn_hscl.model_selection import HardnessPathDisplay, hardness_path

matplotlib.use("agg")
X, Y = load_wine(return_X_y=True)
BETAS = [0, 1, 8]


def embedder(**params):
    settings = {"encoder": "mlp", "hidden_layer_sizes": (16,), "max_epochs": 4}
    return HSCLEmbedder(**settings, random_state=0, **params)


def pipeline(**params):
    return make_pipeline(StandardScaler(), embedder(**params), LogisticRegression())


def test_each_beta_has_the_scores_of_a_pipeline_fitted_alone():
    path = hardness_path(pipeline(precision="float64"), X, Y, BETAS, cv=3)
    for beta, scores in zip(BETAS, path.scores, strict=True):
        alone = pipeline(precision="float64", beta=float(beta))
        assert cross_val_score(alone, X, Y, cv=3) == pytest.approx(scores)
    assert all(candidate.stacked for candidate in path.batched)


def test_measures_are_those_of_held_out_rows():
    folds = list(StratifiedKFold(3).split(X, Y))
    path = hardness_path(pipeline(), X, Y, BETAS, cv=folds)
    train, test = folds[1]
    fitted = pipeline(beta=8.0).fit(X[train], Y[train])
    embedding = fitted[:2].transform(X[test])
    assert path.alignment[2, 1] == pytest.approx(alignment(embedding, Y[test]), abs=1e-4)
    assert path.uniformity[2, 1] == pytest.approx(uniformity(embedding), abs=1e-4)
    count = fitted[1].history_[fitted[1].best_epoch_ - 1]["effective_negatives"]
    assert path.effective_negatives[2, 1] == pytest.approx(count, rel=1e-3)


def test_the_tilt_leaves_fewer_negatives():
    counts = hardness_path(pipeline(), X, Y, BETAS, cv=3).effective_negatives.mean(axis=1)
    assert np.all(np.diff(counts) < 0)


def test_a_bare_embedder_is_scored_by_neighbours():
    path = hardness_path(embedder(), X, Y, [2], cv=3)
    train, test = next(StratifiedKFold(3).split(X, Y))
    embedding = embedder(beta=2.0).fit(X[train], Y[train]).transform(X[test])
    expected = knn_accuracy(embedding, Y[test], n_neighbors=5, weights="uniform")
    assert path.scores[0, 0] == pytest.approx(expected)


def test_other_scores():
    path = hardness_path(pipeline(), X, Y, [1], cv=3, scoring="neg_log_loss")
    assert (path.scores < 0).all()


@pytest.mark.parametrize(
    ("estimator", "betas", "message"),
    [
        (
            LogisticRegression(),
            BETAS,
            "Expected an HSCLEmbedder .*, got LogisticRegression",
        ),
        (pipeline(), [-1.0], "beta"),
        (pipeline(), [], "empty|non-empty"),
    ],
)
def test_what_cannot_be_measured(estimator, betas, message):
    with pytest.raises(ValueError, match=message):
        hardness_path(estimator, X, Y, betas, cv=3)


def test_display_shows_means_and_errors():
    display = HardnessPathDisplay.from_estimator(pipeline(), X, Y, BETAS, cv=3)
    score, count, first, second = display.lines_
    assert score.get_ydata() == pytest.approx(display.path.scores.mean(axis=1))
    assert count.get_ydata() == pytest.approx(display.path.effective_negatives.mean(axis=1))
    assert {first.get_label(), second.get_label()} == {"Alignment", "Uniformity"}
    labels = [label.get_text() for label in display.axes_[-1].get_xticklabels()]
    assert labels == ["0", "1", "8"]
    band = display.axes_[0].collections[0].get_paths()[0].vertices[:, 1]
    error = display.path.scores.std(axis=1, ddof=1) / np.sqrt(3)
    assert band.max() == pytest.approx((display.path.scores.mean(axis=1) + error).max())
    display.figure_.canvas.draw()


def test_display_takes_axes():
    figure = matplotlib.figure.Figure()
    axes = figure.subplots(3)
    path = hardness_path(pipeline(), X, Y, [0, 1], cv=3)
    assert HardnessPathDisplay(path).plot(axes).figure_ is figure
