"""Finding about label errors: samples whose neighbors agree on another class."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sklearn_hscl.diagnostics.sample import (
    Codes,
    DiagnosisSample,
    Embedding,
    LabelledEmbedding,
)
from sklearn_hscl.metrics.knn import nearest_rows
from sklearn_hscl.reports.diagnosis import Finding, Severity, Values

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

_ADVICE = (
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
    return _judge(values | {"n_judged": n_judged}, n_suspects, n_judged)


def _not_applicable(reason: str) -> Finding:
    return Finding.not_applicable("labels", reason)


def _judge(values: Values, n_suspects: int, n_judged: int) -> Finding:
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
    return Finding("labels", severity, f"{summary}.", _ADVICE, values)


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
