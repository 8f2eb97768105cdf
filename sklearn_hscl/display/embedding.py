"""Scatter plots of an embedding in two dimensions."""

from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize
from sklearn.utils.multiclass import type_of_target

from sklearn_hscl.data.targets import class_codes
from sklearn_hscl.diagnostics.sample import sample_indices, sample_rows
from sklearn_hscl.display.labels import labels_at
from sklearn_hscl.metrics.validation import Labels, Rows, Seed, check_embedding
from sklearn_hscl.plotting.axes import (
    BLUE,
    add_legend,
    class_style,
    new_axes,
    show_literally,
    shown_name,
)
from sklearn_hscl.runtime.global_setting import default_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.colorbar import Colorbar
    from matplotlib.legend import Legend
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox


class Reducer(Protocol):
    """A transformer to two columns, such as ``TSNE()``."""

    def fit_transform(self, X: Rows) -> ArrayLike:
        """Fit and return an array of shape (n, 2)."""


@default_settings()  # arrays of the reducer, too
def _reduce(rows: Rows, reducer: Reducer | None) -> tuple[Rows, tuple[str, str]]:
    """Reduce rows to points (n, 2), and name their axes.

    Parameters
    ----------
    rows : ndarray of shape (n, D)
        Unit rows.
    reducer : object with ``fit_transform`` or None
        Returns two columns. None uses principal components, and keeps two columns.

    Returns
    -------
    points : ndarray of shape (n, 2)
    names : pair of str
    """
    if reducer is None and rows.shape[1] == 2:
        return rows, ("Component 1", "Component 2")
    if reducer is None:
        rows = rows if rows.shape[1] > 1 else np.pad(rows, ((0, 0), (0, 1)))
        with np.errstate(invalid="ignore"):  # 0/0, if all rows are equal
            pca = PCA(2).fit(rows)
        fractions = np.nan_to_num(pca.explained_variance_ratio_)
        first, second = (
            f"Principal component {k} ({fraction:.0%})"
            for k, fraction in enumerate(fractions, 1)
        )
        return pca.transform(rows), (first, second)
    if not hasattr(reducer, "fit_transform"):
        raise TypeError(
            f"Expected reducer to have fit_transform, got {reducer!r}. Pass an instance, "
            f"such as sklearn.manifold.TSNE()."
        )
    points = np.asarray(reducer.fit_transform(rows))
    if points.shape != (len(rows), 2):
        raise ValueError(
            f"Expected reducer to return an array of shape ({len(rows)}, 2), got "
            f"{points.shape} from {reducer!r}. Set its n_components=2."
        )
    name = type(reducer).__name__
    return points, (f"{name} 1", f"{name} 2")


# Points that a figure can hold.
_MAX_ROWS = 5000
# Classes that a legend can name; more are named next to their points.
_MAX_IN_LEGEND = 10
# Least half width of the axes for principal components of unit rows: it keeps an embedding
# that has collapsed to one point from being magnified.
_MIN_HALF_WIDTH = 0.5


class EmbeddingDisplay:
    """Scatter plot of samples, coloured by class or by number.

    Up to ten classes are named in a legend, more at the median of their points.
    Colour-blind readers can distinguish the seven colours; markers change as well.

    Parameters
    ----------
    points : ndarray of shape (n, 2)
        Coordinates of the samples.
    y : ndarray of shape (n,), default=None
        Class labels, or numbers with fractions.
    axis_names : pair of str, default=("", "")
        Labels of the axes.
    half_width : float, default=None
        Least extent of the axes from their middle; None fits the axes to the points.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
    points_ : list of matplotlib PathCollection
        One per class; only one without classes.
    labels_ : list of matplotlib Text
        Class names next to their points. Those that would cover the name of a larger
        class are not visible.
    legend_ : matplotlib Legend or None
        Legend of up to ten classes.
    colorbar_ : matplotlib Colorbar or None
        Colour bar of numbers.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from sklearn.datasets import load_wine
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.display import EmbeddingDisplay
    >>> X, y = load_wine(return_X_y=True)
    >>> embedder = HSCLEmbedder(encoder="mlp", max_epochs=5, random_state=0).fit(X, y)
    >>> display = EmbeddingDisplay.from_estimator(embedder, X, y)
    >>> [len(points.get_offsets()) for points in display.points_]
    [59, 71, 48]
    """

    def __init__(
        self,
        points: Rows,
        y: Labels | None = None,
        *,
        axis_names: tuple[str, str] = ("", ""),
        half_width: float | None = None,
    ) -> None:
        self.points = points
        self.y = y
        self.axis_names = axis_names
        self.half_width = half_width

    @classmethod
    @default_settings(keeps_frames=True)
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        reducer: Reducer | None = None,
        max_rows: int | None = _MAX_ROWS,
        random_state: Seed = 0,
        ax: "Axes | None" = None,
    ) -> Self:
        """Embed samples and plot them.

        Parameters
        ----------
        estimator : HSCLEmbedder or Pipeline
            Fitted estimator.
        X : array-like
            Samples, in the form passed to `fit`.
        y : array-like of shape (n_samples,), default=None
            Class labels or numbers, for the colours.
        reducer, max_rows, random_state, ax
            As for :meth:`from_embedding`.

        Returns
        -------
        EmbeddingDisplay
        """
        drawn = sample_rows(estimator, X, max_rows=max_rows, random_state=random_state)
        labels = labels_at(y, drawn.rows.shape[0], drawn.indices)
        return cls.from_embedding(
            drawn.embedding, labels, reducer=reducer, max_rows=None, ax=ax
        )

    @classmethod
    @default_settings()
    def from_embedding(
        cls,
        Z: ArrayLike,
        y: ArrayLike | None = None,
        *,
        reducer: Reducer | None = None,
        max_rows: int | None = _MAX_ROWS,
        random_state: Seed = 0,
        ax: "Axes | None" = None,
    ) -> Self:
        """Plot any embedding.

        Rows are scaled to unit norm first, as the loss compares directions.

        Parameters
        ----------
        Z : array-like of shape (n_samples, D)
            Embedding.
        y : array-like of shape (n_samples,), default=None
            Class labels, or numbers with fractions.
        reducer : object with ``fit_transform``, default=None
            Reduces D columns to two, such as ``TSNE()``. None uses the first two
            principal components, and keeps an embedding of two columns.
        max_rows : int or None, default=5000
            Maximum number of samples to draw; None uses all.
        random_state : int, RandomState instance or None, default=0
            Seed of the draw.
        ax : matplotlib Axes, default=None
            Axes to plot into; None makes a figure.

        Returns
        -------
        EmbeddingDisplay

        Raises
        ------
        ValueError
            If the reducer does not return two columns, or the number of labels is not
            that of samples.
        TypeError
            If the reducer has no ``fit_transform``.
        """
        rows = check_embedding(Z, name="Z", min_rows=2)
        indices = sample_indices(len(rows), max_rows, random_state)
        labels = labels_at(y, len(rows), indices)
        points, names = _reduce(normalize(rows[indices]), reducer)
        half_width = _MIN_HALF_WIDTH if reducer is None else None
        return cls(points, labels, axis_names=names, half_width=half_width).plot(ax)

    def plot(self, ax: "Axes | None" = None) -> Self:
        """Plot the points.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot into; None makes a figure.

        Returns
        -------
        EmbeddingDisplay
        """
        ax = new_axes() if ax is None else ax
        self.ax_, self.figure_ = ax, ax.figure
        self.labels_: list[Text] = []
        self.legend_: Legend | None = None
        self.colorbar_: Colorbar | None = None
        self._widen()
        if self.y is None:
            self.points_ = [self._scatter(self.points, color=BLUE)]
        elif self.y.dtype.kind == "f" and type_of_target(self.y) == "continuous":
            self.points_ = [self._scatter(self.points, c=self.y, cmap="cividis")]
            self.colorbar_ = self.figure_.colorbar(self.points_[0], ax=ax)
        else:
            self._plot_classes(self.y)
        ax.set(xlabel=self.axis_names[0], ylabel=self.axis_names[1])
        return self

    def _widen(self) -> None:
        """Set the limits, if the axes have a least extent."""
        if self.half_width is None:
            return
        low, high = self.points.min(0), self.points.max(0)
        middle, half = (low + high) / 2, np.maximum((high - low) / 2, self.half_width)
        low, high = middle - 1.05 * half, middle + 1.05 * half
        self.ax_.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))

    def _scatter(self, points: Rows, **style: Any) -> "PathCollection":
        size = float(np.clip(20_000 / len(self.points), 4, 30))  # square points
        x, y = points.T
        return self.ax_.scatter(x, y, s=size, alpha=0.7, lw=0, **style)

    def _plot_classes(self, y: Labels) -> None:
        classes, codes = class_codes(y)
        points = [self.points[codes == k] for k in range(len(classes))]
        self.points_ = []
        for k, label in enumerate(classes):
            color, marker = class_style(k)
            self.points_.append(
                self._scatter(points[k], color=color, marker=marker, label=str(label))
            )
        if len(classes) <= _MAX_IN_LEGEND:
            names = [shown_name(label) for label in classes]
            self.legend_ = add_legend(self.ax_, self.points_, names, markerscale=2.5)
            return
        self.labels_ = [
            self._add_name(shown_name(label), *np.median(points[k], axis=0))
            for k, label in enumerate(classes)
        ]
        _hide_covered(self.labels_, np.argsort(-np.bincount(codes), kind="stable"))

    def _add_name(self, label: str, x: float, y: float) -> "Text":
        from matplotlib.patheffects import withStroke

        name = self.ax_.text(x, y, label, ha="center", va="center", fontsize=8)
        show_literally([name])
        name.set_path_effects([withStroke(linewidth=2, foreground="white")])
        return name


def _hide_covered(texts: "list[Text]", order: NDArray[np.int64]) -> None:
    """Hide texts that would cover one that comes earlier in `order`."""
    shown: list[Bbox] = []
    for k in order:
        box = texts[k].get_window_extent()
        covers = any(box.overlaps(other) for other in shown)
        texts[k].set_visible(not covers)
        if not covers:
            shown.append(box)
