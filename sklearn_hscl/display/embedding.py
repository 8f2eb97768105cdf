"""The embedding in the plane."""

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize
from sklearn.utils.multiclass import type_of_target

from sklearn_hscl.data.targets import class_codes
from sklearn_hscl.diagnostics.sample import sample_indices, sample_rows
from sklearn_hscl.display.labels import row_labels
from sklearn_hscl.metrics.validation import check_embedding
from sklearn_hscl.plotting.axes import BLUE, class_style, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def reduced(rows: NDArray[Any], reducer: Any) -> tuple[NDArray[Any], tuple[str, str]]:
    """Make points (n, 2) of rows, and name their axes.

    Parameters
    ----------
    rows : ndarray of shape (n, D)
        Unit rows.
    reducer : object with ``fit_transform`` or None
        Makes two columns; None: principal components, and two columns as they are.

    Returns
    -------
    points : ndarray of shape (n, 2)
    names : pair of str
    """
    if reducer is None and rows.shape[1] == 2:
        return rows, ("Component 1", "Component 2")
    if reducer is None:
        rows = rows if rows.shape[1] > 1 else np.pad(rows, ((0, 0), (0, 1)))
        with np.errstate(invalid="ignore"):  # shares of nothing, where all rows are equal
            pca = PCA(2).fit(rows)
        shares = np.nan_to_num(pca.explained_variance_ratio_)
        first, second = (
            f"Principal component {k} ({share:.0%})" for k, share in enumerate(shares, 1)
        )
        return pca.transform(rows), (first, second)
    if not hasattr(reducer, "fit_transform"):
        raise TypeError(
            f"reducer={reducer!r} has no fit_transform: pass an instance, such as "
            f"sklearn.manifold.TSNE()."
        )
    points = np.asarray(reducer.fit_transform(rows))
    if points.shape != (len(rows), 2):
        raise ValueError(
            f"reducer={reducer!r} makes an array of shape {points.shape} of {len(rows)} "
            f"rows: pass one of two components."
        )
    name = type(reducer).__name__
    return points, (f"{name} 1", f"{name} 2")


# Points that a picture can hold.
MAX_ROWS = 5000
# Classes that a legend can name; more are named at their place.
MAX_IN_LEGEND = 10
# Least extent of the axes of principal components of unit rows: so that rows in one place
# look like that, instead of being magnified.
HALF_WIDTH = 0.5


class EmbeddingDisplay:
    """Rows as points of a plane, coloured by class or by number.

    Up to ten classes are named in a legend, more at the median of their points. Colours
    are told apart by colour-blind readers; as there are seven, markers change as well.

    Parameters
    ----------
    points : ndarray of shape (n, 2)
        Where the rows lie.
    y : ndarray of shape (n,), default=None
        Their classes, or numbers with fractions.
    axis_names : pair of str, default=("", "")
        What the axes are.
    half_width : float, default=None
        Least extent of the axes from their middle; None lets the points decide.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
    points_ : list of matplotlib PathCollection
        One per class; one where there are no classes.
    labels_ : list of matplotlib Text
        Names of classes at their place. Those that would cover the name of a larger class
        are not visible.
    legend_ : matplotlib Legend or None
    colorbar_ : matplotlib Colorbar or None
        For numbers.

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
        points: NDArray[Any],
        y: NDArray[Any] | None = None,
        *,
        axis_names: tuple[str, str] = ("", ""),
        half_width: float | None = None,
    ) -> None:
        self.points = points
        self.y = y
        self.axis_names = axis_names
        self.half_width = half_width

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        reducer: Any = None,
        max_rows: int | None = MAX_ROWS,
        random_state: int | np.random.RandomState | None = 0,
        ax: "Axes | None" = None,
    ) -> Self:
        """Embed rows and plot them.

        Parameters
        ----------
        estimator : HSCLEmbedder or Pipeline
            Fitted.
        X : array-like
            Rows in the form that `fit` got.
        y : array-like of shape (n_samples,), default=None
            Their classes or numbers, for the colours.
        reducer, max_rows, random_state, ax
            As for :meth:`from_embedding`.

        Returns
        -------
        EmbeddingDisplay
        """
        drawn = sample_rows(estimator, X, max_rows=max_rows, random_state=random_state)
        y = None if y is None else row_labels(y, drawn.rows.shape[0])[drawn.indices]
        return cls.from_embedding(drawn.embedding, y, reducer=reducer, max_rows=None, ax=ax)

    @classmethod
    def from_embedding(
        cls,
        Z: ArrayLike,
        y: ArrayLike | None = None,
        *,
        reducer: Any = None,
        max_rows: int | None = MAX_ROWS,
        random_state: int | np.random.RandomState | None = 0,
        ax: "Axes | None" = None,
    ) -> Self:
        """Plot an embedding, of whatever origin.

        Rows are scaled to unit length first, as the loss compares directions.

        Parameters
        ----------
        Z : array-like of shape (n_samples, D)
            Embedding.
        y : array-like of shape (n_samples,), default=None
            Classes, or numbers with fractions.
        reducer : object with ``fit_transform``, default=None
            Makes two columns of D, such as ``TSNE()``; None: the first two principal
            components, and an embedding of two columns as it is.
        max_rows : int or None, default=5000
            How many rows to draw at most.
        random_state : int, RandomState instance or None, default=0
            For the draw.
        ax : matplotlib Axes, default=None
            Where to plot; None makes a figure.

        Returns
        -------
        EmbeddingDisplay

        Raises
        ------
        ValueError
            If the reducer gives other than two columns, or y holds several labels a row.
        TypeError
            If the reducer has no ``fit_transform``.
        """
        rows = check_embedding(Z, name="Z", min_rows=2)
        y = None if y is None else row_labels(y, len(rows))
        places = sample_indices(len(rows), max_rows, random_state)
        y = None if y is None else y[places]
        points, names = reduced(normalize(rows[places]), reducer)
        half_width = HALF_WIDTH if reducer is None else None
        return cls(points, y, axis_names=names, half_width=half_width).plot(ax)

    def plot(self, ax: "Axes | None" = None) -> Self:
        """Plot the points.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to plot; None makes a figure.

        Returns
        -------
        EmbeddingDisplay
        """
        ax = new_axes() if ax is None else ax
        self.ax_, self.figure_ = ax, ax.figure
        self.labels_: list[Any] = []
        self.legend_: Any = None
        self.colorbar_: Any = None
        self._widen()
        if self.y is None:
            self.points_ = [self._scatter(slice(None), color=BLUE)]
        elif self.y.dtype.kind == "f" and type_of_target(self.y) == "continuous":
            self.points_ = [self._scatter(slice(None), c=self.y, cmap="cividis")]
            self.colorbar_ = self.figure_.colorbar(self.points_[0], ax=ax)
        else:
            self._plot_classes()
        ax.set(xlabel=self.axis_names[0], ylabel=self.axis_names[1])
        return self

    def _widen(self) -> None:
        """Set limits, where the axes have a least extent."""
        if self.half_width is None:
            return
        low, high = self.points.min(0), self.points.max(0)
        middle, half = (low + high) / 2, np.maximum((high - low) / 2, self.half_width)
        low, high = middle - 1.05 * half, middle + 1.05 * half
        self.ax_.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))

    def _scatter(self, which: Any, **style: Any) -> Any:
        size = float(np.clip(20_000 / len(self.points), 4, 30))  # square points
        x, y = self.points[which].T
        return self.ax_.scatter(x, y, s=size, alpha=0.7, lw=0, **style)

    def _plot_classes(self) -> None:
        assert self.y is not None
        classes, codes = class_codes(self.y)
        self.points_ = []
        for k, label in enumerate(classes):
            color, marker = class_style(k)
            self.points_.append(
                self._scatter(codes == k, color=color, marker=marker, label=str(label))
            )
        if len(classes) <= MAX_IN_LEGEND:
            self.legend_ = self.ax_.legend(markerscale=2.5)
            return
        places = [np.median(self.points[codes == k], axis=0) for k in range(len(classes))]
        self.labels_ = [
            self._name(str(label), *place)
            for label, place in zip(classes, places, strict=True)
        ]
        hide_covered(self.labels_, np.argsort(-np.bincount(codes), kind="stable"))

    def _name(self, label: str, x: float, y: float) -> Any:
        from matplotlib.patheffects import withStroke

        name = self.ax_.text(x, y, label, ha="center", va="center", fontsize=8)
        name.set_path_effects([withStroke(linewidth=2, foreground="white")])
        return name


def hide_covered(texts: list[Any], order: NDArray[np.int64]) -> None:
    """Make texts invisible that would cover one that comes earlier in `order`."""
    shown: list[Any] = []
    for k in order:
        box = texts[k].get_window_extent()
        covers = any(box.overlaps(other) for other in shown)
        texts[k].set_visible(not covers)
        if not covers:
            shown.append(box)
