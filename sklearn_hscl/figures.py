"""New figures for displays that were given no axes."""

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
