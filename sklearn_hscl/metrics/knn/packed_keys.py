"""Similarities as integers whose lowest bits carry a payload.

A similarity is stored in fixed point, and some lowest bits are left to the payload. NumPy
sorts integers several times faster than floats with their indices, and equal similarities
are ordered by the payload, not by chance.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sklearn_hscl.metrics.validation import Rows

Keys = NDArray[np.signedinteger]

# Binary digits of a similarity, by bytes. Products of other shapes differ in the last
# bits, but equal rows must be equally similar in all of them.
_DIGITS = {4: 22, 8: 48}


class Payload(Protocol):
    """Information about a pair, in the lowest bits of its key."""

    @property
    def n_bits(self) -> int:
        """Number of bits."""

    def write(
        self, keys: Keys, queries: NDArray[np.int64], references: NDArray[np.int64]
    ) -> None:
        """Write to the lowest bits of keys, which are 0.

        Indices of queries and references broadcast to the shape of the keys.
        """


def fixed_point(similarity: Rows, n_free: int) -> Keys:
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
    # Next to this number the last bit of a float is worth 2**-digits: the addition rounds
    # to it, and the bits of the sum count in such steps.
    shift = np.exp2(np.finfo(similarity.dtype).nmant - digits - 1, dtype=similarity.dtype)
    shift *= 3
    similarity += shift
    integer = np.int32 if similarity.itemsize == 4 else np.int64
    keys: Keys = similarity.view(integer)
    keys -= shift.view(integer)
    if digits + n_free > 30:
        keys = keys.astype(np.int64, copy=False)
    keys <<= n_free
    return keys


def floating_point(
    keys: Keys, n_free: int, dtype: np.dtype[np.floating]
) -> NDArray[np.float64]:
    """Convert keys back into similarities, which were of that type."""
    return (keys >> n_free) / 2.0 ** n_digits(dtype.itemsize, n_free)


def n_digits(itemsize: int, n_free: int) -> int:
    """Return the binary digits of a similarity of that many bytes."""
    return min(_DIGITS[itemsize], 61 - n_free)
