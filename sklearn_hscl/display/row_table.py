"""Queries and their neighbours as lines of a table, in one axes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
