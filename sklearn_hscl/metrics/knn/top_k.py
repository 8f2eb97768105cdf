"""The nearest references of each query by ranking all of them, tile by tile."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sklearn_hscl.metrics.knn.packed_keys import (
    Keys,
    Payload,
    fixed_point,
    floating_point,
    n_digits,
)
from sklearn_hscl.metrics.knn.similarity_tiles import (
    BLOCK_ROWS,
    TILE_ROWS,
    SimilaritySearch,
)
from sklearn_hscl.metrics.validation import Rows
from sklearn_hscl.runtime.parallel import Result, map_blocks

# Keys that a block may hold at a time: 64 MB of int32.
_MAX_KEYS = 1 << 24
# If a larger fraction of a tile passes, ranking the whole tile is cheaper.
_MAX_SPARSE_FRACTION = 1 / 8
# Fewer keys per query than this are not worth dropping.
_MIN_DROPPED_KEYS = 256


def map_ranked(
    function: Callable[[slice, Keys], Result],
    search: SimilaritySearch,
    n_nearest: int,
    payload: Payload,
) -> list[Result]:
    """Call a function with blocks of queries and the keys of their nearest references.

    Parameters
    ----------
    function : callable
        ``function(block, keys)`` with a slice of the queries and their keys, best first:
        ndarray of int32 or int64, of shape (b, n_nearest). It is called from threads.
    search : SimilaritySearch
        References and queries.
    n_nearest : int
        At most the number of references other than the query.
    payload : Payload
        Writes the lowest bits of keys.

    Returns
    -------
    list
        The results of `function`, block by block, in order.
    """
    width = min(len(search.references), _max_keys_per_query(n_nearest) + TILE_ROWS)
    block_rows = max(1, min(BLOCK_ROWS, _MAX_KEYS // width))

    def call(block: slice) -> Result:
        best = _TopK(search, block, n_nearest, payload)
        for start, similarity in search.tiles(block):
            best.add(start, similarity)
        return function(block, best.ranked())

    return map_blocks(call, len(search.codes), block_rows)


class _TopK:
    """The largest keys of a block of queries, so far."""

    def __init__(
        self, search: SimilaritySearch, block: slice, n_nearest: int, payload: Payload
    ) -> None:
        self.search, self.block, self.n_nearest = search, block, n_nearest
        self.payload = payload
        self.queries = np.arange(block.start, block.stop)  # (b,)
        self.retained: list[Keys] = []
        self.n_retained = 0  # per query
        # Least similarity that a reference needs to be added: (b, 1).
        self.threshold = np.full((len(self.queries), 1), -np.inf, search.dtype)

    def add(self, start: int, similarity: Rows) -> None:
        """Add a tile (b, t), whose similarities are overwritten."""
        own = self.search.own_columns(self.block, start, similarity.shape[1])
        passes = similarity >= self.threshold
        passes[own] = False
        if np.count_nonzero(passes) > _MAX_SPARSE_FRACTION * passes.size:
            self._add_tile(start, similarity, own)
        else:
            self._add_passing(start, similarity, passes)
        is_first = not np.isfinite(self.threshold[0, 0])
        max_keys = self.n_nearest if is_first else _max_keys_per_query(self.n_nearest)
        if self.n_retained > max_keys:
            self._drop()

    def ranked(self) -> Keys:
        """Return the keys of the nearest, best first: (b, n_nearest)."""
        self._drop()
        keys = self.retained[0]
        keys.sort(axis=1)
        return keys[:, ::-1]

    def _add_tile(
        self,
        start: int,
        similarity: Rows,
        own: tuple[NDArray[np.int64], NDArray[np.int64]],
    ) -> None:
        references = np.arange(start, start + similarity.shape[1])
        keys = fixed_point(similarity, self.payload.n_bits)
        self.payload.write(keys, self.queries[:, None], references)
        keys[own] = np.iinfo(keys.dtype).min
        self._retain(_largest(keys, self.n_nearest))

    def _add_passing(self, start: int, similarity: Rows, passes: NDArray[np.bool_]) -> None:
        """Add the few references that pass, as one row of keys per query."""
        rows, columns = np.divmod(np.flatnonzero(passes), passes.shape[1])
        keys = fixed_point(similarity[rows, columns], self.payload.n_bits)
        self.payload.write(keys, self.queries[rows], start + columns)
        counts = np.bincount(rows, minlength=len(passes))
        firsts = np.cumsum(counts) - counts
        table = np.full((len(passes), counts.max()), np.iinfo(keys.dtype).min, keys.dtype)
        table[rows, np.arange(len(rows)) - firsts[rows]] = keys
        self._retain(table)

    def _retain(self, keys: Keys) -> None:
        self.retained.append(keys)
        self.n_retained += keys.shape[1]

    def _drop(self) -> None:
        """Retain only the largest keys, the least of which sets the threshold."""
        keys = _largest(np.concatenate(self.retained, axis=1), self.n_nearest)
        self.retained, self.n_retained = [keys], self.n_nearest
        dtype, n_bits = self.search.dtype, self.payload.n_bits
        step = 2.0 ** -n_digits(dtype.itemsize, n_bits)
        least = floating_point(keys.min(axis=1, keepdims=True), n_bits, dtype)
        self.threshold = (least - step).astype(dtype)  # below all that is rounded to it


def _max_keys_per_query(n_nearest: int) -> int:
    """Return how many keys of a query are collected before the smallest are dropped."""
    return 2 * max(n_nearest, _MIN_DROPPED_KEYS)


def _largest(keys: Keys, count: int) -> Keys:
    width = keys.shape[1]
    if count >= width:
        return keys
    keys.partition(width - count, axis=1)
    return keys[:, -count:].copy()  # frees the others
