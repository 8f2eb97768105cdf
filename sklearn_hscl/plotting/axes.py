"""New axes for displays, and colours that colour-blind readers can distinguish."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def new_axes(figsize: tuple[float, float] | None = None) -> "Axes":
    """Make a figure with one axes.

    Parameters
    ----------
    figsize : pair of float, default=None
        Width and height in inches; None uses matplotlib's default.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    return new_axes_grid(figsize=figsize)[0]


def new_axes_grid(
    n_rows: int = 1,
    n_columns: int = 1,
    *,
    figsize: tuple[float, float] | None = None,
    sharex: bool = False,
    height_ratios: Sequence[float] | None = None,
) -> "list[Axes]":
    """Make a figure with a grid of axes, and return them row by row.

    Parameters
    ----------
    n_rows, n_columns : int, default=1
        Shape of the grid.
    figsize, sharex, height_ratios
        As for ``matplotlib.pyplot.subplots``.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt  # an extra
    except ImportError as error:
        raise ImportError(
            f"Figures need matplotlib ({error}): pip install sklearn-hscl[plots]."
        ) from error
    _, axes = plt.subplots(
        n_rows,
        n_columns,
        figsize=figsize,
        sharex=sharex,
        height_ratios=height_ratios,
        squeeze=False,
        layout="constrained",
    )
    return list(axes.flat)


# The palette of Okabe and Ito, "Color universal design", 2008, without the yellow, which
# is too pale on white.
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY, BLACK = "#CC79A7", "#E69F00", "#56B4E9", "#000000"
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
GREY = "#767676"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def class_style(k: int) -> tuple[str, str]:
    """Return colour and marker of the k-th class; the 56 pairs repeat after that."""
    return COLORS[k % len(COLORS)], _MARKERS[k // len(COLORS) % len(_MARKERS)]
