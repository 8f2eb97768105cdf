"""The few nearest references of very many, by shortlists.

A rough look at all pairs leaves out those that cannot be among the nearest; what is left
is compared in full. Where all rows ask for all others, each pair is looked at once, for
both of its rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_hscl.metrics.keys import Note
from sklearn_hscl.metrics.rough import Rough, likely_rounding
from sklearn_hscl.metrics.search import Result, Search, even_slices, in_threads
from sklearn_hscl.metrics.shortlist import GROWTH, Shortlist, most_queries
from sklearn_hscl.runtime.matmul import mm_t

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


def are_worth_it(search: Search, n_nearest: int, n_bits: int) -> bool:
    """Whether the nearest are few of many, and their keys have room for what is in them."""
    return (
        search.dtype == np.float32
        and len(search.references) >= max(_MANY_REFERENCES, _TIMES * n_nearest)
        and most_queries(n_bits) >= max(_SHAPE + _MIRRORED_SHAPE)
        and not _is_crowded(search, n_nearest)
    )


def _is_crowded(search: Search, n_nearest: int) -> bool:
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
    search: Search,
    n_nearest: int,
    note: Note,
    n_bits: int,
) -> list[Result]:
    """Call `function` with blocks of queries and the keys of their nearest references.

    See :func:`~sklearn_hscl.metrics.ranking.map_nearest`.
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

    def __init__(self, search: Search, note: Note, n_nearest: int) -> None:
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
