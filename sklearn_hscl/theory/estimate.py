"""What was estimated: means over anchors, with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from sklearn_hscl.theory.anchors import LOSSES, AnchorValues

# Margins that rounding can turn around count as met.
ROUNDING = 1e-12
MEASURES = (*LOSSES, "assumption", "gap", "excess")


class Interval(NamedTuple):
    """An estimate at each point, with a percentile bootstrap interval over anchors."""

    value: NDArray[np.float64]
    """Mean over the anchors, of shape (n_points,)."""
    low: NDArray[np.float64]
    """Lower end, of shape (n_points,)."""
    high: NDArray[np.float64]
    """Upper end, of shape (n_points,)."""


@dataclass(frozen=True)
class TheoryEstimate:
    """The four losses, Assumption 1 and the inequality, along beta or along epochs.

    Attributes
    ----------
    along : {"beta", "epoch"}
        What the points are.
    points : ndarray of shape (n_points,)
        Strengths of the tilt, or epochs counted from 1.
    ucl, scl, hucl, hscl : Interval
        The losses, with the same positives and the same negative mass.
    assumption : Interval
        Share of anchors that satisfy Assumption 1.
    gap : Interval
        L_H-UCL - L_H-SCL: the inequality of Lemma 1 holds where it is at least 0.
    excess : Interval
        L_H-SCL - L_UCL: where it is above 0, UCL is a lower bound of H-SCL, not an upper
        one, and so says nothing about how small H-SCL is.
    anchor_losses : dict of ndarray of shape (n_points, n_anchors)
        The losses of each anchor, by the names ``"ucl"``, ``"scl"``, ``"hucl"`` and
        ``"hscl"``.
    margins : ndarray of shape (n_points, n_anchors)
        log E_Hcol - log E_H-SCL of each anchor, at least 0 where it satisfies
        Assumption 1.
    n_skipped : int
        Rows drawn that could not be anchors.
    """

    along: str
    points: NDArray[np.float64]
    ucl: Interval
    scl: Interval
    hucl: Interval
    hscl: Interval
    assumption: Interval
    gap: Interval
    excess: Interval
    anchor_losses: dict[str, NDArray[np.float64]]
    margins: NDArray[np.float64]
    n_skipped: int

    @property
    def inequality_holds(self) -> NDArray[np.bool_]:
        """Whether L_H-SCL <= L_H-UCL in these anchors: (n_points,)."""
        return self.gap.value >= -ROUNDING

    @classmethod
    def along_epochs(
        cls, estimates: Sequence[Self], epochs: Sequence[int], place: int
    ) -> Self:
        """Put the estimates of several epochs in a row.

        Parameters
        ----------
        estimates : sequence of TheoryEstimate
            Of the same rows, one for each epoch, along beta.
        epochs : sequence of int
            Which epochs.
        place : int
            Which beta.

        Returns
        -------
        TheoryEstimate
        """
        first = estimates[0]
        intervals: dict[str, Any] = {}
        for name in MEASURES:
            ends = [np.array(getattr(estimate, name))[:, place] for estimate in estimates]
            intervals[name] = Interval(*np.stack(ends, axis=1))  # 3 x (n_epochs,)
        losses = {
            name: np.stack([estimate.anchor_losses[name][place] for estimate in estimates])
            for name in first.anchor_losses
        }
        return replace(
            first,
            along="epoch",
            points=np.array(epochs, dtype=np.float64),
            anchor_losses=losses,
            margins=np.stack([estimate.margins[place] for estimate in estimates]),
            **intervals,
        )


def summarise(
    betas: NDArray[np.float64],
    anchors: AnchorValues,
    *,
    n_skipped: int,
    n_bootstrap: int,
    confidence_level: float,
    random: np.random.RandomState,
) -> TheoryEstimate:
    """Average over anchors, all measures over the same resamples.

    Parameters
    ----------
    betas : ndarray of shape (n_betas,)
        Strengths of the tilt.
    anchors : AnchorValues
        What each anchor gives.
    n_skipped : int
        Rows that could not be anchors.
    n_bootstrap : int
        Resamples of the anchors.
    confidence_level : float
        Share of the resamples inside of the intervals.
    random : RandomState
        For the resamples.

    Returns
    -------
    TheoryEstimate
    """
    losses = anchors.losses
    values = np.stack(  # (n_measures, n_betas, A)
        [
            *(losses[name] for name in LOSSES),
            anchors.margins >= -ROUNDING,
            losses["hucl"] - losses["hscl"],
            losses["hscl"] - losses["ucl"],
        ]
    )
    resampled = _resampled_means(values, n_bootstrap, random)
    tail = (1 - confidence_level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    ends = zip(values.mean(-1), low, high, strict=True)
    return TheoryEstimate(
        along="beta",
        points=betas,
        anchor_losses=losses,
        margins=anchors.margins,
        n_skipped=n_skipped,
        **{name: Interval(*end) for name, end in zip(MEASURES, ends, strict=True)},
    )


def _resampled_means(
    values: NDArray[np.float64], n_bootstrap: int, random: np.random.RandomState
) -> NDArray[np.float64]:
    """Return means over anchors drawn with replacement: (n_bootstrap, n_measures, n_betas).

    One resample at a time: drawn together, those of many anchors would fill the memory.
    """
    n_anchors = values.shape[-1]
    means = []
    for _ in range(n_bootstrap):
        drawn = random.randint(n_anchors, size=n_anchors)
        # Divided last: a share of 1 stays 1.
        means.append(values @ np.bincount(drawn, minlength=n_anchors) / n_anchors)
    return np.stack(means)
