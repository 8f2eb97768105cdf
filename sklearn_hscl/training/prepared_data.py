"""Data prepared once for all that train on it: candidates, members, folds and probes.

The held-out split, the preprocessing of columns, the tensors on the device, predictions of
missing labels, and what random forests say about a table depend on few settings.
:class:`PreparedData` computes each once and hands the same object to every run with the
same settings.
"""

from collections.abc import Callable, Hashable
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.model_selection import train_test_split
from torch import Tensor

from sklearn_hscl.data.graphs import is_graphs
from sklearn_hscl.data.out_of_core import OutOfCoreRows
from sklearn_hscl.data.texts import is_texts
from sklearn_hscl.data.training_data import LabelledArrays, TrainingData
from sklearn_hscl.encoders.preprocessing import Identity, Preparation, TablePreprocessor
from sklearn_hscl.encoders.tabular.feature_importance import (
    MIN_COLUMNS,
    feature_importance,
)
from sklearn_hscl.encoders.tabular.forest_scores import ForestScores, score_forests
from sklearn_hscl.encoders.tabular.forests import PRUNINGS, GrownForests, grow_forests
from sklearn_hscl.encoders.text.tokens import Tokenization, tokenization_of
from sklearn_hscl.runtime.random_state import Seeds
from sklearn_hscl.training.batches.tensors import LabelledRows, LazyRows
from sklearn_hscl.training.config import FitConfig
from sklearn_hscl.training.ensemble import hold_out_groups
from sklearn_hscl.training.missing_labels import complete_labels, principal_components
from sklearn_hscl.training.param_constraints import warn_user

_Value = TypeVar("_Value")


class Placement(NamedTuple):
    """Where tensors are put, and in which type."""

    device: torch.device
    dtype: torch.dtype


# Rows that are prepared at a time: the temporaries stay small beside the result.
_CHUNK_ROWS = 8192


class _Memo:
    """Values that are computed at most once, under a key each."""

    def __init__(self) -> None:
        self._known: dict[Hashable, object] = {}

    def _once(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        if key not in self._known:
            self._known[key] = make()
        return cast(_Value, self._known[key])


class PreparedData(_Memo):
    """Validated data, and the splits that were made of them so far.

    Parameters
    ----------
    data : TrainingData
        Everything that `fit` got.
    """

    def __init__(self, data: TrainingData) -> None:
        super().__init__()
        self.data = data

    def split(self, config: FitConfig, seeds: Seeds) -> "PreparedSplit":
        """Return training and held-out samples as the parameters split them.

        Raises
        ------
        ValueError
            If held-out samples were passed that nothing uses, or too few samples are
            left to train on.
        """
        data, by_user = self._rows_for(config.encoder), self.data.held_out is not None
        is_sparse = issparse(data.train.rows)
        if by_user and not config.early_stopping:
            raise ValueError(
                "X_val was passed, but early_stopping=False. Set early_stopping=True to "
                "stop on it, or leave it out."
            )
        if by_user or config.early_stopping is not True:
            return self._once(("all", is_sparse), lambda: PreparedSplit(data))
        fraction, seed = config.validation_fraction, seeds.split
        return self._once(
            (fraction, seed, is_sparse),
            lambda: PreparedSplit(data.split(*split_held_out(data.train, fraction, seed))),
        )

    def _rows_for(self, encoder: object) -> TrainingData:
        """Return the data as an encoder takes them: ``"tabular"`` takes no sparse rows."""
        return self._once("dense", self.data.dense) if encoder == "tabular" else self.data


class PreparedSplit(_Memo):
    """One split of the data, and what was computed from it so far.

    Parameters
    ----------
    data : TrainingData
        With the held-out samples of the split.
    """

    def __init__(self, data: TrainingData) -> None:
        super().__init__()
        self.data = data

    def preprocessing(self, encoder: object) -> Preparation:
        """Fit the preprocessing: of tables for built-in encoders, of texts; else none."""
        rows, is_categorical = self.data.train.rows, self.data.schema.is_categorical
        if is_texts(rows):
            return tokenization_of(encoder)
        if not (isinstance(encoder, str) and rows.ndim == 2):
            return Identity()
        return self._once(
            "preprocessing", lambda: TablePreprocessor.fit(rows, is_categorical)
        )

    def train(self, prepare: Preparation, place: Placement) -> LabelledRows:
        """Return the training samples as tensors; see :func:`to_tensors`."""
        key = ("train", _kind(prepare), place)

        def read() -> LabelledRows:
            train = to_tensors(self.data.train, prepare, *place)
            if isinstance(prepare, Tokenization) and isinstance(train.rows, Tensor):
                warn_user(prepare.messages_of_cut(train.rows))
            return train

        return self._once(key, read)

    def held_out(self, prepare: Preparation, place: Placement) -> LabelledRows | None:
        """Return the held-out samples as tensors; None if there are none."""
        held_out = self.data.held_out
        if held_out is None:
            return None
        key = ("held out", _kind(prepare), place)
        return self._once(key, lambda: to_tensors(held_out.loaded(), prepare, *place))

    def completed(self, train: LabelledRows, prepare: Preparation) -> LabelledRows:
        """Return samples of a table with predictions in place of missing labels."""
        rows, codes = train
        assert isinstance(rows, Tensor)

        def complete() -> LabelledRows:
            features = principal_components(rows, codes, prepare.layout)
            return LabelledRows(rows, complete_labels(codes, features))

        return self._once(("completed", id(train)), complete)

    def scores(
        self, train: LabelledRows, folds: Tensor | None, n_members: int, seeds: Seeds
    ) -> list[ForestScores]:
        """Return class scores by forests, pruned much and little; none for too few rows.

        See :func:`~sklearn_hscl.encoders.tabular.forest_scores.score_forests`.
        """
        key = (id(train), folds is None, n_members, seeds)
        forests = self._forests(key, train, folds)
        return self._once(("scores", key), lambda: _scores(forests))

    def importance(
        self, train: LabelledRows, folds: Tensor | None, n_members: int, seeds: Seeds
    ) -> Tensor | None:
        """Return the importance of the features for each member (M, F); None if unknown.

        See :func:`~sklearn_hscl.encoders.tabular.feature_importance.feature_importance`.
        """
        if train.rows.shape[1] < MIN_COLUMNS:
            return None
        key = (id(train), folds is None, n_members, seeds)
        forests = self._forests(key, train, folds)
        if forests is None:
            return None
        return self._once(("importance", key), lambda: feature_importance(forests))

    def _forests(
        self,
        key: tuple[int, bool, int, Seeds],
        train: LabelledRows,
        folds: Tensor | None,
    ) -> GrownForests | None:
        *_, n_members, seeds = key
        seen = train.rows, train.targets, folds, n_members, seeds.weights
        return self._once(("forests", key), lambda: grow_forests(*seen))


def _kind(prepare: Preparation) -> Hashable:
    """Return a key that is equal for equal preparations of a split."""
    return prepare.key if isinstance(prepare, Tokenization) else prepare.layout is None


def _scores(grown: GrownForests | None) -> list[ForestScores]:
    found = () if grown is None else (score_forests(grown, p) for p in PRUNINGS)
    return [scores for scores in found if scores is not None]


def split_held_out(
    data: LabelledArrays, fraction: float, seed: int
) -> tuple[LabelledArrays, LabelledArrays]:
    """Hold out a fraction of the samples, stratified by class where the classes allow it.

    Parameters
    ----------
    data : LabelledArrays
        All samples. Of those with groups, whole groups are held out.
    fraction : float in (0, 1)
        Fraction of the samples to hold out.
    seed : int
        Seed of the split.

    Returns
    -------
    train, held_out : LabelledArrays

    Raises
    ------
    ValueError
        If fewer than two samples, or fewer than two classes, are left to train on.
    """
    targets, n_rows = data.targets, data.rows.shape[0]
    if data.groups is None:
        train, held_out = _hold_out_rows(targets, n_rows, fraction, seed)
    else:
        train, held_out = hold_out_groups(targets, data.groups, fraction, seed)
    if len(train) < 2 or (targets is not None and len(np.unique(targets[train])) < 2):
        raise ValueError(
            f"validation_fraction={fraction} leaves {len(train)} of {n_rows} rows to "
            f"train on, too few or of one class: lower it, "
            f"{'' if data.groups is None else 'pass finer groups, '}"
            f"or set early_stopping=False."
        )
    if isinstance(data.rows, OutOfCoreRows):
        train, held_out = map(data.rows.in_reading_order, (train, held_out))
    return data.select(train), data.select(held_out)


def _hold_out_rows(
    targets: np.ndarray | None, n_rows: int, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    n_held_out = max(2, round(fraction * n_rows))  # two rows make a contrast
    train, held_out = train_test_split(
        np.arange(n_rows),
        test_size=min(n_held_out, n_rows - 1),
        random_state=seed,
        stratify=_strata(targets, n_held_out),
    )
    return train, held_out


def _strata(targets: np.ndarray | None, n_held_out: int) -> NDArray[np.int64] | None:
    if targets is None or targets.ndim > 1:
        return None
    sizes = np.unique(targets, return_counts=True)[1]
    n_classes = len(sizes)
    enough = n_classes <= n_held_out <= len(targets) - n_classes and sizes.min() > 1
    return targets if enough else None


def to_tensors(
    data: LabelledArrays,
    prepare: Preparation,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> LabelledRows:
    """Move all samples to the device, as `dtype` unless they are uint8 images.

    Sparse samples and those out of core stay behind until they are batched.
    """
    targets = data.targets
    if targets is None:
        targets = np.zeros(data.rows.shape[0], np.int64)
    elif targets.dtype.kind == "f":
        targets = targets.astype(np.float32)
    on_device = torch.from_numpy(targets).to(device)
    if issparse(data.rows) or isinstance(data.rows, OutOfCoreRows):
        return LabelledRows(LazyRows(data.rows, prepare, device, dtype), on_device)
    return LabelledRows(_prepared(data.rows, prepare, device, dtype), on_device)


def _prepared(
    rows: np.ndarray, prepare: Preparation, device: torch.device, dtype: torch.dtype
) -> Tensor:
    if is_texts(rows) or is_graphs(rows):  # as large as the longest text, or flat
        return prepare(rows, dtype).to(device)
    first = prepare(rows[:_CHUNK_ROWS], dtype)
    result = torch.empty((len(rows), *first.shape[1:]), dtype=first.dtype, device=device)
    result[: len(first)] = first
    for start in range(len(first), len(rows), _CHUNK_ROWS):
        chunk = slice(start, start + _CHUNK_ROWS)
        result[chunk] = prepare(rows[chunk], dtype)
    return result
