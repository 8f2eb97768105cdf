"""Ensembles: the loss across members, and folds of rows that members do not see."""

import warnings
from fractions import Fraction
from math import sqrt
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor

from sklearn_hscl.losses import LossStats

# Class codes, which are stratified, or indicators or continuous values.
Targets = NDArray[np.int64] | NDArray[np.floating]
Embeddings = NDArray[np.floating]

# Embeddings by the members ------------------------------------------------------------


class LossFunction(Protocol):
    """A loss of one model, or those of all models of a stack."""

    def __call__(
        self,
        z: Tensor,
        y: Tensor | None = None,
        *,
        view_ids: Tensor | None = None,
        logits: Tensor | None = None,
        return_stats: bool = False,
    ) -> tuple[Tensor, LossStats]:
        """Compute the loss of projections (..., B, D), one for each leading index."""


def mixed_members(
    loss: LossFunction,
    z: Tensor,
    logits: Tensor | None,
    targets: Tensor | None,
    view_ids: Tensor,
    folds: Tensor | None,
) -> tuple[Tensor, LossStats]:
    """Compare rows that different members embed.

    Each of M rounds compares all rows, each embedded by another member: in the m-th round,
    all views of row i are embedded by member (i + m) mod M. If one member may not see row
    i, the row takes the M - 1 others in turn, in as many rounds. Members thus share one
    space, in which their mean is meaningful. All embeddings that may be used are used
    once, in one loss with an axis of rounds.

    Parameters
    ----------
    loss : LossFunction
        The loss.
    z : Tensor of shape (..., M, B, D)
        Projections of each member.
    logits : Tensor of shape (..., M, B, n_classes) or None
        Class scores of each member.
    targets : Tensor of shape (B,) or (B, K), or None
        As the loss takes them.
    view_ids : Tensor of shape (B,)
        As the loss takes them.
    folds : Tensor of shape (B,) or None
        Index of the member that does not see a row. There are two members at least.

    Returns
    -------
    value : Tensor of shape (...)
        Mean over the rounds.
    stats : LossStats
        The minimum of the skipped anchors over the rounds, the sum of the fallbacks, the
        mean of the effective negatives.
    """
    n_members, n_rows = z.shape[-3:-1]
    member = _members_by_round(view_ids, folds, n_members)  # (rounds, B)
    index = member * n_rows + torch.arange(n_rows, device=z.device)
    values, stats = loss(
        _take_rows(z, index),
        targets,
        view_ids=view_ids,
        logits=None if logits is None else _take_rows(logits, index),
        return_stats=True,
    )
    skipped, fallbacks, effective = stats
    stats = LossStats(skipped.amin(-1), fallbacks.sum(-1), effective.mean(-1))
    return values.mean(-1), stats


def _members_by_round(view_ids: Tensor, folds: Tensor | None, n_members: int) -> Tensor:
    """Return the member that embeds each row in each round, (rounds, B)."""
    n_rounds = n_members if folds is None else n_members - 1
    turn = torch.arange(n_rounds, device=view_ids.device).unsqueeze(1) + view_ids
    turn %= n_rounds
    return turn if folds is None else (folds + 1 + turn) % n_members


def _take_rows(members: Tensor, index: Tensor) -> Tensor:
    """Take rows (..., rounds, B, D) of (..., M, B, D) by their index in all members."""
    rows = members.flatten(-3, -2).index_select(-2, index.flatten())
    return rows.unflatten(-2, index.shape)


def norm_of_means(members: Embeddings, unseeing: Embeddings) -> float:
    """Estimate the norm of the members' mean embedding of new rows.

    It is a mean of M unit vectors. If pairs of them have the mean cosine c, its squared
    norm is (1 + (M - 1) c) / M: the mean cosine of one vector with all, itself included.
    Members that have seen a row agree more with each other than with the one that has
    not. The latter is therefore compared with all; the minimum is 1 / M.

    Parameters
    ----------
    members : ndarray of shape (n_samples, M, D)
        Embeddings by all members, with unit norm.
    unseeing : ndarray of shape (n_samples, D)
        Embeddings by the member that has not seen a row.

    Returns
    -------
    float
        Root mean square over rows.
    """
    cosines = np.einsum("nmd,nd->nm", members, unseeing)
    return sqrt(max(float(cosines.mean()), 1 / members.shape[1]))


# Folds ----------------------------------------------------------------------------------

# Maximum number of folds of which some are held out: fractions are rounded to twentieths.
_MAX_FOLDS = 20


def draw_folds(codes: NDArray[np.int64], n_members: int, seed: int) -> NDArray[np.int64]:
    """Draw the member that does not see each row, evenly over rows and within classes.

    Parameters
    ----------
    codes : ndarray of int, shape (n_samples,)
        Class codes, -1 for no label.
    n_members : int
        Number of members M.
    seed : int
        Seed.

    Returns
    -------
    ndarray of int, shape (n_samples,)

    See Also
    --------
    sklearn_hscl.training.ensemble.draw_member_folds : The same for groups of rows.
    """
    shuffled = np.random.default_rng(seed).permutation(len(codes))
    folds = np.empty_like(codes)
    folds[shuffled[np.argsort(codes[shuffled], kind="stable")]] = np.arange(len(codes))
    return folds % n_members


def draw_member_folds(
    codes: NDArray[np.int64], groups: NDArray[np.int64], n_members: int, seed: int
) -> NDArray[np.int64]:
    """Draw the member that does not see each row, the same for all rows of a group.

    Parameters
    ----------
    codes : ndarray of int, shape (n_samples,)
        Class codes, -1 for no label.
    groups : ndarray of int, shape (n_samples,)
        Codes of the groups.
    n_members : int
        Number of members.
    seed : int
        Seed.

    Returns
    -------
    ndarray of int, shape (n_samples,)

    Raises
    ------
    ValueError
        If there are fewer groups than members, or a member would see a single class.
    """
    n_groups = len(np.unique(groups))
    if n_groups < n_members:
        raise ValueError(
            f"groups holds {n_groups} different values, too few to keep each of "
            f"{n_members} members of encoder='tabular' from other groups. Lower "
            f"`n_members`, or `cross_fit`, to that number, pass finer groups, or leave "
            f"groups out."
        )
    folds = draw_group_folds(codes, groups, n_members, seed)
    for member in range(n_members):
        seen = np.unique(codes[(folds != member) & (codes >= 0)])
        if len(seen) < 2:
            raise ValueError(
                f"groups leaves member {member} of {n_members} rows of {len(seen)} class "
                f"to learn from, as it does not see the groups of the others. Pass finer "
                f"groups, or leave groups out."
            )
    return folds


def hold_out_groups(
    targets: Targets | None, groups: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hold out whole groups with about a fraction of the rows, stratified by class.

    Parameters
    ----------
    targets : ndarray of shape (n_samples,) or (n_samples, K), or None
        Class codes, which are stratified, or other targets, which are not.
    groups : ndarray of int, shape (n_samples,)
        Codes of the groups.
    fraction : float in (0, 1)
        Fraction of rows to hold out, as closely as the sizes of the groups allow.
    seed : int
        Seed of the split.

    Returns
    -------
    train, held_out : ndarray of int
        Indices of rows.

    Raises
    ------
    ValueError
        If there is a single group.
    """
    n_groups = len(np.unique(groups))
    if n_groups < 2:
        raise ValueError(
            "groups holds 1 group, but early stopping holds out whole groups. Pass at "
            "least 2, held-out rows as X_val, or set early_stopping=False."
        )
    n_folds, n_held_out = _as_folds(fraction, min(n_groups, _MAX_FOLDS))
    folds = draw_group_folds(targets, groups, n_folds, seed)
    sizes = np.bincount(folds, minlength=n_folds)
    shuffled = np.random.default_rng(seed).permutation(n_folds)
    distance = np.abs(sizes - fraction * len(folds) / n_held_out)
    nearest = shuffled[np.argsort(distance[shuffled], kind="stable")]
    is_held_out = np.isin(folds, nearest[:n_held_out])
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def _as_folds(fraction: float, max_folds: int) -> tuple[int, int]:
    """Return the number of folds, and how many of them make up the fraction."""
    rounded = Fraction(fraction).limit_denominator(max_folds)
    smallest, largest = Fraction(1, max_folds), Fraction(max_folds - 1, max_folds)
    rounded = min(max(rounded, smallest), largest)
    return rounded.denominator, rounded.numerator


def draw_group_folds(
    targets: Targets | None, groups: NDArray[np.int64], n_folds: int, seed: int
) -> NDArray[np.int64]:
    """Draw the fold of each row, the same within a group; classes are spread evenly.

    Parameters
    ----------
    targets : ndarray of shape (n_samples,) or (n_samples, K), or None
        Class codes, which are stratified, or other targets, which are not.
    groups : ndarray of int, shape (n_samples,)
        Codes of the groups, at least as many as folds.
    n_folds : int
        Number of folds; each gets at least one group.
    seed : int
        Seed.

    Returns
    -------
    ndarray of int, shape (n_samples,)

    Raises
    ------
    ValueError
        If no class occurs in two groups.
    """
    strata: Targets = np.zeros(len(groups), dtype=np.int64)
    if targets is not None and targets.ndim == 1:
        _check_classes_in_groups(targets, groups)
        if np.unique(targets, return_counts=True)[1].max() >= n_folds:
            strata = targets
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    folds = np.empty(len(groups), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about classes smaller than n_folds
        for fold, (_, rows) in enumerate(splitter.split(groups, strata, groups)):
            folds[rows] = fold
    return folds


def _check_classes_in_groups(codes: Targets, groups: NDArray[np.int64]) -> None:
    pairs = np.unique(np.stack([codes, groups])[:, codes >= 0], axis=1)
    if np.bincount(pairs[0], minlength=1).max() < 2:
        raise ValueError(
            "groups holds each class in one group only, so that what is learned from some "
            "groups cannot be tested on others. Pass groups that share classes, or leave "
            "groups out."
        )
