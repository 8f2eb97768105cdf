"""Findings from the history of a fit, and their place in the estimator's HTML.

No row is embedded: `fit` has measured everything. Thresholds and advice that
:func:`~sklearn_hscl.diagnostics.diagnose` uses, too, are defined here.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from sklearn_hscl._sklearn_compat import AttrsDict
from sklearn_hscl.reports.diagnosis import Diagnosis, Finding, Severity, Values

EpochRecord = Mapping[str, float]


class TrainedEmbedder(Protocol):
    """The attributes of a fitted embedder that the report reads."""

    history_: Sequence[EpochRecord]
    loss_curve_: Sequence[float]
    n_iter_: int
    best_epoch_: int
    chance_loss_: float
    beta_: object
    temperature_: float
    _n_anchors: int


def training_report(embedder: TrainedEmbedder) -> Diagnosis:
    """Report the history of a fitted embedder.

    Parameters
    ----------
    embedder : HSCLEmbedder
        Fitted.

    Returns
    -------
    Diagnosis
        With the findings ``"loss"``, ``"epochs"``, ``"floor"`` after a fit with held-out
        rows, ``"positives"`` and ``"negatives"``.
    """
    best_epoch = embedder.history_[embedder.best_epoch_ - 1]
    findings = (
        _loss(embedder, best_epoch),
        _epochs(embedder),
        *_floor(embedder),
        _positives(int(best_epoch["skipped_anchors"]), embedder._n_anchors),
        _negatives(embedder, best_epoch),
    )
    return Diagnosis(f"Training of {type(embedder).__name__}", findings)


# Loss --------------------------------------------------------------------------------

# Fractions of its possible decrease up to which a loss has hardly decreased, or has not.
_MIN_OK_DECREASE, _MIN_DECREASE = 0.1, 0.05

_LOSS_ADVICE = (
    "a lower `lr` (or a higher one, if the loss never moved), a lower `beta`, more "
    "epochs, scaled columns; `sklearn_hscl.diagnose` detects collapse."
)


def _loss(embedder: TrainedEmbedder, best_epoch: EpochRecord) -> Finding:
    loss, chance = best_epoch["train_loss"], embedder.chance_loss_
    summary = f"Training loss {loss:.3g}; chance level is {chance:.3g}."
    severity = judge_decrease(loss, chance, 1 / embedder.temperature_)
    if severity == "problem":
        summary += " Nothing was learnt, or the embedding has collapsed into one point."
    values = {"train_loss": loss, "chance_loss": chance}
    return Finding("loss", severity, summary, _LOSS_ADVICE, values)


def judge_decrease(loss: float, chance: float, max_decrease: float) -> Severity:
    """Judge how far a loss has decreased from chance level.

    Parameters
    ----------
    loss, chance : float
    max_decrease : float
        How far it could decrease. From chance level to the minimum it is about 1 / T, as
        cosines of negatives decrease from 1 to little below 0; the loss cannot be negative.

    Returns
    -------
    {"ok", "warning", "problem"}
    """
    max_decrease = min(chance, max_decrease)
    if max_decrease <= 0:  # no anchor has both a positive and a negative
        return "ok"
    fraction = (chance - loss) / max_decrease
    if fraction > _MIN_OK_DECREASE:
        return "ok"
    return "warning" if fraction > _MIN_DECREASE else "problem"


# Epochs ------------------------------------------------------------------------------

# Fraction of its decrease that the last tenth of a loss curve has while still improving.
_MIN_LATE_DECREASE = 0.1
# Fraction of its decrease below which the loss of the retained epoch is near chance level.
_MIN_RETAINED_DECREASE = 0.25

_RETAINED_ADVICE = (
    "a larger `validation_fraction`, or more samples in X_val, as a few cannot tell which "
    "epoch is best; `early_stopping=False`, if the embedding is better then."
)


def _epochs(embedder: TrainedEmbedder) -> Finding:
    n_epochs, best = embedder.n_iter_, embedder.best_epoch_
    values: dict[str, float] = {"n_epochs": n_epochs, "best_epoch": best}
    summary = f"{n_epochs} epochs; the weights are those of epoch {best}."
    score_name = getattr(embedder, "valid_score_name_", None)
    if score_name is None:
        is_improving = _still_decreases(embedder.loss_curve_)
    else:
        score = embedder.history_[best - 1]["valid_score"]
        values["valid_score"] = score
        summary += f" Its held-out {score_name} is {score:.3g}."
        is_improving = best == n_epochs > 1
        if _is_near_chance(embedder):
            chance = embedder.chance_loss_
            values["chance_loss"] = chance
            summary += (
                f" This epoch is near chance level: its training loss is "
                f"{embedder.loss_curve_[best - 1]:.3g}, chance level {chance:.3g}, the "
                f"lowest {min(embedder.loss_curve_):.3g}."
            )
            return Finding("epochs", "warning", summary, _RETAINED_ADVICE, values)
    if not is_improving:
        return Finding("epochs", "ok", summary, values=values)
    summary += " It was still improving at the end."
    advice = f"more epochs: `max_epochs` above {n_epochs}."
    return Finding("epochs", "warning", summary, advice, values)


# Floor -------------------------------------------------------------------------------

_FLOOR_ADVICE = (
    "more rows, another `encoder` or `lr`; or X beside the embedding, as by FeatureUnion."
)
# A difference beyond chance in standard errors, and the smallest that matters.
_CLEAR_DIFFERENCE, _MIN_DIFFERENCE = 3.0, 0.01


def _floor(embedder: TrainedEmbedder) -> list[Finding]:
    """Compare what simple models read from the embedding and from the rows."""
    found = getattr(embedder, "held_out_readout_", None)
    if found is None:
        return []
    summary = (
        "R2 of held-out targets by k-NN and ridge: "
        f"{found['embedding_neighbors']:.2f} and {found['embedding_linear']:.2f} from the "
        f"embedding, {found['rows_neighbors']:.2f} and {found['rows_linear']:.2f} from X."
    )
    if not is_below_floor(found):
        return [Finding("floor", "ok", summary, values=dict(found))]
    summary += " The embedding is worse than the rows that it was made from."
    return [Finding("floor", "warning", summary, _FLOOR_ADVICE, dict(found))]


def is_below_floor(readout: Mapping[str, float]) -> bool:
    """Return whether an embedding is read out worse than its rows, beyond chance."""
    least = max(_CLEAR_DIFFERENCE * readout["standard_error"], _MIN_DIFFERENCE)
    return readout["difference"] < -least


# Retained weights --------------------------------------------------------------------


def _is_near_chance(embedder: TrainedEmbedder) -> bool:
    """Return whether early stopping retained weights that are hardly trained."""
    decrease = embedder.chance_loss_ - np.asarray(embedder.loss_curve_)
    retained = decrease[embedder.best_epoch_ - 1]
    return bool(retained < _MIN_RETAINED_DECREASE * decrease.max())


def _still_decreases(curve: Sequence[float]) -> bool:
    """Return whether a large part of the decrease of a curve came at its end."""
    n_last = len(curve) // 10
    if n_last == 0:
        return False
    before, last = np.mean(curve[-2 * n_last : -n_last]), np.mean(curve[-n_last:])
    return bool(before - last > _MIN_LATE_DECREASE * max(curve[0] - float(last), 0.0))


# Positives and negatives -------------------------------------------------------------

# Fraction of anchors without contrast above which batches are badly composed.
MAX_OK_SKIPPED = 0.05

POSITIVES_ADVICE = (
    "`n_views=2`, which gives each sample a positive; `sampler='stratified'`; a larger "
    "`batch_size`; rare classes left out or merged."
)


def _positives(n_skipped: int, n_anchors: int) -> Finding:
    fraction = n_skipped / n_anchors
    values = {"skipped_anchors": n_skipped, "fraction": fraction}
    summary = (
        f"{fraction:.1%} of the anchors had no positive, or no negative, in their batch."
    )
    if fraction <= MAX_OK_SKIPPED:
        return Finding("positives", "ok", summary, values=values)
    return Finding("positives", "warning", summary, POSITIVES_ADVICE, values)


def _negatives(embedder: TrainedEmbedder, best_epoch: EpochRecord) -> Finding:
    n_effective = best_epoch["effective_negatives"]
    beta = best_epoch.get("beta", embedder.beta_)
    summary = f"{n_effective:.3g} effective negatives per anchor in a batch."
    values = {"effective_negatives": n_effective}
    return judge_negatives(n_effective, values, summary, beta)


def judge_negatives(
    n_effective: float, values: Values, summary: str, beta: object
) -> Finding:
    """Judge how many negatives are effective under the tilt."""
    if n_effective >= 2:
        return Finding("negatives", "ok", summary, values=values)
    return Finding(
        "negatives",
        "warning",
        f"{summary} The loss uses the hardest one only, which often has a wrong label.",
        f"a lower `beta` (now {beta}), a higher `temperature`, a larger `batch_size`.",
        values,
    )


# HTML --------------------------------------------------------------------------------


class AttributesWithReport(AttrsDict):
    """Table of fitted attributes, followed by the training report.

    scikit-learn shows it wherever it shows the estimator: alone, in a pipeline or in a
    search.

    Parameters
    ----------
    embedder : HSCLEmbedder
        Fitted.
    attributes : AttrsDict
        Its attributes, as scikit-learn reads them.
    """

    def __init__(self, embedder: TrainedEmbedder, attributes: AttrsDict) -> None:
        super().__init__(
            fitted_attrs=attributes.data,
            estimator_class=attributes.estimator_class,
            doc_link=attributes.doc_link,
        )
        self.embedder = embedder

    def _html_repr(self) -> str:
        report = training_report(self.embedder)
        needs_attention = any(finding.needs_attention for finding in report)
        return (
            f"{AttrsDict._html_repr(self)}"
            f'<div class="estimator-table"><details{" open" if needs_attention else ""}>'
            f"<summary>Training report</summary>{report._repr_html_()}"
            f"</details></div>"
        )
