"""The floor of an embedding: what held-out rows say about it, and about X itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from torch import Tensor, nn

from sklearn_hscl.encoders.forest_path import fit_forest_paths
from sklearn_hscl.encoders.inference import embed_tensor
from sklearn_hscl.encoders.linear_path import (
    LinearPath,
    Paths,
    fit_linear_path,
    input_values,
    labelled_indices,
    path_width,
    some_of,
)
from sklearn_hscl.encoders.preprocessing import (
    ColumnLayout,
    Preparation,
    TablePreprocessor,
)
from sklearn_hscl.encoders.tabular.forest_scores import ForestScores
from sklearn_hscl.runtime.precision import Precision
from sklearn_hscl.training.batches.tensors import LabelledRows, LazyRows
from sklearn_hscl.training.out_of_fold import best_path

Floats = NDArray[np.float64]
# Readouts learn from so many training rows, are tested on so many held-out rows, and read
# so many values, but at least _MIN_ROWS rows.
_MAX_TRAIN, _MAX_HELD_OUT, _MAX_VALUES, _MIN_ROWS = 4096, 512, 2**21, 256
_N_NEIGHBORS, _MIN_HELD_OUT = 10, 20
# Rows of each part that a map of all rows, or components of sparse ones, are fitted to.
_MAX_JOINED = 4096
# Words of texts have many directions of little variance each.
_MAX_COMPONENTS_AS_PASSED = 512
_NORM_TOLERANCE = 1e-3  # rows may come in half precision
# Factors of the trained part of an embedding.
_SCALES = (1.0, 0.5, 0.25, 0.125)


# Readouts ----------------------------------------------------------------------------


class Readout(NamedTuple):
    """Squared errors of the held-out rows, by two models of default settings."""

    neighbors: Floats
    linear: Floats

    @property
    def both(self) -> Floats:
        """Mean over the two models, for each row."""
        return (self.neighbors + self.linear) / 2


def read_out(train: Floats, targets: Floats, held_out: Floats, truth: Floats) -> Readout:
    """Predict the targets of held-out rows by 10 nearest neighbors and by ridge.

    Parameters
    ----------
    train, held_out : ndarray of shape (n, D) and (m, D)
        Embeddings, or other rows.
    targets, truth : ndarray of shape (n, K) and (m, K)
        Their targets: indicators of classes or labels, or standardised numbers.

    Returns
    -------
    Readout
        For each held-out row the mean squared error over targets.
    """
    models = (KNeighborsRegressor(min(_N_NEIGHBORS, len(train))), Ridge())
    errors = (
        np.square(model.fit(train, targets).predict(held_out).reshape(truth.shape) - truth)
        for model in models
    )
    return Readout(*(error.mean(1) for error in errors))


@dataclass(frozen=True)
class HeldOutReadout:
    """Targets of held-out rows, to be read out from embeddings or from the rows."""

    train: LabelledRows
    held_out: LabelledRows
    targets: Floats
    """Of the training rows: indicators or numbers, (n, K)."""
    truth: Floats
    """The same of the held-out rows, (m, K)."""

    @classmethod
    def of(cls, train: LabelledRows, held_out: LabelledRows) -> Self:
        """Take labelled rows of both, as many as can be compared quickly."""
        n_values = max(1, int(np.prod(train.rows.shape[1:])))
        most = max(_MIN_ROWS, _MAX_VALUES // n_values)
        parts = (
            _some(train, min(_MAX_TRAIN, most)),
            _some(held_out, min(_MAX_HELD_OUT, most)),
        )
        targets, truth = (part.targets.cpu().double().numpy() for part in parts)
        if targets.ndim == 1:
            classes = np.unique(targets)
            targets, truth = (
                (t[:, None] == classes).astype(float) for t in (targets, truth)
            )
        return cls(*parts, targets, truth)

    def of_rows(self, layout: ColumnLayout | None) -> Readout:
        """Return the errors of models of the prepared columns, or pixels, themselves."""
        rows = (input_values(part.rows[:], layout) for part in (self.train, self.held_out))
        return self.read(*rows)

    def embed(self, encoder: nn.Module, precision: Precision) -> tuple[Floats, Floats]:
        """Return the embeddings of the training and the held-out rows."""
        first, second = (
            embed_tensor(encoder, part.rows, precision).cpu().double().numpy()
            for part in (self.train, self.held_out)
        )
        return first, second

    def read(self, train: Floats, held_out: Floats) -> Readout:
        """Return the errors of models of both parts of some representation."""
        return read_out(train, self.targets, held_out, self.truth)


def _some(data: LabelledRows, most: int) -> LabelledRows:
    """Return labelled rows, `most` at most."""
    index = some_of(labelled_indices(data.targets), most)
    return LabelledRows(data.rows[index], data.targets[index.to(data.targets.device)])


# The finished encoder -----------------------------------------------------------------


@dataclass(frozen=True)
class FinishedEncoder:
    """The fitted encoder, and what held-out rows say about its embedding."""

    encoder: nn.Module
    path_width: int
    """Width of the paths beside it."""
    readout: dict[str, float] | None
    """Result of :func:`compare`; None without held-out rows with targets."""


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
                embedding = choose_scale(finished, data, *embeddings)
            else:
                embedding = data.read(*embeddings)
            readout = compare(embedding, data.of_rows(self.prepare.layout), data)
            finished = self._with_all_rows(finished)
        return FinishedEncoder(finished, path_width(finished), readout)

    def _with_forests(self, encoder: nn.Module) -> nn.Module:
        if not self.forests:
            return encoder
        some = some_of(torch.arange(self.train.rows.shape[0]), _MAX_TRAIN)
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
    parts = _some(first, _MAX_JOINED), _some(second, _MAX_JOINED)
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


def choose_scale(
    path: LinearPath, data: HeldOutReadout, train: Floats, held_out: Floats
) -> Readout:
    """Scale the trained part of an embedding, so that held-out rows are read out best.

    Training rows are embedded closer to their targets than new rows. Where that misleads
    the readouts, a smaller trained part leaves more to the linear part.

    Parameters
    ----------
    path : LinearPath
        Its scale is multiplied.
    data : HeldOutReadout
        The targets.
    train, held_out : ndarray of shape (n, D) and (m, D)
        Embeddings before that.

    Returns
    -------
    Readout
        Of the scaled embedding.
    """
    is_trained = np.arange(train.shape[1]) < train.shape[1] - path.width
    readouts = {}
    for scale in _SCALES:
        factors = np.where(is_trained, scale, 1.0)
        readouts[scale] = data.read(train * factors, held_out * factors)
    best = min(readouts, key=lambda scale: float(readouts[scale].both.mean()))
    path.scale.mul_(best)
    return readouts[best]


def compare(
    embedding: Readout, rows: Readout, data: HeldOutReadout
) -> dict[str, float] | None:
    """Return what simple models explain of held-out targets, from the embedding and from X.

    Returns
    -------
    dict of str to float, or None for too few rows, or rows of one target
        R2 by each model: one minus the squared error, relative to that of the mean target;
        of classes and labels it is that of their indicators. ``"difference"`` is the mean
        R2 of the embedding minus that of the rows, with its ``"standard_error"``.
    """
    deviation = np.square(data.truth - data.targets.mean(0)).mean()
    if len(data.truth) < _MIN_HELD_OUT or not deviation:
        return None
    gain = (rows.both - embedding.both) / deviation
    scores = {
        f"{name}_{model}": 1 - float(errors.mean() / deviation)
        for name, readout in (("embedding", embedding), ("rows", rows))
        for model, errors in readout._asdict().items()
    }
    error = float(gain.std() / sqrt(len(gain)))
    return scores | {"difference": float(gain.mean()), "standard_error": error}
