"""The nearest rows of each query, ties in a defined order."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_hscl.metrics.knn.packed_keys import Note, fixed_point, floating_point, n_digits
from sklearn_hscl.metrics.knn.pruned_search import are_worth_it, map_shortlists
from sklearn_hscl.metrics.knn.similarity_tiles import (
    BLOCK_ROWS,
    TILE_ROWS,
    Result,
    SimilaritySearch,
    map_blocks,
)
from sklearn_hscl.metrics.validation import Labelled, Queries

# Keys that a block may hold at a time: 64 MB of int32.
_MAX_KEYS = 1 << 24
# A larger share of a tile is cheaper to rank whole.
_MANY = 1 / 8
# Keys of a query that are not worth dropping.
_FEW = 256


def map_nearest(
    function: Callable[[slice, NDArray[Any]], Result],
    search: SimilaritySearch,
    n_nearest: int,
    note: Note,
    n_bits: int,
) -> list[Result]:
    """Call `function` with blocks of queries and the keys of their nearest references.

    Parameters
    ----------
    function : callable
        ``function(block, keys)`` with a slice of the queries and their keys, best first:
        ndarray of int32 or int64, of shape (b, n_nearest). It is called from threads.
    search : Search
        References and queries.
    n_nearest : int
        How many references, at most as many as there are others than the query.
    note : callable
        ``note(keys, queries, references)`` writes to the lowest bits of keys. Places of
        queries and references broadcast to the shape of the keys.
    n_bits : int
        How many bits that takes.

    Returns
    -------
    list
        What `function` returned, block by block, in order.
    """
    if are_worth_it(search, n_nearest, n_bits):
        return map_shortlists(function, search, n_nearest, note, n_bits)
    width = min(len(search.references), _most_held(n_nearest) + TILE_ROWS)
    block_rows = max(1, min(BLOCK_ROWS, _MAX_KEYS // width))

    def call(block: slice) -> Result:
        return function(block, _ranked(search, block, n_nearest, note, n_bits))

    return map_blocks(call, len(search.codes), block_rows)


def _ranked(
    search: SimilaritySearch, block: slice, n_nearest: int, note: Note, n_bits: int
) -> NDArray[Any]:
    """Rank references tile by tile; return the nearest of a block of queries."""
    best = _Best(search, block, n_nearest, note, n_bits)
    for start, similarity in search.tiles(block):
        best.add(start, similarity)
    return best.ranked()


class _Best:
    """The largest keys of a block of queries, so far."""

    def __init__(
        self,
        search: SimilaritySearch,
        block: slice,
        n_nearest: int,
        note: Note,
        n_bits: int,
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
        step = 2.0 ** -n_digits(dtype.itemsize, self.n_bits)
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


def nearest_rows(
    rows: NDArray[Any], n_nearest: int, queries: NDArray[Any] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the nearest rows of each query, in memory linear in the rows.

    Parameters
    ----------
    rows : ndarray of shape (n, D)
        Rows to find; lengths play no part.
    n_nearest : int
        How many, at most as many as there are (others).
    queries : ndarray of shape (q, D) or None
        Rows to ask for; None: each row among the others.

    Returns
    -------
    places : ndarray of int64, shape (q, n_nearest)
        Best first; of equally similar ones the first.
    cosines : ndarray of float64, shape (q, n_nearest)
    """
    search = SimilaritySearch(_of_one_class(rows), _queries(rows, queries))
    n_bits = max(1, (len(rows) - 1).bit_length())
    mask = (1 << n_bits) - 1

    def note_place(keys: NDArray[Any], _: NDArray[Any], places: NDArray[Any]) -> None:
        """Put the place into the lowest bits, such that first rows are first of equals."""
        keys |= (mask - places).astype(keys.dtype)

    blocks = map_nearest(lambda _, keys: keys, search, n_nearest, note_place, n_bits)
    keys = np.concatenate(blocks)  # (q, n_nearest)
    places = (mask - (keys & mask)).astype(np.int64)
    return places, floating_point(keys, n_bits, search.dtype)


def _queries(rows: NDArray[Any], queries: NDArray[Any] | None) -> Queries:
    asked = rows if queries is None else queries
    places = np.arange(len(asked))
    return Queries(asked, places, np.zeros_like(places), queries is None)


def _of_one_class(rows: NDArray[Any]) -> Labelled:
    """Give all rows one class: they then stay in their order."""
    codes = np.zeros(len(rows), dtype=np.int64)
    return Labelled(rows, codes[:1], codes)
