"""Validation of what is read from a file or a pickle."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import UnionType
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = dict[str, Array]
# Named values of a fit, which JSON can hold once they are encoded.
Entries = dict[str, Any]
# Parameters of the embedder, or those that the user passes to `load`.
Params = Mapping[str, Any]
Scalar = TypeVar("Scalar", bound=np.generic)

# Errors that invalid entries and arrays can raise beyond the checks.
_UNFORESEEN = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
# What torch requires of an array: contiguous and writable.
_CONTIGUOUS_WRITABLE: Final = ("C", "W")


class BundleError(ValueError):
    """A file or a pickle of an embedder cannot be loaded.

    The message names the file and its fault.
    """


@contextmanager
def error_context(source: object) -> Iterator[None]:
    """Raise all errors of the block as BundleError that names the source."""
    try:
        yield
    except BundleError as error:
        raise BundleError(f"{source} cannot be loaded: {error}.") from error
    except _UNFORESEEN as error:
        raise BundleError(
            f"{source} cannot be loaded, as its contents are inconsistent: "
            f"{type(error).__name__}: {error}"
        ) from error


def check_schema(entries: object, where: str, /, **types: type | UnionType) -> Entries:
    """Return the entries if they have exactly the given names and types.

    Parameters
    ----------
    entries : dict
        Stored values.
    where : str
        Name of the entries in messages.
    **types : type or union of types
        Type of each entry.

    Returns
    -------
    dict
        `entries`.

    Raises
    ------
    BundleError
        If an entry is missing, unknown or of another type.
    """
    if not isinstance(entries, dict):
        raise BundleError(f"expected {where} to be a dict, got {type(entries).__name__}")
    if entries.keys() != types.keys():
        differ = sorted(map(str, entries.keys() ^ types.keys()))
        raise BundleError(f"{where} has missing or unknown entries: {differ[:5]}")
    for name, expected in types.items():
        value = entries[name]
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is int):
            raise BundleError(f"{name} of {where} has the invalid value {value!r:.80}")
    return entries


class StoredArrays:
    """Arrays of a stored fit, which are taken one by one.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        All arrays by name.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._remaining = dict(arrays)

    def take(
        self, name: str, dtype: type[Scalar], shape: Sequence[int | None]
    ) -> NDArray[Scalar]:
        """Return an array of `dtype` and `shape`; None in the shape allows any size.

        Raises
        ------
        BundleError
            If it is missing, not finite, or of another type or shape.
        """
        if name not in self._remaining:
            raise BundleError(f"the array {name!r} is missing")
        array = self._remaining.pop(name)
        has_shape = len(array.shape) == len(shape) and all(
            expected in (None, size)
            for expected, size in zip(shape, array.shape, strict=True)
        )
        if array.dtype != dtype or not has_shape:
            raise BundleError(
                f"expected the array {name!r} to be {np.dtype(dtype)} of shape "
                f"{tuple(shape)}, got {array.dtype} of shape {array.shape}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BundleError(f"the array {name!r} holds NaN or infinity")
        return np.require(array, requirements=_CONTIGUOUS_WRITABLE)

    def add_defaults(self, arrays: Mapping[str, Array]) -> None:
        """Add arrays that files of earlier versions lack, unless they are there."""
        self._remaining = {**arrays, **self._remaining}

    def take_group(self, prefix: str) -> Arrays:
        """Return all arrays whose names start with `prefix`, without the prefix."""
        names = [name for name in self._remaining if name.startswith(prefix)]
        group = {name.removeprefix(prefix): self._remaining.pop(name) for name in names}
        # Arrays of joblib may be mapped from a file that must not be written to.
        return {
            name: np.require(array, requirements=_CONTIGUOUS_WRITABLE)
            for name, array in group.items()
        }

    def check_empty(self) -> None:
        """Raise an error if an array was not taken."""
        if self._remaining:
            raise BundleError(f"it holds the unknown arrays {sorted(self._remaining)[:5]}")
