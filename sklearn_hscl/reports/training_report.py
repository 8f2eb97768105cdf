"""What the history of a fit shows: findings, and their place in the estimator's HTML."""

from typing import Any

import numpy as np

from sklearn_hscl._sklearn_compat import AttrsDict
from sklearn_hscl.reports.diagnosis import Diagnosis
from sklearn_hscl.reports.finding import Finding

# Shares of its possible fall up to which a loss has hardly fallen, or not at all.
_SMALL_FALL, _NO_FALL = 0.1, 0.05
# Share of anchors without contrast above which batches are badly composed.
MOST_SKIPPED = 0.05
# Share of its fall that a loss has in its last tenth, where it would go on falling.
_STILL_FALLING = 0.1


def training_record(embedder: Any) -> Diagnosis:
    """Read the history of a fitted embedder; no row is embedded.

    Parameters
    ----------
    embedder : HSCLEmbedder
        Fitted.

    Returns
    -------
    Diagnosis
        With the findings ``"loss"``, ``"epochs"``, ``"positives"`` and ``"negatives"``.
    """
    kept = embedder.history_[embedder.best_epoch_ - 1]
    findings = (
        _loss(embedder, kept),
        _epochs(embedder),
        _positives(kept["skipped_anchors"], embedder._n_anchors),
        _negatives(embedder, kept),
    )
    return Diagnosis(f"Training of {type(embedder).__name__}", findings)


def _loss(embedder: Any, kept: dict[str, Any]) -> Finding:
    loss, chance = kept["train_loss"], embedder.chance_loss_
    summary = f"Training loss {loss:.3g}, where chance level is {chance:.3g}."
    values = {"train_loss": loss, "chance_loss": chance}
    severity = judge_fall(loss, chance, 1 / embedder.temperature_)
    if severity == "problem":
        summary += " Nothing was learnt, or all rows have collapsed into one place."
    advice = (
        "a lower `lr` (or a higher one, if the loss never moved), a lower `beta`, more "
        "epochs, scaled columns; `sklearn_hscl.diagnose` tells collapse from the rest."
    )
    return Finding("loss", severity, summary, advice, values)


def judge_fall(loss: float, chance: float, possible: float) -> str:
    """Judge how far a loss has left chance level.

    Parameters
    ----------
    loss, chance : float
    possible : float
        How far it could fall: from chance to perfect about 1 / T, as cosines of negatives
        fall from 1 to little below 0, and at most to 0.

    Returns
    -------
    {"ok", "warning", "problem"}
    """
    possible = min(chance, possible)
    if possible <= 0:  # no anchor has both a positive and a negative
        return "ok"
    share = (chance - loss) / possible
    if share > _SMALL_FALL:
        return "ok"
    return "warning" if share > _NO_FALL else "problem"


def _epochs(embedder: Any) -> Finding:
    n_epochs, best = embedder.n_iter_, embedder.best_epoch_
    values: dict[str, Any] = {"n_epochs": n_epochs, "best_epoch": best}
    summary = f"{n_epochs} epochs, of which the weights of epoch {best} were kept."
    if hasattr(embedder, "valid_score_name_"):
        score = embedder.history_[best - 1]["valid_score"]
        values["valid_score"] = score
        summary += f" Its held-out {embedder.valid_score_name_} is {score:.3g}."
        goes_on = best == n_epochs > 1
    else:
        goes_on = _still_falls(embedder.loss_curve_)
    if not goes_on:
        return Finding("epochs", "ok", summary, values=values)
    summary += " It was still improving at the end."
    advice = f"more epochs: `max_epochs` above {n_epochs}."
    return Finding("epochs", "warning", summary, advice, values)


def _still_falls(curve: list[float]) -> bool:
    """Say whether a good part of the fall of a curve came at its end."""
    n_last = len(curve) // 10
    if n_last == 0:
        return False
    before, last = np.mean(curve[-2 * n_last : -n_last]), np.mean(curve[-n_last:])
    return bool(before - last > _STILL_FALLING * max(curve[0] - float(last), 0.0))


def _positives(skipped: int, n_anchors: int) -> Finding:
    """Judge how many anchors of the epoch had nothing to be compared with."""
    share = skipped / n_anchors
    values = {"skipped_anchors": skipped, "share": share}
    summary = f"{share:.1%} of the anchors had no positive, or no negative, in their batch."
    if share <= MOST_SKIPPED:
        return Finding("positives", "ok", summary, values=values)
    return Finding("positives", "warning", summary, ADVICE_ON_POSITIVES, values)


ADVICE_ON_POSITIVES = (
    "`n_views=2`, which gives each row a positive; `sampler='stratified'`; a larger "
    "`batch_size`; rare classes left out or merged."
)


def _negatives(embedder: Any, kept: dict[str, Any]) -> Finding:
    count = kept["effective_negatives"]
    beta = kept.get("beta", embedder.beta_)
    summary = f"{count:.3g} effective negatives an anchor, in a batch."
    return judge_negatives(count, {"effective_negatives": count}, summary, beta)


def judge_negatives(
    count: float, values: dict[str, Any], summary: str, beta: Any
) -> Finding:
    """Judge how many negatives count after the tilt."""
    if count >= 2:
        return Finding("negatives", "ok", summary, values=values)
    return Finding(
        "negatives",
        "warning",
        f"{summary} The loss looks at the hardest one only, which often has a wrong label.",
        f"a lower `beta` (now {beta}), a higher `temperature`, a larger `batch_size`.",
        values,
    )


class AttributesAndRecord(AttrsDict):
    """Table of fitted attributes, and below it the findings about the training.

    scikit-learn shows it wherever it shows the estimator: alone, in a pipeline or in a
    search.

    Parameters
    ----------
    embedder : HSCLEmbedder
        Fitted.
    attributes : AttrsDict
        Its attributes, as scikit-learn reads them.
    """

    def __init__(self, embedder: Any, attributes: AttrsDict) -> None:
        super().__init__(
            fitted_attrs=attributes.data,
            estimator_class=attributes.estimator_class,
            doc_link=attributes.doc_link,
        )
        self.embedder = embedder

    def _html_repr(self) -> str:
        record = training_record(self.embedder)
        is_auto = " open" if any(finding.needs_a_look for finding in record) else ""
        return (
            f"{AttrsDict._html_repr(self)}"
            f'<div class="estimator-table"><details{is_auto}>'
            f"<summary>What training found</summary>{record._repr_html_()}"
            f"</details></div>"
        )
