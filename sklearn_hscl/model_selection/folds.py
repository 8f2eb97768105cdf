"""The splits of a search."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import is_regressor
from sklearn.utils.multiclass import type_of_target

from sklearn_hscl.model_selection.plan import embedder_of, find_embedder


@dataclass
class Fold:
    """One split of the rows."""

    index: int
    train: Any
    test: Any
    seed: int
    """For embedders with ``random_state=None``, on this fold."""


def warn_about_missing_classes(estimator: Any, y: Any, folds: Sequence[Fold]) -> None:
    """Say which classes a fold has no row of to train on.

    Parameters
    ----------
    estimator : estimator
        What is searched; nothing is said where it has no embedder, or is a regressor.
    y : array-like or None
        Labels of all rows.
    folds : sequence of Fold
        The splits.

    Warns
    -----
    UserWarning
        Once for each fold that lacks classes.
    """
    if not _has_classes(estimator, y):
        return
    labels = np.asarray(y).ravel()
    unlabelled = embedder_of(estimator).unlabeled_label
    for fold in folds:
        missing = set(np.unique(labels)) - set(np.unique(labels[fold.train]))
        missing.discard(unlabelled)
        if missing:
            warnings.warn(
                f"The training rows of fold {fold.index} lack {_listed(missing)}, which "
                f"candidates cannot learn there: use a stratified cv, or fewer folds.",
                UserWarning,
                stacklevel=2,
            )


def _has_classes(estimator: Any, y: Any) -> bool:
    """Whether there is an embedder, and y holds classes that it or others learn."""
    if y is None or isinstance(find_embedder(estimator), str) or is_regressor(estimator):
        return False
    if embedder_of(estimator).target_type not in ("auto", "class"):
        return False
    try:
        return type_of_target(y) in ("binary", "multiclass")
    except (TypeError, ValueError):  # the fits say what is wrong with y
        return False


def _listed(classes: set[Any]) -> str:
    names = ", ".join(repr(label) for label in np.array(sorted(classes)).tolist())
    return f"class {names}" if len(classes) == 1 else f"classes {names}"
