"""Readouts of an embedding and of the rows themselves, on rows that are new to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from torch import Tensor, nn

from sklearn_hscl.encoders.inference import embed_tensor
from sklearn_hscl.encoders.linear_path import (
    LinearPath,
    input_values,
    labelled_indices,
    some_of,
)
from sklearn_hscl.encoders.preprocessing import ColumnLayout
from sklearn_hscl.encoders.tabular.encoder import AllMembers, TabularEncoder
from sklearn_hscl.runtime.precision import Precision
from sklearn_hscl.training.batches.tensors import LabelledRows
from sklearn_hscl.training.out_of_fold import seen_and_unseen

Floats = NDArray[np.float64]
# Readouts learn from so many training rows, are tested on so many held-out rows, and read
# so many values, but at least _MIN_ROWS rows.
_MAX_TRAIN, _MAX_HELD_OUT, _MAX_VALUES, _MIN_ROWS = 4096, 512, 2**21, 256
_N_NEIGHBORS, _MIN_HELD_OUT = 10, 20
# Factors of the trained part of an embedding.
_SCALES = (1.0, 0.5, 0.25, 0.125)


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
        most = _most_rows(train)
        parts = (
            some_labelled(train, most),
            some_labelled(held_out, min(_MAX_HELD_OUT, most)),
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

    def by_scale(
        self, path: LinearPath, train: Floats, held_out: Floats
    ) -> Callable[[float], Readout]:
        """Return the errors of models of an embedding, by the scale of its trained part."""
        is_trained = np.arange(train.shape[1]) < train.shape[1] - path.width

        def read(scale: float) -> Readout:
            factors = np.where(is_trained, scale, 1.0)
            return self.read(train * factors, held_out * factors)

        return read


@dataclass(frozen=True)
class OutOfFoldReadout:
    """Targets of training rows, to be read out by models that learn from other folds."""

    rows: Tensor
    """Some training rows, (n, F)."""
    given: Tensor
    """Indicators of labels or numbers, (n, K), on the device."""
    folds: Tensor
    """The member that does not see a row (n,)."""

    @classmethod
    def of(cls, train: LabelledRows, folds: Tensor) -> Self:
        """Take as many rows as can be compared quickly."""
        index = some_of(torch.arange(len(train.targets)), _most_rows(train))
        rows, on_device = train.rows[index], index.to(folds.device)
        return cls(rows, train.targets[on_device], folds[on_device].cpu())

    @cached_property
    def targets(self) -> Floats:
        """The given targets in host memory."""
        targets: Floats = self.given.cpu().double().numpy()
        return targets

    @property
    def truth(self) -> Floats:
        """The same targets, as each row is both learned from and predicted."""
        return self.targets

    def of_rows(self, layout: ColumnLayout | None) -> Readout:
        """Return the errors of models of the prepared columns themselves."""
        rows = input_values(self.rows, layout)
        return self._read([(rows, rows)] * len(self._others))

    def by_scale(
        self, fit_path: Callable[[LabelledRows], LinearPath], precision: Precision
    ) -> Callable[[float], Readout]:
        """Return the errors of models of an embedding, by the scale of its trained part.

        Each fold has a linear path of its own, that was fitted to the others.
        """
        paths = [
            fit_path(LabelledRows(self.rows[others], self.given[others]))
            for others in (part.to(self.given.device) for part in self._others)
        ]
        encoder = paths[0].encoder
        assert isinstance(encoder, TabularEncoder)
        seen, unseen = seen_and_unseen(
            AllMembers(encoder), encoder.n_members, self.rows, self.folds, precision
        )
        linear = [path.linear(self.rows).cpu().double().numpy() for path in paths]

        def read(scale: float) -> Readout:
            folds = []
            for path, own in zip(paths, linear, strict=True):
                factor = scale * float(path.scale)
                trained = factor * seen, factor * unseen
                folds.append([np.hstack([part, own]) for part in trained])
            return self._read(folds)

        return read

    @cached_property
    def _others(self) -> list[Tensor]:
        return [self.folds != fold for fold in self.folds.unique()]

    def _read(self, representations: Sequence[Sequence[Floats]]) -> Readout:
        """Read out each fold, given rows to learn from and to predict from for each."""
        errors = []
        for others, (seen, unseen) in zip(self._others, representations, strict=True):
            known = others.numpy()
            learned = seen[known], self.targets[known]
            errors.append(read_out(*learned, unseen[~known], self.targets[~known]))
        return Readout(*(np.concatenate(parts) for parts in zip(*errors, strict=True)))


def _most_rows(data: LabelledRows) -> int:
    """Return the number of rows that are compared quickly, at least _MIN_ROWS."""
    n_values = max(1, int(np.prod(data.rows.shape[1:])))
    return max(_MIN_ROWS, min(_MAX_TRAIN, _MAX_VALUES // n_values))


def some_labelled(data: LabelledRows, most: int) -> LabelledRows:
    """Return labelled rows, `most` at most."""
    index = some_of(labelled_indices(data.targets), most)
    return LabelledRows(data.rows[index], data.targets[index.to(data.targets.device)])


def choose_scale(path: LinearPath, by_scale: Callable[[float], Readout]) -> Readout:
    """Scale the trained part of an embedding, so that new rows are read out best.

    Training rows are embedded closer to their targets than new rows. Where that misleads
    the readouts, a smaller trained part leaves more to the linear part.

    Parameters
    ----------
    path : LinearPath
        Its scale is multiplied.
    by_scale : callable
        Returns the readout of held-out rows by the factor of the trained part.

    Returns
    -------
    Readout
        Of the scaled embedding.
    """
    readouts = {scale: by_scale(scale) for scale in _SCALES}
    best = min(readouts, key=lambda scale: float(readouts[scale].both.mean()))
    path.scale.mul_(best)
    return readouts[best]


def compare(
    embedding: Readout, rows: Readout, data: HeldOutReadout | OutOfFoldReadout
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
