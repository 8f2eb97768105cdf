"""The nearest rows of each query: similarities, classes and relevance, block by block.

Each function packs a payload beside a similarity, which also decides the order of equally
similar references.
"""

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
from sklearn_hscl.metrics.knn.pruned_search import is_prunable, map_pruned
from sklearn_hscl.metrics.knn.similarity_tiles import (
    BLOCK_ROWS,
    TILE_ROWS,
    SimilaritySearch,
)
from sklearn_hscl.metrics.validation import Labelled, Queries, Rows
from sklearn_hscl.runtime.threads import Result, map_blocks


def map_relevance(
    function: Callable[[slice, NDArray[np.bool_]], Result],
    search: SimilaritySearch,
    n_nearest: int,
) -> list[Result]:
    """Call a function with the relevance of the nearest references of each query.

    Parameters
    ----------
    function : callable
        ``function(block, relevant)`` with a slice of the queries and, best first, whether
        their nearest references are of their class: (b, n_nearest). It is called from
        threads.
    search : SimilaritySearch
        References and queries.
    n_nearest : int
        At most the number of references other than the query.

    Returns
    -------
    list
        The results of `function`, block by block, in order.

    Notes
    -----
    Among equally similar references those of other classes come first.
    """

    def call(block: slice, keys: Keys) -> Result:
        return function(block, keys & 1 == 0)

    return _map_nearest(call, search, n_nearest, _Irrelevance(search))


def map_class_codes(
    function: Callable[[slice, NDArray[np.float64], NDArray[np.signedinteger]], Result],
    search: SimilaritySearch,
    n_nearest: int,
) -> list[Result]:
    """Call a function with similarities and class codes of the nearest references.

    Parameters
    ----------
    function : callable
        ``function(block, similarity, codes)`` with a slice of the queries and, best
        first, arrays of shape (b, n_nearest). It is called from threads.
    search : SimilaritySearch
        References and queries.
    n_nearest : int
        At most the number of references other than the query.

    Returns
    -------
    list
        The results of `function`, block by block, in order.

    Notes
    -----
    Equally similar references are ordered by their class.
    """
    payload = _ClassCode(search.reference_codes)

    def call(block: slice, keys: Keys) -> Result:
        similarity = floating_point(keys, payload.n_bits, search.dtype)
        return function(block, similarity, payload.read(keys))

    return _map_nearest(call, search, n_nearest, payload)


def nearest_rows(
    rows: Rows, n_nearest: int, queries: Rows | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the nearest rows of each query.

    Parameters
    ----------
    rows : ndarray of shape (n, D)
        Rows to search, of any norm.
    n_nearest : int
        At most the number of rows (other than the query).
    queries : ndarray of shape (q, D) or None
        Rows to search for; None searches for each row among the others.

    Returns
    -------
    indices : ndarray of int64, shape (q, n_nearest)
        Best first; equally similar rows are in their order.
    cosines : ndarray of float64, shape (q, n_nearest)
    """
    search = SimilaritySearch(_of_one_class(rows), _queries(rows, queries))
    payload = _Index(len(rows))
    keys = np.concatenate(
        _map_nearest(lambda _, keys: keys, search, n_nearest, payload)
    )  # (q, n_nearest)
    cosines = floating_point(keys, payload.n_bits, search.dtype)
    return payload.read(keys).astype(np.int64), cosines


def _queries(rows: Rows, queries: Rows | None) -> Queries:
    query_rows = rows if queries is None else queries
    indices = np.arange(len(query_rows))
    return Queries(query_rows, indices, np.zeros_like(indices), queries is None)


def _of_one_class(rows: Rows) -> Labelled:
    """Assign all rows to one class, which keeps their order."""
    codes = np.zeros(len(rows), dtype=np.int64)
    return Labelled(rows, codes[:1], codes)


def _map_nearest(
    function: Callable[[slice, Keys], Result],
    search: SimilaritySearch,
    n_nearest: int,
    payload: Payload,
) -> list[Result]:
    """Call a function with the packed keys of the nearest references, best first."""
    if is_prunable(search, n_nearest, payload.n_bits):
        return map_pruned(function, search, n_nearest, payload)
    return map_ranked(function, search, n_nearest, payload)


# Payloads ----------------------------------------------------------------------------


class _Irrelevance:
    """One bit: 0 if the reference is of the class of the query, else 1."""

    n_bits = 1

    def __init__(self, search: SimilaritySearch) -> None:
        self._search = search

    def write(
        self, keys: Keys, queries: NDArray[np.int64], references: NDArray[np.int64]
    ) -> None:
        is_before = references < self._search.class_starts[queries]
        keys |= is_before | (references >= self._search.class_stops[queries])


class _Index:
    """Index of the reference, stored such that the smallest wins ties."""

    def __init__(self, n_values: int) -> None:
        self.n_bits = max(1, (n_values - 1).bit_length())
        self._mask = (1 << self.n_bits) - 1

    def write(
        self, keys: Keys, queries: NDArray[np.int64], references: NDArray[np.int64]
    ) -> None:
        keys |= (self._mask - references).astype(keys.dtype)

    def read(self, keys: Keys) -> Keys:
        """Return the payloads of keys, of the type of the keys."""
        return self._mask - (keys & self._mask)


class _ClassCode(_Index):
    """Class code of the reference, stored such that the smallest wins ties."""

    def __init__(self, codes: NDArray[np.int64]) -> None:
        super().__init__(int(codes.max()) + 1)
        self._codes = codes

    def write(
        self, keys: Keys, queries: NDArray[np.int64], references: NDArray[np.int64]
    ) -> None:
        super().write(keys, queries, self._codes[references])


# Largest keys ------------------------------------------------------------------------


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
        best = _LargestKeys(search, block, n_nearest, payload)
        for start, similarity in search.tiles(block):
            best.add(start, similarity)
        return function(block, best.ranked())

    return map_blocks(call, len(search.codes), block_rows)


class _LargestKeys:
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
