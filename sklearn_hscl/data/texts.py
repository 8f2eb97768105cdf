"""Texts in any form: lists, arrays, columns of a library, frames of one column.

Also what an encoder takes: texts, graphs, or tables and images.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from sklearn_hscl.data.graphs import is_graph_shape, reads_graphs
from sklearn_hscl.data.missing import column_array, missing_mask

Texts = NDArray[np.object_]
NAME_PREFIX = "sentence-transformers:"
"""Names of encoders of texts start with it; a name or a folder follows."""
OBJECT_NAME = f"{NAME_PREFIX}(an object)"
"""Name in a file of an encoder that was passed as an object."""
_LIBRARY = "sentence_transformers"
_MAX_SHOWN = 60  # characters of a value in a message


def reads_texts(encoder: object) -> bool:
    """Return whether an encoder maps texts, rather than tables or images.

    Parameters
    ----------
    encoder : str, nn.Module or callable
        The parameter of the embedder.
    """
    if isinstance(encoder, str):
        return encoder.startswith(NAME_PREFIX)
    if isinstance(encoder, type):
        return False
    return bool(getattr(encoder, "reads_texts", False)) or is_sentence_transformer(encoder)


def is_sentence_transformer(encoder: object) -> bool:
    """Return whether an object is a ``SentenceTransformer``, which is not imported."""
    names = [base.__name__ for base in type(encoder).__mro__ if _is_of_library(base)]
    return "SentenceTransformer" in names


def _is_of_library(base: type) -> bool:
    return base.__module__.partition(".")[0] == _LIBRARY


def content_for(encoder: object) -> str:
    """Return what an encoder takes: "texts", "graphs", or "tables or images"."""
    if reads_texts(encoder):
        return "texts"
    return "graphs" if reads_graphs(encoder) else "tables or images"


def content_of(shape: tuple[int, ...]) -> str:
    """Return what samples of a shape are, in the words of :func:`content_for`."""
    if not shape:
        return "texts"
    return "graphs" if is_graph_shape(shape) else "tables or images"


def check_reader(encoder: object, shape: tuple[int, ...]) -> None:
    """Raise where an encoder cannot continue a fit, as it takes other samples.

    Parameters
    ----------
    encoder : str, nn.Module or callable
        The parameter of the embedder.
    shape : tuple of int
        Shape of a sample of that fit; () of texts.

    Raises
    ------
    ValueError
        If the encoder takes other samples than that fit.
    """
    takes = content_for(encoder)
    if takes != content_of(shape):
        raise ValueError(
            f"encoder={encoder_label(encoder)} takes {takes}, but the fit to continue "
            f"does not. Set encoder back, or fit anew with warm_start=False."
        )


def check_no_reader(encoder: object) -> None:
    """Raise where an encoder that is not one of texts or graphs was meant to be one.

    Raises
    ------
    TypeError
        If it is a class of encoders of texts or graphs, or another model of
        sentence-transformers.
    """
    is_class = isinstance(encoder, type)
    kind = encoder if isinstance(encoder, type) else type(encoder)
    readers = ("reads_texts", "reads_graphs")
    if is_class and any(getattr(encoder, name, False) for name in readers):
        problem, remedy = "is a class", "Pass an instance of it"
    elif any(map(_is_of_library, kind.__mro__)):
        problem = "is a class" if is_class else "does not embed texts as dense vectors"
        remedy = "Pass a SentenceTransformer object, or 'sentence-transformers:NAME'"
    else:
        return
    raise TypeError(f"encoder={encoder_label(encoder)} {problem}. {remedy}.")


def encoder_label(encoder: object) -> str:
    """Return an encoder as messages show it: a name, that of a function or of a type."""
    if isinstance(encoder, str):
        return repr(encoder)
    return str(getattr(encoder, "__name__", type(encoder).__name__))


def is_texts(rows: object) -> bool:
    """Return whether validated rows are texts."""
    return isinstance(rows, np.ndarray) and rows.ndim == 1


def check_texts(X: Any, name: str) -> Texts:
    """Validate X as a column of texts.

    Parameters
    ----------
    X : array-like or frame
        List, array or series of strings, or a frame or an array with one such column.
    name : str
        Name of X, for messages.

    Returns
    -------
    ndarray of object, shape (n_samples,)
        Strings; an empty one is a text as well.

    Raises
    ------
    ValueError
        If X is not a column of texts, a text is missing, or holds half a character; the
        message names the row.
    """
    texts = _column(X, name)
    missing = missing_mask(texts)
    if missing.any():
        raise ValueError(
            f"{name} holds {int(missing.sum())} missing texts, the first in row "
            f"{int(missing.argmax())}. Fill them, for example by {name}.fillna(''), or "
            f"leave these rows out."
        )
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"{name} holds {text!r:.{_MAX_SHOWN}} of type {type(text).__name__} in row "
                f"{row}, but the encoder takes texts. Pass strings."
            )
        _check_characters(text, row, name)
    return texts


def _check_characters(text: str, row: int, name: str) -> None:
    """Raise where a text cannot be encoded: it holds one half of a pair of surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} holds the lone surrogate {text[error.start]!r} in row {row}, as "
            f"character {error.start} of its text, which is half a character. "
            f"Read the text again with its encoding, or replace it: "
            f"text.encode('utf-8', 'replace').decode()."
        ) from error


def _column(X: Any, name: str) -> Texts:
    """Return one column of values as objects (n,)."""
    if X is None or isinstance(X, str | bytes | Dataset | Iterator):
        raise ValueError(
            f"Expected {name} to be a list, an array or a column of texts, got "
            f"{X!r:.{_MAX_SHOWN}} of type {type(X).__name__}. Pass a list of texts."
        )
    if isinstance(X, list | tuple):  # numpy's own strings are as wide as the longest text
        rows = (_text_of(row, index, name) for index, row in enumerate(X))
        return np.fromiter(rows, dtype=object, count=len(X))
    values = column_array(X, name)
    n_columns = 1 if values.ndim == 1 else values.shape[1]
    if values.ndim > 2 or n_columns != 1:
        raise ValueError(
            f"{name} of shape {values.shape} has {n_columns} columns, but the encoder "
            f"takes one column of texts. Select it, or pass the embedder to a "
            f"ColumnTransformer of scikit-learn."
        )
    texts: Texts = values.reshape(-1).astype(object)
    return texts


def _text_of(row: Any, index: int, name: str) -> Any:
    """Return a row of a list; of a nested one, the only value in it."""
    is_array = isinstance(row, np.ndarray) and row.ndim > 0
    if not (is_array or isinstance(row, list | tuple)):
        return row
    if len(row) != 1:
        raise ValueError(
            f"{name} holds {row!r:.{_MAX_SHOWN}} of type {type(row).__name__} in row "
            f"{index}, {len(row)} values, but the encoder takes one text in each row. "
            f"Join words by ' '.join(row), or select one column."
        )
    return row[0]
