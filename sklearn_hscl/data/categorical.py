"""Categorical columns of a table, and the codes of their levels."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_hscl.data.dataframe import FloatArray, Table, level_type, sort_levels

FROM_DTYPE = "from_dtype"


@dataclass(frozen=True)
class TableColumns:
    """Columns of a training table, which encode such tables as numeric arrays.

    Attributes
    ----------
    is_categorical : ndarray of bool, shape (n_features,)
        Mask of the categorical columns.
    categories : list of ndarray
        The sorted levels of each categorical column in the training table.
    level_types : list of list of str
        The types of these levels: "text", "numbers", "dates", or the name of a type.
    """

    is_categorical: NDArray[np.bool_]
    categories: list[NDArray[np.object_]]
    level_types: list[list[str]]

    @classmethod
    def learn(cls, X: object, categorical_features: ArrayLike | None) -> Self | None:
        """Learn the columns of a training table.

        Parameters
        ----------
        X : Table, or array-like of shape (n_samples, n_features)
            A data frame, an array or a nested list.
        categorical_features : "from_dtype", array-like or None
            As in :class:`~sklearn_hscl.HSCLEmbedder`.

        Returns
        -------
        TableColumns or None
            None if the whole table can be read as one numeric array.

        Raises
        ------
        ValueError
            If a column is of an unsupported type, or `categorical_features` does not
            fit the table.
        """
        table = Table.of(X)
        is_categorical = _categorical_mask(table, categorical_features)
        if is_categorical is None:
            return None
        indices = np.flatnonzero(is_categorical).tolist()
        categories = [sort_levels(table.factorize(index)[1]) for index in indices]
        return cls(is_categorical, categories, level_types_of(categories))

    def encode(self, X: object) -> FloatArray:
        """Convert a table with the columns of the training table to an array.

        Parameters
        ----------
        X : Table, or array-like of shape (n_samples, n_features)
            The table.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Numeric columns as they are; categorical columns as codes 1, 2, ... of the
            levels, 0 for other levels, NaN for missing values. float32 if numpy converts
            the numeric columns together to float32, else float64.
        """
        table = Table.of(X)
        n_columns = len(table.names)
        fitted = zip(self.categories, self.level_types, strict=True)
        encoded = np.empty((len(table), n_columns))
        for index in range(n_columns):
            if self.is_categorical[index]:
                encoded[:, index] = _category_codes(table, index, *next(fitted))
            else:
                encoded[:, index] = _numeric_column(table, index)
        numeric = np.flatnonzero(~self.is_categorical).tolist()
        return encoded.astype(table.float_dtype(numeric), copy=False)


def level_types_of(categories: list[NDArray[np.object_]]) -> list[list[str]]:
    """Return the types of levels of each categorical column."""
    return [sorted(set(map(level_type, levels))) for levels in categories]


def _category_codes(
    table: Table, index: int, categories: NDArray[np.object_], level_types: list[str]
) -> NDArray[np.float64]:
    """Return the code of each value: 0 for unknown levels, NaN for missing values."""
    codes, levels = table.factorize(index)
    other = [level for level in levels if level_type(level) not in level_types]
    if other and level_types:
        example = f", like {categories[0]!r}" if len(categories) else ""
        raise ValueError(
            f"{table.label(index)} holds {other[0]!r}, but the categories of the fit are "
            f"{' and '.join(level_types)}{example}: convert the column to the type that "
            f"it had in fit."
        )
    code_of = dict(zip(categories, range(1, len(categories) + 1), strict=True))
    return np.array([*(code_of.get(level, 0) for level in levels), np.nan])[codes]


def _numeric_column(table: Table, index: int) -> FloatArray:
    if table.is_categorical(index):
        text = [x for x in table.factorize(index)[1] if isinstance(x, str)]
        if text:
            raise ValueError(
                f"{table.label(index)} holds {text[0]!r}, not a number: a numeric column "
                f"must hold numbers or missing values. Columns of text are categories "
                f"if they are so in fit, by their dtype or listed in categorical_features."
            )
    try:
        return table.to_floats(index)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            f"{table.label(index)} cannot be converted to float64 ({error}): "
            f"make it a column of real numbers, or drop it."
        ) from error


def _categorical_mask(table: Table, chosen: ArrayLike | None) -> NDArray[np.bool_] | None:
    if chosen is None:
        return None
    if not isinstance(chosen, str):
        return _explicit_mask(table, np.asarray(chosen))
    if chosen != FROM_DTYPE:
        raise ValueError(
            f"categorical_features={chosen!r} must be 'from_dtype', None, or a list of "
            f"names or indices or a mask: write [{chosen!r}] for a single column."
        )
    if table.has_plain_numbers:
        return None
    return np.array([table.is_categorical(i) for i in range(len(table.names))], dtype=bool)


def _explicit_mask(table: Table, chosen: NDArray[np.generic]) -> NDArray[np.bool_] | None:
    if chosen.size == 0:
        return None
    mask = np.zeros(len(table.names), dtype=bool)
    if chosen.dtype.kind == "b":
        if chosen.shape != mask.shape:
            raise ValueError(
                f"categorical_features is a mask of shape {chosen.shape}, but X has "
                f"{len(mask)} features: give it one entry per column."
            )
        return chosen.astype(bool) if chosen.any() else None
    mask[[_column_index(table, item) for item in chosen.ravel().tolist()]] = True
    return mask


def _column_index(table: Table, item: object) -> int:
    names = table.names
    if isinstance(item, str):
        if not table.is_frame:
            raise ValueError(
                f"categorical_features holds the name {item!r}, but X has no column "
                f"names: pass indices or a mask, or X as a data frame."
            )
        if item in names:
            return names.index(item)
        raise ValueError(
            f"categorical_features holds {item!r}, which is not a column of X: its columns "
            f"are {names}."
        )
    if isinstance(item, int) and 0 <= item < len(names):
        return item
    raise ValueError(
        f"categorical_features holds {item!r}: it takes names, indices from 0 to "
        f"{len(names) - 1}, or a mask."
    )
