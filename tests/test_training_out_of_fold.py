"""What a classifier loses on new rows, and the factor of the scores that it chooses."""

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
from sklearn_hscl.training.out_of_fold import factor_of_scores, losses_out_of_fold


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
FACTORS = {  # from the losses of 1, 2 and 4
    "falling": ([0.9, 0.8, 0.7], 4),
    "least in the middle": ([0.9, 0.8, 0.85], 2),
    "rising": ([0.8, 0.9, 0.7], 1),
    "equal": ([0.8, 0.8, 0.7], 1),
    "not finite": ([0.8, np.nan, 0.7], 1),
    "nothing predicted": ([[], [], []], 1),
}


@pytest.fixture(scope="module")
def fitted():
    return HSCLEmbedder(max_epochs=2, random_state=0).fit(X, CLASSES)


def factor(embedder):
    rows, labels = torch.from_numpy(X), torch.from_numpy(CLASSES)
    precision = embedder.net_.module_.precision
    return factor_of_scores(embedder.module_, rows, labels, FOLDS, precision)


@pytest.mark.parametrize(("losses", "expected"), FACTORS.values(), ids=FACTORS)
def test_the_factor_grows_while_the_loss_decreases(fitted, losses, expected):
    arrays = [np.atleast_1d(loss) for loss in losses]
    with patch.object(out_of_fold, "losses_out_of_fold", side_effect=arrays):
        assert factor(fitted) == expected


def test_rows_are_embedded_by_all_members_and_by_the_one_that_does_not_see_them(fitted):
    with patch.object(out_of_fold, "losses_out_of_fold", return_value=np.ones(1)) as read:
        factor(fitted)
    path, rows = fitted.module_, torch.from_numpy(X)
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
            assert n_samples == len(X)


def spread_of_scores(embedder, rows):
    parts = np.split(embedder.transform(rows), [32], axis=1)
    embedding, scores = (np.sqrt(part.var(0).sum()) for part in parts)
    return scores / embedding


def test_scores_weigh_more_where_they_know_more():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(600, 8)).astype(np.float32)
    bands = (np.sin(9 * rows[:, 0]) > 0).astype(int)
    sides = (rows.sum(1) > 0).astype(int)
    short = HSCLEmbedder(max_epochs=4, random_state=0).fit(rows, bands)
    long = HSCLEmbedder(random_state=0).fit(rows, sides)
    assert spread_of_scores(short, rows) > 0.9
    assert_allclose(spread_of_scores(long, rows), 0.5, rtol=1e-3)
