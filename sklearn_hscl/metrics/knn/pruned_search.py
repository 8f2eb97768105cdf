"""The nearest of many rows: bounds in bfloat16, then exact similarities of what is left."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from operator import attrgetter
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hscl.metrics.knn.packed_keys import Note, fixed_point, n_digits
from sklearn_hscl.metrics.knn.similarity_tiles import (
    Result,
    SimilaritySearch,
    even_slices,
    in_threads,
)
from sklearn_hscl.runtime.matmul import bfloat16_is_faster, mm_t

# By bytes of a rough similarity: an integer type for its bits, and its last place.
_BITS = {2: (torch.int16, 2.0**-8), 4: (torch.int32, 2.0**-23)}


class Rough:
    """Products of unit rows, rounded to bfloat16 where the processor is made for it.

    They are within a bound of the products in full. They come as the bits of floats,
    read as integers: for those above 0, the order is the same, and numpy compares
    integers of two bytes, not floats.

    Parameters
    ----------
    queries, references : Tensor of shape (q, D) and (n, D)
        Unit rows, float32.
    """

    def __init__(self, queries: Tensor, references: Tensor) -> None:
        dtype = torch.bfloat16 if bfloat16_is_faster() else references.dtype
        self.queries, lost = _rounded(queries, dtype)
        self.references, also_lost = (
            (self.queries, lost) if references is queries else _rounded(references, dtype)
        )
        self._bits, self._last_place = _BITS[self.queries.element_size()]
        n_columns, eps = queries.shape[1], torch.finfo(queries.dtype).eps
        # Cauchy-Schwarz for what rounding took, and the rounding of D sums.
        self.bound = lost + also_lost + lost * also_lost + 2 * n_columns * eps
        self.likely_rounding = likely_rounding(queries)

    def similarity(self, queries: slice, references: slice) -> NDArray[Any]:
        """Return the bits of rough similarities: (b, t)."""
        product = mm_t(self.queries[queries], self.references[references])
        return product.view(self._bits).numpy()

    def least_bits(self, bar: NDArray[np.float32]) -> NDArray[Any]:
        """Return the least bits that a pair of at least this similarity may have."""
        floats = torch.from_numpy(bar - np.float32(self.bound)).to(self.queries.dtype)
        bits = floats.view(self._bits).numpy() - 1  # whichever way the product is rounded
        return np.where(floats.float().numpy() > 0, bits, np.iinfo(bits.dtype).min)

    def surely(self, bits: NDArray[Any]) -> NDArray[np.float32]:
        """Return what the similarity of pairs with these bits surely reaches."""
        floats = torch.from_numpy(bits).view(self.queries.dtype).float().numpy()
        sure = floats * np.float32(1 - self._last_place) - np.float32(self.bound)
        return np.where(bits > 0, sure, -np.float32(np.inf))


def likely_rounding(rows: Tensor) -> float:
    """Return how far two ways to sum the products of unit rows (n, D) may differ.

    A bound of D roundings in turn would be far from being met.
    """
    return float(4 * rows.shape[1] ** 0.5 * torch.finfo(rows.dtype).eps)


def _rounded(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, float]:
    """Round rows; also return the largest distance of a row from its rounded one."""
    if dtype == rows.dtype:
        return rows, 0.0
    rounded = torch.empty_like(rows, dtype=dtype)
    lost = 0.0
    for some, out in zip(rows.split(4096), rounded.split(4096), strict=True):
        out.copy_(some)
        lost = max(lost, float((some - out.float()).norm(dim=1).max()))
    return rounded, lost


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


# Queries and references of a tile of similarities, about a core's cache.
_SHAPE = (256, 2048)
# The same where lists of many queries are kept, and each pair is looked at once: a block
# of queries is then one of references, too, cut into tiles.
_MIRRORED_SHAPE = (2048, 512)
# Fewer references than this, or than so many times the nearest, are ranked as fast.
_MANY_REFERENCES = 1 << 14
_TIMES = 128
# Of a larger share of a tile, the product in full is cheaper than that of pairs.
_MANY = 1 / 16
# Rows of which a larger share is as near as the nearest are ranked faster.
_CROWD = 1 / 16
_SAMPLE = (64, 2048)  # queries and references to tell that by
# What rough similarities must reach, and those of another way to sum.
_LEAST_BITS, _LEAST = attrgetter("least_bits"), attrgetter("least")
# Keys that all lists may hold at a time: 256 MB of int64.
_MAX_KEYS = 1 << 25


def are_worth_it(search: SimilaritySearch, n_nearest: int, n_bits: int) -> bool:
    """Whether the nearest are few of many, and their keys have room for what is in them."""
    return (
        search.dtype == np.float32
        and len(search.references) >= max(_MANY_REFERENCES, _TIMES * n_nearest)
        and most_queries(n_bits) >= max(_SHAPE + _MIRRORED_SHAPE)
        and not _is_crowded(search, n_nearest)
    )


def _is_crowded(search: SimilaritySearch, n_nearest: int) -> bool:
    """Whether many references are as near as the nearest, as when all rows are equal."""
    queries, references = (
        rows[:: -(-len(rows) // size)].contiguous()
        for rows, size in zip((search.queries, search.references), _SAMPLE, strict=True)
    )
    similarity = mm_t(queries, references).numpy()  # (64, 2048)
    n_nearest = max(1, n_nearest * len(references) // len(search.references))
    nearest = np.partition(similarity, -n_nearest, axis=1)[:, -n_nearest]
    rounding = likely_rounding(references)
    return bool(np.mean(similarity >= nearest[:, None] - rounding) > _CROWD)


def map_shortlists(
    function: Callable[[slice, NDArray[Any]], Result],
    search: SimilaritySearch,
    n_nearest: int,
    note: Note,
    n_bits: int,
) -> list[Result]:
    """Call `function` with blocks of queries and the keys of their nearest references.

    See :func:`~sklearn_hscl.metrics.knn.top_k.map_nearest`.
    """
    look = _Look(search, note, n_nearest)
    results: list[Result] = []
    for blocks in look.panels():
        lists = [Shortlist(block, n_nearest, n_bits, look.rough) for block in blocks]
        in_threads(look.set_first_bar, lists)
        in_threads(partial(look.fill, lists=lists), lists)
        results += in_threads(lambda full: function(full.block, full.ranked()), lists)
    return results


@dataclass(frozen=True)
class _Meeting:
    """A block of queries and a tile of references."""

    shortlist: Shortlist
    tile: slice
    other: Shortlist | None
    """List of the references, where they are queries too."""

    def reach(
        self, values: NDArray[Any], bar: Callable[[Shortlist], NDArray[Any]]
    ) -> NDArray[np.bool_]:
        """Whether values of pairs reach the bar of either row: (b, t)."""
        passes: NDArray[np.bool_] = values >= bar(self.shortlist)[:, None]
        if self.other is not None:
            start = self.other.block.start
            passes |= (
                values >= bar(self.other)[self.tile.start - start : self.tile.stop - start]
            )
        return passes

    def places(
        self, passes: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return queries and references of the pairs that pass: (p,) each."""
        queries, references = np.divmod(np.flatnonzero(passes), passes.shape[1])
        return queries + self.shortlist.block.start, references + self.tile.start


class _Look:
    """What blocks of queries see of the references, tile by tile."""

    def __init__(self, search: SimilaritySearch, note: Note, n_nearest: int) -> None:
        self.search, self.note = search, note
        self.rough = Rough(search.queries, search.references)
        self.most_listed = _MAX_KEYS // (GROWTH * n_nearest)  # queries, at a time
        n_references = len(search.references)
        self.mirrored = search.all_ask_all and 4 * self.most_listed >= n_references
        self.shape = _MIRRORED_SHAPE if self.mirrored else _SHAPE
        self.blocks = even_slices(n_references, max(self.shape))
        self.home_width = max(*self.shape, 4 * n_nearest)

    def panels(self) -> Iterator[list[slice]]:
        """Yield blocks of queries whose lists fit into memory together."""
        blocks = even_slices(len(self.search.codes), self.shape[0])
        n_together = max(1, self.most_listed // self.shape[0])
        for start in range(0, len(blocks), n_together):
            yield blocks[start : start + n_together]

    def set_first_bar(self, shortlist: Shortlist) -> None:
        """Rank rough similarities to a part of the references: the nearest reach these."""
        windows = self.search.class_starts[shortlist.block] // (self.home_width // 2)
        bounds = np.flatnonzero(np.diff(windows, prepend=-1, append=-1))
        groups = pairwise((bounds + shortlist.block.start).tolist())
        bars = [self._bar(slice(*group), shortlist.n_nearest) for group in groups]
        shortlist.set_bar(np.concatenate(bars))

    def _bar(self, queries: slice, n_nearest: int) -> NDArray[np.float32]:
        """Look at references of the classes of these queries, and some after them."""
        start = int(self.search.class_starts[queries.start])
        n_own = int(self.search.class_stops[queries.stop - 1]) - start
        n_references = len(self.search.references)
        width = min(max(n_own, self.home_width), 2 * self.home_width, n_references)
        start = min(start, n_references - width)
        bits = self.rough.similarity(queries, slice(start, start + width))
        bits[self.search.own_columns(queries, start, width)] = np.iinfo(bits.dtype).min
        bits.partition(width - n_nearest, axis=1)
        return self.rough.surely(bits[:, -n_nearest])

    def fill(self, shortlist: Shortlist, lists: list[Shortlist]) -> None:
        """Compare with all references; mirrored pairs go to both lists."""
        mirrored = {other.block.start: other for other in lists}
        for block in self.blocks:
            other = mirrored.get(block.start) if self.mirrored else None
            if other is not None and block.start < shortlist.block.start:
                continue  # the other has been here
            for start in range(block.start, block.stop, self.shape[1]):
                tile = slice(start, min(start + self.shape[1], block.stop))
                self._meet(_Meeting(shortlist, tile, other))

    def _meet(self, meeting: _Meeting) -> None:
        """Compare the pairs of a tile that may matter to either list."""
        queries, references, similarity = self._pairs(meeting)
        if meeting.other is meeting.shortlist:
            wanted = np.flatnonzero(queries < references)  # each pair is there twice
        elif self.search.own is not None:
            wanted = np.flatnonzero(self.search.own[queries] != references)
        else:
            wanted = np.arange(len(queries))
        queries, references = queries[wanted], references[wanted]
        similarity = similarity[wanted]
        meeting.shortlist.add(queries, references, similarity, self.note)
        if meeting.other is not None:
            meeting.other.add(references, queries, similarity, self.note)

    def _pairs(
        self, meeting: _Meeting
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Return queries and references that may matter, and their similarity in full.

        The product of a tile ends with other last bits than that of pairs, and equal rows
        are to be equally near: it only narrows the choice.
        """
        block, tile = meeting.shortlist.block, meeting.tile
        passes = meeting.reach(self.rough.similarity(block, tile), _LEAST_BITS)
        queries, references = meeting.places(passes)
        if len(queries) > _MANY * passes.size:
            product = self.search.product(block, tile)
            passes = meeting.reach(product, _LEAST)
            queries, references = meeting.places(passes)
        return queries, references, self.search.similarity(queries, references)
