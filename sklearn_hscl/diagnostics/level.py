"""Where the loss is between chance level and the least possible one."""

from collections.abc import Sequence

import numpy as np

from sklearn_hscl.diagnostics.loss_batches import LossBatch, mean_loss
from sklearn_hscl.diagnostics.subject import Subject
from sklearn_hscl.reports.finding import Finding
from sklearn_hscl.reports.training_report import judge_fall


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
