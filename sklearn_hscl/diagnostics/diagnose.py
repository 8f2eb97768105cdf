"""diagnose: what is wrong with a fitted embedder, and what to try next."""

from functools import partial

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from sklearn_hscl.data.categorical import describe_doubts, doubtful_text
from sklearn_hscl.data.dataframe import Table, is_frame
from sklearn_hscl.diagnostics.embedding import (
    find_collapse,
    find_dimensions,
    find_label_errors,
)
from sklearn_hscl.diagnostics.loss import (
    find_generalization_gap,
    find_gradient,
    find_loss_level,
    find_negatives,
    find_positives,
)
from sklearn_hscl.diagnostics.loss_batches import loss_batches
from sklearn_hscl.diagnostics.sample import DiagnosisSample, make_sample, sample_rows
from sklearn_hscl.reports.diagnosis import Diagnosis, Finding
from sklearn_hscl.reports.training_report import training_report
from sklearn_hscl.runtime.global_setting import default_settings
from sklearn_hscl.runtime.random_state import MAX_SEED, scoped_torch_seed

# Samples that are enough for each finding except the list of label errors.
_MAX_ROWS = 10_000


@default_settings(keeps_frames=True)
def diagnose(
    estimator: BaseEstimator,
    X: ArrayLike,
    y: ArrayLike | None = None,
    *,
    X_val: ArrayLike | None = None,
    y_val: ArrayLike | None = None,
    max_rows: int | None = _MAX_ROWS,
    random_state: int | np.random.RandomState | None = 0,
) -> Diagnosis:
    """Diagnose a fitted embedder with some samples: what is wrong, and what to try next.

    Each finding has a severity (``"ok"``, ``"warning"``, ``"problem"`` or ``"not
    applicable"``), a summary, advice and its values:

    - ``"collapse"``: whether samples to be separated have the same embedding, with
      alignment and uniformity [1]_;
    - ``"dimensions"``: number of dimensions that the embedding, or its class means, span
      [2]_;
    - ``"loss"``: the loss between chance level, where all samples have one embedding, and
      the minimum, where classes are the corners of a simplex [2]_;
    - ``"epochs"``: the best epoch, and whether early stopping retained weights near chance
      level, or training was still improving at the end;
    - ``"floor"``: only after a fit with held-out samples, what k-NN and ridge predict of
      their targets from the embedding, and from X itself;
    - ``"positives"``: anchors without a positive or a negative in batches of the size that
      `fit` uses;
    - ``"negatives"``: effective number of negatives at this `beta` and `temperature`,
      1 / Σ w² of their tilted weights w [3]_;
    - ``"gradient"``: fraction of the gradient by an anchor's negatives that the hardest 1 %
      of them have, at least one;
    - ``"labels"``: samples whose nearest samples agree on another class;
    - ``"gap"``: difference between training and held-out samples;
    - ``"columns"``: only if there are some, columns of text that hold dates, numbers or
      mostly values of a single row.

    Parameters
    ----------
    estimator : HSCLEmbedder or Pipeline
        A fitted embedder, or a fitted pipeline with one among its steps.
    X : array-like
        Samples in the form that `fit` got; usually the training samples.
    y : array-like, default=None
        Targets of X; required if the loss uses labels. For other losses, classes to measure
        the embedding by.
    X_val, y_val : array-like, default=None
        Samples that were not trained on, and their targets, for the gap and for more label
        errors. None takes the gap from the held-out score of `fit`, if it has one.
    max_rows : int or None, default=10,000
        Maximum number of samples for measures that compare all pairs; None for all. Label
        errors are searched among the same samples.
    random_state : int, RandomState instance or None, default=0
        Determines the samples, the batches and the views; the estimator is not changed.

    Returns
    -------
    Diagnosis
        Printing it gives a short text; ``to_dict()`` returns everything.

    Raises
    ------
    ValueError
        If the estimator does not have exactly one embedder, X or y is invalid, or y is
        missing although the loss uses labels.
    sklearn.exceptions.NotFittedError
        If the embedder is not fitted.

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
    sample = partial(sample_rows, estimator, max_rows=max_rows, random_state=seed)
    train = make_sample(sample(X), y)
    held_out = None
    if X_val is not None:
        held_out = make_sample(sample(X_val, name="X_val"), y_val, "y_val")
    elif y_val is not None:
        raise ValueError("y_val was passed without X_val. Pass both, or neither.")
    with scoped_torch_seed(seed, train.embedder.device_):  # synthetic negatives are drawn
        return _diagnose(train, held_out, max_rows, seed)


def _diagnose(
    train: DiagnosisSample,
    held_out: DiagnosisSample | None,
    max_rows: int | None,
    seed: int,
) -> Diagnosis:
    embedder = train.embedder
    batches = loss_batches(train, max_rows, seed)
    held_out_batches = [] if held_out is None else loss_batches(held_out, max_rows, seed)
    classes = getattr(embedder, "classes_", None)
    findings = [
        find_collapse(train, batches),
        find_dimensions(train),
        find_loss_level(train, batches),
        *(f for f in training_report(embedder).findings if f.name in ("epochs", "floor")),
        find_positives(batches),
        find_negatives(batches),
        find_gradient(batches),
        find_label_errors(train, held_out, classes),
        find_generalization_gap(train, batches, held_out, held_out_batches),
        *find_doubtful_columns(train),
    ]
    subject = f"{type(embedder).__name__} on {len(train):,} samples"
    return Diagnosis(subject, tuple(findings))


def find_doubtful_columns(sample: DiagnosisSample) -> list[Finding]:
    """Return a finding on columns of text that are something else, if there are any."""
    embedder, given = sample.embedder, sample.sampled.given
    columns, chosen = embedder._columns, embedder.categorical_features
    if columns is None or not isinstance(chosen, str) or not is_frame(given):
        return []
    table = Table.of(given)
    doubts = doubtful_text(table, columns.is_categorical)
    if not doubts:
        return []
    values = {kind: [table.names[i] for i in found] for kind, found in doubts.items()}
    summary, advice = describe_doubts(table, doubts), "the remedies above; then fit again."
    return [Finding("columns", "warning", summary, advice, values)]
