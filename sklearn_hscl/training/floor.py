"""The floor of an embedding: what held-out rows say about it, and about X itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from sklearn.decomposition import PCA, TruncatedSVD
from torch import Tensor, nn

from sklearn_hscl.encoders.forest_path import fit_forest_paths
from sklearn_hscl.encoders.linear_path import (
    LinearPath,
    Paths,
    fit_linear_path,
    path_width,
    some_of,
)
from sklearn_hscl.encoders.preprocessing import Preparation, TablePreprocessor
from sklearn_hscl.encoders.tabular.forest_scores import ForestScores
from sklearn_hscl.runtime.precision import Precision
from sklearn_hscl.training.batches.tensors import LabelledRows, LazyRows
from sklearn_hscl.training.out_of_fold import best_path
from sklearn_hscl.training.readout import (
    HeldOutReadout,
    OutOfFoldReadout,
    choose_scale,
    compare,
    some_labelled,
)

Floats = NDArray[np.float64]
_MAX_FOREST_ROWS = 4096  # on which forests are compared
# Rows of each part that a map of all rows, or components of sparse ones, are fitted to.
_MAX_JOINED = 4096
# Words of texts have many directions of little variance each.
_MAX_COMPONENTS_AS_PASSED = 512
_NORM_TOLERANCE = 1e-3  # rows may come in half precision


@dataclass(frozen=True)
class FinishedEncoder:
    """The fitted encoder, and what held-out rows say about its embedding."""

    encoder: nn.Module
    path_width: int
    """Width of the paths beside it."""
    readout: dict[str, float] | None
    """Result of :func:`compare`; None without rows that are held out or out of fold."""


@dataclass(frozen=True)
class Finish:
    """What the last step of a fit works with: rows, and how they reach the encoder."""

    train: LabelledRows
    known: LabelledRows
    """The same with the labels that were passed: readouts learn from no others."""
    held_out: LabelledRows | None
    holds_out: bool
    """Whether held-out rows are a part of X: then the linear map may learn from them."""
    passed: object
    """The training rows before their preparation."""
    was_sparse: bool
    """Whether they were sparse when passed to `fit`."""
    prepare: Preparation
    precision: Precision
    target_kind: str | None
    path: nn.Module | bool
    """Whether to fit a linear path, or the paths to keep."""
    forests: Sequence[ForestScores] = ()
    """Forests of which one is chosen, whose scores follow the embedding."""
    folds: Tensor | None = None
    """The member that does not see a sample (n,); None if all see all."""

    def __call__(self, encoder: nn.Module) -> FinishedEncoder:
        """Return the trained encoder with its linear path, and its readout."""
        finished = self._with_path(self._with_forests(encoder), self.train)
        readout = None
        if self.target_kind and self.held_out is not None:
            data = HeldOutReadout.of(self.known, self.held_out)
            embeddings = data.embed(finished, self.precision)
            if self.path is True and isinstance(finished, LinearPath):
                embedding = choose_scale(finished, data.by_scale(finished, *embeddings))
            else:
                embedding = data.read(*embeddings)
            readout = compare(embedding, data.of_rows(self.prepare.layout), data)
            finished = self._with_all_rows(finished)
        elif self.path is True and isinstance(finished, LinearPath):
            readout = self._out_of_fold(finished)
        return FinishedEncoder(finished, path_width(finished), readout)

    def _out_of_fold(self, finished: LinearPath) -> dict[str, float] | None:
        """Choose the scale by rows that a member does not see, and return their readout."""
        if self.folds is None or self.target_kind == "class":
            return None
        encoder, data = finished.encoder, OutOfFoldReadout.of(self.train, self.folds)

        def fit_path(rows: LabelledRows) -> LinearPath:
            path = self._with_path(encoder, rows)
            assert isinstance(path, LinearPath)
            return path

        embedding = choose_scale(finished, data.by_scale(fit_path, self.precision))
        return compare(embedding, data.of_rows(self.prepare.layout), data)

    def _with_forests(self, encoder: nn.Module) -> nn.Module:
        if not self.forests:
            return encoder
        some = some_of(torch.arange(self.train.rows.shape[0]), _MAX_FOREST_ROWS)
        rows = self.train.rows[some]
        paths = fit_forest_paths(encoder, self.forests, rows, self.precision)
        if self.folds is None:
            return paths[0]
        codes, some = self.train.targets, some.to(self.folds.device)
        seen = rows, codes[some], self.folds[some], len(codes)
        return best_path(paths, *seen, self.precision)

    def _with_path(self, encoder: nn.Module, data: LabelledRows) -> nn.Module:
        if isinstance(self.path, Paths):
            device = self.train.targets.device
            return self.path.around(encoder, self.precision.dtype, device)
        if not self.path:
            return encoder
        targets = data.targets if self.target_kind else None
        return fit_linear_path(
            encoder, self.prepare.layout, data.rows, targets, self.precision, self.axes
        )

    @cached_property
    def axes(self) -> Floats | None:
        """Map to principal components of the rows as passed, or None.

        Labels are predicted better from standardised columns, which weigh rare words more.
        """
        was_sparse = self.was_sparse and self.target_kind == "continuous"
        return axes_as_passed(self.passed, self.prepare, was_sparse=was_sparse)

    def _with_all_rows(self, finished: nn.Module) -> nn.Module:
        """Fit the linear map again: with few degrees of freedom, it may see all rows."""
        if not (self.holds_out and self.path is True and isinstance(finished, LinearPath)):
            return finished
        if isinstance(self.train.rows, LazyRows) and issparse(self.train.rows.rows):
            return finished  # too wide to be joined with others
        assert self.held_out is not None
        every = self._with_path(finished.encoder, joined(self.train, self.held_out))
        assert isinstance(every, LinearPath)
        every.scale.copy_(finished.scale)
        return every


def paths_of(encoder: nn.Module) -> Paths | None:
    """Return a fitted encoder if there are paths beside it."""
    return encoder if isinstance(encoder, Paths) else None


def joined(first: LabelledRows, second: LabelledRows) -> LabelledRows:
    """Return some rows of both."""
    parts = some_labelled(first, _MAX_JOINED), some_labelled(second, _MAX_JOINED)
    return LabelledRows(
        torch.cat([part.rows[:] for part in parts]),
        torch.cat([part.targets for part in parts]),
    )


def axes_as_passed(
    rows: object, prepare: Preparation, *, was_sparse: bool = False
) -> Floats | None:
    """Return the map of prepared rows to principal components of the rows as passed.

    They are for rows whose columns are comparable: sparse rows, and rows of norm 1, such
    as sentence embeddings. Standardised columns would weigh alike, so that the weights of
    TF-IDF would be lost. Of many rows, some thousands are used.

    Parameters
    ----------
    rows : ndarray, CSR array, or other rows, of shape (n, F)
        As passed.
    prepare : Preparation
        Their preparation.
    was_sparse : bool
        Whether dense rows were sparse before.

    Returns
    -------
    ndarray of shape (F, q), or None for other rows
    """
    if not isinstance(prepare, TablePreprocessor) or not prepare.layout.is_plain:
        return None
    table = csr_array(rows) if issparse(rows) or was_sparse else rows
    if not isinstance(table, np.ndarray | csr_array):
        return None
    some = table[some_of(torch.arange(table.shape[0]), _MAX_JOINED).numpy()]
    n_axes = min(_MAX_COMPONENTS_AS_PASSED, min(some.shape) - 1)
    is_comparable = some.data.any() if issparse(some) else _has_norm_one(some)
    if n_axes < 1 or not is_comparable:
        return None
    model = (TruncatedSVD if issparse(some) else PCA)(n_axes, random_state=0)
    components: Floats = model.fit(some).components_.astype(np.float64)
    return components.T * prepare.standardization.unit[:, None]


def _has_norm_one(rows: np.ndarray) -> bool:
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    return bool(np.abs(norms - 1).max() < _NORM_TOLERANCE)
