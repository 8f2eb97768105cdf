"""New axes for displays, colours that colour-blind readers can distinguish, and names.

matplotlib reads text between dollar signs as formulas, and leaves labels that are empty or
start with an underscore out of legends. Names of users are shown as they are.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend
    from matplotlib.text import Text


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


# Names -------------------------------------------------------------------------------

_MAX_LENGTH = 40


def shown_name(name: object, max_length: int = _MAX_LENGTH) -> str:
    """Return a name of a class or a column as one short, visible line of text.

    Line breaks and other control characters are written as in Python, and empty names as
    quotes. The middle of a long name is left out, as names often differ at their end.
    """
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(name))
    if not text.strip():
        return repr(text)
    if len(text) <= max_length:
        return text
    n_last = (max_length - 1) // 3
    return f"{text[: max_length - 1 - n_last]}…{text[-n_last:]}"


def show_literally(texts: "Iterable[Text]") -> None:
    """Show texts as they are, without formulas."""
    for text in texts:
        text.set_parse_math(False)


def add_legend(
    ax: "Axes", artists: "Sequence[Artist]", names: Sequence[str], markerscale: float
) -> "Legend":
    """Add a legend with any names."""
    numbers = [str(k) for k in range(len(names))]  # which no legend leaves out
    legend = ax.legend(artists, numbers, markerscale=markerscale)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)
    show_literally(legend.get_texts())
    return legend
