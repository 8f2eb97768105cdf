"""Collapse: into one place, or into few dimensions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hscl.diagnostics.loss_batches import LossBatch
from sklearn_hscl.diagnostics.sample import Subject
from sklearn_hscl.metrics import alignment, effective_rank, uniformity
from sklearn_hscl.metrics.geometry import class_means
from sklearn_hscl.metrics.validation import Labelled
from sklearn_hscl.reports.finding import Finding
from sklearn_hscl.runtime.normalize import l2_normalize

# Mean cosine of rows that should be apart, from which they hardly are.
_COLLAPSED, _CLOSE = 0.95, 0.8  # healthy fits stay below 0.6
# Share of the usable dimensions below which an embedding is flat.
_FLAT = 0.2
# Rows that are compared with all others for uniformity.
_N_QUERIES = 2000


def find_collapse(subject: Subject, batches: Sequence[LossBatch]) -> Finding:
    """Say whether rows that should be apart lie in one place.

    These are rows of different classes, each pair of classes counting the same, or all
    rows where there are no classes.
    """
    if subject.labelled is not None and np.ptp(subject.labelled[2]) == 0:
        reason = "All rows are of one class, so that none should be apart from another."
        return Finding.not_applicable("collapse", reason, "rows of several classes.")
    rows = subject.embedding
    between = mean_cosine_of_others(rows, subject.chosen_codes)
    in_loss = float(np.mean([_cosine_of_negatives(batch) for batch in batches]))
    values = {
        "mean_cosine": between,
        "mean_cosine_in_loss": in_loss,
        "uniformity": uniformity(rows, n_queries=min(_N_QUERIES, len(rows))),
        "alignment": _alignment(subject, batches),
    }
    kind = "different rows" if subject.labelled is None else "rows of different classes"
    summary = (
        f"The mean cosine of {kind} is {between:.2f}, of negatives as the loss sees them "
        f"{in_loss:.2f}; uniformity {values['uniformity']:.2f}"
    )
    if values["alignment"] is not None:
        summary += f", alignment {values['alignment']:.2f}"
    severity = _severity(between, in_loss)
    return Finding("collapse", severity, f"{summary}.", _ADVICE, values)


_ADVICE = (
    "a lower `lr`, `clip_norm=1`, a lower `beta`; if the loss is at chance level from the "
    "start, other scales of the columns; with a loss without labels, stronger views."
)


def _severity(between: float, in_loss: float) -> str:
    """Judge cosines; those of the embedding can be high for a mere common offset."""
    if in_loss > _COLLAPSED:
        return "problem"
    return "warning" if max(between, in_loss) > _CLOSE else "ok"


def find_flatness(subject: Subject) -> Finding:
    """Say whether the embedding spans far fewer dimensions than it could.

    With classes it is about the class means, as each class may well be a point.
    """
    rows = subject.embedding
    n_columns = rows.shape[1]
    values: dict[str, float] = {
        "n_components": n_columns,
        "effective_rank": _rank(l2_normalize(torch.from_numpy(rows))),
    }
    usable = min(len(rows), n_columns)
    rank, who = values["effective_rank"], "The embedding spans"
    labelled = _labelled(subject)
    if labelled is not None and len(labelled.classes) > 1:
        means = class_means(labelled)
        values["effective_rank_of_means"] = rank = _rank(means - means.mean(0))
        usable = min(len(means) - 1, n_columns)
        who = f"The means of {len(means)} classes span"
    values["usable_dimensions"] = usable
    summary = f"{who} {rank:.3g} effective dimensions, of {usable} that could be used."
    severity = "warning" if rank < _FLAT * usable and usable > 1 else "ok"
    advice = (
        "a higher `beta`, which spreads the classes further; a lower `temperature`, `lr` "
        "or `weight_decay`; fewer `n_components` if few are enough."
    )
    return Finding("dimensions", severity, summary, advice, values)


def mean_cosine_of_others(rows: NDArray[Any], codes: NDArray[np.int64] | None) -> float:
    """Average the cosines of rows of different classes, or of all rows.

    Parameters
    ----------
    rows : ndarray of shape (n, D)
    codes : ndarray of int64, shape (n,), or None
        Class codes, -1 for no label.

    Returns
    -------
    float
        Each pair of classes counts the same. Of all rows where there are no two classes.
    """
    means = l2_normalize(torch.from_numpy(rows).double())  # (n, D)
    if codes is not None and len(np.unique(codes[codes >= 0])) > 1:
        means = class_means(_with_codes(rows, codes))  # (C, D)
    n = len(means)
    between = means.sum(0).square().sum() - means.square().sum()
    return float(between / (n * (n - 1)))


def _cosine_of_negatives(batch: LossBatch) -> float:
    weight = batch.pairs.log_negative.exp().double()  # (A, B)
    return float((weight * batch.cosines()).sum() / weight.sum().clamp_min(1e-300))


def _alignment(subject: Subject, batches: Sequence[LossBatch]) -> float | None:
    """Measure alignment by classes, or of views as the loss sees them."""
    if subject.labelled is not None:
        _, rows, codes = subject.labelled
        return alignment(rows, codes) if np.bincount(codes).max() > 1 else None
    batch = batches[0]
    if batch.who.identity is None:
        return None
    return alignment(batch.z.cpu().numpy(), batch.who.identity.cpu().numpy())


def _labelled(subject: Subject) -> Labelled | None:
    if subject.labelled is None:
        return None
    _, rows, codes = subject.labelled
    return _with_codes(rows, codes)


def _with_codes(rows: NDArray[Any], codes: NDArray[np.int64]) -> Labelled:
    known = codes >= 0
    classes, inverse = np.unique(codes[known], return_inverse=True)
    return Labelled(rows[known], classes, inverse)


def _rank(rows: Tensor) -> float:
    """Effective rank; 1 where there is nothing but zeros."""
    return effective_rank(rows.numpy(), normalize=False) if rows.any() else 1.0
