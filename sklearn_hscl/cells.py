"""Telling the user which cell of a table cannot be used."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


@contextmanager
def naming_the_cell(X: Any) -> Iterator[None]:
    """Add the offending column, row and value to scikit-learn's message."""
    try:
        yield
    except (TypeError, ValueError) as error:
        cell = _first_bad_cell(X)
        if cell is None:
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{error}\n{cell}") from error


def _first_bad_cell(X: Any) -> str | None:
    for index, (name, column) in enumerate(_columns(X)):
        values = np.asarray(column)
        if values.dtype.kind == "c":
            return None
        for row, value in enumerate(values if values.dtype.kind not in "buif" else ()):
            if not _is_number(value):
                return (
                    f"Column {name!r} (index {index}) holds {_plain(value)!r} in row "
                    f"{row}, not a number: encode text and categories first, for example "
                    f"with sklearn.preprocessing.OneHotEncoder in a ColumnTransformer."
                )
        finite = np.isfinite(values.astype(np.float64))
        if not finite.all():
            row = int(finite.argmin())
            return (
                f"Column {name!r} (index {index}) holds {_plain(values[row])!r} in row "
                f"{row}: impute or drop it, for example with sklearn.impute.SimpleImputer."
            )
    return None


def _columns(X: Any) -> Iterator[tuple[Any, Any]]:
    if hasattr(X, "columns"):
        by_position = X.iloc.__getitem__ if hasattr(X, "iloc") else X.__getitem__
        for index, name in enumerate(X.columns):
            yield name, by_position((slice(None), index))
    elif getattr(X, "ndim", None) == 2 and hasattr(X, "__array__"):
        yield from enumerate(np.asarray(X).T)
    elif isinstance(X, list | tuple):
        yield from enumerate(zip(*X, strict=False))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
