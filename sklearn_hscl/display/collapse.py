"""Collapse as a figure: singular values, and where the classes lie to each other."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from sklearn_hscl.diagnostics.sample import sample_indices, sample_rows
from sklearn_hscl.display.labels import row_labels
from sklearn_hscl.metrics.geometry import centred_singular_values, class_means
from sklearn_hscl.metrics.validation import check_embedding, check_labelled
from sklearn_hscl.plotting.axes import BLUE, GREY, VERMILION, new_axes
from sklearn_hscl.runtime.normalize import l2_normalize

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Rows that are enough for the singular values.
MAX_ROWS = 10_000
# Rows whose cosines are shown where there are no classes.
_N_COMPARED = 500
# Classes that an axis can name.
MAX_NAMED = 12
# Spread below which a dimension is not used; the axis ends there.
_SMALLEST = 1e-4


class CollapseDisplay:
    """Two panels: which dimensions are used, and how the classes lie to each other.

    On the left, singular values of the unit rows, and of the class means: their spread
    (root mean square, around the centre) along each principal direction. Lines that fall
    off early have collapsed to few dimensions, lines at the bottom into one place. On the
    right, the cosines of the class means; under neural collapse all are -1 / (C - 1), while
    means in one place have 1 (Jiang, Nguyen, Ishwar, Aeron, TMLR 2025). Without classes the
    right panel is a histogram of cosines of rows.

    Parameters
    ----------
    singular_values : ndarray of shape (min(n - 1, D),)
        Of the centred unit rows, divided by √n, in descending order.
    mean_singular_values : ndarray of shape (min(C - 1, D),), default=None
        Of the centred class means, divided by √C.
    cosines : ndarray of shape (C, C) or (n_pairs,)
        Of class means, or of pairs of rows.
    classes : ndarray of shape (C,), default=None
        Class labels.

    Attributes
    ----------
    axes_ : ndarray of 2 matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        Rows and, with classes, class means.
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
        classes: NDArray[Any] | None = None,
    ) -> None:
        self.singular_values = singular_values
        self.mean_singular_values = mean_singular_values
        self.cosines = cosines
        self.classes = classes

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        max_rows: int | None = MAX_ROWS,
        random_state: int | np.random.RandomState | None = 0,
        axes: Sequence["Axes"] | None = None,
    ) -> Self:
        """Embed rows and plot how they lie.

        Parameters
        ----------
        estimator : HSCLEmbedder or Pipeline
            Fitted.
        X : array-like
            Rows in the form that `fit` got.
        y : array-like of shape (n_samples,), default=None
            Their classes.
        max_rows, random_state, axes
            As for :meth:`from_embedding`.

        Returns
        -------
        CollapseDisplay
        """
        drawn = sample_rows(estimator, X, max_rows=max_rows, random_state=random_state)
        y = None if y is None else row_labels(y, drawn.rows.shape[0])[drawn.indices]
        return cls.from_embedding(drawn.embedding, y, max_rows=None, axes=axes)

    @classmethod
    def from_embedding(
        cls,
        Z: ArrayLike,
        y: ArrayLike | None = None,
        *,
        max_rows: int | None = MAX_ROWS,
        random_state: int | np.random.RandomState | None = 0,
        axes: Sequence["Axes"] | None = None,
    ) -> Self:
        """Plot how the rows of an embedding lie, of whatever origin.

        Parameters
        ----------
        Z : array-like of shape (n_samples, D)
            Embedding; lengths of rows play no part.
        y : array-like of shape (n_samples,), default=None
            Classes, two at least.
        max_rows : int or None, default=10,000
            How many rows to draw at most.
        random_state : int, RandomState instance or None, default=0
            For the draw.
        axes : sequence of 2 matplotlib Axes, default=None
            Where to plot; None makes a figure.

        Returns
        -------
        CollapseDisplay

        Raises
        ------
        ValueError
            If there are NaN or infinities, y has not one label for each row, or the rows
            drawn are of one class only.
        """
        rows = check_embedding(Z, name="Z", min_rows=2)
        y = None if y is None else row_labels(y, len(rows))
        places = sample_indices(len(rows), max_rows, random_state)
        rows = rows[places]
        unit = l2_normalize(torch.from_numpy(rows).double())
        values = _spread(unit)
        if y is None:
            some = unit[:: -(-len(unit) // _N_COMPARED)]
            return cls(values, None, _cosines_of_pairs(some)).plot(axes)
        data = check_labelled(rows, y[places])
        means = class_means(data)
        directions = l2_normalize(means)
        cosines = (directions @ directions.T).numpy()
        return cls(values, _spread(means), cosines, data.classes).plot(axes)

    def plot(self, axes: Sequence["Axes"] | None = None) -> Self:
        """Plot both panels.

        Parameters
        ----------
        axes : sequence of 2 matplotlib Axes, default=None
            Where to plot; None makes a figure.

        Returns
        -------
        CollapseDisplay
        """
        axes = new_axes(1, 2, figsize=(9, 4)) if axes is None else axes
        self.axes_ = np.asarray(axes)
        left, right = self.axes_
        self.figure_ = left.figure
        self.lines_ = [_plot_values(left, self.singular_values, "Rows", BLUE, "o")]
        if self.mean_singular_values is not None:
            values = self.mean_singular_values
            self.lines_.append(_plot_values(left, values, "Class means", VERMILION, "s"))
        left.set(xlabel="Dimension", ylabel="Spread of unit rows", yscale="log")
        left.set_ylim(_SMALLEST * 0.8, 1.2)  # the same in all figures
        left.legend()
        self.image_: Any = None
        if self.classes is None:
            self._plot_cosines_of_rows(right)
        else:
            self._plot_cosines_of_means(right)
        return self

    def _plot_cosines_of_rows(self, ax: "Axes") -> None:
        edges = np.linspace(-1, 1, 51).tolist()
        ax.hist(self.cosines, edges, color=BLUE, density=True)
        mean = float(self.cosines.mean())
        ax.axvline(mean, color=GREY, ls="--", label=f"Mean {mean:.2f}")
        ax.set(xlabel="Cosine of two rows", ylabel="Density", xlim=(-1, 1))
        ax.legend()

    def _plot_cosines_of_means(self, ax: "Axes") -> None:
        assert self.classes is not None
        n = len(self.classes)
        self.image_ = ax.imshow(self.cosines, cmap="PuOr_r", vmin=-1, vmax=1)
        self.figure_.colorbar(self.image_, ax=ax, label="Cosine")
        mean = (self.cosines.sum() - np.trace(self.cosines)) / (n * (n - 1))
        ax.set_title(f"Class means: cosine {mean:.2f}, ideal {-1 / (n - 1):.2f}")
        ax.set(xlabel="Class", ylabel="Class")
        if n > MAX_NAMED:
            return
        names = [str(label) for label in self.classes]
        ax.set_yticks(range(n), names)
        too_long = sum(map(len, names)) > 30
        ax.set_xticks(range(n), names, rotation=90 if too_long else 0)


def _plot_values(
    ax: "Axes", values: NDArray[np.float64], label: str, color: str, marker: str
) -> Any:
    place = np.arange(1, len(values) + 1)
    visible = np.maximum(values, _SMALLEST)
    (line,) = ax.plot(place, visible, color=color, marker=marker, ms=4, label=label)
    return line


def _spread(rows: torch.Tensor) -> NDArray[np.float64]:
    return (centred_singular_values(rows) / len(rows) ** 0.5).numpy()


def _cosines_of_pairs(unit: torch.Tensor) -> NDArray[np.float64]:
    above = torch.ones(len(unit), len(unit), dtype=torch.bool).triu(1)
    return (unit @ unit.T)[above].numpy()
