"""Findings about the loss: its level, the generalization gap, positives and negatives."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sklearn_hscl.diagnostics.loss_batches import LossBatch, mean_loss
from sklearn_hscl.diagnostics.sample import DiagnosisSample, LabelledEmbedding
from sklearn_hscl.metrics.classification import knn_accuracy
from sklearn_hscl.reports.diagnosis import Finding, Severity
from sklearn_hscl.reports.training_report import (
    MAX_OK_SKIPPED,
    POSITIVES_ADVICE,
    judge_decrease,
    judge_negatives,
)
from sklearn_hscl.training.callbacks.early_stopping import N_NEIGHBORS

# Loss level --------------------------------------------------------------------------

_LOSS_ADVICE = (
    "`collapse` above: if samples have collapsed, a lower `lr`; otherwise more epochs, a "
    "higher `lr`, or a larger network."
)


def find_loss_level(sample: DiagnosisSample, batches: Sequence[LossBatch]) -> Finding:
    """Compare the contrastive loss with that of equal and of perfect embeddings."""
    temperature = float(batches[0].options.temperature)
    loss = mean_loss(batches)
    chance = float(np.mean([batch.chance_loss() for batch in batches]))
    perfect = _perfect_loss(batches)
    embedder = sample.embedder
    values = {
        "loss": loss,
        "chance_loss": chance,
        "perfect_loss": perfect,
        "train_loss": embedder.history_[embedder.best_epoch_ - 1]["train_loss"],
        "chance_train_loss": embedder.chance_loss_,
    }
    summary = (
        f"The loss ({_loss_name(sample)}) is {loss:.3g} in batches of "
        f"{len(batches[0].z)}; chance level is {chance:.3g}"
    )
    max_decrease = 1 / temperature
    if perfect is not None:
        separated = "samples" if sample.targets is None else "classes"
        summary += f", and perfectly separated {separated} have {perfect:.3g}"
        max_decrease = chance - perfect
    severity = judge_decrease(loss, chance, max_decrease)
    return Finding("loss", severity, f"{summary}.", _LOSS_ADVICE, values)


def _perfect_loss(batches: Sequence[LossBatch]) -> float | None:
    losses = []
    for batch in batches:
        loss = batch.perfect_loss()
        if loss is None:
            return None
        losses.append(loss)
    return float(np.mean(losses))


def _loss_name(sample: DiagnosisSample) -> str:
    name = repr(sample.loss_name)
    has_cross_entropy = sample.embedder.net_.criterion_.options.ce_weight
    return f"{name} without cross-entropy" if has_cross_entropy else name


# Generalization gap ------------------------------------------------------------------

# Differences of the accuracy, and of the loss as a fraction of its decrease from chance.
_MAX_OK_GAP, _MAX_OK_LOSS_GAP = 0.1, 0.25

_GAP_ADVICE = (
    "`early_stopping=True`, fewer epochs, more `dropout` or `weight_decay`, a smaller "
    "network, more samples; `cross_fit=5` for a classifier that follows."
)


def find_generalization_gap(
    train: DiagnosisSample,
    batches: Sequence[LossBatch],
    held_out: DiagnosisSample | None,
    held_out_batches: Sequence[LossBatch],
) -> Finding:
    """Compare samples that were trained on with samples that were not.

    The measure is the k-NN accuracy with classes, otherwise the contrastive loss. Without
    `held_out` it is the held-out score of the fit, if that is one of the two.
    """
    accuracy = _accuracy(train)
    if held_out is None:
        return _gap_of_fit(train, accuracy)
    if accuracy is not None and held_out.labelled is not None:
        return _accuracy_gap(accuracy, _accuracy(train, held_out.labelled))
    chance = float(np.mean([batch.chance_loss() for batch in held_out_batches]))
    return _loss_gap(mean_loss(batches), mean_loss(held_out_batches), chance)


def _gap_of_fit(train: DiagnosisSample, accuracy: float | None) -> Finding:
    embedder = train.embedder
    best_epoch = embedder.history_[embedder.best_epoch_ - 1]
    name = getattr(embedder, "valid_score_name_", None)
    if name == "k-NN accuracy" and accuracy is not None:
        return _accuracy_gap(accuracy, best_epoch["valid_score"])
    if name == "negative loss":
        train_loss, valid_loss = best_epoch["train_loss"], -best_epoch["valid_score"]
        return _loss_gap(train_loss, valid_loss, embedder.chance_loss_)
    reason = "No samples were held out in fit"
    if name is not None:
        reason = f"The held-out score of fit, {name}, is not available for training samples"
    return Finding.not_applicable("gap", f"{reason}. Pass X_val and y_val for the gap.")


def _accuracy(
    train: DiagnosisSample, queries: LabelledEmbedding | None = None
) -> float | None:
    """Return the k-NN accuracy of queries, or of the training samples themselves."""
    if train.labelled is None:
        return None
    _, rows, codes = train.labelled
    n_neighbors = min(N_NEIGHBORS, len(rows) - 1)
    query_rows, query_codes = None, None
    if queries is not None:
        _, embedding, query_codes = queries
        query_rows = embedding.astype(rows.dtype, copy=False)
    try:
        return knn_accuracy(
            rows,
            codes,
            query_rows,
            query_codes,
            n_neighbors=n_neighbors,
            weights="uniform",
        )
    except ValueError:  # one class, or no class with two samples
        return None


def _accuracy_gap(train: float, held_out: float | None) -> Finding:
    if held_out is None:
        reason = "No held-out sample has a class of the training samples."
        return Finding.not_applicable("gap", reason)
    gap = train - held_out
    values = {"train": train, "held_out": held_out, "gap": gap}
    summary = (
        f"The accuracy of the {N_NEIGHBORS} nearest training samples is {train:.1%} on "
        f"training samples and {held_out:.1%} on held-out samples."
    )
    severity: Severity = "warning" if gap > _MAX_OK_GAP else "ok"
    return Finding("gap", severity, summary, _GAP_ADVICE, values)


def _loss_gap(train: float, held_out: float, chance: float) -> Finding:
    gap = held_out - train
    values = {"train": train, "held_out": held_out, "gap": gap}
    summary = (
        f"The loss is {train:.3g} on training samples and {held_out:.3g} on held-out "
        f"samples."
    )
    is_wide = gap > _MAX_OK_LOSS_GAP * max(chance - train, 0.0)
    severity: Severity = "warning" if is_wide else "ok"
    return Finding("gap", severity, summary, _GAP_ADVICE, values)


# Positives, negatives and the gradient -----------------------------------------------

# Fraction of negatives that are the hardest, and the largest fraction of the gradient
# that they may have.
_HARDEST, _MAX_OK_GRADIENT = 0.01, 0.5

_GRADIENT_ADVICE = (
    "a lower `beta` or a higher `temperature`; check the label errors below, as the "
    "hardest negatives often have a wrong label."
)


def find_positives(batches: Sequence[LossBatch]) -> Finding:
    """Count anchors that have no positive, or no negative, in their batch."""
    no_positive, no_negative, n_anchors = 0, 0, 0
    for batch in batches:
        positive, log_negative = batch.pairs
        no_positive += int((positive.sum(1) == 0).sum())
        no_negative += int(log_negative.isneginf().all(1).sum())
        n_anchors += len(positive)
    values = {
        "without_positive": no_positive / n_anchors,
        "without_negative": no_negative / n_anchors,
        "n_anchors": n_anchors,
    }
    summary = (
        f"In batches of {len(batches[0].z)}, {no_positive / n_anchors:.1%} of the anchors "
        f"have no positive and {no_negative / n_anchors:.1%} no negative."
    )
    is_ok = no_positive + no_negative <= MAX_OK_SKIPPED * n_anchors
    severity: Severity = "ok" if is_ok else "warning"
    return Finding("positives", severity, summary, POSITIVES_ADVICE, values)


def find_negatives(batches: Sequence[LossBatch]) -> Finding:
    """Count the effective negatives of an anchor, 1 / Σ w² of their weights."""
    effective, present = [], []
    for batch in batches:
        is_negative = ~batch.pairs.log_negative.isneginf()  # (A, B)
        usable = is_negative.any(1)
        weights = batch.tilt()[usable]
        effective.append(1 / weights.square().sum(1))
        present.append(is_negative.sum(1)[usable] + batch.options.n_synthetic)
    if not sum(map(len, effective)):
        return Finding.not_applicable("negatives", "No anchor has a negative.")
    n_effective = float(torch.cat(effective).mean())
    n_negatives = float(torch.cat(present).double().mean())
    options = batches[0].options
    beta, temperature = float(options.beta), float(options.temperature)
    values = {
        "effective_negatives": n_effective,
        "negatives": n_negatives,
        "beta": beta,
        "temperature": temperature,
    }
    tilt = f"beta={beta:g}, " if options.hardened else "no tilt, "
    summary = (
        f"{n_effective:.3g} of {n_negatives:.0f} negatives in a batch are effective "
        f"({tilt}temperature={temperature:g})."
    )
    return judge_negatives(n_effective, values, summary, beta)


def find_gradient(batches: Sequence[LossBatch]) -> Finding:
    """Measure the fraction of the gradient by negatives that the hardest 1 % have."""
    fractions = np.concatenate([_hardest_fractions(batch) for batch in batches])
    if not len(fractions):
        return Finding.not_applicable(
            "gradient",
            "No pair of samples is purely negative, so there is no hardest one.",
        )
    fraction = float(fractions.mean())
    values = {"fraction_of_hardest": fraction}
    summary = (
        f"The hardest {_HARDEST:.0%} of an anchor's negatives have {fraction:.0%} of the "
        f"gradient by its negatives."
    )
    if fraction <= _MAX_OK_GRADIENT:
        return Finding("gradient", "ok", summary, values=values)
    return Finding("gradient", "warning", summary, _GRADIENT_ADVICE, values)


def _hardest_fractions(batch: LossBatch) -> NDArray[np.float64]:
    """Return the fraction for each anchor that has some gradient, (a,)."""
    positive, log_negative = batch.pairs
    is_negative = (positive == 0) & ~log_negative.isneginf()  # (A, B)
    size = batch.pair_gradients().double() * is_negative
    cosine = batch.cosines().masked_fill(~is_negative, -torch.inf)
    order = cosine.argsort(dim=1, descending=True)
    n_hardest = (_HARDEST * is_negative.sum(1)).ceil().long()  # (A,)
    rank = torch.arange(size.shape[1], device=size.device)
    hardest = (size.gather(1, order) * (rank < n_hardest[:, None])).sum(1)
    total = size.sum(1)
    return (hardest[total > 0] / total[total > 0]).cpu().numpy()
