"""The most similar references of each query, best first, with a note on each.

A similarity becomes an integer, in fixed point, with some lowest bits left for the note:
numpy finds the largest of many integers several times faster than floats with their
places, and equal similarities are ordered by the note, not by chance.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_hscl.metrics.search import BLOCK_ROWS, TILE_ROWS, Search

# Keys that a block may hold at a time: 64 MB of int32.
_MAX_KEYS = 1 << 24
# Binary digits of a similarity, by bytes. Products of other shapes end with other last
# bits: equal rows are to be equal in all of them.
_DIGITS = {4: 22, 8: 48}
# A larger share of a tile is cheaper to rank whole.
_MANY = 1 / 8
# Keys of a query that are not worth dropping.
_FEW = 256

# Keys, queries and references: each array fits the first.
Note = Callable[[NDArray[Any], NDArray[np.int64], NDArray[np.int64]], None]


def fixed_point(similarity: NDArray[Any], n_free: int) -> NDArray[Any]:
    """Round floats from -1 to 1 to integers of the same order.

    Parameters
    ----------
    similarity : ndarray of float32 or float64
        Is overwritten.
    n_free : int
        Lowest bits to leave free.

    Returns
    -------
    ndarray of int32 or int64
        Multiples of 2**n_free.
    """
    digits = _digits(similarity.itemsize, n_free)
    # Beside this number the last bit of a float is worth 2**-digits: the addition rounds
    # to it, and the bits of the sum count in such steps.
    shift = np.exp2(np.finfo(similarity.dtype).nmant - digits - 1, dtype=similarity.dtype)
    shift *= 3
    similarity += shift
    integer = np.int32 if similarity.itemsize == 4 else np.int64
    keys: NDArray[Any] = similarity.view(integer)
    keys -= shift.view(integer)
    if digits + n_free > 30:
        keys = keys.astype(np.int64, copy=False)
    keys <<= n_free
    return keys


def floating_point(
    keys: NDArray[Any], n_free: int, dtype: np.dtype[Any]
) -> NDArray[np.float64]:
    """Turn keys back into similarities, which were of that type."""
    return (keys >> n_free) / 2.0 ** _digits(dtype.itemsize, n_free)


def _digits(itemsize: int, n_free: int) -> int:
    return min(_DIGITS[itemsize], 61 - n_free)


def block_rows(search: Search, n_nearest: int) -> int:
    """Return how many queries may be ranked at a time, `n_nearest` of each."""
    width = min(len(search.references), _most_held(n_nearest) + TILE_ROWS)
    return max(1, min(BLOCK_ROWS, _MAX_KEYS // width))


def nearest(
    search: Search,
    block: slice,
    n_nearest: int,
    note: Note,
    n_bits: int,
) -> NDArray[Any]:
    """Return the keys of the nearest references, best first.

    Parameters
    ----------
    search : Search
        References and queries.
    block : slice
        Which queries.
    n_nearest : int
        How many references, at most as many as there are others than the query.
    note : callable
        ``note(keys, queries, references)`` writes to the lowest bits of keys. Places of
        queries and references broadcast to the shape of the keys.
    n_bits : int
        How many bits that takes.

    Returns
    -------
    ndarray of int32 or int64, shape (b, n_nearest)
    """
    best = _Best(search, block, n_nearest, note, n_bits)
    for start, similarity in search.tiles(block):
        best.add(start, similarity)
    return best.ranked()


class _Best:
    """The largest keys of a block of queries, so far."""

    def __init__(
        self, search: Search, block: slice, n_nearest: int, note: Note, n_bits: int
    ) -> None:
        self.search, self.block, self.n_nearest = search, block, n_nearest
        self.note, self.n_bits = note, n_bits
        self.queries = np.arange(block.start, block.stop)  # (b,)
        self.held: list[NDArray[Any]] = []
        self.n_held = 0
        # What a reference must reach to come in: (b, 1).
        self.bar = np.full((len(self.queries), 1), -np.inf, search.dtype)

    def add(self, start: int, similarity: NDArray[Any]) -> None:
        """Let in what is left of a tile (b, t), whose similarities are overwritten."""
        own = self.search.own_columns(self.block, start, similarity.shape[1])
        passes = similarity >= self.bar
        passes[own] = False
        if np.count_nonzero(passes) > _MANY * passes.size:
            self._add_tile(start, similarity, own)
        else:
            self._add_some(start, similarity, passes)
        is_first = not np.isfinite(self.bar[0, 0])
        if self.n_held > (self.n_nearest if is_first else _most_held(self.n_nearest)):
            self._drop()

    def ranked(self) -> NDArray[Any]:
        """Return the keys of the nearest, best first: (b, n_nearest)."""
        self._drop()
        keys = self.held[0]
        keys.sort(axis=1)
        return keys[:, ::-1]

    def _add_tile(self, start: int, similarity: NDArray[Any], own: Any) -> None:
        references = np.arange(start, start + similarity.shape[1])
        keys = fixed_point(similarity, self.n_bits)
        self.note(keys, self.queries[:, None], references)
        keys[own] = np.iinfo(keys.dtype).min
        self._hold(_largest(keys, self.n_nearest))

    def _add_some(
        self, start: int, similarity: NDArray[Any], passes: NDArray[np.bool_]
    ) -> None:
        """Add the few that pass, one row of keys a query: later ones seldom do."""
        rows, columns = np.divmod(np.flatnonzero(passes), passes.shape[1])
        keys = fixed_point(similarity[rows, columns], self.n_bits)
        self.note(keys, self.queries[rows], start + columns)
        counts = np.bincount(rows, minlength=len(passes))
        firsts = np.cumsum(counts) - counts
        table = np.full((len(passes), counts.max()), np.iinfo(keys.dtype).min, keys.dtype)
        table[rows, np.arange(len(rows)) - firsts[rows]] = keys
        self._hold(table)

    def _hold(self, keys: NDArray[Any]) -> None:
        self.held.append(keys)
        self.n_held += keys.shape[1]

    def _drop(self) -> None:
        """Keep the largest keys, the least of which sets the bar."""
        keys = _largest(np.concatenate(self.held, axis=1), self.n_nearest)
        self.held, self.n_held = [keys], self.n_nearest
        dtype = self.search.dtype
        step = 2.0 ** -_digits(dtype.itemsize, self.n_bits)
        least = floating_point(keys.min(axis=1, keepdims=True), self.n_bits, dtype)
        self.bar = (least - step).astype(dtype)  # below all that is rounded to it


def _most_held(n_nearest: int) -> int:
    """Return how many keys of a query are collected before the others are dropped."""
    return 2 * max(n_nearest, _FEW)


def _largest(keys: NDArray[Any], count: int) -> NDArray[Any]:
    width = keys.shape[1]
    if count >= width:
        return keys
    keys.partition(width - count, axis=1)
    return keys[:, -count:].copy()  # frees the others
