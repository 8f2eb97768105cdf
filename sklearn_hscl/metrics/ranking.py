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

Note = Callable[[NDArray[Any], slice, int], None]


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
        ``note(keys, block, start)`` writes to the lowest bits of the keys of a tile.
    n_bits : int
        How many bits that takes.

    Returns
    -------
    ndarray of int32 or int64, shape (b, n_nearest)
    """
    best: list[NDArray[Any]] = []
    n_held = 0
    for start, similarity in search.tiles(block):
        keys = fixed_point(similarity, n_bits)
        note(keys, block, start)
        keys[search.own_columns(block, start, keys.shape[1])] = np.iinfo(keys.dtype).min
        best.append(_largest(keys, n_nearest))
        n_held += best[-1].shape[1]
        if n_held > _most_held(n_nearest):
            best = [_largest(np.concatenate(best, axis=1), n_nearest)]
            n_held = n_nearest
    keys = _largest(np.concatenate(best, axis=1), n_nearest)
    keys.sort(axis=1)
    return keys[:, ::-1]  # (b, n_nearest)


def _most_held(n_nearest: int) -> int:
    """Return how many keys of a query are collected before the others are dropped."""
    return 4 * max(n_nearest, TILE_ROWS)


def _largest(keys: NDArray[Any], count: int) -> NDArray[Any]:
    width = keys.shape[1]
    if count >= width:
        return keys
    keys.partition(width - count, axis=1)
    return keys[:, -count:].copy()  # frees the others
