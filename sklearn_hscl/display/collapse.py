"""Collapse as a figure: singular values, and cosines between classes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from sklearn_hscl.diagnostics.sample import sample_indices, sample_rows
from sklearn_hscl.display.labels import labels_at
from sklearn_hscl.metrics.geometry import centred_singular_values, class_means
from sklearn_hscl.metrics.validation import (
    Labels,
    Seed,
    check_embedding,
    check_labelled,
)
from sklearn_hscl.plotting.axes import (
    BLUE,
    GREY,
    VERMILION,
    new_axes_grid,
    shown_name,
)
from sklearn_hscl.runtime.global_setting import default_settings
from sklearn_hscl.runtime.normalize import l2_normalize

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from matplotlib.lines import Line2D

# Samples that are enough for the singular values.
_MAX_ROWS = 10_000
# Samples whose cosines are shown without classes.
_MAX_COMPARED = 500
# Classes that an axis can name.
_MAX_NAMED = 12
# Characters of a name that leave space for the figure.
_MAX_NAME = 24
# Standard deviation below which a dimension is unused; the axis ends there.
_MIN_STD = 1e-4


class CollapseDisplay:
    """Two panels: the dimensions in use, and the cosines between classes.

    The left panel shows the standard deviation of unit rows, and of class means, along
    each principal direction. Lines that fall off early show collapse to few dimensions,
    and lines at the bottom collapse to one point.

    The right panel shows the cosines of the class means. Under neural collapse all are
    -1 / (C - 1), while equal means have 1 (Jiang, Nguyen, Ishwar, Aeron, TMLR 2025).
    Without classes it is a histogram of cosines of samples.

    Parameters
    ----------
    singular_values : ndarray of shape (min(n - 1, D),)
        Singular values of the centred unit rows, divided by √n, in descending order.
    mean_singular_values : ndarray of shape (min(C - 1, D),), default=None
        Singular values of the centred class means, divided by √C.
    cosines : ndarray of shape (C, C) or (n_pairs,)
        Cosines of class means, or of pairs of samples.
    classes : ndarray of shape (C,), default=None
        Class labels.

    Attributes
    ----------
    axes_ : ndarray of 2 matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        Lines of the samples and, with classes, of the class means.
    image_ : matplotlib AxesImage or None
        Cosines of the class means.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from sklearn.datasets import load_wine
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.display import CollapseDisplay
    >>> X, y = load_wine(return_X_y=True)
    >>> embedder = HSCLEmbedder(encoder="mlp", max_epochs=5, random_state=0).fit(X, y)
    >>> CollapseDisplay.from_estimator(embedder, X, y).cosines.shape
    (3, 3)
    """

    def __init__(
        self,
        singular_values: NDArray[np.float64],
        mean_singular_values: NDArray[np.float64] | None,
        cosines: NDArray[np.float64],
        classes: Labels | None = None,
    ) -> None:
        self.singular_values = singular_values
        self.mean_singular_values = mean_singular_values
        self.cosines = cosines
        self.classes = classes

    @classmethod
    @default_settings(keeps_frames=True)
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        max_rows: int | None = _MAX_ROWS,
        random_state: Seed = 0,
        axes: Sequence["Axes"] | None = None,
    ) -> Self:
        """Embed samples and plot their dimensions and cosines.

        Parameters
        ----------
        estimator : HSCLEmbedder or Pipeline
            Fitted estimator.
        X : array-like
            Samples, in the form passed to `fit`.
        y : array-like of shape (n_samples,), default=None
            Class labels.
        max_rows, random_state, axes
            As for :meth:`from_embedding`.

        Returns
        -------
        CollapseDisplay
        """
        drawn = sample_rows(estimator, X, max_rows=max_rows, random_state=random_state)
        labels = labels_at(y, drawn.rows.shape[0], drawn.indices)
        return cls.from_embedding(drawn.embedding, labels, max_rows=None, axes=axes)

    @classmethod
    @default_settings()
    def from_embedding(
        cls,
        Z: ArrayLike,
        y: ArrayLike | None = None,
        *,
        max_rows: int | None = _MAX_ROWS,
        random_state: Seed = 0,
        axes: Sequence["Axes"] | None = None,
    ) -> Self:
        """Plot the dimensions and cosines of any embedding.

        Parameters
        ----------
        Z : array-like of shape (n_samples, D)
            Embedding. Norms are ignored.
        y : array-like of shape (n_samples,), default=None
            Class labels, of at least two classes.
        max_rows : int or None, default=10,000
            Maximum number of samples to draw; None uses all.
        random_state : int, RandomState instance or None, default=0
            Seed of the draw.
        axes : sequence of 2 matplotlib Axes, default=None
            Axes to plot into; None makes a figure.

        Returns
        -------
        CollapseDisplay

        Raises
        ------
        ValueError
            If there are NaN or infinities, the number of labels is not that of samples,
            or the drawn samples are of one class.
        """
        rows = check_embedding(Z, name="Z", min_rows=2)
        indices = sample_indices(len(rows), max_rows, random_state)
        labels = labels_at(y, len(rows), indices)
        rows = rows[indices]
        unit = l2_normalize(torch.from_numpy(rows).double())
        values = _principal_stds(unit)
        if labels is None:
            compared = unit[:: -(-len(unit) // _MAX_COMPARED)]
            return cls(values, None, _cosines_of_pairs(compared)).plot(axes)
        data = check_labelled(rows, labels)
        means = class_means(data)
        directions = l2_normalize(means)
        cosines = (directions @ directions.T).numpy()
        return cls(values, _principal_stds(means), cosines, data.classes).plot(axes)

    def plot(self, axes: Sequence["Axes"] | None = None) -> Self:
        """Plot both panels.

        Parameters
        ----------
        axes : sequence of 2 matplotlib Axes, default=None
            Axes to plot into; None makes a figure.

        Returns
        -------
        CollapseDisplay
        """
        axes = new_axes_grid(1, 2, figsize=(9, 4)) if axes is None else axes
        self.axes_ = np.asarray(axes)
        left, right = self.axes_
        self.figure_ = left.figure
        self.lines_ = [_plot_values(left, self.singular_values, "Samples", BLUE, "o")]
        if self.mean_singular_values is not None:
            values = self.mean_singular_values
            self.lines_.append(_plot_values(left, values, "Class means", VERMILION, "s"))
        left.set(xlabel="Dimension", ylabel="Standard deviation", yscale="log")
        left.set_ylim(_MIN_STD * 0.8, 1.2)  # the same in all figures
        left.legend()
        self.image_: AxesImage | None = None
        if self.classes is None:
            self._plot_cosines_of_samples(right)
        else:
            self._plot_cosines_of_means(right, self.classes)
        return self

    def _plot_cosines_of_samples(self, ax: "Axes") -> None:
        edges = np.linspace(-1, 1, 51).tolist()
        ax.hist(self.cosines, edges, color=BLUE, density=True)
        mean = float(self.cosines.mean())
        ax.axvline(mean, color=GREY, ls="--", label=f"Mean {mean:.2f}")
        ax.set(xlabel="Cosine of two samples", ylabel="Density", xlim=(-1, 1))
        ax.legend()

    def _plot_cosines_of_means(self, ax: "Axes", classes: Labels) -> None:
        n = len(classes)
        self.image_ = ax.imshow(self.cosines, cmap="PuOr_r", vmin=-1, vmax=1)
        self.figure_.colorbar(self.image_, ax=ax, label="Cosine")
        mean = (self.cosines.sum() - np.trace(self.cosines)) / (n * (n - 1))
        ax.set_title(f"Class means: cosine {mean:.2f}, ideal {-1 / (n - 1):.2f}")
        ax.set(xlabel="Class", ylabel="Class")
        if n > _MAX_NAMED:
            return
        names = [shown_name(label, _MAX_NAME) for label in classes]
        ax.set_yticks(range(n), names, parse_math=False)
        too_long = sum(map(len, names)) > 30
        ax.set_xticks(range(n), names, rotation=90 if too_long else 0, parse_math=False)


def _plot_values(
    ax: "Axes", values: NDArray[np.float64], label: str, color: str, marker: str
) -> "Line2D":
    dimensions = np.arange(1, len(values) + 1)
    visible = np.maximum(values, _MIN_STD)
    (line,) = ax.plot(dimensions, visible, color=color, marker=marker, ms=4, label=label)
    return line


def _principal_stds(rows: torch.Tensor) -> NDArray[np.float64]:
    """Return the standard deviations along principal directions, in descending order."""
    return (centred_singular_values(rows) / len(rows) ** 0.5).numpy()


def _cosines_of_pairs(unit: torch.Tensor) -> NDArray[np.float64]:
    above = torch.ones(len(unit), len(unit), dtype=torch.bool).triu(1)
    return (unit @ unit.T)[above].numpy()
