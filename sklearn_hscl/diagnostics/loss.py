"""Findings about the loss: its level, its generalization gap, the negatives that count."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sklearn_hscl.diagnostics.loss_batches import LossBatch, mean_loss
from sklearn_hscl.diagnostics.sample import Subject
from sklearn_hscl.metrics import knn_accuracy
from sklearn_hscl.reports.finding import Finding
from sklearn_hscl.reports.training_report import (
    ADVICE_ON_POSITIVES,
    MOST_SKIPPED,
    judge_fall,
    judge_negatives,
)
from sklearn_hscl.training.callbacks.early_stopping import N_NEIGHBORS


def find_loss(subject: Subject, batches: Sequence[LossBatch]) -> Finding:
    """Compare the contrastive loss of the rows with that of knowing nothing, and all."""
    temperature = float(batches[0].options.temperature)
    loss = mean_loss(batches)
    chance = float(np.mean([batch.chance_loss() for batch in batches]))
    bounds = [batch.perfect_loss() for batch in batches]
    perfect = None if None in bounds else float(np.mean(bounds))  # type: ignore[arg-type]
    embedder = subject.embedder
    values = {
        "loss": loss,
        "chance_loss": chance,
        "perfect_loss": perfect,
        "train_loss": embedder.history_[embedder.best_epoch_ - 1]["train_loss"],
        "chance_train_loss": embedder.chance_loss_,
    }
    summary = (
        f"The loss ({_loss_name(subject)}) is {loss:.3g} in batches of "
        f"{len(batches[0].z)}, where chance level is {chance:.3g}"
    )
    if perfect is not None:
        kind = "rows" if subject.targets is None else "classes"
        summary += f" and perfectly separated {kind} would have {perfect:.3g}"
    possible = 1 / temperature if perfect is None else chance - perfect
    severity = judge_fall(loss, chance, possible)
    advice = (
        "`collapse` above: if rows lie in one place, a lower `lr`; else more epochs, a "
        "higher `lr`, or a larger network."
    )
    return Finding("loss", severity, f"{summary}.", advice, values)


def _loss_name(subject: Subject) -> str:
    name = repr(subject.loss_name)
    has_share = subject.embedder.net_.criterion_.options.ce_weight
    return f"{name} without cross-entropy" if has_share else name


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


# Share of the negatives that are called the hardest, and of the gradient that is too much.
_HARDEST, _TOO_MUCH = 0.01, 0.5


def find_positives(batches: Sequence[LossBatch]) -> Finding:
    """Count anchors that have no positive, or no negative, in their batch."""
    lonely, unopposed, n_anchors = 0, 0, 0
    for batch in batches:
        positive, log_negative = batch.pairs
        lonely += int((positive.sum(1) == 0).sum())
        unopposed += int(log_negative.isneginf().all(1).sum())
        n_anchors += len(positive)
    values = {
        "without_positive": lonely / n_anchors,
        "without_negative": unopposed / n_anchors,
        "n_anchors": n_anchors,
    }
    summary = (
        f"In batches of {len(batches[0].z)}, {lonely / n_anchors:.1%} of the anchors have "
        f"no positive and {unopposed / n_anchors:.1%} no negative."
    )
    severity = "ok" if lonely + unopposed <= MOST_SKIPPED * n_anchors else "warning"
    return Finding("positives", severity, summary, ADVICE_ON_POSITIVES, values)


def find_negatives(batches: Sequence[LossBatch]) -> Finding:
    """Count how many negatives really count: 1 / Σ w² of their weights."""
    counts, numbers = [], []
    for batch in batches:
        present = ~batch.pairs.log_negative.isneginf()  # (A, B)
        usable = present.any(1)
        weights = batch.tilt()[usable]
        counts.append(1 / weights.square().sum(1))
        numbers.append(present.sum(1)[usable] + batch.options.n_synthetic)
    if not sum(map(len, counts)):
        return Finding.not_applicable("negatives", "No anchor has a negative.")
    count = float(torch.cat(counts).mean())
    number = float(torch.cat(numbers).double().mean())
    options = batches[0].options
    values = {"effective_negatives": count, "negatives": number}
    beta, temperature = float(options.beta), float(options.temperature)
    values |= {"beta": beta, "temperature": temperature}
    tilt = f"beta={beta:g}, " if options.hardened else "no tilt, "
    summary = (
        f"Of {number:.0f} negatives in a batch, {count:.3g} really count "
        f"({tilt}temperature={temperature:g})."
    )
    return judge_negatives(count, values, summary, beta)


def find_gradient(batches: Sequence[LossBatch]) -> Finding:
    """Measure how much of the gradient by negatives comes from the hardest 1 %."""
    shares = np.concatenate([_hardest_share(batch) for batch in batches])
    if not len(shares):
        return Finding.not_applicable(
            "gradient", "No pair of rows is a negative only, so none is the hardest one."
        )
    share = float(shares.mean())
    values = {"share_of_hardest": share}
    summary = (
        f"The hardest {_HARDEST:.0%} of an anchor's negatives make {share:.0%} of the "
        f"gradient by its negatives."
    )
    if share <= _TOO_MUCH:
        return Finding("gradient", "ok", summary, values=values)
    advice = (
        "a lower `beta` or a higher `temperature`; a look at the label errors below, as "
        "the hardest negatives often have a wrong label."
    )
    return Finding("gradient", "warning", summary, advice, values)


def _hardest_share(batch: LossBatch) -> NDArray[Any]:
    """Return the share of each anchor, (a,), of those that have some gradient."""
    positive, log_negative = batch.pairs
    is_negative = (positive == 0) & ~log_negative.isneginf()  # (A, B)
    size = batch.pair_gradients().double() * is_negative
    cosine = batch.cosines().masked_fill(~is_negative, -torch.inf)
    order = cosine.argsort(dim=1, descending=True)
    n_hardest = (_HARDEST * is_negative.sum(1)).ceil().long()  # (A,)
    place = torch.arange(size.shape[1], device=size.device)
    hardest = (size.gather(1, order) * (place < n_hardest[:, None])).sum(1)
    total = size.sum(1)
    return (hardest[total > 0] / total[total > 0]).cpu().numpy()
