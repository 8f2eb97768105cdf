"""The nearest of many references: bounds in bfloat16, then exact similarities of the rest.

A first pass computes similarities in low precision and discards pairs that cannot be among
the nearest. Lists of candidates collect the exact similarities of the others.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from operator import attrgetter
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hscl.metrics.knn.packed_keys import Keys, Payload, fixed_point, n_digits
from sklearn_hscl.metrics.knn.similarity_tiles import SimilaritySearch
from sklearn_hscl.metrics.validation import Rows
from sklearn_hscl.runtime.matmul import bfloat16_is_faster, mm_t
from sklearn_hscl.runtime.threads import Result, even_slices, in_threads

# Bounds of similarities

Bits = NDArray[np.signedinteger]
Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]  # queries and references

# By bytes of an approximate similarity: an integer type for its bits, and its precision.
_BITS = {2: (torch.int16, 2.0**-8), 4: (torch.int32, 2.0**-23)}


class Bfloat16Bound:
    """Approximate products of unit rows, with a bound of their error.

    They are rounded to bfloat16 if the processor computes it faster. They are returned as
    the bits of floats, read as integers: for positive floats the order is the same, and
    NumPy compares integers of two bytes, but no bfloat16.

    Parameters
    ----------
    queries, references : Tensor of shape (q, D) and (n, D)
        Unit rows, float32.
    """

    def __init__(self, queries: Tensor, references: Tensor) -> None:
        dtype = torch.bfloat16 if bfloat16_is_faster() else references.dtype
        self.queries, query_error = _rounded(queries, dtype)
        self.references, reference_error = (
            (self.queries, query_error)
            if references is queries
            else _rounded(references, dtype)
        )
        self._bits, self._precision = _BITS[self.queries.element_size()]
        n_columns, eps = queries.shape[1], torch.finfo(queries.dtype).eps
        # Cauchy-Schwarz for the rounding of the rows, and the rounding of D sums.
        self.max_error = (
            query_error
            + reference_error
            + query_error * reference_error
            + 2 * n_columns * eps
        )
        self.likely_rounding = likely_rounding(queries)

    def similarity(self, queries: slice, references: slice) -> Bits:
        """Return the bits of approximate similarities: (b, t)."""
        product = mm_t(self.queries[queries], self.references[references])
        return product.view(self._bits).numpy()

    def threshold_bits(self, threshold: NDArray[np.float32]) -> Bits:
        """Return the least bits of pairs whose similarity may reach the threshold."""
        lowest = threshold - np.float32(self.max_error)
        floats = torch.from_numpy(lowest).to(self.queries.dtype)
        bits = floats.view(self._bits).numpy() - 1  # whichever way the product is rounded
        return np.where(floats.float().numpy() > 0, bits, np.iinfo(bits.dtype).min)

    def lower_bound(self, bits: Bits) -> NDArray[np.float32]:
        """Return a lower bound of the similarity of pairs with these bits."""
        floats = torch.from_numpy(bits).view(self.queries.dtype).float().numpy()
        bound = floats * np.float32(1 - self._precision) - np.float32(self.max_error)
        return np.where(bits > 0, bound, -np.float32(np.inf))


def likely_rounding(rows: Tensor) -> float:
    """Return how far two ways to sum the products of unit rows (n, D) may differ.

    A bound of D successive roundings would be far too large.
    """
    return float(4 * rows.shape[1] ** 0.5 * torch.finfo(rows.dtype).eps)


def _rounded(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, float]:
    """Round rows, and return the largest distance of a row from its rounded one."""
    if dtype == rows.dtype:
        return rows, 0.0
    rounded = torch.empty_like(rows, dtype=dtype)
    error = 0.0
    for chunk, out in zip(rows.split(4096), rounded.split(4096), strict=True):
        out.copy_(chunk)
        error = max(error, float((chunk - out.float()).norm(dim=1).max()))
    return rounded, error


# Lists of candidates

# A list may grow to this multiple of its final length.
_MAX_GROWTH = 3
# Binary digits of a similarity in float32, and of its key: rounding brings some
# similarities below -1 and above 1, so keys have room from -2 to 2, moved to be positive.
_DIGITS = n_digits(4, 0)
_KEY_DIGITS = _DIGITS + 2
_ZERO = 1 << (_KEY_DIGITS - 1)


def max_queries(n_bits: int) -> int:
    """Return how many queries a list may have with payloads of that many bits."""
    return 1 << max(0, 63 - _KEY_DIGITS - n_bits)


class CandidateList:
    """Keys of the nearest references of a block of queries, so far.

    A key of int64 holds the index of the query in the block, the similarity in fixed
    point and a payload, from the highest bits to the lowest.
    """

    def __init__(
        self, block: slice, n_nearest: int, payload: Payload, bound: Bfloat16Bound
    ) -> None:
        self.block, self.n_nearest, self.payload = block, n_nearest, payload
        self.n_queries = block.stop - block.start
        self._bound = bound
        self._lock = Lock()
        # Least retained keys of full lists: equal keys are as good.
        self._least_keys = np.full(self.n_queries, -1)
        self._retained: list[NDArray[np.int64]] = []
        self._n_retained = 0

    def set_threshold(self, threshold: NDArray[np.float32]) -> None:
        """Set the least similarity that a reference needs to be added: (b,)."""
        self.threshold = threshold
        self.threshold_bits = self._bound.threshold_bits(threshold)
        self.tile_threshold = threshold - np.float32(self._bound.likely_rounding)

    def add(self, pairs: Pairs, similarity: Rows) -> None:
        """Add those pairs that reach the threshold."""
        queries, references = pairs
        indices = queries - self.block.start
        n_bits = self.payload.n_bits
        with self._lock:
            passes = np.flatnonzero(similarity >= self.threshold[indices])
            indices = indices[passes]
            keys = fixed_point(similarity[passes], 0).astype(np.int64)
            keys += (indices << _KEY_DIGITS) + _ZERO
            keys <<= n_bits
            self.payload.write(keys, queries[passes], references[passes])
            keys = keys[keys > self._least_keys[indices]]
            self._retained.append(keys)
            self._n_retained += len(keys)
            if self._n_retained > _MAX_GROWTH * self.n_nearest * self.n_queries:
                self._drop()

    def ranked(self) -> NDArray[np.int64]:
        """Return the keys of the nearest, best first: (b, n_nearest)."""
        keys = self._drop().reshape(self.n_queries, self.n_nearest)[:, ::-1]
        mask = (1 << (self.payload.n_bits + _KEY_DIGITS)) - 1
        return (keys & mask) - (_ZERO << self.payload.n_bits)

    def _drop(self) -> NDArray[np.int64]:
        """Retain only the largest keys of each query."""
        keys = np.concatenate(self._retained)
        keys.sort()
        indices = keys >> (self.payload.n_bits + _KEY_DIGITS)
        counts = np.bincount(indices, minlength=self.n_queries)
        stops = np.cumsum(counts)
        self._raise_threshold(keys, counts, stops)
        keys = keys[np.arange(len(keys)) >= stops[indices] - self.n_nearest]
        self._retained, self._n_retained = [keys], len(keys)
        return keys

    def _raise_threshold(
        self, keys: NDArray[np.int64], counts: NDArray[np.int64], stops: NDArray[np.int64]
    ) -> None:
        """Raise the threshold of full lists to the least retained similarity."""
        n_bits = self.payload.n_bits
        full = counts >= self.n_nearest
        least = keys[stops[full] - self.n_nearest]
        self._least_keys[full] = least
        steps = ((least >> n_bits) % (1 << _KEY_DIGITS) - _ZERO).astype(float)
        # What rounds to the least may have a better payload, if there is one.
        best_payload = (1 << n_bits) - 1
        steps += np.where(least & best_payload == best_payload, 0.5, -0.5)
        threshold = self.threshold.copy()
        threshold[full] = steps / (1 << _DIGITS)
        self.set_threshold(threshold)


# The search

# Queries and references of a tile of similarities, about a core's cache.
_TILE_SHAPE = (256, 2048)
# The same for mirrored searches, which compare each pair once and keep lists of many
# queries: a block of queries is then also one of references, cut into tiles.
_MIRRORED_SHAPE = (2048, 512)
# With fewer references than this, or than this multiple of the nearest, ranking is as fast.
_MIN_REFERENCES = 1 << 14
_MIN_REFERENCES_PER_NEAREST = 128
# If a larger fraction of a tile passes, its full product is cheaper than that of pairs.
_MAX_SPARSE_FRACTION = 1 / 16
# If a larger fraction of references is as near as the nearest, ranking is faster.
_MAX_CROWD_FRACTION = 1 / 16
_CROWD_SAMPLE = (64, 2048)  # queries and references
# Keys that all lists may hold at a time: 256 MB of int64.
_MAX_KEYS = 1 << 25


def is_prunable(search: SimilaritySearch, n_nearest: int, n_bits: int) -> bool:
    """Return whether the nearest are few of many, and their keys have enough bits."""
    min_references = max(_MIN_REFERENCES, _MIN_REFERENCES_PER_NEAREST * n_nearest)
    return (
        search.dtype == np.float32
        and len(search.references) >= min_references
        and max_queries(n_bits) >= max(_TILE_SHAPE + _MIRRORED_SHAPE)
        and not _is_crowded(search, n_nearest)
    )


def _is_crowded(search: SimilaritySearch, n_nearest: int) -> bool:
    """Return whether many references are as near as the nearest, e.g. all rows equal."""
    queries, references = (
        rows[:: -(-len(rows) // size)].contiguous()
        for rows, size in zip(
            (search.queries, search.references), _CROWD_SAMPLE, strict=True
        )
    )
    similarity = mm_t(queries, references).numpy()  # (64, 2048)
    n_nearest = max(1, n_nearest * len(references) // len(search.references))
    nearest = np.partition(similarity, -n_nearest, axis=1)[:, -n_nearest]
    rounding = likely_rounding(references)
    is_near = similarity >= nearest[:, None] - rounding
    return bool(np.mean(is_near) > _MAX_CROWD_FRACTION)


def map_pruned(
    function: Callable[[slice, Keys], Result],
    search: SimilaritySearch,
    n_nearest: int,
    payload: Payload,
) -> list[Result]:
    """Call a function with blocks of queries and the keys of their nearest references.

    See :func:`~sklearn_hscl.metrics.knn.nearest.map_ranked`.
    """
    pruned = _PrunedSearch(search, n_nearest)
    results: list[Result] = []
    for blocks in pruned.panels():
        lists = [CandidateList(block, n_nearest, payload, pruned.bound) for block in blocks]
        in_threads(pruned.set_first_threshold, lists)
        in_threads(partial(pruned.fill, lists=lists), lists)
        results += in_threads(lambda full: function(full.block, full.ranked()), lists)
    return results


# The threshold of approximate similarities, and that of products of tiles.
_threshold_bits = attrgetter("threshold_bits")
_tile_threshold = attrgetter("tile_threshold")


@dataclass(frozen=True)
class _TilePair:
    """A block of queries and a tile of references."""

    candidates: CandidateList
    tile: slice
    mirrored: CandidateList | None
    """List of the references, if they are queries too."""

    def reach(
        self,
        values: NDArray[np.number],
        threshold: Callable[[CandidateList], NDArray[np.number]],
    ) -> NDArray[np.bool_]:
        """Return whether values of pairs reach the threshold of either row: (b, t)."""
        passes: NDArray[np.bool_] = values >= threshold(self.candidates)[:, None]
        if self.mirrored is not None:
            start = self.mirrored.block.start
            columns = slice(self.tile.start - start, self.tile.stop - start)
            passes |= values >= threshold(self.mirrored)[columns]
        return passes

    def indices(self, passes: NDArray[np.bool_]) -> Pairs:
        """Return queries and references of the pairs that pass: (p,) each."""
        queries, references = np.divmod(np.flatnonzero(passes), passes.shape[1])
        return queries + self.candidates.block.start, references + self.tile.start


class _PrunedSearch:
    """Comparisons of blocks of queries with the references, tile by tile."""

    def __init__(self, search: SimilaritySearch, n_nearest: int) -> None:
        self.search = search
        self.bound = Bfloat16Bound(search.queries, search.references)
        self.max_listed = _MAX_KEYS // (_MAX_GROWTH * n_nearest)  # queries at a time
        n_references = len(search.references)
        self.is_mirrored = search.is_all_pairs and 4 * self.max_listed >= n_references
        self.shape = _MIRRORED_SHAPE if self.is_mirrored else _TILE_SHAPE
        self.blocks = even_slices(n_references, max(self.shape))
        self.window_width = max(*self.shape, 4 * n_nearest)

    def panels(self) -> Iterator[list[slice]]:
        """Yield blocks of queries whose lists fit into memory together."""
        blocks = even_slices(len(self.search.codes), self.shape[0])
        n_together = max(1, self.max_listed // self.shape[0])
        for start in range(0, len(blocks), n_together):
            yield blocks[start : start + n_together]

    def set_first_threshold(self, candidates: CandidateList) -> None:
        """Set the threshold that the nearest reach in a part of the references."""
        class_starts = self.search.class_starts[candidates.block]
        windows = class_starts // (self.window_width // 2)
        bounds = np.flatnonzero(np.diff(windows, prepend=-1, append=-1))
        groups = pairwise((bounds + candidates.block.start).tolist())
        thresholds = [
            self._first_threshold(slice(*group), candidates.n_nearest) for group in groups
        ]
        candidates.set_threshold(np.concatenate(thresholds))

    def _first_threshold(self, queries: slice, n_nearest: int) -> NDArray[np.float32]:
        """Rank references of the classes of these queries, and some after them."""
        start = int(self.search.class_starts[queries.start])
        n_of_classes = int(self.search.class_stops[queries.stop - 1]) - start
        n_references = len(self.search.references)
        width = max(n_of_classes, self.window_width)
        width = min(width, 2 * self.window_width, n_references)
        start = min(start, n_references - width)
        bits = self.bound.similarity(queries, slice(start, start + width))
        bits[self.search.own_columns(queries, start, width)] = np.iinfo(bits.dtype).min
        bits.partition(width - n_nearest, axis=1)
        return self.bound.lower_bound(bits[:, -n_nearest])

    def fill(self, candidates: CandidateList, lists: list[CandidateList]) -> None:
        """Compare with all references; mirrored pairs are added to both lists."""
        list_by_start = {other.block.start: other for other in lists}
        for block in self.blocks:
            mirrored = list_by_start.get(block.start) if self.is_mirrored else None
            if mirrored is not None and block.start < candidates.block.start:
                continue  # the other list has added these pairs
            for start in range(block.start, block.stop, self.shape[1]):
                tile = slice(start, min(start + self.shape[1], block.stop))
                self._compare(_TilePair(candidates, tile, mirrored))

    def _compare(self, tiles: _TilePair) -> None:
        """Add the pairs of a tile that may matter to either list."""
        queries, references, similarity = self._similar_pairs(tiles)
        if tiles.mirrored is tiles.candidates:
            wanted = np.flatnonzero(queries < references)  # each pair is there twice
        elif self.search.own_column is not None:
            wanted = np.flatnonzero(self.search.own_column[queries] != references)
        else:
            wanted = np.arange(len(queries))
        queries, references = queries[wanted], references[wanted]
        similarity = similarity[wanted]
        tiles.candidates.add((queries, references), similarity)
        if tiles.mirrored is not None:
            tiles.mirrored.add((references, queries), similarity)

    def _similar_pairs(
        self, tiles: _TilePair
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Rows]:
        """Return queries and references that may matter, and their exact similarity.

        The product of a tile only narrows the choice: its last bits differ from those of
        single pairs, but equal rows must be equally similar.
        """
        block, tile = tiles.candidates.block, tiles.tile
        passes = tiles.reach(self.bound.similarity(block, tile), _threshold_bits)
        queries, references = tiles.indices(passes)
        if len(queries) > _MAX_SPARSE_FRACTION * passes.size:
            product = self.search.product(block, tile)
            passes = tiles.reach(product, _tile_threshold)
            queries, references = tiles.indices(passes)
        return queries, references, self.search.similarity(queries, references)
