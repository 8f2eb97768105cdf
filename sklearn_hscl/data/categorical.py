"""Which columns of a table are categorical, and the codes of their levels."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_hscl.data.dataframe import (
    as_numbers,
    columns_of,
    factorize,
    factorize_named,
    holds_categories,
    holds_plain_numbers,
    is_frame,
    kind_of,
    sorted_levels,
)

FROM_DTYPE = "from_dtype"


@dataclass(frozen=True)
class TableColumns:
    """The columns of a training table, and how one like it becomes an array of numbers.

    Attributes
    ----------
    is_categorical : ndarray of bool, shape (n_features,)
        Which columns are categorical.
    categories : list of ndarray
        The levels of each categorical column in the training table, in their order.
    kinds : list of list of str
        The kinds of these levels: "text", "numbers", "dates", or the name of a type.
    """

    is_categorical: NDArray[np.bool_]
    categories: list[NDArray[np.object_]]
    kinds: list[list[str]]

    @classmethod
    def learn(cls, X: Any, categorical_features: ArrayLike | None) -> Self | None:
        """Learn the columns of a training table.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            A frame, array or nested list.
        categorical_features : "from_dtype", array-like or None
            As in :class:`~sklearn_hscl.HSCLEmbedder`.

        Returns
        -------
        TableColumns or None
            None where the whole table can be read as one array of numbers.

        Raises
        ------
        ValueError
            If a column is of no kind that can be used, or `categorical_features`
            does not fit the table.
        """
        chosen = _chosen_columns(X, categorical_features)
        if chosen is None:
            return None
        names, column_at = columns_of(X)
        levels = [
            factorize_named(column_at(index), f"Column {names[index]!r} (index {index})")[1]
            for index in np.flatnonzero(chosen).tolist()
        ]
        categories = [sorted_levels(of_column) for of_column in levels]
        return cls(chosen, categories, kinds_of(categories))

    def encode(self, X: Any) -> NDArray[Any]:
        """Turn a table with the columns of the training table into an array.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The table.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Numbers, and codes in categorical columns: 1, 2, ... for the levels, 0 for
            others, NaN for missing values. float32 if all numbers are, else float64.
        """
        names, column_at = columns_of(X)
        fitted = zip(self.categories, self.kinds, strict=True)
        encoded = np.empty((X.shape[0] if hasattr(X, "shape") else len(X), len(names)))
        numeric_dtypes = set()
        for index, name in enumerate(names):
            where = f"Column {name!r} (index {index})"
            if self.is_categorical[index]:
                encoded[:, index] = _codes(column_at(index), *next(fitted), where)
            else:
                numbers = _numbers(column_at(index), name, index)
                numeric_dtypes.add(numbers.dtype)
                encoded[:, index] = numbers
        only_float32 = numeric_dtypes == {np.dtype(np.float32)}
        return encoded.astype(np.float32) if only_float32 else encoded


def kinds_of(categories: list[NDArray[np.object_]]) -> list[list[str]]:
    """Return which kinds of levels each categorical column has."""
    return [sorted(set(map(kind_of, levels))) for levels in categories]


def _codes(
    column: Any, categories: NDArray[np.object_], kinds: list[str], where: str
) -> NDArray[np.float64]:
    """Return the code of each value: 0 for others than the categories, NaN for missing."""
    codes, levels = factorize_named(column, where)
    _check_same_kind(levels, categories, kinds, where)
    known = dict(zip(categories, range(1, len(categories) + 1), strict=True))
    return np.array([*(known.get(level, 0) for level in levels), np.nan])[codes]


def _check_same_kind(
    levels: list[Hashable], categories: NDArray[np.object_], kinds: list[str], where: str
) -> None:
    other = [level for level in levels if kind_of(level) not in kinds] if kinds else []
    if other:
        like = f", like {categories[0]!r}" if len(categories) else ""
        raise ValueError(
            f"{where} holds {other[0]!r}, but the categories of the fit are "
            f"{' and '.join(kinds)}{like}: convert the column to the type that it had in "
            f"fit."
        )


def _numbers(column: Any, name: Any, index: int) -> NDArray[Any]:
    if not holds_plain_numbers(column.dtype) and _is_text(column, name, index):
        value = factorize(column)[1][0]
        raise ValueError(
            f"Column {name!r} (index {index}) holds {value!r}, not a number: a numeric "
            f"column must hold numbers or missing values. Columns of text are categories "
            f"if they are so in fit, by their dtype or listed in categorical_features."
        )
    try:
        return as_numbers(column)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            f"Column {name!r} (index {index}) holds what cannot be a float64 ({error}): "
            f"make it a column of real numbers, or drop it."
        ) from error


def _is_text(column: Any, name: Any, index: int) -> bool:
    if not holds_categories(column, name, index):
        return False
    return any(isinstance(level, str) for level in factorize(column)[1])


def _chosen_columns(X: Any, chosen: ArrayLike | None) -> NDArray[np.bool_] | None:
    if chosen is None:
        return None
    if not isinstance(chosen, str):
        return _explicit_columns(X, chosen)
    if chosen != FROM_DTYPE:
        raise ValueError(
            f"categorical_features={chosen!r} must be 'from_dtype', None, or a list of "
            f"names or indices or a mask: write [{chosen!r}] for a single column."
        )
    if not is_frame(X) or all(map(holds_plain_numbers, X.dtypes)):
        return None
    names, column_at = columns_of(X)
    kinds = [holds_categories(column_at(i), name, i) for i, name in enumerate(names)]
    return np.array(kinds, dtype=bool)


def _explicit_columns(X: Any, chosen: ArrayLike) -> NDArray[np.bool_] | None:
    wanted = np.asarray(chosen)
    if wanted.size == 0:
        return None
    names, _ = columns_of(X)
    mask = np.zeros(len(names), dtype=bool)
    if wanted.dtype.kind == "b":
        if wanted.shape != mask.shape:
            raise ValueError(
                f"categorical_features is a mask of shape {wanted.shape}, but X has "
                f"{len(names)} features: give it one entry per column."
            )
        return wanted if wanted.any() else None
    for item in wanted.ravel().tolist():
        mask[_position(item, names, is_frame(X))] = True
    return mask


def _position(item: Any, names: list[Any], has_names: bool) -> int:
    if isinstance(item, str):
        if not has_names:
            raise ValueError(
                f"categorical_features holds the name {item!r}, but X has no column "
                f"names: pass positions or a mask, or X as a data frame."
            )
        if item in names:
            return names.index(item)
        raise ValueError(
            f"categorical_features holds {item!r}, which is no column of X: its columns "
            f"are {names}."
        )
    if isinstance(item, int) and 0 <= item < len(names):
        return item
    raise ValueError(
        f"categorical_features holds {item!r}: it takes names, positions from 0 to "
        f"{len(names) - 1}, or a mask."
    )
