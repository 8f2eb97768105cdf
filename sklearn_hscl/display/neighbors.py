"""The nearest neighbours of some rows, as images or as a table."""

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from torch.utils.data import Dataset

from sklearn_hscl._sklearn_compat import _safe_indexing
from sklearn_hscl.data.out_of_core import take_rows
from sklearn_hscl.data.torch_dataset import array_of
from sklearn_hscl.diagnostics.sample import SampledRows, sample_rows
from sklearn_hscl.display.labels import row_labels
from sklearn_hscl.metrics.knn import nearest_rows
from sklearn_hscl.plotting.axes import VERMILION, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Empty pixels between pictures, as a share of their size, and between query and neighbours.
_GAP, _WIDE_GAP = 0.25, 0.5


def draw_montage(
    ax: "Axes",
    images: NDArray[Any],
    cosines: NDArray[np.float64],
    labels: NDArray[Any] | None,
) -> tuple[Any, list[Any]]:
    """Draw all pictures as one image, with frames and captions.

    Parameters
    ----------
    ax : matplotlib Axes
    images : ndarray of shape (q, 1 + k, H, W) or (q, 1 + k, H, W, C), from 0 to 1
        Each query, then its neighbours.
    cosines : ndarray of shape (q, k)
        Captions of the neighbours.
    labels : ndarray of shape (q, 1 + k) or None
        More captions; neighbours of another class than the query's get a frame.

    Returns
    -------
    image : matplotlib AxesImage
    frames : list of matplotlib Rectangle
    """
    n_queries, n_shown, height, width = images.shape[:4]
    tops = np.arange(n_queries) * round(height * (1 + _GAP))
    lefts = np.arange(n_shown) * round(width * (1 + _GAP))
    lefts[1:] += round(width * _WIDE_GAP)
    canvas = np.ones((tops[-1] + height, lefts[-1] + width, *images.shape[4:]))
    frames = []
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            canvas[top : top + height, left : left + width] = images[i, j]
            caption = "query" if j == 0 else f"{cosines[i, j - 1]:.2f}"
            if labels is not None:
                caption = f"{labels[i, j]}" if j == 0 else f"{labels[i, j]} · {caption}"
                if labels[i, j] != labels[i, 0]:
                    frames.append(_frame(ax, left, top, width, height))
            middle = left + (width - 1) / 2
            ax.text(middle, top - 0.6, caption, ha="center", va="bottom", fontsize=8)
    if images.ndim == 4:  # grey ones, on a ground as white as the page
        canvas = _on_white(canvas, images, tops, lefts)
    image = ax.imshow(canvas, cmap="gray_r", vmin=0, vmax=1)
    ax.set_axis_off()
    ax.set_xlim(-0.1 * width, canvas.shape[1] + 0.1 * width - 0.5)  # room for frames
    ax.set_ylim(canvas.shape[0] + 0.1 * height - 0.5, -0.5 - _GAP * height)
    return image, frames


def _on_white(
    canvas: NDArray[Any], images: NDArray[Any], tops: NDArray[Any], lefts: NDArray[Any]
) -> NDArray[Any]:
    """Mask what lies between grey pictures."""
    height, width = images.shape[2:4]
    outside = np.ones(canvas.shape, dtype=bool)
    for top in tops:
        for left in lefts:
            outside[top : top + height, left : left + width] = False
    return np.ma.masked_array(canvas, outside)


def _frame(ax: "Axes", left: int, top: int, width: int, height: int) -> Any:
    from matplotlib.patches import Rectangle

    frame = Rectangle((left - 0.5, top - 0.5), width, height, fill=False)
    frame.set(edgecolor=VERMILION, linestyle="--", linewidth=2)
    return ax.add_patch(frame)


_QUERY, _OTHER_CLASS = "#D9E8F2", "#FBE3D6"  # tints of blue and vermilion
_CROSS = "✗"


def draw_table(
    ax: "Axes",
    places: NDArray[np.int64],
    cosines: NDArray[np.float64],
    cells: Any,
    columns: Sequence[str],
    labels: NDArray[Any] | None,
) -> Any:
    """Draw a line for each query, and one below it for each neighbour.

    Parameters
    ----------
    ax : matplotlib Axes
    places : ndarray of shape (q, 1 + k)
        Numbers of the rows.
    cosines : ndarray of shape (q, k)
        Of neighbours and query.
    cells : ndarray of str, shape (q, 1 + k, n_columns)
        Values.
    columns : sequence of str
        Their names.
    labels : ndarray of shape (q, 1 + k) or None
        Classes; neighbours of another class than the query's are marked with a cross.

    Returns
    -------
    matplotlib Table
    """
    from matplotlib.transforms import Bbox

    n_queries, n_shown = places.shape
    pairs = [(i, j) for i in range(n_queries) for j in range(n_shown)]
    others = np.zeros(places.shape, dtype=bool)
    if labels is not None:
        others = labels != labels[:, :1]
    header = ["row", "cosine", *([] if labels is None else ["class"]), *columns]
    tints = [
        _QUERY if j == 0 else _OTHER_CLASS if others[i, j] else "white" for i, j in pairs
    ]
    ax.set_axis_off()
    table = ax.table(
        [_line(i, j, places, cosines, cells, labels, others) for i, j in pairs],
        colLabels=header,
        cellColours=[[tint] * len(header) for tint in tints],
        bbox=Bbox.from_bounds(0, 0, 1, 1),
        cellLoc="center",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    for cell in table.get_celld().values():
        cell.set(edgecolor="#cccccc", linewidth=0.5)
    return table


def _line(
    i: int,
    j: int,
    places: NDArray[np.int64],
    cosines: NDArray[np.float64],
    cells: Any,
    labels: NDArray[Any] | None,
    others: NDArray[np.bool_],
) -> list[str]:
    """Return the texts of the j-th row that is shown for the i-th query."""
    line = [str(places[i, j]), "query" if j == 0 else f"{cosines[i, j - 1]:.2f}"]
    if labels is not None:
        line.append(f"{labels[i, j]} {_CROSS}" if others[i, j] else str(labels[i, j]))
    return [*line, *cells[i, j]]


MAX_ROWS = 10_000


class NeighborsDisplay:
    """Some rows, each with the rows that are nearest to it by cosine.

    Images are shown side by side, rows of a table as lines. Where labels are given,
    neighbours of another class have a dashed vermilion frame, or a cross in the table.

    Parameters
    ----------
    places : ndarray of shape (n_queries, 1 + n_neighbors)
        Rows of X: each query, then its neighbours, the nearest first.
    cosines : ndarray of shape (n_queries, n_neighbors)
        Of the neighbours with their query.
    images : ndarray of shape (n_queries, 1 + n_neighbors, H, W) or (..., H, W, C)
        What these rows look like; None for tables.
    cells : ndarray of str, shape (n_queries, 1 + n_neighbors, n_columns)
        Values of these rows; None for images.
    columns : list of str
        Names of these columns.
    labels : ndarray of shape (n_queries, 1 + n_neighbors), default=None
        Classes of these rows.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
    image_ : matplotlib AxesImage or None
        All pictures as one.
    frames_ : list of matplotlib Rectangle
        Around the pictures of neighbours of another class.
    table_ : matplotlib Table or None

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
        places: NDArray[np.int64],
        cosines: NDArray[np.float64],
        *,
        images: NDArray[Any] | None = None,
        cells: NDArray[Any] | None = None,
        columns: Sequence[str] = (),
        labels: NDArray[Any] | None = None,
    ) -> None:
        self.places = places
        self.cosines = cosines
        self.images = images
        self.cells = cells
        self.columns = columns
        self.labels = labels

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        queries: int | ArrayLike = 5,
        n_neighbors: int = 5,
        max_columns: int = 6,
        max_rows: int | None = MAX_ROWS,
        random_state: int | np.random.RandomState | None = 0,
        ax: "Axes | None" = None,
    ) -> Self:
        """Embed rows, find neighbours and show them.

        Parameters
        ----------
        estimator : HSCLEmbedder or Pipeline
            Fitted.
        X : array-like
            Rows in the form that `fit` got, among which neighbours are found.
        y : array-like of shape (n_samples,), default=None
            Their classes.
        queries : int or array-like of int, default=5
            How many rows to draw, or which rows to ask for, such as the suspects of
            :func:`sklearn_hscl.diagnose`.
        n_neighbors : int, default=5
            How many neighbours to show.
        max_columns : int, default=6
            How many columns of a table to show, the first ones.
        max_rows : int or None, default=10,000
            Among how many rows to search.
        random_state : int, RandomState instance or None, default=0
            For the drawn rows and queries.
        ax : matplotlib Axes, default=None
            Where to show; None makes a figure.

        Returns
        -------
        NeighborsDisplay

        Raises
        ------
        ValueError
            If there are fewer rows than neighbours, a query is no row of X, or y does not
            hold one label a row.
        """
        drawn = sample_rows(estimator, X, max_rows=max_rows, random_state=random_state)
        if not 1 <= n_neighbors < len(drawn.indices):
            raise ValueError(
                f"n_neighbors={n_neighbors!r} must be from 1 to {len(drawn.indices) - 1}, "
                f"the rows among which they are searched."
            )
        asked = _check_queries(queries, drawn, random_state)
        places, cosines = _neighbors(drawn, asked, n_neighbors)
        labels = None if y is None else row_labels(y, drawn.rows.shape[0])[places]
        if len(drawn.embedder.input_shape_) > 1:
            images = _pictures(take_rows(drawn.rows, places.ravel()))
            images = images.reshape(*places.shape, *images.shape[1:])
            return cls(places, cosines, images=images, labels=labels).plot(ax)
        shown = places.ravel()
        is_stored = isinstance(X, Dataset)
        rows = take_rows(drawn.rows, shown)[:] if is_stored else _rows(X, shown)
        cells = _cells(rows, max_columns).reshape(*places.shape, -1)
        names = _column_names(X, cells.shape[-1])
        display = cls(places, cosines, cells=cells, columns=names, labels=labels)
        return display.plot(ax)

    def plot(self, ax: "Axes | None" = None) -> Self:
        """Show the rows.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to show; None makes a figure.

        Returns
        -------
        NeighborsDisplay
        """
        n_queries, n_shown = self.places.shape
        if ax is None:
            size = (1.3 * n_shown, 1.4 * n_queries)
            if self.images is None:
                size = (2 + 1.2 * len(self.columns), 0.28 * (n_queries * n_shown + 2))
            ax = new_axes(figsize=size)
        self.ax_, self.figure_ = ax, ax.figure
        self.image_ = self.table_ = None
        self.frames_: list[Any] = []
        if self.images is None:
            self.table_ = draw_table(
                ax, self.places, self.cosines, self.cells, self.columns, self.labels
            )
        else:
            self.image_, self.frames_ = draw_montage(
                ax, self.images, self.cosines, self.labels
            )
        return self


def _check_queries(
    queries: Any, drawn: SampledRows, random_state: Any
) -> NDArray[np.int64]:
    """Return the places of the queries among all rows."""
    n_rows = drawn.rows.shape[0]
    if isinstance(queries, Integral):
        n_drawn = min(int(queries), len(drawn.indices))
        if n_drawn < 1:
            raise ValueError(f"queries={queries!r} must be at least 1, or a list of rows.")
        return check_random_state(random_state).choice(
            drawn.indices, n_drawn, replace=False
        )
    places = np.asarray(queries)
    if places.ndim != 1 or not len(places) or places.dtype.kind not in "iu":
        raise ValueError(f"queries={queries!r} must be a number, or a list of row numbers.")
    if places.min() < 0 or places.max() >= n_rows:
        raise ValueError(f"queries={queries!r} must be rows from 0 to {n_rows - 1}.")
    return places.astype(np.int64)


def _neighbors(
    drawn: SampledRows, asked: NDArray[np.int64], n_neighbors: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find neighbours among the drawn rows, each query itself left out."""
    embedder = drawn.embedder
    rows = take_rows(drawn.rows, asked)
    queries = embedder._embed_rows(rows, embedder.module_, normalize=False)
    found, cosines = nearest_rows(drawn.embedding, n_neighbors + 1, queries)
    places = drawn.indices[found]  # (q, k + 1)
    others = places != asked[:, None]
    others[:, -1] &= ~others[:, :-1].all(1)  # one too many where it was not drawn
    kept = places[others].reshape(len(asked), n_neighbors)
    return (
        np.column_stack([asked, kept]),
        cosines[others].reshape(len(asked), n_neighbors),
    )


def _pictures(rows: Any) -> NDArray[Any]:
    """Make pictures for matplotlib of images (n, C, H, W): in [0, 1], channels last."""
    images = np.asarray(rows[:], dtype=np.float64)
    low, high = np.nanmin(images), np.nanmax(images)
    images = (images - low) / max(high - low, 1e-300)
    if images.shape[1] in (3, 4):
        return np.moveaxis(images, 1, -1)
    return images[:, 0]


def _column_names(X: Any, n_columns: int) -> list[str]:
    """Return the names of the first columns, which may be fewer than the embedder sees."""
    names = getattr(X, "columns", None)
    names = [f"x{k}" for k in range(n_columns)] if names is None else map(str, names)
    return list(names)[:n_columns]


def _rows(X: Any, places: NDArray[np.int64]) -> NDArray[Any]:
    """Return rows as the user passes them."""
    if issparse(X):
        return X.tocsr()[places].toarray()
    return np.asarray(_safe_indexing(array_of(X), places))


def _cells(rows: NDArray[Any], max_columns: int) -> NDArray[Any]:
    """Return the first columns of some rows as text, (n, n_columns)."""
    values = rows.reshape(len(rows), -1)[:, :max_columns]  # texts are one column
    return np.array([[_cell(v) for v in row] for row in values], dtype=object)


def _cell(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float | np.floating) else str(value)
    return text if len(text) <= 14 else f"{text[:13]}…"
