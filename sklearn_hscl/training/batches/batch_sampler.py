"""Batches for contrastive learning: every row once an epoch, positives together."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from math import ceil
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hscl.runtime.device import to_device
from sklearn_hscl.runtime.threads import prefetched
from sklearn_hscl.training.batches.tensors import Batch, LazyRows

Integers = NDArray[np.int64]

SAMPLERS = ("auto", "stratified", "balanced", "shuffle")
# Values gathered at a time: few gathers per epoch, and little memory beside the data.
_MAX_GATHERED_VALUES = 2**20


class Dataset(Protocol):
    """Rows and targets, as in :class:`skorch.dataset.Dataset`."""

    X: Tensor | LazyRows
    y: Tensor


class EpochBatches:
    """Iterator over the batches of one epoch, on the device.

    Replaces the torch ``DataLoader`` in skorch. Rows that are read in windows are split
    window by window, by the same rule. Each row occurs once per epoch; batches
    differ in size by a few rows, and none is dropped. Rows in host memory or in files are
    gathered in a background thread, ahead of the training.

    Parameters
    ----------
    dataset : skorch.dataset.Dataset
        Has attributes X, a tensor or LazyRows (n_samples, ...), and y, a tensor of
        targets.
    batch_size : int
        Size of a batch, up to the few rows that keep pairs together: at least 4 rows
        with classes, 2 without.
    rng : numpy.random.Generator
        Source of the order.
    sampler : {"stratified", "balanced", "shuffle"}
        ``"stratified"``: targets are class codes (-1 for no label). Each batch holds the
        classes in their proportions, and at least two rows of each of its classes.
        ``"balanced"``: the same, after rows of smaller classes were repeated until all
        classes are as large as the largest; rows without label are not repeated.
        ``"shuffle"``: random order.
    folds : Tensor of shape (n_samples,) or None
        Index of the ensemble member that does not see a row.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        rng: np.random.Generator,
        sampler: str,
        folds: Tensor | None = None,
    ) -> None:
        self.rows: Tensor | LazyRows = dataset.X
        self.targets: Tensor = torch.as_tensor(dataset.y)
        self.folds = folds
        self.rng = rng
        self.sampler = sampler
        targets = self.targets.cpu().numpy()
        codes = None if sampler == "shuffle" else class_codes(targets)
        self.codes = codes
        self._n_classes = int(targets.max()) + 1 if sampler == "balanced" else 0
        n_rows = rows_in_epoch(targets, len(self.rows), sampler)
        # Two rows make a pair, two pairs of different classes a contrast.
        smallest = 2 if codes is None else 4
        self.n_batches = max(1, min(ceil(n_rows / batch_size), n_rows // smallest))

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self.n_batches

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches, in a new order every time."""
        order, sizes = self._split()
        self.order_, self.ends_ = order, np.cumsum(sizes)
        gathered = self._gathered(order, sizes)
        if isinstance(self.rows, LazyRows):
            gathered = prefetched(gathered)
        with closing(gathered):
            for rows, index, sizes in gathered:
                on_device = to_device(rows, self.rows.device).split(sizes)
                index = to_device(index, self.targets.device)
                folds = self._folds(index, sizes)
                targets = self.targets.index_select(0, index).split(sizes)
                yield from map(Batch, on_device, targets, folds)

    def rows_of(self, batch: int) -> Integers:
        """Return the indices of a batch's rows in the last epoch; batches count from 1."""
        first = self.ends_[batch - 2] if batch > 1 else 0
        return self.order_[first : self.ends_[batch - 1]]

    def _folds(self, index: Tensor, sizes: list[int]) -> Sequence[Tensor | None]:
        if self.folds is None:
            return [None] * len(sizes)
        return self.folds.index_select(0, index).split(sizes)

    def _gathered(
        self, order: Integers, sizes: list[int]
    ) -> Generator[tuple[Tensor, Tensor, list[int]], None, None]:
        """Yield the rows of some batches at a time, their indices and batch sizes.

        LazyRows are read one batch at a time, as that may be slow: training starts with
        the first batch, and stops after the one in progress.
        """
        max_rows = _MAX_GATHERED_VALUES // max(1, self.rows.shape[1:].numel())
        if isinstance(self.rows, LazyRows):
            max_rows = 0
        for group in _grouped(sizes, max_rows):
            first, order = order[: sum(group)], order[sum(group) :]
            index = torch.from_numpy(first)
            yield self._gather(index), index, group

    def _gather(self, index: Tensor) -> Tensor:
        if isinstance(self.rows, LazyRows):
            return self.rows.read(index)  # the caller's thread copies them to the device
        return self.rows.index_select(0, to_device(index, self.rows.device))

    def _split(self) -> tuple[Integers, list[int]]:
        """Return row indices in the order of the batches, and the batch sizes."""
        every = np.arange(len(self.rows))
        rows = self.rows
        windows = rows.windows(self.rng) if isinstance(rows, LazyRows) else [every]
        orders, sizes = [], []
        for window, n_batches in _batches_of(windows, self.n_batches):
            order, sizes_here = self._split_window(window, n_batches)
            orders.append(window[order])
            sizes += sizes_here
        return np.concatenate(orders), sizes

    def _split_window(self, window: Integers, n_batches: int) -> tuple[Integers, list[int]]:
        """Return positions in a window of rows in the order of its batches, and sizes."""
        if self.codes is None:
            order = self.rng.permutation(len(window))
            return order, [len(p) for p in np.array_split(order, n_batches)]
        codes = self.codes[window]
        if self.sampler == "stratified":
            return stratified_split(codes, n_batches, self.rng)
        repeated = _balanced(codes, self._n_classes, self.rng)
        order, sizes = stratified_split(codes[repeated], n_batches, self.rng)
        return repeated[order], sizes


def _batches_of(windows: list[Integers], n_batches: int) -> Iterator[tuple[Integers, int]]:
    """Spread batches over windows by their numbers of rows; join those without a batch."""
    n_rows = sum(map(len, windows))
    parts: list[Integers] = []
    n_seen, n_before = 0, 0
    for window in windows:
        parts.append(window)
        n_seen += len(window)
        n_until = round(n_batches * n_seen / n_rows)
        if n_until > n_before:
            yield np.concatenate(parts), n_until - n_before
            parts, n_before = [], n_until


def choose_sampler(sampler: str, target_kind: str | None) -> str:
    """Choose the sampler.

    Raises
    ------
    ValueError
        If the sampler needs classes and there are none.
    """
    if sampler == "auto":
        return "stratified" if target_kind == "class" else "shuffle"
    if sampler != "shuffle" and target_kind != "class":
        raise ValueError(
            f"sampler={sampler!r} composes batches by class, but the loss uses no class "
            f"labels. Pass y with classes, or sampler='auto'."
        )
    return sampler


def class_codes(targets: Integers) -> Integers:
    """Replace -1, the code of rows without label, by that of an additional class."""
    return np.where(targets < 0, targets.max() + 1, targets)


def stratified_split(
    codes: Integers, n_batches: int, rng: np.random.Generator
) -> tuple[Integers, list[int]]:
    """Split rows into batches with at least two rows of each of their classes.

    A class is spread over as many batches as it can fill with two rows each. If these are
    not all batches, the smallest ones so far get it.

    Parameters
    ----------
    codes : ndarray of int, shape (n_samples,)
        Class codes.
    n_batches : int
        Number of batches.
    rng : numpy.random.Generator
        Source of the order.

    Returns
    -------
    order : ndarray of int, shape (n_samples,)
        Row indices, batch by batch and in each batch class by class.
    sizes : list of int
        Size of each batch, without empty batches (if there are fewer pairs than batches).
    """
    shuffled = rng.permutation(len(codes))
    by_class = shuffled[np.argsort(codes[shuffled], kind="stable")]
    ends = np.cumsum(np.bincount(codes))
    batch_of = np.empty_like(by_class)
    load = np.zeros(n_batches, dtype=np.int64)
    members = np.split(batch_of, ends[:-1])  # views, one for each class
    for part in sorted(members, key=len, reverse=True):  # large classes first
        n_groups = min(n_batches, max(1, len(part) // 2))
        # The first groups are larger by one row: they go to the smallest batches.
        smallest = np.lexsort((rng.random(n_batches), load))[:n_groups]
        sizes = np.full(n_groups, len(part) // n_groups)
        sizes[: len(part) % n_groups] += 1
        part[:] = np.repeat(smallest, sizes)
        load[smallest] += sizes
    batch_of, load = _without_single_rows(batch_of, load)
    order = by_class[np.argsort(batch_of, kind="stable")]
    return order, load[load > 0].tolist()


def _without_single_rows(batch_of: Integers, load: Integers) -> tuple[Integers, Integers]:
    """Move rows that are alone in their batch, and so without a pair, to another batch."""
    alone = load == 1
    if not alone.any():
        return batch_of, load
    others = np.flatnonzero(load > 1)
    home = others[-1] if len(others) else np.flatnonzero(alone)[0]
    batch_of = np.where(alone[batch_of], home, batch_of)
    return batch_of, np.bincount(batch_of, minlength=len(load))


def rows_in_epoch(targets: Integers | None, n_rows: int, sampler: str) -> int:
    """Return the number of rows in an epoch, including repeated ones."""
    if sampler != "balanced" or targets is None or targets.ndim > 1:
        return n_rows
    return int(_balanced_counts(class_codes(targets), int(targets.max()) + 1).sum())


def _balanced_counts(codes: Integers, n_classes: int) -> Integers:
    """Return how many rows of each class an epoch holds."""
    counts = np.bincount(codes)
    counts[:n_classes] = np.where(counts[:n_classes], counts[:n_classes].max(), 0)
    return counts


def _balanced(codes: Integers, n_classes: int, rng: np.random.Generator) -> Integers:
    """Repeat rows until all classes are as large as the largest one."""
    wanted = _balanced_counts(codes, n_classes)
    ends = np.cumsum(np.bincount(codes))
    members = np.split(np.argsort(codes, kind="stable"), ends[:-1])
    # Whole rounds, and a random part of the last one.
    return np.concatenate(
        [np.resize(rng.permutation(m), n) for m, n in zip(members, wanted, strict=True)]
    )


def _grouped(sizes: list[int], max_rows: int) -> Iterator[list[int]]:
    """Group batch sizes with sums of at most `max_rows`, or one batch at a time."""
    group: list[int] = []
    total = 0
    for size in sizes:
        if group and total + size > max_rows:
            yield group
            group, total = [], 0
        group.append(size)
        total += size
    yield group
