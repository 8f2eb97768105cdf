"""The paper's quantities: sampled rows, losses of anchors, means and intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sklearn_hscl.data.torch_dataset import array_of
from sklearn_hscl.losses.equation import anchor_losses, per_pair, tilted_mean
from sklearn_hscl.losses.pair_sets import PairWeights
from sklearn_hscl.losses.presets import PRESETS, LossOptions, check_options
from sklearn_hscl.metrics.geometry import float64_rows
from sklearn_hscl.metrics.knn.similarity_tiles import map_blocks
from sklearn_hscl.metrics.validation import Labelled


@dataclass(frozen=True)
class PairSets:
    """Positives of a block of anchors, and three kinds of negatives: (A, P) each."""

    everything: PairWeights
    """All rows but the anchor and its views: negatives of UCL and H-UCL."""
    different: PairWeights
    """Rows of other classes: negatives of SCL and H-SCL."""
    collisions: PairWeights
    """Rows of the anchor's class among everything."""


@dataclass(frozen=True)
class Draw:
    """Rows that stand for the population, and the anchors among them."""

    rows: Tensor  # (P, D), unit rows in float64
    codes: Tensor  # (P,), classes
    views: Tensor  # (P,), which row each is a view of
    anchors: Tensor  # (A,), places among the rows
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


def draw_pairs(
    data: Labelled,
    view_ids: ArrayLike | None,
    *,
    max_anchors: int | None,
    max_negatives: int | None,
    random: np.random.RandomState,
) -> Draw:
    """Draw rows, views of a row together, and anchors among them.

    Parameters
    ----------
    data : Labelled
        The embedding and its classes.
    view_ids : array-like of shape (n,), or None
        Which row each is a view of; None: each is its own, and positives are the rows of
        the class.
    max_anchors, max_negatives : int or None
        At most so many anchors, each compared with so many rows; None: all.
    random : RandomState
        For the draw.

    Returns
    -------
    Draw

    Raises
    ------
    ValueError
        If views of a row differ in class, or no row drawn can be an anchor.
    """
    groups = np.arange(len(data.codes)) if view_ids is None else _groups(view_ids, data)
    order = random.permutation(groups.max() + 1)
    limit = len(groups) if max_negatives is None else max_negatives + 1
    fits = np.cumsum(np.bincount(groups)[order]) <= limit
    places = np.flatnonzero(np.isin(groups, order[fits]))  # (P,)
    codes, views = data.codes[places], groups[places]
    usable = np.flatnonzero(_can_be_anchor(codes, views, by_view=view_ids is not None))
    if len(usable) == 0:
        raise ValueError(
            "No row drawn has a positive, another row of its class and a row of another "
            "class: pass more rows of each class (in view_ids, two views of each row), "
            "or raise max_negatives."
        )
    return Draw(
        rows=float64_rows(data.rows[places], normalize=True),
        codes=torch.from_numpy(codes),
        views=torch.from_numpy(views),
        anchors=torch.from_numpy(np.sort(random.permutation(usable)[:max_anchors])),
        positives_are_views=view_ids is not None,
        n_skipped=len(places) - len(usable),
    )


def _groups(view_ids: ArrayLike, data: Labelled) -> NDArray[np.int64]:
    """Give the rows of which there are views numbers from 0: (n,)."""
    values = array_of(view_ids)
    if np.shape(values) != data.codes.shape:
        raise ValueError(
            f"view_ids of shape {np.shape(values)} must name for each of the "
            f"{len(data.codes)} rows of X which row it is a view of."
        )
    _, first, groups = np.unique(values, return_index=True, return_inverse=True)
    mixed = np.flatnonzero(data.codes[first][groups] != data.codes)
    if len(mixed):
        raise ValueError(
            f"view_ids={np.asarray(values)[mixed[0]]!r} holds rows of several classes in "
            f"y: views of a row have its class."
        )
    return groups


def _can_be_anchor(
    codes: NDArray[np.int64], views: NDArray[np.int64], *, by_view: bool
) -> NDArray[np.bool_]:
    """Whether there are a positive, a collision and a row of another class: (P,)."""
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
    """What each anchor gives."""

    losses: dict[str, NDArray[np.float64]]
    """By the names in LOSSES, of shape (n_betas, A) each."""
    margins: NDArray[np.float64]
    """log E_Hcol - log E_H-SCL, of shape (n_betas, A)."""


def loss_options(
    name: str, betas: NDArray[np.float64], temperature: float, negative_mass: float
) -> LossOptions:
    """Return one of the four losses, with one beta per leading index.

    The negative mass is one constant for all four: with the number of negatives in its
    place, UCL would exceed SCL for having more of them.
    """
    if isinstance(negative_mass, str):
        raise ValueError(
            f"negative_mass={negative_mass!r} must be a number, the same for all four "
            f"losses, or they could not be compared."
        )
    options = replace(
        PRESETS[name](),
        negative_mass=negative_mass,
        beta=torch.from_numpy(betas),
        temperature=temperature,
    )
    check_options(options)
    return options


def measure_anchors(draw: Draw, options: dict[str, LossOptions]) -> AnchorValues:
    """Compute losses and margins of all anchors, block by block.

    Parameters
    ----------
    draw : Draw
        Anchors, and the rows that they are compared with.
    options : dict of LossOptions
        By the names in LOSSES.

    Returns
    -------
    AnchorValues
    """
    n_betas = torch.as_tensor(options["hscl"].beta).numel()
    height = max(1, _BLOCK_PAIRS // (n_betas * len(draw.rows)))

    def measure(block: slice) -> NDArray[np.float64]:
        return _measure_block(draw, draw.pairs(block), block, options, n_betas)

    blocks = map_blocks(measure, len(draw.anchors), height)
    *losses, margins = np.concatenate(blocks, axis=-1)  # (5, n_betas, A)
    return AnchorValues(dict(zip(LOSSES, losses, strict=True)), margins)


def _measure_block(
    draw: Draw,
    pairs: PairSets,
    block: slice,
    options: dict[str, LossOptions],
    n_betas: int,
) -> NDArray[np.float64]:
    """Return the four losses and the margins: (5, n_betas, A)."""
    anchors = draw.rows[draw.anchors[block]]  # (A, D)
    values = []
    for name in LOSSES:
        by_label = options[name].pairs == "label"
        negatives = pairs.different if by_label else pairs.everything
        values.append(anchor_losses(anchors, draw.rows, negatives, options[name]).loss)
    cosine = anchors @ draw.rows.mT  # (A, P)
    temperature = per_pair(options["hscl"].temperature, cosine)
    colliding, different = (
        tilted_mean(cosine, chosen.log_negative, temperature, options["hscl"]).log_mean
        for chosen in (pairs.collisions, pairs.different)
    )
    values.append(colliding - different)
    together = [value.expand(n_betas, len(anchors)) for value in values]
    return torch.stack(together).numpy()


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
