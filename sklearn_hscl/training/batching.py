"""Batches for contrastive learning: every row once an epoch, positives together."""

from collections.abc import Iterator
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hscl.training.rows import SparseRows


class EpochBatches:
    """Iterator over the batches of one epoch, for tensors that lie on the device.

    Takes the place of a torch ``DataLoader`` in skorch. Every row comes once an
    epoch; batches differ in size by a few rows, and none is dropped.

    Parameters
    ----------
    dataset : skorch.dataset.Dataset
        Holds X, a tensor or SparseRows (n_samples, ...), and y, a tensor of targets.
    batch_size : int
        Size of a batch, up to the few rows that keep pairs together: at least 4 rows
        with classes, 2 without.
    rng : numpy.random.Generator
        Source of the order.
    stratify : bool
        Whether targets are class codes (-1 for no label), and each batch shall hold the
        classes in their proportions, and at least two rows of each class that it holds.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        rng: np.random.Generator,
        stratify: bool,
    ) -> None:
        self.rows: Tensor | SparseRows = dataset.X
        self.targets: Tensor = torch.as_tensor(dataset.y)
        # Two rows make a pair, two pairs of different classes a contrast.
        smallest = 4 if stratify else 2
        n_rows = len(self.rows)
        self.n_batches = max(1, min(ceil(n_rows / batch_size), n_rows // smallest))
        self.rng = rng
        self.codes = class_codes(self.targets.cpu().numpy()) if stratify else None

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self.n_batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (rows, targets) of each batch, in a new order every time."""
        for members in self._split():
            index = torch.from_numpy(members).to(self.rows.device)
            yield self.rows[index], self.targets[index]

    def _split(self) -> list[NDArray[np.int64]]:
        if self.codes is None:
            return np.array_split(self.rng.permutation(len(self.rows)), self.n_batches)
        return stratified_split(self.codes, self.n_batches, self.rng)


def class_codes(targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Make one more class of the rows without label, whose code is -1."""
    return np.where(targets < 0, targets.max() + 1, targets)


def stratified_split(
    codes: NDArray[np.int64], n_batches: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Split rows into batches that each hold at least two rows of their classes.

    A class is spread over as many batches as it can fill with two rows each; where
    these are not all batches, the smallest ones so far get it.

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
    list of ndarray of int
        Row indices of each batch; together a permutation of all rows. Batches that
        stayed empty (fewer pairs than batches) are left out.
    """
    parts: list[list[NDArray[np.int64]]] = [[] for _ in range(n_batches)]
    load = np.zeros(n_batches, dtype=np.int64)
    by_class = np.split(
        np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1]
    )
    for members in sorted(by_class, key=len, reverse=True):  # large classes first
        n_groups = min(n_batches, max(1, len(members) // 2))
        emptiest = np.lexsort((rng.random(n_batches), load))[:n_groups]
        # array_split makes the first groups larger: these go to the emptiest batches.
        groups = np.array_split(rng.permutation(members), n_groups)
        for batch, group in zip(emptiest, groups, strict=True):
            parts[batch].append(group)
            load[batch] += len(group)
    return _without_single_rows([np.concatenate(part) for part in parts if part])


def _without_single_rows(parts: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Merge batches of one row, which hold no pair, into one that holds more."""
    single = [part for part in parts if len(part) == 1]
    others = [part for part in parts if len(part) > 1]
    if not single:
        return parts
    return [*others[:-1], np.concatenate([*others[-1:], *single])]
