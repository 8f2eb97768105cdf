"""What a classifier loses on new rows, and the scores of forests that it chooses."""

import copy
from unittest.mock import patch

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.training import out_of_fold
from sklearn_hscl.training.out_of_fold import best_path, losses_out_of_fold


@pytest.fixture
def embedding():
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    return rng.normal(size=(120, 4)) + y[:, None], y, rng.permutation(120) % 4


def test_loss_is_that_of_a_classifier_of_all_rows_on_new_rows(embedding):
    Z, y, folds = embedding
    classifier = LogisticRegression(C=4 / 3)  # learns from 3 of 4 rows
    probabilities = cross_val_predict(
        classifier, Z, y, cv=PredefinedSplit(folds), method="predict_proba"
    )
    expected = log_loss(y, probabilities)
    losses = losses_out_of_fold(Z, Z, y, folds, len(y))
    assert_allclose(losses.mean(), expected, rtol=1e-3)


def test_rows_of_a_class_that_no_other_fold_has_are_left_out(embedding):
    Z, y, folds = embedding
    lone = np.append(y, 3)
    more = np.vstack([Z, Z[:1] + 9])
    losses = losses_out_of_fold(more, more, lone, np.append(folds, 0), 120)
    assert len(losses) == 120


def test_one_class_in_all_other_folds_predicts_nothing(embedding):
    Z, _, _ = embedding
    codes = np.arange(120) // 60
    assert len(losses_out_of_fold(Z, Z, codes, codes, 120)) == 0


RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 4)).astype(np.float32)
CLASSES = (X[:, 0] > 0) + (X[:, 1] ** 2 > 1)
FOLDS = torch.from_numpy(RNG.permutation(200) % 4)
FACTORS = {  # losses of the factors 1, 2 and 4 of two paths; the best path and factor
    "falling": ([0.9, 0.8, 0.7], [0.95, 0.96], 0, 4),
    "least in the middle": ([0.9, 0.8, 0.85], [0.9, 0.9], 0, 2),
    "rising": ([0.8, 0.9], [0.9, 0.81, 0.82], 0, 1),
    "equal": ([0.8, 0.8], [0.8, 0.8], 0, 1),
    "the second path": ([0.8, 0.9], [0.9, 0.7, 0.71], 1, 2),
    "not finite": ([0.8, np.nan], [np.nan], 0, 1),
    "nothing predicted": ([[]], [[]], 0, 1),
}


@pytest.fixture(scope="module")
def fitted():
    return HSCLEmbedder(max_epochs=2, random_state=0).fit(X, CLASSES)


def chosen(embedder, *paths):
    rows, labels = torch.from_numpy(X), torch.from_numpy(CLASSES)
    return best_path(paths, rows, labels, FOLDS, 999, embedder.net_.module_.precision)


@pytest.mark.parametrize(
    ("first", "second", "best", "factor"), FACTORS.values(), ids=FACTORS
)
def test_the_path_and_the_factor_with_the_least_loss(fitted, first, second, best, factor):
    paths = [copy.deepcopy(fitted.module_) for _ in range(2)]
    scale = float(paths[0].scale)
    losses = [np.atleast_1d(loss) for loss in first + second]
    with patch.object(out_of_fold, "losses_out_of_fold", side_effect=losses):
        assert chosen(fitted, *paths) is paths[best]
    assert float(paths[best].scale) == factor * scale
    assert float(paths[1 - best].scale) == scale


def test_rows_are_embedded_by_all_members_and_by_the_one_that_does_not_see_them(fitted):
    path, rows = fitted.module_, torch.from_numpy(X)
    with patch.object(out_of_fold, "losses_out_of_fold", return_value=np.ones(1)) as read:
        chosen(fitted, path)
    with torch.no_grad():
        members = path.encoder.output_scale * path.encoder.members(rows)  # (M, n, D)
        for tried, call in zip((1, 2), read.call_args_list, strict=True):
            seen, unseen, labels, folds, n_samples = call.args
            for row, fold in enumerate(FOLDS):
                scores = tried * path.scale * path.forests.by_member(rows[row : row + 1])[0]
                expected = torch.cat([members[fold, row], scores[fold]])
                assert_allclose(unseen[row], expected, rtol=1e-4, atol=1e-5)
                expected = torch.cat([members[:, row].mean(0), scores.mean(0)])
                assert_allclose(seen[row], expected, rtol=1e-4, atol=1e-5)
            assert (labels == CLASSES).all() and (folds == FOLDS.numpy()).all()
            assert n_samples == 999


def test_the_first_path_is_kept_where_embeddings_are_not_finite(fitted):
    paths = [copy.deepcopy(fitted.module_) for _ in range(2)]
    paths[0].encoder.output_scale.fill_(np.nan)
    assert chosen(fitted, *paths) is paths[0]


def fitted_scores(rows, y):
    """Return whether the trees are deep, and the spread relative to the embedding's."""
    embedder = HSCLEmbedder(max_epochs=2, random_state=0).fit(rows, y)
    parts = np.split(embedder.transform(rows), [32], axis=1)
    embedding, scores = (np.sqrt(part.var(0).sum()) for part in parts)
    return embedder.module_.forests.depth > 12, scores / embedding


def test_scores_weigh_more_and_trees_are_deeper_where_there_is_no_noise():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 1)).astype(np.float32)
    is_deep, spread = fitted_scores(rows, (np.sin(20 * rows[:, 0]) > 0).astype(int))
    assert is_deep
    assert_allclose(spread, 2, rtol=1e-3)
    rows = rng.normal(size=(1200, 3)).astype(np.float32)
    noisy = np.where(rng.random(1200) < 0.3, rows[:, 0] < 0, rows[:, 0] > 0)
    is_deep, spread = fitted_scores(rows, noisy.astype(int))
    assert not is_deep
    assert_allclose(spread, 0.5, rtol=1e-3)
