"""The nearest neighbours of some samples, as images or as a table."""

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from torch.utils.data import Dataset

from sklearn_hscl._sklearn_compat import _safe_indexing
from sklearn_hscl.data.missing import array_of
from sklearn_hscl.data.out_of_core import take_rows
from sklearn_hscl.diagnostics.sample import SampledRows, sample_rows
from sklearn_hscl.display.labels import labels_at
from sklearn_hscl.metrics.knn import nearest_rows
from sklearn_hscl.metrics.validation import Labels, Rows, Seed
from sklearn_hscl.plotting.axes import VERMILION, new_axes, show_literally, shown_name
from sklearn_hscl.runtime.global_setting import default_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from matplotlib.patches import Rectangle
    from matplotlib.table import Table

Indices = NDArray[np.int64]
Texts = NDArray[np.object_]

# Samples that are enough to search.
_MAX_ROWS = 10_000
_MAX_CELL_LENGTH = 14


class NeighborsDisplay:
    """Some samples, each with its nearest neighbours by cosine.

    Images are shown side by side, rows of a table as lines. With labels, neighbours of
    another class have a dashed vermilion frame, or a cross in the table.

    Parameters
    ----------
    places : ndarray of shape (n_queries, 1 + n_neighbors)
        Indices in X: each query, then its neighbours, the nearest first.
    cosines : ndarray of shape (n_queries, n_neighbors)
        Cosines of the neighbours with their query.
    images : ndarray of shape (n_queries, 1 + n_neighbors, H, W) or (..., H, W, C)
        Images of these samples; None for tables.
    cells : ndarray of str, shape (n_queries, 1 + n_neighbors, n_columns)
        Values of these samples; None for images.
    columns : list of str
        Names of these columns.
    labels : ndarray of shape (n_queries, 1 + n_neighbors), default=None
        Class labels of these samples.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
    image_ : matplotlib AxesImage or None
        All images as one.
    frames_ : list of matplotlib Rectangle
        Frames of the images of neighbours of another class.
    table_ : matplotlib Table or None
        Table of the samples.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.display import NeighborsDisplay
    >>> digits = load_digits()
    >>> embedder = HSCLEmbedder(max_epochs=2, random_state=0)
    >>> embedder = embedder.fit(digits.images, digits.target)
    >>> display = NeighborsDisplay.from_estimator(
    ...     embedder, digits.images, digits.target, queries=[0, 1], n_neighbors=4
    ... )
    >>> display.places.shape
    (2, 5)
    """

    def __init__(
        self,
        places: Indices,
        cosines: NDArray[np.float64],
        *,
        images: Rows | None = None,
        cells: Texts | None = None,
        columns: Sequence[str] = (),
        labels: Labels | None = None,
    ) -> None:
        self.places = places
        self.cosines = cosines
        self.images = images
        self.cells = cells
        self.columns = columns
        self.labels = labels

    @classmethod
    @default_settings(keeps_frames=True)
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        queries: int | ArrayLike = 5,
        n_neighbors: int = 5,
        max_columns: int = 6,
        max_rows: int | None = _MAX_ROWS,
        random_state: Seed = 0,
        ax: "Axes | None" = None,
    ) -> Self:
        """Embed samples, find neighbours and show them.

        Parameters
        ----------
        estimator : HSCLEmbedder or Pipeline
            Fitted estimator.
        X : array-like
            Samples to search, in the form passed to `fit`.
        y : array-like of shape (n_samples,), default=None
            Class labels.
        queries : int or array-like of int, default=5
            Number of queries to draw, or indices of the queries, such as the suspects of
            :func:`sklearn_hscl.diagnose`.
        n_neighbors : int, default=5
            Number of neighbours to show.
        max_columns : int, default=6
            Number of columns of a table to show, the first ones.
        max_rows : int or None, default=10,000
            Maximum number of samples to search; None uses all.
        random_state : int, RandomState instance or None, default=0
            Seed of the drawn samples and queries.
        ax : matplotlib Axes, default=None
            Axes to plot into; None makes a figure.

        Returns
        -------
        NeighborsDisplay

        Raises
        ------
        ValueError
            If there are fewer samples than neighbours, a query is not an index of X, or
            the number of labels is not that of samples.
        """
        drawn = sample_rows(estimator, X, max_rows=max_rows, random_state=random_state)
        if not 1 <= n_neighbors < len(drawn.indices):
            raise ValueError(
                f"Expected n_neighbors to be from 1 to {len(drawn.indices) - 1}, the "
                f"number of samples to search, got {n_neighbors!r}. Pass fewer neighbours "
                f"or more samples."
            )
        indices, cosines = _neighbors(
            drawn, _check_queries(queries, drawn, random_state), n_neighbors
        )
        labels = labels_at(y, drawn.rows.shape[0], indices)
        if len(drawn.embedder.input_shape_) > 1:
            images = _images_at(drawn, indices)
            return cls(indices, cosines, images=images, labels=labels).plot(ax)
        cells = _cells_at(X, drawn, indices, max_columns)
        columns = _column_names(X, cells.shape[-1])
        display = cls(indices, cosines, cells=cells, columns=columns, labels=labels)
        return display.plot(ax)

    def plot(self, ax: "Axes | None" = None) -> Self:
        """Show the samples.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot into; None makes a figure.

        Returns
        -------
        NeighborsDisplay
        """
        n_queries, n_shown = self.places.shape
        if ax is None:
            size = (1.3 * n_shown, 1.4 * n_queries)
            if self.images is None:
                size = (2 + 1.2 * len(self.columns), 0.28 * (n_queries * n_shown + 2))
            ax = new_axes(size)
        self.ax_, self.figure_ = ax, ax.figure
        self.image_: AxesImage | None = None
        self.table_: Table | None = None
        self.frames_: list[Rectangle] = []
        if self.images is not None:
            self.image_ = _draw_montage(ax, self.images)
            self._add_captions(ax, *self.images.shape[2:4])
        elif self.cells is not None:
            self.table_ = _draw_table(ax, self, self.cells)
        return self

    @property
    def _is_other_class(self) -> NDArray[np.bool_]:
        """Whether samples have another class than their query."""
        if self.labels is None:
            return np.zeros(self.places.shape, dtype=bool)
        return np.asarray(self.labels != self.labels[:, :1])

    def _captions(self, i: int, j: int) -> tuple[str, str | None]:
        """Return the cosine of the j-th sample of the i-th query, and its class."""
        cosine = "query" if j == 0 else f"{self.cosines[i, j - 1]:.2f}"
        if self.labels is None:
            return cosine, None
        return cosine, shown_name(self.labels[i, j], _MAX_CELL_LENGTH)

    def _add_captions(self, ax: "Axes", height: int, width: int) -> None:
        """Add class and cosine above each image, and frames of other classes."""
        n_queries, n_shown = self.places.shape
        is_other = self._is_other_class
        for i, top in enumerate(_tops(n_queries, height)):
            for j, left in enumerate(_lefts(n_shown, width)):
                caption, label = self._captions(i, j)
                if label is not None:
                    caption = label if j == 0 else f"{label} · {caption}"
                if is_other[i, j]:
                    self.frames_.append(_add_frame(ax, (left, top), width, height))
                middle = left + (width - 1) / 2
                text = ax.text(middle, top - 0.6, caption, ha="center", va="bottom")
                text.set_fontsize(8)
                show_literally([text])


# Queries and neighbours


def _check_queries(
    queries: int | ArrayLike, drawn: SampledRows, random_state: Seed
) -> Indices:
    """Return the indices of the queries among all samples."""
    n_samples = drawn.rows.shape[0]
    if isinstance(queries, Integral):
        n_drawn = min(int(queries), len(drawn.indices))
        if n_drawn < 1:
            raise ValueError(
                f"Expected queries to be at least 1, got {queries!r}. Pass a positive "
                f"number, or a list of indices."
            )
        return check_random_state(random_state).choice(
            drawn.indices, n_drawn, replace=False
        )
    indices = np.asarray(queries)
    if indices.ndim != 1 or not len(indices) or indices.dtype.kind not in "iu":
        raise ValueError(
            f"Expected queries to be a number or a list of indices, got {queries!r}. Pass "
            f"integers."
        )
    if indices.min() < 0 or indices.max() >= n_samples:
        raise ValueError(
            f"Expected queries to be indices from 0 to {n_samples - 1}, got {queries!r}. "
            f"Pass indices of samples in X."
        )
    return indices.astype(np.int64)


def _neighbors(
    drawn: SampledRows, queries: Indices, n_neighbors: int
) -> tuple[Indices, NDArray[np.float64]]:
    """Find neighbours of each query among the drawn samples, itself excluded."""
    embedder = drawn.embedder
    rows = take_rows(drawn.rows, queries)
    embedding = embedder._embed_rows(rows, embedder.module_, normalize=False)
    found, cosines = nearest_rows(drawn.embedding, n_neighbors + 1, embedding)
    indices = drawn.indices[found]  # (q, k + 1)
    is_other = indices != queries[:, None]
    is_other[:, -1] &= ~is_other[:, :-1].all(1)  # one too many if the query was not drawn
    neighbors = indices[is_other].reshape(len(queries), n_neighbors)
    return (
        np.column_stack([queries, neighbors]),
        cosines[is_other].reshape(len(queries), n_neighbors),
    )


# Images

# Empty pixels between images, as a fraction of their size, and after the query.
_GAP, _WIDE_GAP = 0.25, 0.5


def _images_at(drawn: SampledRows, indices: Indices) -> Rows:
    """Return images with values in [0, 1], channels last."""
    rows = take_rows(drawn.rows, indices.ravel())
    images = np.asarray(rows[:], dtype=np.float64)
    low, high = np.nanmin(images), np.nanmax(images)
    images = (images - low) / max(high - low, 1e-300)
    is_color = images.shape[1] in (3, 4)
    images = np.moveaxis(images, 1, -1) if is_color else images[:, 0]
    return images.reshape(*indices.shape, *images.shape[1:])


def _tops(n_queries: int, height: int) -> Indices:
    return np.arange(n_queries) * round(height * (1 + _GAP))


def _lefts(n_shown: int, width: int) -> Indices:
    lefts = np.arange(n_shown) * round(width * (1 + _GAP))
    lefts[1:] += round(width * _WIDE_GAP)
    return lefts


def _draw_montage(ax: "Axes", images: Rows) -> "AxesImage":
    """Draw all images as one; (q, 1 + k, H, W) or (q, 1 + k, H, W, C), from 0 to 1."""
    n_queries, n_shown, height, width = images.shape[:4]
    tops, lefts = _tops(n_queries, height), _lefts(n_shown, width)
    canvas = np.ones((tops[-1] + height, lefts[-1] + width, *images.shape[4:]))
    is_empty = np.ones(canvas.shape, dtype=bool)
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            window = np.s_[top : top + height, left : left + width]
            canvas[window] = images[i, j]
            is_empty[window] = False
    if images.ndim == 4:  # grey images, on a background as white as the page
        canvas = np.ma.masked_array(canvas, is_empty)
    image = ax.imshow(canvas, cmap="gray_r", vmin=0, vmax=1)
    ax.set_axis_off()
    ax.set_xlim(-0.1 * width, canvas.shape[1] + 0.1 * width - 0.5)  # room for frames
    ax.set_ylim(canvas.shape[0] + 0.1 * height - 0.5, -0.5 - _GAP * height)
    return image


def _add_frame(
    ax: "Axes", left_top: tuple[int, int], width: int, height: int
) -> "Rectangle":
    from matplotlib.patches import Rectangle

    left, top = left_top
    frame = Rectangle((left - 0.5, top - 0.5), width, height, fill=False)
    frame.set(edgecolor=VERMILION, linestyle="--", linewidth=2)
    ax.add_patch(frame)
    return frame


# Tables

_QUERY, _OTHER_CLASS = "#D9E8F2", "#FBE3D6"  # tints of blue and vermilion
_CROSS = "✗"


def _cells_at(
    X: ArrayLike, drawn: SampledRows, indices: Indices, max_columns: int
) -> Texts:
    """Return the first columns of samples as text, as passed by users."""
    shown = indices.ravel()
    if isinstance(X, Dataset):
        rows = take_rows(drawn.rows, shown)[:]
    elif issparse(X):
        rows = csr_array(X)[shown].toarray()
    else:
        rows = np.asarray(_safe_indexing(array_of(X), shown))
    values = rows.reshape(len(rows), -1)[:, :max_columns]  # texts are one column
    cells = np.array([[_cell(v) for v in row] for row in values], dtype=object)
    return cells.reshape(*indices.shape, -1)


def _cell(value: object) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.3g}"
    text = str(value)
    if text.isprintable() and len(text) > _MAX_CELL_LENGTH:
        return f"{text[: _MAX_CELL_LENGTH - 1]}…"
    return shown_name(text, _MAX_CELL_LENGTH) if text else text


def _column_names(X: ArrayLike, n_columns: int) -> list[str]:
    """Return the names of the first columns, before the steps of a pipeline."""
    names = getattr(X, "columns", None)
    if names is None:
        return [f"x{k}" for k in range(n_columns)]
    return [shown_name(name) for name in list(names)[:n_columns]]


def _draw_table(ax: "Axes", shown: NeighborsDisplay, cells: Texts) -> "Table":
    """Draw a line for each query, and one below it for each neighbour.

    Neighbours of another class than the query's are marked with a cross.
    """
    from matplotlib.transforms import Bbox

    header = ["row", "cosine", *([] if shown.labels is None else ["class"])]
    header += shown.columns
    lines, tints = [], []
    for (i, j), is_other in np.ndenumerate(shown._is_other_class):
        cosine, label = shown._captions(i, j)
        line = [str(shown.places[i, j]), cosine]
        if label is not None:
            line.append(f"{label} {_CROSS}" if is_other else label)
        lines.append([*line, *cells[i, j]])
        tint = _QUERY if j == 0 else _OTHER_CLASS if is_other else "white"
        tints.append([tint] * len(header))
    ax.set_axis_off()
    table = ax.table(
        lines,
        colLabels=header,
        cellColours=tints,
        bbox=Bbox.from_bounds(0, 0, 1, 1),
        cellLoc="center",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    for cell in table.get_celld().values():
        cell.set(edgecolor="#cccccc", linewidth=0.5)
        show_literally([cell.get_text()])
    return table
