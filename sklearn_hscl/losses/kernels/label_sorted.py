"""The batch in group order: the positives of an anchor are its neighbors.

After the sort no mask of size B x B is needed: groups are slices, and everything
outside of the slice of an anchor is a negative.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hscl.losses.equation import constant_mass
from sklearn_hscl.losses.kernels.closed_form import positive_terms
from sklearn_hscl.runtime.matmul import mm, mm_t

Integers = NDArray[np.int64]

_MAX_PADDED = 2**16  # elements up to which groups of a strip are padded to one size
_MAX_TILE = 512  # height and width of the tiles of a large group


# Sorted rows ---------------------------------------------------------------------------


class SortedRows(NamedTuple):
    """Rows of the batch, ordered by group."""

    z: Tensor  # (B, D)
    order: Tensor | None  # (B,), sorted row -> row of the batch; None: it was sorted
    bounds: list[int]  # (C + 1,), group c holds the sorted rows bounds[c]:bounds[c + 1]
    sizes: Integers  # (C,), rows of each group; in numpy, which is fast for few values

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Groups whose rows have a positive and a negative, (C,)."""
        return (self.sizes > 1) & (self.sizes < self.bounds[-1])

    @property
    def n_usable(self) -> int:
        """Number of rows that have a positive and a negative."""
        return int(self.sizes[self.usable].sum())

    def per_row(self, per_group: NDArray[np.generic]) -> Tensor:
        """Give each row the value of its group, (B,)."""
        values = torch.from_numpy(per_group.repeat(self.sizes))
        return values.to(self.z.device, self.z.dtype)

    def unsorted(self, values: Tensor) -> Tensor:
        """Bring values of sorted rows (B, D) into the order of the batch."""
        if self.order is None:
            return values
        return torch.empty_like(values).index_copy_(0, self.order, values)


def sort_rows(z: Tensor, groups: Tensor) -> SortedRows:
    """Bring the rows of each group together."""
    group_ids, order = groups.cpu().numpy(), None
    # Compared, as differences would wrap in the type of the ids.
    if (group_ids[1:] < group_ids[:-1]).any():
        indices = group_ids.argsort(kind="stable")
        group_ids = group_ids[indices]
        order = torch.from_numpy(indices).to(z.device)
        z = z.index_select(0, order)
    ends = np.flatnonzero(group_ids[1:] != group_ids[:-1]) + 1  # (C - 1,)
    bounds = np.concatenate([[0], ends, [len(group_ids)]])
    return SortedRows(z, order, bounds.tolist(), np.diff(bounds))


class AnchorFactors(NamedTuple):
    """Factors of each anchor."""

    weight: Tensor  # (B,), c_i, weight of each pair of the anchor
    mass: Tensor  # (B,), Q_i; once the negatives are summed, D_i = Q_i E_i


def pair_weight(reduction: str, rows: SortedRows) -> Tensor:
    """Return the weight of each pair (anchor, positive), (B,); it is the same for all p."""
    sizes = rows.sizes
    positives = np.maximum(sizes - 1, 1)
    weight = rows.usable / (1.0 if reduction == "pairs" else positives)  # (C,)
    if reduction == "classes":
        weight = weight / sizes
    total = (weight * sizes * positives).sum()
    return rows.per_row(weight / (total or 1.0))


def negative_count(negative_mass: str | float, rows: SortedRows) -> Tensor:
    """Return Q_i, (B,)."""
    n_rows = rows.bounds[-1]
    if negative_mass == "negatives":
        return rows.per_row(n_rows - rows.sizes)
    return rows.z.new_full((n_rows,), constant_mass(negative_mass, n_rows))


# Sums that tiles are added to ----------------------------------------------------------


class PositiveTerms(NamedTuple):
    """Contributions of the positives."""

    value: Tensor  # (), the loss
    strength: Tensor  # (B,), G_i = c_i Σ_p σ_ip, how strongly anchors repel negatives


class GradientSum:
    """Gradient M z of a sum over pairs, accumulated tile by tile and transposed.

    Both products of a tile are then wide, which is the shape that runs fastest.

    Parameters
    ----------
    rows : Tensor of shape (B, D)
        z.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.z: Tensor | None = None  # (D, B)
        self.total = rows.new_zeros(()).expand(rows.T.shape)  # (D, B), no memory yet

    def add(self, tile: Tensor, rows: slice, columns: slice) -> None:
        """Add the tile M[rows, columns] and, off the diagonal, its transpose."""
        if self.z is None and len(tile) == len(self.rows):  # the only tile
            self.total = mm(tile, self.rows).T
            return
        if self.z is None:
            self.z = self.rows.T.contiguous()
            self.total = torch.zeros_like(self.z)
        self.total[:, rows] += mm_t(self.z[:, columns], tile)
        if rows != columns:
            self.total[:, columns] += mm(self.z[:, rows], tile)


# Positives of small groups -------------------------------------------------------------


class PaddedGroups:
    """Small groups of a strip of rows, padded to one size k x n x n.

    Their pairs lie scattered in the tile (strip, strip); they are read and written
    with a flat index, which is much faster than a mask over the tile.
    """

    def __init__(
        self, rows: SortedRows, start: Integers, size: Integers, strip: slice
    ) -> None:
        height = strip.stop - strip.start
        step = np.arange(size.max())  # (n,)
        valid = step < size[:, None]  # (k, n)
        members = start[:, None] + step * valid
        inside = members - strip.start
        # Padding ends up at the last element, on the diagonal, which holds no pair.
        row = np.where(valid, inside * height, height**2)
        column = np.where(valid, inside, height**2)
        row, column, members = (
            torch.from_numpy(part).to(rows.z.device) for part in (row, column, members)
        )
        index = (row.unsqueeze(2) + column.unsqueeze(1)).clamp_max_(height**2 - 1)
        self.index = index.flatten()  # (k * n * n,)
        self.members = members  # (k, n), rows of each group
        exists = torch.from_numpy(valid).to(rows.z)
        self.pairs = exists.unsqueeze(2) * exists.unsqueeze(1)
        # (k, n, n), 1 for (anchor, positive)
        self.pairs.diagonal(dim1=1, dim2=2).zero_()
        # Similarities, later their part of M, (k, n, n). Made at once, because lasting
        # pieces in between the tiles would keep their memory from being used again.
        self.values = torch.zeros_like(self.pairs)

    def take(self, tile: Tensor) -> None:
        """Read the values from a tile."""
        torch.index_select(tile.view(-1), 0, self.index, out=self.values.view(-1))

    def put(self, tile: Tensor) -> None:
        """Write the values to a tile; those of other elements must be 0."""
        tile.view(-1).scatter_(0, self.index, self.values.view(-1))

    def clear(self, tile: Tensor) -> None:
        """Set all pairs and the diagonal of a tile to 0."""
        # Faster than the same with a scalar.
        tile.view(-1).scatter_(0, self.index, torch.zeros_like(self.values).view(-1))


def padded_groups(rows: SortedRows, strip: slice) -> list[PaddedGroups]:
    """Pad the groups of a strip, together or, if need be, by similar size."""
    first, last = (bisect_left(rows.bounds, edge) for edge in (strip.start, strip.stop))
    size = rows.sizes[first:last]
    start = np.array(rows.bounds[first:last])
    if len(size) * size.max() ** 2 <= _MAX_PADDED:
        return [PaddedGroups(rows, start, size, strip)]
    octave = np.ceil(np.log2(size))
    return [
        PaddedGroups(rows, start[octave == k], size[octave == k], strip)
        for k in np.unique(octave)
    ]


def add_small_groups(
    groups: PaddedGroups, factors: AnchorFactors, terms: PositiveTerms
) -> None:
    """Add the pairs of small groups to `terms`; turn their values u into M.

    Parameters
    ----------
    groups : PaddedGroups
    factors : AnchorFactors
        c_i and D_i.
    terms : PositiveTerms
        Sums to add to.
    """
    weight, mass = (each[groups.members].unsqueeze(2) for each in factors)  # (k, n, 1)
    weight = groups.pairs * weight  # (k, n, n)
    inverse = groups.values.neg().exp2_()
    value, sigma = positive_terms(inverse, mass, weight)
    terms.value.add_(value)
    terms.strength.index_add_(0, groups.members.flatten(), sigma.sum(2).flatten())
    torch.add(sigma, sigma.mT, out=groups.values).neg_()


# Positives of large groups, tile by tile -----------------------------------------------


def tiles_of_group(start: int, stop: int) -> Iterator[tuple[slice, slice]]:
    """Yield tiles of the pairs of one large group, on and above the diagonal."""
    pieces = cut(start, stop, _MAX_TILE)
    for k, upper in enumerate(pieces):
        yield from ((upper, lower) for lower in pieces[k:])


def add_tile_of_group(
    rows: SortedRows,
    scaled: Tensor,
    tile: tuple[slice, slice],
    factors: AnchorFactors,
    terms: PositiveTerms,
    gradient: GradientSum | None,
) -> None:
    """Add pairs of one large group to `terms`, and their M z to `gradient`.

    Parameters as in :func:`add_small_groups`; scaled : Tensor of shape (B, D) is
    z log2(e) / T, and tile is one of :func:`tiles_of_group`.
    """
    upper, lower = tile
    weight = factors.weight[upper.start]  # the same in the whole group
    inverse = mm_t(scaled[upper], rows.z[lower]).neg_().exp2_()  # (t, t), e^{-s}
    if upper == lower:
        inverse.fill_diagonal_(0.0)  # as if infinitely close: no loss, no gradient
        block = _add_direction(inverse, weight, factors.mass, upper, 1, terms)
        block = block + block.T
    else:
        there = inverse.clone()
        block = _add_direction(there, weight, factors.mass, upper, 1, terms)
        block += _add_direction(inverse, weight, factors.mass, lower, 0, terms)
    if gradient is not None:
        gradient.add(block.neg_(), upper, lower)


def _add_direction(
    inverse: Tensor,
    weight: Tensor,
    mass: Tensor,
    anchors: slice,
    axis: int,
    terms: PositiveTerms,
) -> Tensor:
    """Return c σ for one direction of the pairs of a tile, (t, t); positives on `axis`."""
    value, sigma = positive_terms(inverse, mass[anchors].unsqueeze(axis), weight)
    terms.value.add_(value)
    terms.strength[anchors] += sigma.sum(axis)
    return sigma


def cut(start: int, stop: int, height: int) -> list[slice]:
    """Cut a range into pieces of nearly equal height, `height` at most."""
    n_pieces = max(-(-(stop - start) // height), 1)
    edges = [start + (stop - start) * k // n_pieces for k in range(n_pieces + 1)]
    return [slice(a, b) for a, b in pairwise(edges) if a < b]
