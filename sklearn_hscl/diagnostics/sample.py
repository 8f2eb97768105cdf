"""Who is looked at, and with which rows."""

from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from sklearn_hscl.data.out_of_core import take_rows
from sklearn_hscl.data.targets import fit_targets
from sklearn_hscl.embedder import HSCLEmbedder
from sklearn_hscl.metrics.validation import draw_rows
from sklearn_hscl.model_selection.grouping import find_embedder, steps_of


@dataclass(frozen=True)
class DrawnRows:
    """Validated rows for a fitted embedder, and which of them were drawn."""

    embedder: HSCLEmbedder
    rows: Any
    places: NDArray[np.int64]

    @property
    def chosen(self) -> Any:
        """The drawn rows."""
        return take_rows(self.rows, self.places)

    @cached_property
    def embedding(self) -> NDArray[Any]:
        """What `transform` gives for the drawn rows, at their own length."""
        return self.embedder._embed_rows(
            self.chosen, self.embedder.module_, normalize=False
        )


@dataclass(frozen=True)
class Subject:
    """Rows for a fitted embedder, with their targets.

    Parameters
    ----------
    drawn : DrawnRows
        The rows.
    targets : ndarray of shape (n,) or (n, K), or None
        What the loss compares, of all rows; None where it ignores labels.
    codes : ndarray of int64, shape (n,), or None
        Class codes, -1 for no label; None where there are no classes.
    """

    drawn: DrawnRows
    targets: NDArray[Any] | None
    codes: NDArray[np.int64] | None

    @property
    def embedder(self) -> HSCLEmbedder:
        """Who is looked at."""
        return self.drawn.embedder

    @property
    def rows(self) -> Any:
        """All rows, validated."""
        return self.drawn.rows

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    @property
    def embedding(self) -> NDArray[Any]:
        """That of the drawn rows."""
        return self.drawn.embedding

    @cached_property
    def chosen_codes(self) -> NDArray[np.int64] | None:
        """Class codes of the drawn rows."""
        return None if self.codes is None else self.codes[self.drawn.places]

    @cached_property
    def labelled(self) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.int64]] | None:
        """Places, embedding and codes of drawn rows with a label; None if none has one."""
        codes = self.chosen_codes
        if codes is None:
            return None
        known = codes >= 0
        if not known.any():
            return None
        return self.drawn.places[known], self.embedding[known], codes[known]

    @property
    def loss_name(self) -> str:
        """Name of the loss that was trained with."""
        return str(self.embedder.net_.criterion_.loss)


def fitted_embedder(estimator: BaseEstimator) -> tuple[HSCLEmbedder, Any]:
    """Find the embedder of an estimator, and what comes before it.

    Parameters
    ----------
    estimator : HSCLEmbedder or Pipeline
        Fitted.

    Returns
    -------
    embedder : HSCLEmbedder
    before : Pipeline or None
        The steps before the embedder; None where there are none.

    Raises
    ------
    ValueError
        If there is no embedder, or more than one.
    sklearn.exceptions.NotFittedError
        If it was not fitted.
    """
    place = find_embedder(estimator)
    if isinstance(place, str):
        raise ValueError(f"A fitted HSCLEmbedder is needed, but {place}.")
    embedder = steps_of(estimator)[place][1]
    check_is_fitted(embedder)
    return embedder, (estimator[:place] if place else None)


def draw(
    estimator: BaseEstimator,
    X: Any,
    *,
    max_rows: int | None,
    random_state: int | np.random.RandomState | None,
    name: str = "X",
) -> DrawnRows:
    """Validate rows for a fitted estimator, and draw some where there are too many.

    Parameters
    ----------
    estimator : HSCLEmbedder or Pipeline
        Fitted.
    X : array-like
        Rows in the form that it got in fit.
    max_rows : int or None
        How many rows to draw at most; None for all.
    random_state : int, RandomState instance or None
        For the draw.
    name : {"X", "X_val"}
        Name of X, for messages.

    Returns
    -------
    DrawnRows
    """
    embedder, before = fitted_embedder(estimator)
    rows = embedder._check_rows(X if before is None else before.transform(X), name=name)
    if rows.shape[0] < 2:
        raise ValueError(f"{name} holds one row, which has none to be compared with.")
    places = sample_indices(rows.shape[0], max_rows, random_state)
    return DrawnRows(embedder, rows, places)


def check_max_rows(max_rows: int | None) -> None:
    """Refuse what is no number of rows to draw."""
    if max_rows is not None and not (isinstance(max_rows, Integral) and max_rows >= 2):
        raise ValueError(
            f"max_rows={max_rows!r} must be an integer from 2, or None for all."
        )


def sample_indices(
    n_rows: int,
    max_rows: int | None,
    random_state: int | np.random.RandomState | None,
) -> NDArray[np.int64]:
    """Draw at most `max_rows` of the numbers below `n_rows`, in ascending order."""
    check_max_rows(max_rows)
    places = np.arange(n_rows)
    if max_rows is None or n_rows <= max_rows:
        return places
    return draw_rows(places, max_rows, random_state)


def make_subject(drawn: DrawnRows, y: Any, name: str = "y") -> Subject:
    """Give rows their targets.

    Parameters
    ----------
    drawn : DrawnRows
        Rows for a fitted embedder.
    y : array-like or None
        Targets of all rows; needed where the loss uses labels.
    name : {"y", "y_val"}
        Name of y, for messages.

    Returns
    -------
    Subject
    """
    if y is not None:
        check_consistent_length(drawn.rows, y)
    targets, codes = _targets(drawn.embedder, y, name)
    return Subject(drawn, targets, codes)


def _targets(
    embedder: HSCLEmbedder, y: Any, name: str
) -> tuple[NDArray[Any] | None, NDArray[np.int64] | None]:
    """Encode labels: what the loss compares, and class codes."""
    encode = embedder._encode_targets
    if y is None:
        if encode is None:
            return None, None
        loss = embedder.net_.criterion_.loss
        raise ValueError(f"{name}=None, but loss={loss!r} uses labels: pass {name}.")
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
