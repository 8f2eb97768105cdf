"""Similarities as integers, with room for a note on each.

A similarity becomes an integer, in fixed point, with some lowest bits left for the note:
numpy orders integers several times faster than floats with their places, and equal
similarities are ordered by the note, not by chance.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Binary digits of a similarity, by bytes. Products of other shapes end with other last
# bits: equal rows are to be equal in all of them.
_DIGITS = {4: 22, 8: 48}

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
    digits = n_digits(similarity.itemsize, n_free)
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
    return (keys >> n_free) / 2.0 ** n_digits(dtype.itemsize, n_free)


def n_digits(itemsize: int, n_free: int) -> int:
    """Return the binary digits of a similarity of so many bytes."""
    return min(_DIGITS[itemsize], 61 - n_free)
