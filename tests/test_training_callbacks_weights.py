"""The scale of embeddings."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.training.callbacks.weights import best_scale


@pytest.mark.parametrize("exponent", [-4, -1, 0, 2, 4])
def test_best_scale_is_where_the_losses_are_least(exponent):
    def losses(scale):
        return np.array([0.9, 1.0, 1.1]) * abs(np.log2(scale) - exponent)

    assert best_scale(losses) == 2.0**exponent


def test_scale_is_limited():
    assert best_scale(lambda scale: np.full(9, scale)) == 1 / 16
    assert best_scale(lambda scale: np.full(9, -scale)) == 16


def test_scale_stays_where_the_gain_is_doubtful():
    gains = np.array([3.0, -1.0, -1.0, 0.0])  # mean 0.25, standard error 0.82
    assert best_scale(lambda scale: gains * scale) == 1
    assert best_scale(lambda scale: np.zeros(0)) == 1


def test_overlap_shortens_embeddings_and_certainty_lengthens_them():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 30)), rng.random(200) > 0.5
    fit = HSCLEmbedder(max_epochs=40, random_state=0).fit
    assert fit(X, y).net_.module_.encoder.output_scale < 1
    assert fit(X + 6 * y[:, None], y).net_.module_.encoder.output_scale > 1


def test_no_scale_without_folds():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 3)), np.arange(80) % 2
    embedder = HSCLEmbedder(n_members=1, max_epochs=2, random_state=0).fit(X, y)
    assert embedder.net_.module_.encoder.output_scale == 1


def test_scale_survives_further_training():
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    X = rng.normal(size=(80, 3)) + 6 * y[:, None]
    embedder = HSCLEmbedder(max_epochs=10, random_state=0, warm_start=True).fit(X, y)
    scale = embedder.net_.module_.encoder.output_scale.item()
    assert scale > 1
    assert embedder.fit(X, y).net_.module_.encoder.output_scale == scale
    assert embedder.partial_fit(X, y).net_.module_.encoder.output_scale == scale


def test_scale_is_of_labelled_rows_only():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 3)), np.arange(120) % 2
    X += 6 * y[:, None]
    y[60:] = -1
    embedder = HSCLEmbedder(unlabeled_label=-1, max_epochs=30, random_state=0).fit(X, y)
    assert embedder.net_.module_.encoder.output_scale > 1


def test_with_cross_fit_the_classifier_learns_from_unseen_rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = X[:, 0] + rng.normal(size=200) > 0
    embedder = HSCLEmbedder(cross_fit=4, max_epochs=20, random_state=0)
    Z = embedder.fit_transform(X, y)
    scale = embedder.net_.module_.encoder.output_scale.item()
    lengths = np.linalg.norm(Z, axis=1) / scale  # of means of members in new rows
    assert_allclose(lengths, lengths[0], rtol=1e-5)
    assert 0.5 < lengths[0] <= 1
