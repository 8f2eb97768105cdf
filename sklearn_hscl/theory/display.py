"""The four losses and Assumption 1 as a figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from sklearn_hscl.plotting.axes import BLUE, GREEN, VERMILION, new_axes_grid
from sklearn_hscl.theory.estimate import Interval, TheoryEstimate
from sklearn_hscl.theory.verification import (
    BETAS,
    VerificationSettings,
    verify_embedding,
    verify_estimator,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.lines import Line2D


class _Style(TypedDict, total=False):
    color: str
    linestyle: str
    marker: str
    label: str


class _Settings(VerificationSettings, total=False):
    temperature: float


# The color shows whether labels choose the negatives; line and marker, whether they are
# hardened.
_STYLES: dict[str, _Style] = {
    "hucl": {"label": "H-UCL", "color": VERMILION, "linestyle": "-", "marker": "o"},
    "hscl": {"label": "H-SCL", "color": BLUE, "linestyle": "-", "marker": "s"},
    "ucl": {"label": "UCL", "color": VERMILION, "linestyle": "--", "marker": "^"},
    "scl": {"label": "SCL", "color": BLUE, "linestyle": "--", "marker": "v"},
}


class TheoryDisplay:
    """The four losses above the fraction of anchors that satisfy Assumption 1.

    Bands are the bootstrap intervals. The inequality of the paper holds at points at which
    the H-SCL line is not above the H-UCL line.

    Parameters
    ----------
    estimate : TheoryEstimate
        As returned by :func:`verify_embedding`, :func:`verify_estimator` or
        :meth:`TheoryMonitor.along_epochs`.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : ndarray of 2 matplotlib Axes
        The losses, the fraction.
    lines_ : dict of matplotlib Line2D
        By ``"ucl"``, ``"scl"``, ``"hucl"``, ``"hscl"`` and ``"assumption"``.
    bands_ : dict of matplotlib PolyCollection
        Their intervals, by the same names.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.preprocessing import scale
    >>> from sklearn_hscl.theory import TheoryDisplay
    >>> X, y = load_wine(return_X_y=True)
    >>> display = TheoryDisplay.from_embedding(scale(X), y)
    >>> [text.get_text() for text in display.axes_[0].get_legend().get_texts()]
    ['H-UCL', 'H-SCL', 'UCL', 'SCL']
    """

    def __init__(self, estimate: TheoryEstimate) -> None:
        self.estimate = estimate

    @classmethod
    def from_embedding(
        cls,
        X: ArrayLike,
        y: ArrayLike,
        betas: Sequence[float] = BETAS,
        *,
        axes: Sequence["Axes"] | None = None,
        **settings: Unpack[_Settings],
    ) -> Self:
        """Estimate along beta and plot.

        Parameters
        ----------
        X, y, betas, **settings
            As for :func:`verify_embedding`.
        axes : sequence of 2 matplotlib Axes, default=None
            Axes to plot in; None makes a figure.

        Returns
        -------
        TheoryDisplay
        """
        return cls(verify_embedding(X, y, betas, **settings)).plot(axes)

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike,
        y: ArrayLike,
        betas: Sequence[float] = BETAS,
        *,
        axes: Sequence["Axes"] | None = None,
        **settings: Unpack[_Settings],
    ) -> Self:
        """Embed samples, estimate along beta and plot.

        Parameters
        ----------
        estimator, X, y, betas, **settings
            As for :func:`verify_estimator`.
        axes : sequence of 2 matplotlib Axes, default=None
            Axes to plot in; None makes a figure.

        Returns
        -------
        TheoryDisplay
        """
        return cls(verify_estimator(estimator, X, y, betas, **settings)).plot(axes)

    def plot(self, axes: Sequence["Axes"] | None = None) -> Self:
        """Plot the estimate.

        Parameters
        ----------
        axes : sequence of 2 matplotlib Axes, default=None
            Axes to plot in; None makes a figure.

        Returns
        -------
        TheoryDisplay
        """
        if axes is None:
            axes = new_axes_grid(2, sharex=True, height_ratios=(2, 1), figsize=(6, 6))
        losses, fraction = self.axes_ = np.asarray(axes)
        self.figure_ = losses.figure
        self.lines_: dict[str, Line2D] = {}
        self.bands_: dict[str, PolyCollection] = {}
        for name, style in _STYLES.items():
            self._draw(losses, name, getattr(self.estimate, name), **style)
        assumption = self.estimate.assumption
        self._draw(fraction, "assumption", assumption, color=GREEN, marker="o")
        losses.set_ylabel("Loss")
        losses.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False)
        fraction.set_ylim(-0.03, 1.03)
        fraction.set_ylabel("Anchors that meet\nAssumption 1")
        fraction.yaxis.set_major_formatter("{x:.0%}")
        self._label_points(fraction)
        return self

    def _draw(
        self, ax: "Axes", name: str, estimate: Interval, **style: Unpack[_Style]
    ) -> None:
        """Plot a line and the band of its interval."""
        positions = self._positions()
        (line,) = ax.plot(positions, estimate.value, markersize=5, **style)
        color = style["color"]
        band = ax.fill_between(
            positions, estimate.low, estimate.high, color=color, alpha=0.2, lw=0
        )
        self.lines_[name], self.bands_[name] = line, band

    def _positions(self) -> NDArray[np.generic]:
        """Return positions of the points; betas, seldom linear, are at equal distances."""
        points = self.estimate.points
        return np.arange(len(points)) if self.estimate.along == "beta" else points

    def _label_points(self, ax: "Axes") -> None:
        if self.estimate.along == "beta":
            labels = [f"{beta:g}" for beta in self.estimate.points]
            ax.set_xticks(self._positions(), labels)
            ax.set_xlabel("Strength of the hardening, beta")
        else:
            ax.locator_params(axis="x", integer=True)
            ax.set_xlabel("Epoch")
