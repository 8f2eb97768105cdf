"""Categorical columns of a table, and the codes of their levels."""

import re
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_hscl.data.dataframe import FloatArray, Table, level_type, sort_levels

FROM_DTYPE = "from_dtype"
# More levels hardly fit into memory, and each of them has few rows.
_MAX_LEVELS = 10_000_000


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
        return cls.learn_in_parts(table, [table], categorical_features)

    @classmethod
    def learn_in_parts(
        cls,
        header: object,
        parts: Iterable[object],
        categorical_features: ArrayLike | None,
    ) -> Self | None:
        """Learn the columns of a training table that is read part by part.

        Parameters
        ----------
        header : Table or array-like of shape (n, n_features)
            Names and types of the columns, with any number of rows.
        parts : iterable of Table, or array-like of shape (n_samples, n_features)
            All rows; read only if there are categorical columns.
        categorical_features : "from_dtype", array-like or None
            As in :class:`~sklearn_hscl.HSCLEmbedder`.
        """
        is_categorical = _categorical_mask(Table.of(header), categorical_features)
        if is_categorical is None:
            return None
        levels: dict[int, dict[Hashable, None]] = {
            index: {} for index in np.flatnonzero(is_categorical).tolist()
        }
        for table in map(Table.of, parts):
            for index, known in levels.items():
                known.update(dict.fromkeys(table.factorize(index)[1]))
                if len(known) > _MAX_LEVELS:
                    raise ValueError(
                        f"{table.label(index)} has more than {_MAX_LEVELS:,} different "
                        f"values, too many for categories: drop it, or turn texts into "
                        f"numbers, for example by embeddings."
                    )
        categories = [sort_levels(list(known)) for known in levels.values()]
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


# Text that is something else -----------------------------------------------------------

# Distinct values of a column that are parsed, and the fraction that must be dates or
# numbers, as a few may mark missing values.
_MAX_PARSED, _MIN_PARSED = 200, 0.9
# Levels of dates, and of numbers, which are often codes of a few categories.
_MIN_DATES, _MIN_NUMBERS = 3, 11
# Of fewer rows, many have a level of their own by chance.
_MIN_ROWS = 10
_CATEGORY_DTYPES = ("CategoricalDtype", "Categorical", "Enum")
_DATE = re.compile(
    r"(\d{4}[-/.]\d{1,2}([-/.]\d{1,2})?|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2}))([T ].*)?"
    r"|\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?"
    r"|[\d\s,./-]*(jan(uary)?|feb(ruary)?|mar(ch)?|apr(il)?|may|june?|july?|aug(ust)?"
    r"|sept?(ember)?|oct(ober)?|nov(ember)?|dec(ember)?)[\s,./-]*\d[\d\s,:/-]*([ap]m)?",
    re.IGNORECASE,
)
_REMEDIES = {
    "dates": (
        "expand them, for example by skrub.TableVectorizer (see the user guide, "
        "'Data frames'), to year, month and weekday"
    ),
    "numbers": (
        "convert them, for example by pandas.to_numeric; drop them if they are identifiers"
    ),
    "mostly values of a single row": (
        "drop identifiers; turn texts into numbers, for example by TfidfVectorizer"
    ),
}


def doubtful_text(table: Table, is_categorical: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Return the columns of text that are something else, by what they hold.

    Parameters
    ----------
    table : Table
        A training table.
    is_categorical : ndarray of bool, shape (n_features,)
        Mask of the categorical columns.

    Returns
    -------
    dict of list of int
        Indices of the columns, for ``"dates"``, ``"numbers"`` and ``"mostly values of a
        single row"``, whose levels become one, "other". Columns of a dtype of categories
        are what their dtype says.
    """
    found: dict[str, list[int]] = {}
    for index in np.flatnonzero(is_categorical).tolist():
        kind = _held_by_text(table, index)
        if kind is not None:
            found.setdefault(kind, []).append(index)
    return found


def describe_doubts(table: Table, doubts: dict[str, list[int]]) -> str:
    """Return a sentence for each kind of doubtful columns, with the remedy."""
    sentences = []
    for kind, indices in doubts.items():
        names = ", ".join(repr(table.names[index]) for index in indices)
        noun = "column" if len(indices) == 1 else "columns"
        verb = "holds" if len(indices) == 1 else "hold"
        sentences.append(f"Text {noun} {names} {verb} {kind}: {_REMEDIES[kind]}.")
    return " ".join(sentences)


def warn_of_doubtful_text(table: Table, is_categorical: NDArray[np.bool_]) -> None:
    """Warn once about all columns of text that are something else.

    A table without a level in two rows draws no warning, as it is refused.
    """
    doubts = doubtful_text(table, is_categorical)
    columns = range(len(is_categorical))
    if doubts and not (is_categorical.all() and all(_is_all_single(table, columns))):
        warnings.warn(
            f"{describe_doubts(table, doubts)} As categories, values of a single row are "
            f"one level. A column of dtype category, or named in categorical_features, "
            f"is taken as it is.",
            UserWarning,
            stacklevel=2,
        )


def _held_by_text(table: Table, index: int) -> str | None:
    if type(table.column(index).dtype).__name__ in _CATEGORY_DTYPES:
        return None
    codes, levels = table.factorize(index)
    texts = [level for level in levels if isinstance(level, str)]
    if len(texts) < len(levels) or len(texts) < _MIN_DATES:
        return None
    sample = texts[:: -(-len(texts) // _MAX_PARSED)]
    if _fraction(_is_date, sample) >= _MIN_PARSED:
        return "dates"
    if len(texts) >= _MIN_NUMBERS and _fraction(_is_number, sample) >= _MIN_PARSED:
        return "numbers"
    counts = np.bincount(codes[codes >= 0])
    n_rows, n_single = counts.sum(), (counts == 1).sum()
    is_mostly_single = n_rows >= _MIN_ROWS and n_single > n_rows / 2
    return "mostly values of a single row" if is_mostly_single else None


def _is_all_single(table: Table, indices: Iterable[int]) -> Iterator[bool]:
    for index in indices:
        codes, levels = table.factorize(index)
        yield len(levels) == (codes >= 0).sum()


def _fraction(parses: Callable[[str], bool], texts: list[str]) -> float:
    return float(np.mean([parses(text.strip()) for text in texts]))


def _is_date(text: str) -> bool:
    return _DATE.fullmatch(text) is not None and not _is_number(text)


def _is_number(text: str) -> bool:
    """Return whether a text is a number, also with a comma, a unit of money or percent."""
    plain = text.strip("%$€£ ").replace(" ", "")
    forms = [plain, plain.replace(",", "")]
    if "," in plain:
        forms.append(plain.replace(".", "").replace(",", "."))
    return any(map(_is_float, forms))


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
