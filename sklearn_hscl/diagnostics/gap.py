"""How much better training rows look than rows that were held out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_hscl.diagnostics.loss_batches import LossBatch, mean_loss
from sklearn_hscl.diagnostics.subject import Subject
from sklearn_hscl.metrics import knn_accuracy
from sklearn_hscl.reports.finding import Finding
from sklearn_hscl.training.validation import N_NEIGHBORS

# Differences of accuracy, and of the loss as a share of its way from chance level.
_WIDE, _WIDE_IN_LOSS = 0.1, 0.25


def find_gap(
    train: Subject,
    batches: Sequence[LossBatch],
    held_out: Subject | None,
    held_out_batches: Sequence[LossBatch],
) -> Finding:
    """Compare rows that were trained on with rows that were not.

    By k-NN accuracy where there are classes, else by the contrastive loss. Without
    `held_out`, by the held-out score of the fit, where that is one of the two.
    """
    accuracy = _accuracy(train)
    if held_out is not None:
        if accuracy is not None and held_out.labelled is not None:
            return _by_accuracy(accuracy, _accuracy(train, held_out))
        chance = float(np.mean([batch.chance_loss() for batch in held_out_batches]))
        return _by_loss(mean_loss(batches), mean_loss(held_out_batches), chance)
    return _from_record(train, accuracy)


def _from_record(train: Subject, accuracy: float | None) -> Finding:
    embedder = train.embedder
    kept = embedder.history_[embedder.best_epoch_ - 1]
    name = getattr(embedder, "valid_score_name_", None)
    if name == "k-NN accuracy" and accuracy is not None:
        return _by_accuracy(accuracy, kept["valid_score"])
    if name == "negative loss":
        chance = embedder.chance_loss_
        return _by_loss(kept["train_loss"], -kept["valid_score"], chance)
    reason = "The fit held no rows out"
    if name is not None:
        reason = f"The fit has a {name} of rows out of fold only"
    return Finding.not_applicable("gap", f"{reason}: pass X_val and y_val to see the gap.")


def _accuracy(train: Subject, queries: Subject | None = None) -> float | None:
    """Share of rows whose nearest training rows vote for their class."""
    if train.labelled is None:
        return None
    _, rows, codes = train.labelled
    n_neighbors = min(N_NEIGHBORS, len(rows) - 1)
    asked = (None, None) if queries is None else _unseen(queries, rows)
    try:
        return knn_accuracy(rows, codes, *asked, n_neighbors=n_neighbors, weights="uniform")
    except ValueError:  # one class, or none of two rows
        return None


def _unseen(queries: Subject, rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    assert queries.labelled is not None
    _, embedding, codes = queries.labelled
    return embedding.astype(rows.dtype, copy=False), codes


def _by_accuracy(train: float, held_out: float | None) -> Finding:
    if held_out is None:
        reason = "No held-out row is of a class of the training rows."
        return Finding.not_applicable("gap", reason)
    gap = train - held_out
    values = {"train": train, "held_out": held_out, "gap": gap}
    summary = (
        f"{N_NEIGHBORS} nearest training rows tell the class of {train:.1%} of the "
        f"training rows, and of {held_out:.1%} of those held out."
    )
    return Finding("gap", "warning" if gap > _WIDE else "ok", summary, _ADVICE, values)


def _by_loss(train: float, held_out: float, chance: float) -> Finding:
    values = {"train": train, "held_out": held_out, "gap": held_out - train}
    summary = (
        f"The loss is {train:.3g} on training rows and {held_out:.3g} on held-out rows."
    )
    wide = held_out - train > _WIDE_IN_LOSS * max(chance - train, 0.0)
    return Finding("gap", "warning" if wide else "ok", summary, _ADVICE, values)


_ADVICE = (
    "`early_stopping=True`, fewer epochs, more `dropout` or `weight_decay`, a smaller "
    "network, more rows; `cross_fit=5` for a classifier that follows."
)
