"""Positives and negatives of an anchor, in batches as the loss sees them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sklearn_hscl.diagnostics.loss_batches import LossBatch
from sklearn_hscl.reports.finding import Finding
from sklearn_hscl.reports.training_report import (
    ADVICE_ON_POSITIVES,
    MOST_SKIPPED,
    judge_negatives,
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
