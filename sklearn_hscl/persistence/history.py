"""The history of training, column by column, and back."""

from typing import Any

from sklearn_hscl.persistence.errors import BundleError


def history_columns(history: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return plain numbers and strings of each epoch, column by column."""
    names = dict.fromkeys(name for epoch in history for name in epoch)
    columns = {name: [_plain(e.get(name)) for e in history] for name in names}
    return {k: v for k, v in columns.items() if any(value is not None for value in v)}


def _plain(value: Any) -> Any:
    """Make a number of numpy's one of Python's; drop what is neither number nor text."""
    value = value.item() if getattr(value, "shape", None) == () else value
    return value if isinstance(value, bool | int | float | str) else None


def history_epochs(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Return the entries of the epochs; the opposite of :func:`history_columns`."""
    values = list(columns.values())
    are_lists = all(isinstance(column, list) for column in values)
    if not are_lists or "train_loss" not in columns:
        raise BundleError("the history is not one of training")
    if len({len(column) for column in values}) > 1:
        raise BundleError("the columns of the history differ in length")
    return [
        {name: value for name, value in zip(columns, row, strict=True) if value is not None}
        for row in zip(*values, strict=True)
    ]
