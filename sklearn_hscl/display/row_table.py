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

    lines, tints = [], []
    for i, shown in enumerate(places):
        for j, place in enumerate(shown):
            other = labels is not None and labels[i, j] != labels[i, 0]
            cosine = "query" if j == 0 else f"{cosines[i, j - 1]:.2f}"
            line = [str(place), cosine]
            if labels is not None:
                line.append(f"{labels[i, j]} {_CROSS}" if other else str(labels[i, j]))
            lines.append([*line, *cells[i, j]])
            tints.append(_QUERY if j == 0 else _OTHER_CLASS if other else "white")
    header = ["row", "cosine", *([] if labels is None else ["class"]), *columns]
    ax.set_axis_off()
    table = ax.table(
        lines,
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
