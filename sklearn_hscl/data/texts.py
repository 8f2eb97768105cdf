"""Texts in any form: lists, arrays, columns of a library, frames of one column."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from sklearn_hscl.data.missing import column_array, missing_mask

Texts = NDArray[np.object_]
NAME_PREFIX = "sentence-transformers:"
"""Names of encoders of texts start with it; a name or a folder follows."""
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
    return bool(getattr(encoder, "reads_texts", False)) or is_sentence_transformer(encoder)


def is_sentence_transformer(encoder: object) -> bool:
    """Return whether an object is a ``SentenceTransformer``, which is not imported."""
    return any(
        base.__name__ == "SentenceTransformer"
        and base.__module__.partition(".")[0] == "sentence_transformers"
        for base in type(encoder).__mro__
    )


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
        If X is not a column of texts, or a text is missing; the message names the row.
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
    return texts


def _column(X: Any, name: str) -> Texts:
    """Return one column of values as objects (n,)."""
    if X is None or isinstance(X, str | bytes | Dataset | Iterator):
        raise ValueError(
            f"Expected {name} to be a list, an array or a column of texts, got "
            f"{X!r:.{_MAX_SHOWN}} of type {type(X).__name__}. Pass a list of texts."
        )
    is_plain = isinstance(X, list | tuple) and not any(
        isinstance(text, list | tuple | np.ndarray) for text in X
    )
    if is_plain:  # an array of numpy's own strings is as wide as the longest text
        return np.fromiter(X, dtype=object, count=len(X))
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
