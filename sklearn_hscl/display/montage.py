"""Queries and their neighbours as pictures, in one axes."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sklearn_hscl.plotting.axes import VERMILION

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
