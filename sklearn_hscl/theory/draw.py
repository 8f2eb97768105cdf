"""Which rows are compared: the anchors, and what is a positive or negative of each."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sklearn_hscl.data.torch_dataset import array_of
from sklearn_hscl.losses.pair_sets import Pairs
from sklearn_hscl.metrics.geometry import float64_rows
from sklearn_hscl.metrics.validation import Labelled


@dataclass(frozen=True)
class PairSets:
    """Positives of a block of anchors, and three kinds of negatives: (A, P) each."""

    everything: Pairs
    """All rows but the anchor and its views: negatives of UCL and H-UCL."""
    different: Pairs
    """Rows of other classes: negatives of SCL and H-SCL."""
    collisions: Pairs
    """Rows of the anchor's class among everything."""


@dataclass(frozen=True)
class Draw:
    """Rows that stand for the population, and the anchors among them."""

    rows: Tensor  # (P, D), unit rows in float64
    codes: Tensor  # (P,), classes
    views: Tensor  # (P,), which row each is a view of
    anchors: Tensor  # (A,), places among the rows
    positives_are_views: bool
    n_skipped: int

    def pairs(self, block: slice) -> PairSets:
        """Return the pairs of a block of anchors with all rows."""
        anchors = self.anchors[block]
        same_class = self.codes[anchors, None] == self.codes  # (A, P)
        same_row = self.views[anchors, None] == self.views
        itself = anchors[:, None] == torch.arange(len(self.rows))
        positive = (same_row if self.positives_are_views else same_class) & ~itself
        return PairSets(
            everything=_pairs(positive, ~same_row),
            different=_pairs(positive, ~same_class),
            collisions=_pairs(positive, same_class & ~same_row),
        )


def draw_pairs(
    data: Labelled,
    view_ids: ArrayLike | None,
    *,
    max_anchors: int | None,
    max_negatives: int | None,
    random: np.random.RandomState,
) -> Draw:
    """Draw rows, views of a row together, and anchors among them.

    Parameters
    ----------
    data : Labelled
        The embedding and its classes.
    view_ids : array-like of shape (n,), or None
        Which row each is a view of; None: each is its own, and positives are the rows of
        the class.
    max_anchors, max_negatives : int or None
        At most so many anchors, each compared with so many rows; None: all.
    random : RandomState
        For the draw.

    Returns
    -------
    Draw

    Raises
    ------
    ValueError
        If views of a row differ in class, or no row drawn can be an anchor.
    """
    groups = np.arange(len(data.codes)) if view_ids is None else _groups(view_ids, data)
    order = random.permutation(groups.max() + 1)
    limit = len(groups) if max_negatives is None else max_negatives + 1
    fits = np.cumsum(np.bincount(groups)[order]) <= limit
    places = np.flatnonzero(np.isin(groups, order[fits]))  # (P,)
    codes, views = data.codes[places], groups[places]
    usable = np.flatnonzero(_can_be_anchor(codes, views, by_view=view_ids is not None))
    if len(usable) == 0:
        raise ValueError(
            "No row drawn has a positive, another row of its class and a row of another "
            "class: pass more rows of each class (in view_ids, two views of each row), "
            "or raise max_negatives."
        )
    return Draw(
        rows=float64_rows(data.rows[places], normalize=True),
        codes=torch.from_numpy(codes),
        views=torch.from_numpy(views),
        anchors=torch.from_numpy(np.sort(random.permutation(usable)[:max_anchors])),
        positives_are_views=view_ids is not None,
        n_skipped=len(places) - len(usable),
    )


def _groups(view_ids: ArrayLike, data: Labelled) -> NDArray[np.int64]:
    """Give the rows of which there are views numbers from 0: (n,)."""
    values = array_of(view_ids)
    if np.shape(values) != data.codes.shape:
        raise ValueError(
            f"view_ids of shape {np.shape(values)} must name for each of the "
            f"{len(data.codes)} rows of X which row it is a view of."
        )
    _, first, groups = np.unique(values, return_index=True, return_inverse=True)
    mixed = np.flatnonzero(data.codes[first][groups] != data.codes)
    if len(mixed):
        raise ValueError(
            f"view_ids={np.asarray(values)[mixed[0]]!r} holds rows of several classes in "
            f"y: views of a row have its class."
        )
    return groups


def _can_be_anchor(
    codes: NDArray[np.int64], views: NDArray[np.int64], *, by_view: bool
) -> NDArray[np.bool_]:
    """Whether there are a positive, a collision and a row of another class: (P,)."""
    n_class, n_views = np.bincount(codes)[codes], np.bincount(views)[views]
    usable = (n_class > n_views) & (n_class < len(codes))
    return usable & (n_views > 1) if by_view else usable


def _pairs(positive: Tensor, negative: Tensor) -> Pairs:
    absent = torch.zeros(negative.shape, dtype=torch.float64)
    return Pairs(positive.double(), absent.masked_fill(~negative, -torch.inf))
