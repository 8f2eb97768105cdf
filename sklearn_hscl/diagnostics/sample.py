"""The embedder under diagnosis and the samples used.

:func:`sample_rows` validates X for a fitted estimator and draws some of its rows;
:func:`make_sample` adds their targets.
"""

from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from sklearn_hscl.data.out_of_core import Rows, take_rows
from sklearn_hscl.data.targets import fit_targets
from sklearn_hscl.embedder import HSCLEmbedder
from sklearn_hscl.metrics.validation import draw_rows
from sklearn_hscl.model_selection.pipeline_split import PipelineSplit, split_pipeline

Codes = NDArray[np.int64]
Embedding = NDArray[np.floating]


@dataclass(frozen=True)
class SampledRows:
    """Validated rows for a fitted embedder, some of which are sampled.

    Parameters
    ----------
    embedder : HSCLEmbedder
        The fitted embedder.
    rows : ndarray, CSR array or OutOfCoreRows
        All rows, validated.
    indices : ndarray of int64, shape (s,)
        Indices of the sampled rows, in ascending order.
    given : object
        All rows as the embedder gets them, before validation.
    """

    embedder: HSCLEmbedder
    rows: Rows
    indices: Codes
    given: object

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    @cached_property
    def embedding(self) -> Embedding:
        """Embedding of the sampled rows, not normalized, (s, D)."""
        sampled = take_rows(self.rows, self.indices)
        return self.embedder._embed_rows(sampled, self.embedder.module_, normalize=False)


class LabelledEmbedding(NamedTuple):
    """Sampled rows that have a class label."""

    indices: Codes
    embedding: Embedding
    codes: Codes


@dataclass(frozen=True)
class DiagnosisSample:
    """Rows for a fitted embedder, with their targets.

    Parameters
    ----------
    sampled : SampledRows
        The rows.
    targets : ndarray of shape (n,) or (n, K), or None
        Targets of all rows, as the loss compares them; None if it ignores labels.
    codes : ndarray of int64, shape (n,), or None
        Class codes of all rows, -1 for no label; None without classes.
    """

    sampled: SampledRows
    targets: NDArray[np.number] | None
    codes: Codes | None

    def __len__(self) -> int:
        return len(self.sampled)

    @property
    def embedder(self) -> HSCLEmbedder:
        """The fitted embedder."""
        return self.sampled.embedder

    @property
    def rows(self) -> Rows:
        """All rows, validated."""
        return self.sampled.rows

    @property
    def embedding(self) -> Embedding:
        """Embedding of the sampled rows, not normalized, (s, D)."""
        return self.sampled.embedding

    @cached_property
    def sampled_codes(self) -> Codes | None:
        """Class codes of the sampled rows."""
        return None if self.codes is None else self.codes[self.sampled.indices]

    @cached_property
    def labelled(self) -> LabelledEmbedding | None:
        """The sampled rows that have a label; None if none has one."""
        codes = self.sampled_codes
        if codes is None:
            return None
        known = codes >= 0
        if not known.any():
            return None
        indices = self.sampled.indices[known]
        return LabelledEmbedding(indices, self.embedding[known], codes[known])

    @property
    def loss_name(self) -> str:
        """Name of the loss that the embedder was trained with."""
        return str(self.embedder.net_.criterion_.loss)


# Rows --------------------------------------------------------------------------------


def split_fitted(estimator: BaseEstimator) -> PipelineSplit:
    """Split a fitted estimator at its embedder.

    Parameters
    ----------
    estimator : HSCLEmbedder or Pipeline
        Fitted.

    Returns
    -------
    PipelineSplit

    Raises
    ------
    ValueError
        If the estimator does not have exactly one embedder.
    sklearn.exceptions.NotFittedError
        If it was not fitted.
    """
    split = split_pipeline(estimator)
    check_is_fitted(split.embedder)
    return split


def sample_rows(
    estimator: BaseEstimator,
    X: ArrayLike,
    *,
    max_rows: int | None,
    random_state: int | np.random.RandomState | None,
    name: str = "X",
) -> SampledRows:
    """Validate rows for a fitted estimator, and sample some if there are many.

    Parameters
    ----------
    estimator : HSCLEmbedder or Pipeline
        Fitted.
    X : array-like
        Rows in the form that it got in fit.
    max_rows : int or None
        Maximum number of sampled rows; None for all.
    random_state : int, RandomState instance or None
        Determines which rows are sampled.
    name : {"X", "X_val"}
        Name of X, for messages.

    Returns
    -------
    SampledRows
    """
    split = split_fitted(estimator)
    given = split.transform_before(X)
    rows = split.embedder._check_rows(given, name=name)
    n_rows = rows.shape[0]
    if n_rows < 2:
        raise ValueError(f"{name} must have at least 2 samples to compare, got {n_rows}.")
    indices = sample_indices(n_rows, max_rows, random_state)
    return SampledRows(split.embedder, rows, indices, given)


def check_max_rows(max_rows: int | None) -> None:
    """Validate `max_rows`."""
    if max_rows is not None and not (isinstance(max_rows, Integral) and max_rows >= 2):
        raise ValueError(
            f"max_rows={max_rows!r} must be an integer of at least 2, or None for all."
        )


def sample_indices(
    n_rows: int,
    max_rows: int | None,
    random_state: int | np.random.RandomState | None,
) -> Codes:
    """Sample at most `max_rows` of the indices below `n_rows`, in ascending order."""
    check_max_rows(max_rows)
    indices = np.arange(n_rows)
    if max_rows is None or n_rows <= max_rows:
        return indices
    return draw_rows(indices, max_rows, random_state)


# Targets -----------------------------------------------------------------------------


def make_sample(
    sampled: SampledRows, y: ArrayLike | None, name: str = "y"
) -> DiagnosisSample:
    """Add the targets to rows.

    Parameters
    ----------
    sampled : SampledRows
        Rows for a fitted embedder.
    y : array-like or None
        Targets of all rows; required if the loss uses labels.
    name : {"y", "y_val"}
        Name of y, for messages.

    Returns
    -------
    DiagnosisSample
    """
    if y is not None:
        check_consistent_length(sampled.rows, y)
    targets, codes = _encode(sampled.embedder, y, name)
    return DiagnosisSample(sampled, targets, codes)


def _encode(
    embedder: HSCLEmbedder, y: ArrayLike | None, name: str
) -> tuple[NDArray[np.number] | None, Codes | None]:
    """Return the targets that the loss compares, and class codes."""
    encode = embedder._encode_targets
    if y is None:
        if encode is None:
            return None, None
        loss = embedder.net_.criterion_.loss
        raise ValueError(f"{name}=None, but loss={loss!r} uses labels. Pass {name}.")
    try:
        if encode is not None:
            targets = encode(y)
            return targets, (targets if encode.target_type == "class" else None)
        # The loss ignores labels, but the embedding can be measured by them.
        encode = fit_targets(
            y,
            loss=embedder.net_.criterion_.loss,
            target_type=embedder.target_type,
            unlabeled_label=embedder.unlabeled_label,
        )
        return None, (encode(y) if encode.target_type == "class" else None)
    except ValueError as error:
        raise ValueError(f"{name} cannot be used: {error}") from error
