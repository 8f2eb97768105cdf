"""Checks of what is read from a file."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray


class BundleError(ValueError):
    """A file, or what else an embedder was stored in, that cannot be used.

    The message names the file and what is wrong with it.
    """


# What wrong facts and arrays can raise where no check foresaw them.
_UNFORESEEN = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextmanager
def error_context(source: Any) -> Iterator[None]:
    """Name the source in what is raised about it, all of which is a BundleError."""
    try:
        yield
    except BundleError as error:
        raise BundleError(f"{source} cannot be used: {error}.") from error
    except _UNFORESEEN as error:
        raise BundleError(
            f"{source} cannot be used, as what it holds does not go together: "
            f"{type(error).__name__}: {error}"
        ) from error


def check_facts(facts: Any, where: str, /, **kinds: Any) -> Any:
    """Raise where facts are not exactly those that are known, each of its type.

    Parameters
    ----------
    facts : dict
        What was stored.
    where : str
        What the facts are of, for messages.
    **kinds : type, or union of types
        The names, and the type of each.

    Returns
    -------
    dict
        `facts`.

    Raises
    ------
    BundleError
        Naming what is missing, unknown or of another type.
    """
    if not isinstance(facts, dict):
        raise BundleError(f"{where} is {type(facts).__name__}, not a dictionary")
    if facts.keys() != kinds.keys():
        differ = sorted(map(str, facts.keys() ^ kinds.keys()))
        raise BundleError(f"{where} has missing or unknown entries: {differ[:5]}")
    for name, kind in kinds.items():
        value = facts[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise BundleError(f"{name} of {where} is {value!r:.80}")
    return facts


# What torch wants of an array: contiguous and writable.
_OWN: Final = ("C", "W")


class StoredArrays:
    """Stored arrays that are still to be read.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        By their names.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.left = dict(arrays)

    def take(
        self, name: str, dtype: type[np.generic], shape: Sequence[int | None]
    ) -> NDArray[Any]:
        """Return an array of `dtype` and `shape`, None standing for any size.

        Raises
        ------
        BundleError
            If it is missing, of another type or shape, or not finite.
        """
        if name not in self.left:
            raise BundleError(f"the array {name!r} is missing")
        array = self.left.pop(name)
        fits = len(array.shape) == len(shape) and all(
            wanted in (None, got) for wanted, got in zip(shape, array.shape, strict=True)
        )
        if array.dtype != dtype or not fits:
            raise BundleError(
                f"the array {name!r} is {array.dtype} of shape {array.shape}, not "
                f"{np.dtype(dtype)} of shape {tuple(shape)}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BundleError(f"the array {name!r} holds NaN or infinity")
        return np.require(array, requirements=_OWN)

    def supply(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Add arrays that files of former versions lack, where they are missing."""
        self.left = {**arrays, **self.left}

    def take_group(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return all arrays whose names start with `prefix`, without it."""
        names = [name for name in self.left if name.startswith(prefix)]
        group = {name.removeprefix(prefix): self.left.pop(name) for name in names}
        # Arrays of joblib may be mapped from a file that must not be written to.
        return {name: np.require(group[name], requirements=_OWN) for name in group}

    def check_empty(self) -> None:
        """Raise where an array was left, which nothing is known of."""
        if self.left:
            raise BundleError(f"it holds the unknown arrays {sorted(self.left)[:5]}")
