"""Similarities of queries and references, tile by tile."""

from bisect import bisect
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from sklearn_hscl.metrics.validation import Labelled, Queries, Rows
from sklearn_hscl.runtime.matmul import mm_t
from sklearn_hscl.runtime.normalize import l2_normalize
from sklearn_hscl.runtime.threads import even_slices, torch_threads

BLOCK_ROWS = 256  # queries at a time
TILE_ROWS = 2048  # references at a time: similarities of 2 MB, about a core's cache

_MAX_PAIRS = 1024  # at a time: their rows are gathered into the cache


class SimilaritySearch:
    """Unit rows of references and queries, both sorted by class.

    The references of a class then form a range of columns, and queries of a block have
    similarly many of them.

    Parameters
    ----------
    references : Labelled
        Rows to find.
    queries : Queries
        Rows to search for. If they are references, none is compared with itself.
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
        self.own_column: NDArray[np.int64] | None = None  # of each query
        self.is_all_pairs = queries.are_references and len(chosen) == len(order)
        if queries.are_references:
            column = np.empty_like(order)
            column[order] = np.arange(len(order))
            self.own_column = column[chosen]
        if self.is_all_pairs:
            self.queries = self.references
        elif self.own_column is not None:
            self.queries = self.references[torch.from_numpy(self.own_column)]  # (q, D)
        else:
            unit = torch.from_numpy(l2_normalize_at(queries.rows, chosen))  # (q, D)
            self.queries = unit.to(self.references.dtype)

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Type of the similarities, float32 or float64."""
        return np.dtype(str(self.references.dtype).removeprefix("torch."))

    @property
    def n_relevant(self) -> NDArray[np.int64]:
        """Number of references of the class of each query, itself excluded: (q,)."""
        return self.class_stops - self.class_starts - (self.own_column is not None)

    def tiles(self, block: slice) -> Iterator[tuple[int, Rows]]:
        """Yield the first reference of each tile and its similarities (b, t).

        They include self-similarities: see :meth:`own_columns`. The classes of the queries
        come first, as their nearest references are likely there.
        """
        tiles = even_slices(len(self.references), TILE_ROWS)
        stops = [tile.stop for tile in tiles]
        first = bisect(stops, self.class_starts[block.start])
        for tile in tiles[first:] + tiles[:first]:
            yield tile.start, self.product(block, tile)

    def product(self, block: slice, tile: slice) -> Rows:
        """Return the similarities of queries to references: (b, t)."""
        return mm_t(self.queries[block], self.references[tile]).numpy()

    def own_columns(
        self, block: slice, start: int, width: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return rows and columns of self-similarities in the tile from `start`."""
        if self.own_column is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        columns = self.own_column[block] - start
        rows = np.flatnonzero((columns >= 0) & (columns < width))
        return rows, columns[rows]

    def similarity(self, queries: NDArray[np.int64], references: NDArray[np.int64]) -> Rows:
        """Return the similarities of some pairs: (p,)."""
        similarity = np.empty(len(queries), self.dtype)
        all_queries, all_references = self.queries.numpy(), self.references.numpy()
        for start in range(0, len(queries), _MAX_PAIRS):
            chunk = slice(start, start + _MAX_PAIRS)
            a = all_queries.take(queries[chunk], 0)  # (p, D)
            b = all_references.take(references[chunk], 0)
            np.einsum("pd,pd->p", a, b, out=similarity[chunk])
        return similarity


@torch_threads(1)
def l2_normalize_at(rows: Rows, indices: NDArray[np.int64]) -> Rows:
    """Scale selected rows to unit norm, in no more memory than the result takes."""
    unit = np.empty((len(indices), rows.shape[1]), rows.dtype)
    for chunk in even_slices(len(indices), TILE_ROWS):
        unit[chunk] = l2_normalize(torch.from_numpy(rows[indices[chunk]])).numpy()
    return unit
