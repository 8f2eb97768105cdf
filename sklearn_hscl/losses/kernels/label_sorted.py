"""The batch in group order: the positives of an anchor are its neighbours.

After the sort no mask of size B x B is needed: groups are slices, and everything
outside of the slice of an anchor is a negative.
"""

from bisect import bisect_left
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hscl.losses.kernels.closed_form import pull as pull_pairs
from sklearn_hscl.runtime.matmul import mm, mm_t

Integers = NDArray[np.int64]

_PADDED = 2**16  # elements up to which groups of a strip are padded to one size
_TILE = 512  # height and width of the tiles of a large group


class SortedRows(NamedTuple):
    """Rows of the batch, ordered by group."""

    z: Tensor  # (B, D)
    order: Tensor | None  # (B,), sorted row -> row of the batch; None: it was sorted
    bounds: list[int]  # (C + 1,), group c holds the sorted rows bounds[c]:bounds[c + 1]
    sizes: Integers  # (C,), rows of each group; in numpy, which is quick on few numbers

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Groups whose rows have a positive and a negative, (C,)."""
        return (self.sizes > 1) & (self.sizes < self.bounds[-1])

    @property
    def n_usable(self) -> int:
        """Rows that have a positive and a negative."""
        return int(self.sizes[self.usable].sum())

    def per_row(self, per_group: NDArray[Any]) -> Tensor:
        """Give each row the number of its group, (B,)."""
        numbers = torch.from_numpy(per_group.repeat(self.sizes))
        return numbers.to(self.z.device, self.z.dtype)

    def unsorted(self, values: Tensor) -> Tensor:
        """Bring values of sorted rows (B, D) into the order of the batch."""
        if self.order is None:
            return values
        return torch.empty_like(values).index_copy_(0, self.order, values)


class Pull(NamedTuple):
    """What the positives contribute."""

    value: Tensor  # (), the loss
    strength: Tensor  # (B,), G_i = c_i Σ_p σ_ip, how strongly anchors repel negatives


class Accumulator:
    """Gradient M z of a sum over pairs, gathered tile by tile and transposed.

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


def sort_rows(z: Tensor, groups: Tensor) -> SortedRows:
    """Bring the rows of each group together."""
    numbers = groups.cpu().numpy()
    steps, order = np.diff(numbers), None
    if steps.size and steps.min() < 0:
        places = numbers.argsort(kind="stable")
        steps = np.diff(numbers[places])
        order = torch.from_numpy(places).to(z.device)
        z = z.index_select(0, order)
    ends = np.flatnonzero(steps) + 1  # (C - 1,)
    bounds = np.concatenate([[0], ends, [len(numbers)]])
    return SortedRows(z, order, bounds.tolist(), np.diff(bounds))


def pair_weight(reduction: str, rows: SortedRows) -> Tensor:
    """Weight of each pair (anchor, positive), shape (B,); it is the same for all p."""
    sizes = rows.sizes
    positives = np.maximum(sizes - 1, 1)
    weight = rows.usable / (1.0 if reduction == "pairs" else positives)  # (C,)
    if reduction == "classes":
        weight = weight / sizes
    total = (weight * sizes * positives).sum()
    return rows.per_row(weight / (total or 1.0))


def negative_count(negative_mass: str | float, rows: SortedRows) -> Tensor:
    """Q_i, shape (B,)."""
    n_rows = rows.bounds[-1]
    if negative_mass == "negatives":
        return rows.per_row(n_rows - rows.sizes)
    mass = max(n_rows - 2, 1) if negative_mass == "batch" else float(negative_mass)
    return rows.z.new_full((n_rows,), mass)


class Stack:
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
        """Write the values to a tile; those that are no pairs have to be 0."""
        tile.view(-1).scatter_(0, self.index, self.values.view(-1))

    def clear(self, tile: Tensor) -> None:
        """Set all pairs and the diagonal of a tile to 0."""
        # Faster than the same with a number.
        tile.view(-1).scatter_(0, self.index, torch.zeros_like(self.values).view(-1))


def stacks(rows: SortedRows, strip: slice) -> list[Stack]:
    """Stack the groups of a strip, if need be those of similar size together."""
    first, last = (bisect_left(rows.bounds, edge) for edge in (strip.start, strip.stop))
    size = rows.sizes[first:last]
    start = np.array(rows.bounds[first:last])
    if len(size) * size.max() ** 2 <= _PADDED:
        return [Stack(rows, start, size, strip)]
    octave = np.ceil(np.log2(size))
    return [
        Stack(rows, start[octave == k], size[octave == k], strip) for k in np.unique(octave)
    ]


def pull_stack(stack: Stack, weight: Tensor, mass: Tensor, pull: Pull) -> None:
    """Add the pairs of small groups to `pull`; turn their values s log2(e) into M.

    Parameters
    ----------
    stack : Stack
    weight, mass : Tensor of shape (B,)
        c_i and D_i.
    pull : Pull
        Sums to add to.
    """
    share = stack.pairs * weight[stack.members].unsqueeze(2)  # (k, n, n)
    inverse = stack.values.neg().exp2_()
    value, sigma = pull_pairs(inverse, mass[stack.members].unsqueeze(2), share)
    pull.value.add_(value)
    pull.strength.index_add_(0, stack.members.flatten(), sigma.sum(2).flatten())
    torch.add(sigma, sigma.mT, out=stack.values).neg_()


def pull_tiles(
    rows: SortedRows,
    scaled: Tensor,
    group: slice,
    weight: Tensor,
    mass: Tensor,
    pull: Pull,
    gradient: Accumulator | None,
) -> None:
    """Add one large group, tile by tile, to `pull` and its M z to `gradient`.

    Parameters as in :func:`pull_stack`; scaled : Tensor of shape (B, D) is
    z log2(e) / T.
    """
    pieces = cut(group.start, group.stop, _TILE)
    share = weight[group.start]  # the same in the whole group
    for k, upper in enumerate(pieces):
        for lower in pieces[k:]:
            inverse = mm_t(scaled[upper], rows.z[lower]).neg_().exp2_()  # (t, t), e^{-s}
            if upper == lower:
                tile = _pull_half(inverse, share, mass, upper, 1, True, pull)
                tile = tile + tile.T
            else:
                tile = _pull_half(inverse.clone(), share, mass, upper, 1, False, pull)
                tile += _pull_half(inverse, share, mass, lower, 0, False, pull)
            if gradient is not None:
                gradient.add(tile.neg_(), upper, lower)


def _pull_half(
    inverse: Tensor,
    share: Tensor,
    mass: Tensor,
    anchors: slice,
    over: int,
    diagonal: bool,
    pull: Pull,
) -> Tensor:
    """Return c σ for one direction of the pairs of a tile, (t, t)."""
    if diagonal:
        inverse.fill_diagonal_(0.0)  # as if infinitely close: no loss, no gradient
    value, sigma = pull_pairs(inverse, mass[anchors].unsqueeze(over), share)
    pull.value.add_(value)
    pull.strength[anchors] += sigma.sum(over)
    return sigma


def cut(start: int, stop: int, height: int) -> list[slice]:
    """Cut a range into pieces of nearly equal height, `height` at most."""
    n_pieces = max(-(-(stop - start) // height), 1)
    edges = [start + (stop - start) * k // n_pieces for k in range(n_pieces + 1)]
    return [slice(a, b) for a, b in pairwise(edges) if a < b]
