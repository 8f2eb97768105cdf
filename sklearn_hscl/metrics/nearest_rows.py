"""The nearest rows of each row, by cosine."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_hscl.metrics.checks import Labelled, Queries
from sklearn_hscl.metrics.keys import floating_point
from sklearn_hscl.metrics.ranking import map_nearest
from sklearn_hscl.metrics.search import Search


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
    search = Search(_of_one_class(rows), _queries(rows, queries))
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
