"""Similarities of queries and references, tile by tile, on all cores."""

from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from sklearn_hscl.metrics.validation import Labelled, Queries
from sklearn_hscl.runtime.matmul import mm_t, uses_fast_gemm
from sklearn_hscl.runtime.normalize import l2_normalize
from sklearn_hscl.runtime.threads import choose_threads, torch_threads

BLOCK_ROWS = 256  # queries at a time
TILE_ROWS = 2048  # references at a time: similarities of 2 MB, about a core's cache

_PAIRS = 1024  # at a time: their rows are gathered into the cache

Item = TypeVar("Item")
Result = TypeVar("Result")


class SimilaritySearch:
    """Unit rows of references and queries, both sorted by class.

    Then the rows of a class are neighbours of each other: which references are of the
    class of a query is a range of columns, and queries of a block have as many of them.

    Parameters
    ----------
    references : Labelled
        Rows to find.
    queries : Queries
        Rows to ask for. Where they are references, none is compared with itself.
    """

    def __init__(self, references: Labelled, queries: Queries) -> None:
        order = np.argsort(references.codes, kind="stable")
        self.references = torch.from_numpy(
            l2_normalize_at(references.rows, order)
        )  # (n, D)
        self.reference_codes = references.codes[order]
        stops = np.cumsum(references.counts)
        starts = stops - references.counts
        by_class = np.argsort(queries.codes, kind="stable")
        self.codes = queries.codes[by_class]  # (q,)
        self.class_starts, self.class_stops = starts[self.codes], stops[self.codes]
        chosen = queries.chosen[by_class]
        self.own: NDArray[np.int64] | None = None  # column of each query
        self.all_ask_all = queries.are_references and len(chosen) == len(order)
        if queries.are_references:
            place = np.empty_like(order)
            place[order] = np.arange(len(order))
            self.own = place[chosen]
        if self.all_ask_all:
            self.queries = self.references
        elif self.own is not None:
            self.queries = self.references[torch.from_numpy(self.own)]  # (q, D)
        else:
            unit = torch.from_numpy(l2_normalize_at(queries.rows, chosen))  # (q, D)
            self.queries = unit.to(self.references.dtype)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the similarities."""
        return np.dtype(str(self.references.dtype).removeprefix("torch."))

    @property
    def n_relevant(self) -> NDArray[np.int64]:
        """References of the class of each query, itself left out: (q,)."""
        return self.class_stops - self.class_starts - (self.own is not None)

    def tiles(self, block: slice) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield the first reference of each tile and its similarities (b, t).

        Those of rows with themselves are among them: see :meth:`own_columns`. The classes
        of the queries come first, as their nearest references are likely there.
        """
        tiles = even_slices(len(self.references), TILE_ROWS)
        stops = [tile.stop for tile in tiles]
        first = bisect(stops, self.class_starts[block.start])
        for tile in tiles[first:] + tiles[:first]:
            yield tile.start, self.product(block, tile)

    def product(self, block: slice, tile: slice) -> NDArray[Any]:
        """Return the similarities of queries to references: (b, t)."""
        return mm_t(self.queries[block], self.references[tile]).numpy()

    def own_columns(
        self, block: slice, start: int, width: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where rows meet themselves in the tile that starts there: rows and columns."""
        if self.own is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        columns = self.own[block] - start
        rows = np.flatnonzero((columns >= 0) & (columns < width))
        return rows, columns[rows]

    def similarity(
        self, queries: NDArray[np.int64], references: NDArray[np.int64]
    ) -> NDArray[Any]:
        """Return the similarities of some pairs: (p,)."""
        similarity = np.empty(len(queries), self.dtype)
        asking, asked = self.queries.numpy(), self.references.numpy()
        for start in range(0, len(queries), _PAIRS):
            some = slice(start, start + _PAIRS)
            a, b = asking.take(queries[some], 0), asked.take(references[some], 0)  # (p, D)
            np.einsum("pd,pd->p", a, b, out=similarity[some])
        return similarity


@torch_threads(1)
def l2_normalize_at(rows: NDArray[Any], places: NDArray[np.int64]) -> NDArray[Any]:
    """Scale the rows at these places to unit length, in no more memory than they take."""
    unit = np.empty((len(places), rows.shape[1]), rows.dtype)
    for chunk in even_slices(len(places), TILE_ROWS):
        unit[chunk] = l2_normalize(torch.from_numpy(rows[places[chunk]])).numpy()
    return unit


def map_blocks(
    function: Callable[[slice], Result], n_rows: int, block_rows: int = BLOCK_ROWS
) -> list[Result]:
    """Call `function` with consecutive slices of `n_rows` rows, in threads.

    Each thread takes one block at a time from start to end: cheaper than to share every
    small product among all.
    """
    return in_threads(function, even_slices(n_rows, block_rows))


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Call `function` with each item, in as many threads as there are cores.

    There, torch takes one thread and keeps no track of gradients.
    """
    uses_fast_gemm()  # probes, if it has to, while the machine is quiet

    def call(item: Item) -> Result:
        with torch_threads(1), torch.inference_mode():
            return function(item)

    n_workers = min(choose_threads(None, small_steps=False), len(items))
    if n_workers <= 1:
        return [call(item) for item in items]
    with ThreadPoolExecutor(n_workers) as pool:
        return list(pool.map(call, items))


def even_slices(n_rows: int, at_most: int) -> list[slice]:
    """Cut rows into slices of nearly the same size: a short last one would be slow.

    It would also be multiplied by another kernel, which ends with other last bits.
    """
    n_slices = -(-n_rows // at_most)
    bounds = [n_rows * i // n_slices for i in range(n_slices + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]
