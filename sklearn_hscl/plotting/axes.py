"""Axes for displays that were given none, and colours for colour-blind readers."""

from typing import Any


def new_axes(n_rows: int = 1, n_columns: int = 1, **settings: Any) -> Any:
    """Make a figure; return its axes, an array of them where there are several.

    Parameters
    ----------
    n_rows, n_columns : int, default=1
        How many axes.
    **settings
        Of ``matplotlib.pyplot.subplots``.

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
    return plt.subplots(n_rows, n_columns, layout="constrained", **settings)[1]


# Of Okabe and Ito, "Color universal design", 2008; without the yellow, which is too pale
# on white.
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY, BLACK = "#CC79A7", "#E69F00", "#56B4E9", "#000000"
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
GREY = "#767676"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def class_style(k: int) -> tuple[str, str]:
    """Return colour and marker of the k-th class: 56 pairs, then they come again."""
    return COLORS[k % len(COLORS)], _MARKERS[k // len(COLORS) % len(_MARKERS)]
