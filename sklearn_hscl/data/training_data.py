"""What a fit learns from: validated samples, encoded targets, and the form of X."""

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from sklearn_hscl.data.categorical import TableColumns
from sklearn_hscl.data.out_of_core import (
    OutOfCoreRows,
    Rows,
    SparseRows,
    take_rows,
)
from sklearn_hscl.data.targets import TargetEncoder


@dataclass(frozen=True)
class LabelledArrays:
    """Validated samples with their targets and groups."""

    rows: Rows
    targets: np.ndarray | None
    """Class codes (n,), -1 for unlabelled; indicators or numbers (n, K); None where the
    loss uses no labels."""
    groups: NDArray[np.int64] | None = None
    """Group codes (n,), which no split separates; None where each sample is its own."""

    def select(self, index: NDArray[np.int64]) -> "LabelledArrays":
        """Return some of the samples; those out of core are not read."""
        targets = None if self.targets is None else self.targets[index]
        groups = None if self.groups is None else self.groups[index]
        return LabelledArrays(take_rows(self.rows, index), targets, groups)

    def loaded(self) -> "LabelledArrays":
        """Return the samples with rows in memory where that is faster, as they are few."""
        if not isinstance(self.rows, OutOfCoreRows):
            return self
        return replace(self, rows=self.rows.loaded())

    def dense(self) -> "LabelledArrays":
        """Return the samples with dense rows, if theirs are sparse."""
        if not issparse(self.rows):
            return self
        return replace(self, rows=cast(SparseRows, self.rows).toarray())


@dataclass(frozen=True)
class InputSchema:
    """Form of X, learnt in `fit` and checked in `transform`."""

    shape: tuple[int, ...]
    """Of a sample."""
    n_features: int | None
    """Columns of a table, or channels of images."""
    feature_names: np.ndarray | None
    """Column names; None where they are not all strings."""
    pixel_scale: str | None
    """Range of the pixels; None for tables and where it is not known."""
    columns: TableColumns | None
    """Categorical columns and their levels; None where there can be none."""

    @property
    def is_categorical(self) -> NDArray[np.bool_] | None:
        """Mask of the columns that hold category codes; None where there can be none."""
        return None if self.columns is None else self.columns.is_categorical


@dataclass(frozen=True)
class TrainingData:
    """Everything that a fit learns from."""

    train: LabelledArrays
    held_out: LabelledArrays | None
    encode: TargetEncoder | None
    """Maps y to targets; None where y is ignored."""
    schema: InputSchema
    has_labels: bool
    """Whether labels were passed, used or not."""
    was_sparse: bool = False
    """Whether the rows were sparse, and have been made dense."""

    @property
    def target_kind(self) -> str | None:
        """``"class"``, ``"multilabel"``, ``"continuous"``; None where y is ignored."""
        return None if self.encode is None else self.encode.target_type

    def split(
        self, train: LabelledArrays, held_out: LabelledArrays | None
    ) -> "TrainingData":
        """Return the same data with other training and held-out samples."""
        return replace(self, train=train, held_out=held_out)

    def dense(self) -> "TrainingData":
        """Return the same data with dense rows."""
        held_out = None if self.held_out is None else self.held_out.dense()
        was_sparse = self.was_sparse or issparse(self.train.rows)
        return replace(
            self, train=self.train.dense(), held_out=held_out, was_sparse=was_sparse
        )


@dataclass(frozen=True)
class FittedInput:
    """What an earlier fit has settled about X and y."""

    encode: TargetEncoder | None
    columns: TableColumns | None
    shape: tuple[int, ...]
    """Of a sample."""
