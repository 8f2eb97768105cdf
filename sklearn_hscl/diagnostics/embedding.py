"""Findings about the embedding: collapse, and labels that its neighbors contradict."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hscl.diagnostics.loss_batches import LossBatch
from sklearn_hscl.diagnostics.sample import (
    Codes,
    DiagnosisSample,
    Embedding,
    LabelledEmbedding,
)
from sklearn_hscl.metrics.geometry import alignment, class_means, effective_rank, uniformity
from sklearn_hscl.metrics.knn import nearest_rows
from sklearn_hscl.metrics.validation import Labelled
from sklearn_hscl.reports.diagnosis import Finding, Severity, Values
from sklearn_hscl.runtime.normalize import l2_normalize

# Queries that are compared with all other rows for uniformity.
_MAX_QUERIES = 2000


# Collapse into one point -------------------------------------------------------------


# Mean cosine of samples to be separated, above which they hardly are, or are close.
_MAX_COSINE, _MAX_OK_COSINE = 0.95, 0.8  # healthy fits stay below 0.6
_COLLAPSE_ADVICE = (
    "a lower `lr`, `clip_norm=1`, a lower `beta`; if the loss is at chance level from the "
    "start, rescaled features; with a loss without labels, stronger views."
)


def find_collapse(sample: DiagnosisSample, batches: Sequence[LossBatch]) -> Finding:
    """Measure how similar the embeddings of samples are that should be separated.

    These are samples of different classes, where each pair of classes has the same weight.
    Without classes they are all samples.
    """
    labelled = sample.labelled
    if labelled is not None and np.ptp(labelled.codes) == 0:
        reason = "All samples have one class, so none of them should be separated."
        return Finding.not_applicable("collapse", reason, "samples of several classes.")
    rows = sample.embedding
    cosine = mean_cosine_between(rows, sample.sampled_codes)
    cosine_in_loss = float(np.mean([_cosine_of_negatives(batch) for batch in batches]))
    uniform = uniformity(rows, n_queries=min(_MAX_QUERIES, len(rows)))
    aligned = _alignment(sample, batches)
    pairs = "different samples" if labelled is None else "samples of different classes"
    summary = (
        f"The mean cosine of {pairs} is {cosine:.2f}, of negatives in the loss "
        f"{cosine_in_loss:.2f}; uniformity {uniform:.2f}"
    )
    if aligned is not None:
        summary += f", alignment {aligned:.2f}"
    values = {
        "mean_cosine": cosine,
        "mean_cosine_in_loss": cosine_in_loss,
        "uniformity": uniform,
        "alignment": aligned,
    }
    severity = _collapse_severity(cosine, cosine_in_loss)
    return Finding("collapse", severity, f"{summary}.", _COLLAPSE_ADVICE, values)


def _collapse_severity(cosine: float, cosine_in_loss: float) -> Severity:
    """Judge cosines; those of the embedding can be high for a mere common offset."""
    if cosine_in_loss > _MAX_COSINE:
        return "problem"
    return "warning" if max(cosine, cosine_in_loss) > _MAX_OK_COSINE else "ok"


def mean_cosine_between(rows: Embedding, codes: Codes | None) -> float:
    """Average the cosines of samples of different classes, or of all samples.

    Parameters
    ----------
    rows : ndarray of shape (n, D)
    codes : ndarray of int64, shape (n,), or None
        Class codes, -1 for no label.

    Returns
    -------
    float
        Each pair of classes has the same weight. With less than two classes it is the
        mean over all pairs of samples.
    """
    means = l2_normalize(torch.from_numpy(rows).double())  # (n, D)
    if codes is not None and len(np.unique(codes[codes >= 0])) > 1:
        means = class_means(_by_class(rows, codes))  # (C, D)
    n = len(means)
    between = means.sum(0).square().sum() - means.square().sum()
    return float(between / (n * (n - 1)))


def _cosine_of_negatives(batch: LossBatch) -> float:
    weight = batch.pairs.log_negative.exp().double()  # (A, B)
    return float((weight * batch.cosines()).sum() / weight.sum().clamp_min(1e-300))


def _alignment(sample: DiagnosisSample, batches: Sequence[LossBatch]) -> float | None:
    """Measure alignment within classes, or of the views in the loss."""
    if sample.labelled is not None:
        _, rows, codes = sample.labelled
        return alignment(rows, codes) if np.bincount(codes).max() > 1 else None
    batch = batches[0]
    if batch.targets.identity is None:
        return None
    return alignment(batch.z.cpu().numpy(), batch.targets.identity.cpu().numpy())


# Collapse into few dimensions --------------------------------------------------------


# Fraction of the usable dimensions below which an embedding has few.
_MIN_RANK_FRACTION = 0.2
_DIMENSIONS_ADVICE = (
    "a higher `beta`, which separates the classes further; a lower `temperature`, `lr` "
    "or `weight_decay`; fewer `n_components` if few are enough."
)


def find_dimensions(sample: DiagnosisSample) -> Finding:
    """Compare the effective dimensions of the embedding with the usable ones.

    With classes it judges the class means, as each class may well be a point.
    """
    rows = sample.embedding
    n_columns = rows.shape[1]
    rank = _effective_rank(l2_normalize(torch.from_numpy(rows)))
    values = {"n_components": n_columns, "effective_rank": rank}
    usable, subject = min(len(rows), n_columns), "The embedding spans"
    if sample.labelled is not None:
        by_class = _by_class(sample.labelled.embedding, sample.labelled.codes)
        if len(by_class.classes) > 1:
            means = class_means(by_class)
            rank = _effective_rank(means - means.mean(0))
            values["effective_rank_of_means"] = rank
            usable = min(len(means) - 1, n_columns)
            subject = f"The means of {len(means)} classes span"
    values["usable_dimensions"] = usable
    summary = f"{subject} {rank:.3g} effective dimensions, of {usable} usable ones."
    is_flat = rank < _MIN_RANK_FRACTION * usable and usable > 1
    severity: Severity = "warning" if is_flat else "ok"
    return Finding("dimensions", severity, summary, _DIMENSIONS_ADVICE, values)


def _effective_rank(rows: Tensor) -> float:
    """Return the effective rank; 1 if all rows are zero."""
    return effective_rank(rows.numpy(), normalize=False) if rows.any() else 1.0


def _by_class(rows: Embedding, codes: Codes) -> Labelled:
    known = codes >= 0
    classes, inverse = np.unique(codes[known], return_inverse=True)
    return Labelled(rows[known], classes, inverse)


# Label errors ------------------------------------------------------------------------


N_NEIGHBORS = 10
# Fraction of the neighbors that must agree on another class, and that may have the label.
_MIN_AGREEMENT, _MAX_OWN_CLASS = 0.8, 0.1
# Samples of a class that must exist for one of them to be a suspect.
_MIN_CLASS_SIZE = 5
# Fraction of samples whose neighbors must vote for their label for others to be suspects.
_MIN_ACCURACY = 0.7
# Fraction of suspects above which they draw a warning.
_MAX_OK_SUSPECTS = 0.01
# Suspects that the summary lists.
_MAX_LISTED = 8
_LABELS_ADVICE = (
    "look at these samples (`values['rows']`) and correct or drop wrong labels; samples "
    "that were not trained on show more of them, as training draws wrong labels to their "
    "class: pass X_val, or the samples that another fold was fitted on."
)


def find_label_errors(
    train: DiagnosisSample,
    held_out: DiagnosisSample | None,
    classes: NDArray[np.generic] | None,
) -> Finding:
    """List samples whose nearest training samples agree on another class.

    Parameters
    ----------
    train : DiagnosisSample
        Samples whose neighbors vote, and that are judged.
    held_out : DiagnosisSample or None
        More samples to judge.
    classes : ndarray or None
        Class labels, if the embedder knows them.
    """
    references = train.labelled
    if references is None:
        return _not_applicable(
            "Label errors can only be found in class labels. Pass y if there are classes."
        )
    n_rows, n_classes = len(references.codes), len(np.unique(references.codes))
    if n_rows <= N_NEIGHBORS or n_classes < 2:
        return _not_applicable(
            f"Expected more than {N_NEIGHBORS} samples and at least 2 classes, got "
            f"{n_rows} and {n_classes}."
        )
    votes = _Votes.count(references)
    if votes.accuracy < _MIN_ACCURACY:
        return _not_applicable(
            f"Neighbors vote for the label of {votes.accuracy:.0%} of the samples, too few "
            f"to suspect the other labels."
        )
    values = {
        "rows": references.indices[votes.suspects].tolist(),
        "neighbor_classes": votes.suspect_classes(classes),
        "agreement": votes.accuracy,
    }
    n_suspects, n_judged = len(votes.suspects), n_rows
    if held_out is not None and held_out.labelled is not None:
        queries = held_out.labelled
        votes = _Votes.count(references, queries)
        values["held_out_rows"] = queries.indices[votes.suspects].tolist()
        values["held_out_neighbor_classes"] = votes.suspect_classes(classes)
        n_suspects += len(votes.suspects)
        n_judged += len(queries.codes)
    return _label_finding(values | {"n_judged": n_judged}, n_suspects, n_judged)


def _not_applicable(reason: str) -> Finding:
    return Finding.not_applicable("labels", reason)


def _label_finding(values: Values, n_suspects: int, n_judged: int) -> Finding:
    summary = (
        f"For {n_suspects} of {n_judged} samples at least {_MIN_AGREEMENT:.0%} of the "
        f"{N_NEIGHBORS} nearest samples agree on another class"
    )
    suspects = values["rows"]
    if suspects:
        more = ", …" if len(suspects) > _MAX_LISTED else ""
        summary += f" (rows {', '.join(map(str, suspects[:_MAX_LISTED]))}{more})"
    has_many = n_suspects > _MAX_OK_SUSPECTS * n_judged
    severity: Severity = "warning" if has_many else "ok"
    return Finding("labels", severity, f"{summary}.", _LABELS_ADVICE, values)


@dataclass(frozen=True)
class _Votes:
    """Majority votes of the nearest samples."""

    classes: Codes
    """Most frequent class among the neighbors, (q,)."""
    labels: Codes
    """Class by the label, (q,)."""
    suspects: Codes
    """Indices of samples with a likely label error, most likely first."""

    @property
    def accuracy(self) -> float:
        """Fraction of samples whose neighbors vote for their label."""
        return float((self.classes == self.labels).mean())

    def suspect_classes(self, classes: NDArray[np.generic] | None) -> list[object]:
        """Return the classes that the neighbors of the suspects vote for."""
        codes = self.classes[self.suspects]
        labels: list[object] = (codes if classes is None else classes[codes]).tolist()
        return labels

    @classmethod
    def count(
        cls, references: LabelledEmbedding, queries: LabelledEmbedding | None = None
    ) -> "_Votes":
        """Let the references vote about queries, or about each other."""
        codes = references.codes
        embedding: Embedding | None = None
        labels = codes
        if queries is not None:
            embedding, labels = queries.embedding, queries.codes
        indices, _ = nearest_rows(references.embedding, N_NEIGHBORS, embedding)
        sizes = np.bincount(codes, minlength=max(codes.max(), labels.max()) + 1)
        neighbors = codes[indices]  # (q, k)
        votes, agreement = _majority(neighbors)
        own_class = (neighbors == labels[:, None]).mean(1)
        is_wrong = (votes != labels) & (agreement >= _MIN_AGREEMENT)
        is_wrong &= own_class <= _MAX_OWN_CLASS
        suspects = np.flatnonzero(is_wrong & (sizes[labels] >= _MIN_CLASS_SIZE))
        most_likely_first = np.argsort(-agreement[suspects], kind="stable")
        return cls(votes, labels, suspects[most_likely_first])


def _majority(neighbors: Codes) -> tuple[Codes, NDArray[np.float64]]:
    """Return the most frequent code in each row of (q, k), and its fraction."""
    ordered = np.sort(neighbors, axis=1)
    equal = ordered[:, :, None] == ordered[:, None, :]
    counts = equal.sum(2)  # (q, k)
    first = counts.argmax(1)
    rows = np.arange(len(ordered))
    return ordered[rows, first], counts[rows, first] / ordered.shape[1]
