"""diagnose: what is wrong with a fitted embedder, and what to try next."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from sklearn_hscl.diagnostics.collapse import find_collapse, find_flatness
from sklearn_hscl.diagnostics.label_errors import find_label_errors
from sklearn_hscl.diagnostics.loss import (
    find_gap,
    find_gradient,
    find_loss,
    find_negatives,
    find_positives,
)
from sklearn_hscl.diagnostics.loss_batches import loss_batches
from sklearn_hscl.diagnostics.sample import Subject, draw, make_subject
from sklearn_hscl.reports.diagnosis import Diagnosis
from sklearn_hscl.reports.training_report import training_record
from sklearn_hscl.runtime.random_state import MAX_SEED, scoped_torch_seed

# Rows that are enough for each finding but the list of label errors.
MAX_ROWS = 10_000


def diagnose(
    estimator: BaseEstimator,
    X: ArrayLike,
    y: ArrayLike | None = None,
    *,
    X_val: ArrayLike | None = None,
    y_val: ArrayLike | None = None,
    max_rows: int | None = MAX_ROWS,
    random_state: int | np.random.RandomState | None = 0,
) -> Diagnosis:
    """Look at a fitted embedder with some rows; say what is wrong and what to try next.

    Each finding has a severity (``"ok"``, ``"warning"``, ``"problem"`` or ``"not
    applicable"``), a sentence, advice and its numbers:

    - ``"collapse"``: do rows that should be apart lie in one place; alignment and
      uniformity [1]_;
    - ``"dimensions"``: how many dimensions the embedding, or its class means, span [2]_;
    - ``"loss"``: where the loss is between chance level, at which all rows have one
      embedding, and that of classes as corners of a simplex, the least there is [2]_;
    - ``"epochs"``: which epoch was kept, and whether training was still improving;
    - ``"positives"``: anchors without a positive or a negative in batches of the size
      that `fit` uses;
    - ``"negatives"``: how many negatives really count at this `beta` and `temperature`,
      1 / Σ w² of their tilted weights w [3]_;
    - ``"gradient"``: the share of the hardest 1 % of an anchor's negatives (one of them at
      least) in the gradient by its negatives;
    - ``"labels"``: rows whose nearest rows agree on another class;
    - ``"gap"``: how much better training rows look than held-out ones.

    Parameters
    ----------
    estimator : HSCLEmbedder or Pipeline
        Fitted; a pipeline with an embedder among its steps.
    X : array-like
        Rows in the form that `fit` got; the training rows, as a rule.
    y : array-like, default=None
        Their targets; needed where the loss uses labels. For other losses, classes with
        which to measure what was learnt without them.
    X_val, y_val : array-like, default=None
        Rows that were not trained on, and their targets, for the gap and for more label
        errors. None: the gap is that of the held-out score of `fit`, where it has one.
    max_rows : int or None, default=10,000
        Rows to draw for the measures that compare all pairs; None for all. Label errors
        are looked for among the drawn rows.
    random_state : int, RandomState instance or None, default=0
        For the drawn rows, the batches and the views; the estimator is not changed.

    Returns
    -------
    Diagnosis
        Printing it gives a short text, ``to_dict()`` everything.

    Raises
    ------
    ValueError
        If the estimator has no embedder or several, X or y cannot be used, or y is
        missing where the loss uses labels.
    sklearn.exceptions.NotFittedError
        If the embedder was not fitted.

    References
    ----------
    .. [1] Wang and Isola, "Understanding contrastive representation learning through
       alignment and uniformity on the hypersphere", ICML 2020.
    .. [2] Jiang, Nguyen, Ishwar and Aeron, "Hard-negative sampling for contrastive
       learning: optimal representation geometry and neural- vs dimensional-collapse",
       TMLR 2025.
    .. [3] Kish, "Survey sampling", 1965: the effective sample size of weighted data.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn_hscl import HSCLEmbedder, diagnose
    >>> X, y = load_wine(return_X_y=True)
    >>> embedder = HSCLEmbedder(encoder="mlp", random_state=0).fit(X, y)
    >>> diagnosis = diagnose(embedder, X, y)
    >>> diagnosis["collapse"].severity
    'ok'
    >>> loss = diagnosis["loss"].values
    >>> loss["perfect_loss"] < loss["loss"] < loss["chance_loss"]
    True
    """
    seed = int(check_random_state(random_state).randint(MAX_SEED))
    drawn_by = partial(draw, estimator, max_rows=max_rows, random_state=seed)
    train = make_subject(drawn_by(X), y)
    held_out = None
    if X_val is not None:
        held_out = make_subject(drawn_by(X_val, name="X_val"), y_val, "y_val")
    elif y_val is not None:
        raise ValueError("y_val was passed without X_val: pass both, or neither.")
    with scoped_torch_seed(seed):  # synthetic negatives are drawn
        return _diagnosis(train, held_out, max_rows, seed)


def _diagnosis(
    train: Subject, held_out: Subject | None, max_rows: int | None, seed: int
) -> Diagnosis:
    embedder = train.embedder
    batches = loss_batches(train, max_rows, seed)
    unseen = [] if held_out is None else loss_batches(held_out, max_rows, seed)
    classes: Any = getattr(embedder, "classes_", None)
    findings = (
        find_collapse(train, batches),
        find_flatness(train),
        find_loss(train, batches),
        training_record(embedder)["epochs"],
        find_positives(batches),
        find_negatives(batches),
        find_gradient(batches),
        find_label_errors(train, held_out, classes),
        find_gap(train, batches, held_out, unseen),
    )
    return Diagnosis(f"{type(embedder).__name__} on {len(train):,} rows", findings)
