"""Internal. The paper's quantities: samples, losses of anchors, means, intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sklearn_hscl.data.missing import array_of
from sklearn_hscl.losses.equation import anchor_losses, per_pair, tilted_mean
from sklearn_hscl.losses.pair_sets import PairWeights
from sklearn_hscl.losses.presets import PRESETS, LossOptions, check_options
from sklearn_hscl.metrics.geometry import float64_rows
from sklearn_hscl.metrics.validation import Labelled
from sklearn_hscl.runtime.threads import map_blocks


@dataclass(frozen=True)
class PairSets:
    """Positives of a block of anchors, and three types of negatives: (A, P) each."""

    everything: PairWeights
    """All samples but the anchor and its views: negatives of UCL and H-UCL."""
    different: PairWeights
    """Samples of other classes: negatives of SCL and H-SCL."""
    collisions: PairWeights
    """Samples of the anchor's class, but not its views."""


@dataclass(frozen=True)
class PairSample:
    """Rows drawn from the population, and the anchors among them."""

    rows: Tensor  # (P, D), unit rows in float64
    codes: Tensor  # (P,), classes
    views: Tensor  # (P,), index of the sample that each is a view of
    anchors: Tensor  # (A,), indices into the rows
    positives_are_views: bool
    n_skipped: int

    def pairs(self, block: slice) -> PairSets:
        """Return the pairs of a block of anchors with all rows."""
        anchors = self.anchors[block]
        same_class = self.codes[anchors, None] == self.codes  # (A, P)
        same_row = self.views[anchors, None] == self.views
        itself = anchors[:, None] == torch.arange(len(self.rows))
        positive = (same_row if self.positives_are_views else same_class) & ~itself
        return PairSets(
            everything=_pairs(positive, ~same_row),
            different=_pairs(positive, ~same_class),
            collisions=_pairs(positive, same_class & ~same_row),
        )


def sample_pairs(
    data: Labelled,
    view_ids: ArrayLike | None,
    *,
    max_anchors: int | None,
    max_negatives: int | None,
    random: np.random.RandomState,
) -> PairSample:
    """Draw rows, views of a row together, and anchors among them.

    Parameters
    ----------
    data : Labelled
        The embedding and its classes.
    view_ids : array-like of shape (n,), or None
        Index of the sample that each row is a view of. None: each row is a sample, and
        positives are the rows of its class.
    max_anchors, max_negatives : int or None
        Maximum number of anchors, and of rows to compare each with; None: all.
    random : RandomState
        For the draw.

    Returns
    -------
    PairSample

    Raises
    ------
    ValueError
        If views of a row differ in class, or no row drawn can be an anchor.
    """
    groups = np.arange(len(data.codes)) if view_ids is None else _groups(view_ids, data)
    order = random.permutation(groups.max() + 1)
    limit = len(groups) if max_negatives is None else max_negatives + 1
    fits = np.cumsum(np.bincount(groups)[order]) <= limit
    indices = np.flatnonzero(np.isin(groups, order[fits]))  # (P,)
    codes, views = data.codes[indices], groups[indices]
    usable = np.flatnonzero(_can_be_anchor(codes, views, by_view=view_ids is not None))
    if len(usable) == 0:
        raise ValueError(
            "No row drawn has a positive, another row of its class and a row of another "
            "class. Pass more rows of each class (in view_ids, two views of each row), "
            "or raise max_negatives."
        )
    return PairSample(
        rows=float64_rows(data.rows[indices], normalize=True),
        codes=torch.from_numpy(codes),
        views=torch.from_numpy(views),
        anchors=torch.from_numpy(np.sort(random.permutation(usable)[:max_anchors])),
        positives_are_views=view_ids is not None,
        n_skipped=len(indices) - len(usable),
    )


def _groups(view_ids: ArrayLike, data: Labelled) -> NDArray[np.int64]:
    """Encode the ids of viewed samples as 0, 1, ...: (n,)."""
    values = array_of(view_ids)
    if np.shape(values) != data.codes.shape:
        raise ValueError(
            f"view_ids of shape {np.shape(values)} must have one entry for each of the "
            f"{len(data.codes)} rows of X."
        )
    _, first, groups = np.unique(values, return_index=True, return_inverse=True)
    mixed = np.flatnonzero(data.codes[first][groups] != data.codes)
    if len(mixed):
        raise ValueError(
            f"view_ids={np.asarray(values)[mixed[0]]!r} marks rows of several classes in "
            f"y. Give all views of a sample its class."
        )
    return groups


def _can_be_anchor(
    codes: NDArray[np.int64], views: NDArray[np.int64], *, by_view: bool
) -> NDArray[np.bool_]:
    """Return which rows have a positive, a collision and a row of another class: (P,)."""
    n_class, n_views = np.bincount(codes)[codes], np.bincount(views)[views]
    usable = (n_class > n_views) & (n_class < len(codes))
    return usable & (n_views > 1) if by_view else usable


def _pairs(positive: Tensor, negative: Tensor) -> PairWeights:
    absent = torch.zeros(negative.shape, dtype=torch.float64)
    return PairWeights(positive.double(), absent.masked_fill(~negative, -torch.inf))


LOSSES = ("ucl", "scl", "hucl", "hscl")
# Pairs, times betas, in a block of anchors: 2 MB for each of the equation's temporaries.
_BLOCK_PAIRS = 1 << 18


class AnchorValues(NamedTuple):
    """Losses and margins of each anchor."""

    losses: dict[str, NDArray[np.float64]]
    """By the names in LOSSES, of shape (n_betas, A) each."""
    margins: NDArray[np.float64]
    """log E_Hcol - log E_H-SCL, of shape (n_betas, A)."""


def loss_options(
    name: str, betas: NDArray[np.float64], temperature: float, negative_mass: float
) -> LossOptions:
    """Return one of the four losses, with one beta per leading index.

    The negative mass is one constant for all four. With the number of negatives as the
    mass, UCL would exceed SCL merely because it has more of them.
    """
    if isinstance(negative_mass, str):
        raise ValueError(
            f"negative_mass={negative_mass!r} must be a number, because the four losses "
            f"are only comparable with the same mass."
        )
    options = replace(
        PRESETS[name](),
        negative_mass=negative_mass,
        beta=torch.from_numpy(betas),
        temperature=temperature,
    )
    check_options(options)
    return options


def measure_anchors(sample: PairSample, options: dict[str, LossOptions]) -> AnchorValues:
    """Compute losses and margins of all anchors, block by block.

    Parameters
    ----------
    sample : PairSample
        Anchors, and the rows that they are compared with.
    options : dict of LossOptions
        By the names in LOSSES.

    Returns
    -------
    AnchorValues
    """
    n_betas = torch.as_tensor(options["hscl"].beta).numel()
    height = max(1, _BLOCK_PAIRS // (n_betas * len(sample.rows)))

    def measure(block: slice) -> NDArray[np.float64]:
        return _measure_block(sample, block, options, n_betas)

    blocks = map_blocks(measure, len(sample.anchors), height)
    *losses, margins = np.concatenate(blocks, axis=-1)  # (5, n_betas, A)
    return AnchorValues(dict(zip(LOSSES, losses, strict=True)), margins)


def _measure_block(
    sample: PairSample, block: slice, options: dict[str, LossOptions], n_betas: int
) -> NDArray[np.float64]:
    """Return the four losses and the margins: (5, n_betas, A)."""
    rows, pairs = sample.rows, sample.pairs(block)
    anchors = rows[sample.anchors[block]]  # (A, D)
    values = []
    for name in LOSSES:
        by_label = options[name].pairs == "label"
        negatives = pairs.different if by_label else pairs.everything
        values.append(anchor_losses(anchors, rows, negatives, options[name]).loss)
    cosine = anchors @ rows.mT  # (A, P)
    temperature = per_pair(options["hscl"].temperature, cosine)
    colliding, different = (
        tilted_mean(cosine, chosen.log_negative, temperature, options["hscl"]).log_mean
        for chosen in (pairs.collisions, pairs.different)
    )
    values.append(colliding - different)
    together = [value.expand(n_betas, len(anchors)) for value in values]
    return torch.stack(together).numpy()


# Margins whose sign is within the rounding error count as met.
_MIN_MARGIN = 1e-12
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
        Meaning of the points.
    points : ndarray of shape (n_points,)
        Strengths of the hardening, or epochs counted from 1.
    ucl, scl, hucl, hscl : Interval
        The losses, with the same positives and the same negative mass.
    assumption : Interval
        Fraction of anchors that satisfy Assumption 1.
    gap : Interval
        L_H-UCL - L_H-SCL: the inequality of Lemma 1 holds if it is at least 0.
    excess : Interval
        L_H-SCL - L_UCL: if it is above 0, UCL is a lower bound of H-SCL, not an upper
        one, and does not limit how large H-SCL is.
    anchor_losses : dict of ndarray of shape (n_points, n_anchors)
        The losses of each anchor, by the names ``"ucl"``, ``"scl"``, ``"hucl"`` and
        ``"hscl"``.
    margins : ndarray of shape (n_points, n_anchors)
        log E_Hcol - log E_H-SCL of each anchor, at least 0 if it satisfies
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
        """Whether L_H-SCL <= L_H-UCL for these anchors: (n_points,)."""
        return self.gap.value >= -_MIN_MARGIN

    @classmethod
    def along_epochs(
        cls, estimates: Sequence[Self], epochs: Sequence[int], index: int
    ) -> Self:
        """Join the estimates of several epochs at one beta.

        Parameters
        ----------
        estimates : sequence of TheoryEstimate
            Estimates of the same rows, one for each epoch, along beta.
        epochs : sequence of int
            The epochs, counted from 1.
        index : int
            Index of the beta.

        Returns
        -------
        TheoryEstimate
        """
        first = estimates[0]
        intervals: dict[str, Interval] = {}
        for name in MEASURES:
            ends = [np.array(getattr(estimate, name))[:, index] for estimate in estimates]
            intervals[name] = Interval(*np.stack(ends, axis=1))  # 3 x (n_epochs,)
        losses = {
            name: np.stack([estimate.anchor_losses[name][index] for estimate in estimates])
            for name in first.anchor_losses
        }
        return cls(
            along="epoch",
            points=np.array(epochs, dtype=np.float64),
            anchor_losses=losses,
            margins=np.stack([estimate.margins[index] for estimate in estimates]),
            n_skipped=first.n_skipped,
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
        Strengths of the hardening.
    anchors : AnchorValues
        Losses and margins of each anchor.
    n_skipped : int
        Rows that could not be anchors.
    n_bootstrap : int
        Resamples of the anchors.
    confidence_level : float
        Fraction of the resamples inside of the intervals.
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
            anchors.margins >= -_MIN_MARGIN,
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

    Resamples are drawn one at a time to limit memory.
    """
    n_anchors = values.shape[-1]
    means = []
    for _ in range(n_bootstrap):
        drawn = random.randint(n_anchors, size=n_anchors)
        # Divided last: a fraction of 1 stays exactly 1.
        means.append(values @ np.bincount(drawn, minlength=n_anchors) / n_anchors)
    return np.stack(means)
