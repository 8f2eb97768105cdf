"""What a classifier loses on new rows, as members tell that do not see a part of them."""

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from sklearn_hscl.encoders.forest_path import ForestPath
from sklearn_hscl.encoders.inference import embed_tensor
from sklearn_hscl.encoders.tabular.encoder import AllMembers, TabularEncoder
from sklearn_hscl.encoders.tabular.forest_scores import MemberScores
from sklearn_hscl.runtime.precision import Precision

Floats = NDArray[np.float64]
_MIN_PROBABILITY = 1e-12
# Factors of the scores of forests; a further one is tried while the loss decreases.
_FACTORS = (1.0, 2.0, 4.0)


def seen_and_unseen(
    module: nn.Module, n_members: int, rows: Tensor, folds: Tensor, precision: Precision
) -> tuple[Floats, Floats]:
    """Embed rows as a classifier learns from them, and as if they were new.

    Parameters
    ----------
    module : nn.Module
        Maps rows (B, F) to the outputs of all members, (B, M * D).
    n_members : int
        Number of members M.
    rows : Tensor of shape (n, F)
        Training rows.
    folds : Tensor of shape (n,)
        Index of the member that does not see a row.
    precision : Precision
        Types of numbers.

    Returns
    -------
    seen, unseen : ndarray of shape (n, D)
        Mean of the members, and the output of the member that does not see the row.
    """
    members = embed_tensor(module, rows, precision).unflatten(1, (n_members, -1))
    # In host memory, as not every device has float64.
    members = members.cpu().double()  # (n, M, D)
    unseen = members[torch.arange(len(members)), folds.cpu()]
    return members.mean(1).numpy(), unseen.numpy()


def losses_out_of_fold(
    seen: Floats,
    unseen: Floats,
    labels: NDArray[np.int64],
    folds: NDArray[np.int64],
    n_samples: int,
) -> Floats:
    """Compute the log losses of the rows of each fold, after learning from the others.

    Parameters
    ----------
    seen, unseen : ndarray of shape (n, D)
        Embeddings to learn from, and to predict from.
    labels, folds : ndarray of int, shape (n,)
        Class codes, and the fold of each row.
    n_samples : int
        Number of rows that the final classifier will learn from, which decreases the
        weight of the penalty of a default ``LogisticRegression``.

    Returns
    -------
    ndarray of shape (n_predicted,)
        Losses by fold, without rows of classes that the other folds lack.
    """
    losses = [np.zeros(0)]
    for fold in np.unique(folds):
        others = folds != fold
        known = ~others & np.isin(labels, labels[others])
        if len(np.unique(labels[others])) < 2 or not known.any():
            continue
        classifier = LogisticRegression(C=n_samples / others.sum(), max_iter=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # convergence, many classes
            classifier.fit(seen[others], labels[others])
        probabilities = classifier.predict_proba(unseen[known])
        columns = np.searchsorted(classifier.classes_, labels[known])
        truth = probabilities[np.arange(len(columns)), columns]
        losses.append(-np.log(np.maximum(truth, _MIN_PROBABILITY)))
    return np.concatenate(losses)


def best_path(
    paths: Sequence[ForestPath],
    rows: Tensor,
    labels: Tensor,
    folds: Tensor,
    n_samples: int,
    precision: Precision,
) -> ForestPath:
    """Return the path with the least loss out of fold, and scale its scores.

    The factor of the scores is 1, 2 or 4. It is never less than 1: a member's forest has
    few trees, so that its loss is larger than that of all forests together.

    Parameters
    ----------
    paths : sequence of ForestPath
        Around one encoder with members.
    rows : Tensor of shape (n, F)
        Training rows.
    labels, folds : Tensor of int, shape (n,)
        Class codes, and the index of the member that does not see a row.
    n_samples : int
        As for :func:`losses_out_of_fold`.
    precision : Precision
        Types of numbers.

    Returns
    -------
    ForestPath
        The first one where nothing can be predicted.
    """
    encoder = paths[0].encoder
    assert isinstance(encoder, TabularEncoder)

    def seen_and_unseen_by(module: nn.Module) -> tuple[Floats, Floats]:
        return seen_and_unseen(module, encoder.n_members, rows, folds, precision)

    embedding = seen_and_unseen_by(AllMembers(encoder))
    if not np.isfinite(embedding).all():  # in the midst of training
        return paths[0]
    codes, held_out_from = labels.cpu().numpy(), folds.cpu().numpy()
    best, best_factor, least = paths[0], 1.0, np.inf
    for path in paths:
        scores = seen_and_unseen_by(MemberScores(path.forests))
        scaled = tuple(float(path.scale) * part for part in scores)
        for factor, loss in _losses_by_factor(
            embedding, scaled, codes, held_out_from, n_samples
        ):
            if loss < least:
                best, best_factor, least = path, factor, loss
    best.scale.mul_(best_factor)
    return best


def _losses_by_factor(
    embedding: tuple[Floats, Floats],
    scores: tuple[Floats, ...],
    labels: NDArray[np.int64],
    folds: NDArray[np.int64],
    n_samples: int,
) -> Iterator[tuple[float, float]]:
    """Yield factors of the scores, and the mean losses, until these increase."""
    least = np.inf
    for factor in _FACTORS:
        seen, unseen = (
            np.hstack([first, factor * second])
            for first, second in zip(embedding, scores, strict=True)
        )
        losses = losses_out_of_fold(seen, unseen, labels, folds, n_samples)
        if not (losses.size and losses.mean() < least):
            return
        least = float(losses.mean())
        yield factor, least
