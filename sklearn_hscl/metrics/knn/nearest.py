"""The nearest references of each query, with their class, their relevance or their index.

Each function chooses what is packed beside a similarity. It also decides the order of
equally similar references.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sklearn_hscl.metrics.knn.packed_keys import Keys, Payload, floating_point
from sklearn_hscl.metrics.knn.pruned_search import is_prunable, map_pruned
from sklearn_hscl.metrics.knn.similarity_tiles import SimilaritySearch
from sklearn_hscl.metrics.knn.top_k import map_ranked
from sklearn_hscl.metrics.validation import Labelled, Queries, Rows
from sklearn_hscl.runtime.parallel import Result


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


def _queries(rows: Rows, queries: Rows | None) -> Queries:
    query_rows = rows if queries is None else queries
    indices = np.arange(len(query_rows))
    return Queries(query_rows, indices, np.zeros_like(indices), queries is None)


def _of_one_class(rows: Rows) -> Labelled:
    """Assign all rows to one class, which keeps their order."""
    codes = np.zeros(len(rows), dtype=np.int64)
    return Labelled(rows, codes[:1], codes)
