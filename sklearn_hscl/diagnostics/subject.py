"""Who is looked at, and with which rows."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from sklearn_hscl.embedder import HSCLEmbedder
from sklearn_hscl.metrics.checks import draw_rows
from sklearn_hscl.model_selection.plan import find_embedder, steps_of
from sklearn_hscl.stored import take_rows
from sklearn_hscl.targets import fit_targets


@dataclass(frozen=True)
class Subject:
    """A fitted embedder, and rows with their targets.

    Parameters
    ----------
    embedder : HSCLEmbedder
    rows : ndarray or StoredRows of shape (n, ...), or CSR array
        Validated.
    targets : ndarray of shape (n,) or (n, K), or None
        What the loss compares; None where it ignores labels.
    codes : ndarray of int64, shape (n,), or None
        Class codes, -1 for no label; None where there are no classes.
    places : ndarray of int64
        Which rows are embedded.
    """

    embedder: HSCLEmbedder
    rows: Any
    targets: NDArray[Any] | None
    codes: NDArray[np.int64] | None
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return self.rows.shape[0]

    @cached_property
    def embedding(self) -> NDArray[Any]:
        """What `transform` gives for the rows at `places`, at their own length."""
        rows = take_rows(self.rows, self.places)
        embedder = self.embedder
        return embedder._embed_rows(rows, embedder.module_, normalize=False)

    @cached_property
    def chosen_codes(self) -> NDArray[np.int64] | None:
        """Class codes of the rows at `places`."""
        return None if self.codes is None else self.codes[self.places]

    @cached_property
    def labelled(self) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.int64]] | None:
        """Places, embedding and codes of those with a label; None where none has one."""
        codes = self.chosen_codes
        if codes is None:
            return None
        known = codes >= 0
        if not known.any():
            return None
        return self.places[known], self.embedding[known], codes[known]

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


def make_subject(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    *,
    max_rows: int | None,
    random_state: int | np.random.RandomState | None,
    name: str = "X",
) -> Subject:
    """Validate rows and labels for a fitted estimator, and draw the rows to embed.

    Parameters
    ----------
    estimator : HSCLEmbedder or Pipeline
        Fitted.
    X : array-like
        Rows in the form that it got in fit.
    y : array-like or None
        Targets; needed where the loss uses labels.
    max_rows : int or None
        How many rows to draw at most; None for all.
    random_state : int, RandomState instance or None
        For the draw.
    name : {"X", "X_val"}
        Name of X, for messages.

    Returns
    -------
    Subject
    """
    embedder, before = fitted_embedder(estimator)
    rows = embedder._check_rows(X if before is None else before.transform(X), name=name)
    if rows.shape[0] < 2:
        raise ValueError(f"{name} holds one row, which has none to be compared with.")
    targets, codes = _targets(embedder, y, name.replace("X", "y"))
    if y is not None:
        check_consistent_length(rows, targets if codes is None else codes)
    places = np.arange(rows.shape[0])
    if max_rows is not None and len(places) > max_rows:
        places = draw_rows(places, max_rows, random_state)
    return Subject(embedder, rows, targets, codes, places)


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
            return targets, (targets if encode.kind == "class" else None)
        # The loss ignores labels, but the embedding can be measured by them.
        encode = fit_targets(
            y,
            loss=embedder.net_.criterion_.loss,
            target_type=embedder.target_type,
            unlabeled_label=embedder.unlabeled_label,
        )
        return None, (encode(y) if encode.kind == "class" else None)
    except ValueError as error:
        raise ValueError(f"{name} cannot be used: {error}") from error
