"""The nearest references of a block of queries, as they are found."""

from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_hscl.metrics.keys import Note, fixed_point, n_digits
from sklearn_hscl.metrics.rough import Rough

# A list may grow to so many times what it is to end with.
GROWTH = 3
# Binary digits of a similarity in float32, and those of its key: similarities from -2 to
# 2, as rounding brings some below -1 and above 1, moved to where none is below 0.
_DIGITS = n_digits(4, 0)
_KEY_DIGITS = _DIGITS + 2
_ZERO = 1 << (_KEY_DIGITS - 1)


def most_queries(n_bits: int) -> int:
    """Return how many queries a list may have with notes of so many bits."""
    return 1 << max(0, 63 - _KEY_DIGITS - n_bits)


class Shortlist:
    """Keys of the nearest references of a block of queries, so far.

    A key of int64 holds the place of the query in the block, the similarity in fixed
    point and a note, from the highest bits to the lowest.
    """

    def __init__(self, block: slice, n_nearest: int, n_bits: int, rough: Rough) -> None:
        self.block, self.n_nearest, self.n_bits = block, n_nearest, n_bits
        self.n_queries = block.stop - block.start
        self._rough = rough
        self._lock = Lock()
        self._least = np.full(self.n_queries, -1)  # of full lists: equal keys are as good
        self._held: list[NDArray[np.int64]] = []
        self._n_held = 0

    def set_bar(self, bar: NDArray[np.float32]) -> None:
        """Set what a reference must reach to come in: (b,)."""
        self.bar, self.least_bits = bar, self._rough.least_bits(bar)
        self.least = bar - np.float32(self._rough.likely_rounding)

    def add(
        self,
        queries: NDArray[np.int64],
        references: NDArray[np.int64],
        similarity: NDArray[np.float32],
        note: Note,
    ) -> None:
        """Let in those pairs that reach the bar."""
        places = queries - self.block.start
        with self._lock:
            passes = np.flatnonzero(similarity >= self.bar[places])
            places = places[passes]
            keys = fixed_point(similarity[passes], 0).astype(np.int64)
            keys += (places << _KEY_DIGITS) + _ZERO
            keys <<= self.n_bits
            note(keys, queries[passes], references[passes])
            keys = keys[keys > self._least[places]]
            self._held.append(keys)
            self._n_held += len(keys)
            if self._n_held > GROWTH * self.n_nearest * self.n_queries:
                self._drop()

    def ranked(self) -> NDArray[np.int64]:
        """Return the keys of the nearest, best first: (b, n_nearest)."""
        keys = self._drop().reshape(self.n_queries, self.n_nearest)[:, ::-1]
        mask = (1 << (self.n_bits + _KEY_DIGITS)) - 1
        return (keys & mask) - (_ZERO << self.n_bits)

    def _drop(self) -> NDArray[np.int64]:
        """Keep the largest keys of each query."""
        keys = np.concatenate(self._held)
        keys.sort()
        places = keys >> (self.n_bits + _KEY_DIGITS)
        counts = np.bincount(places, minlength=self.n_queries)
        stops = np.cumsum(counts)
        self._raise_bar(keys, counts, stops)
        keys = keys[np.arange(len(keys)) >= stops[places] - self.n_nearest]
        self._held, self._n_held = [keys], len(keys)
        return keys

    def _raise_bar(
        self, keys: NDArray[np.int64], counts: NDArray[Any], stops: NDArray[Any]
    ) -> None:
        """Let in only what reaches the least kept, where a query has as many as asked."""
        full = counts >= self.n_nearest
        least = keys[stops[full] - self.n_nearest]
        self._least[full] = least
        steps = ((least >> self.n_bits) % (1 << _KEY_DIGITS) - _ZERO).astype(float)
        # What rounds to the least may have a better note, if there is one.
        best_note = (1 << self.n_bits) - 1
        steps += np.where(least & best_note == best_note, 0.5, -0.5)
        bar = self.bar.copy()
        bar[full] = steps / (1 << _DIGITS)
        self.set_bar(bar)
