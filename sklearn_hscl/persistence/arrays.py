"""Arrays by name, each of which is taken once and checked."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sklearn_hscl.persistence.errors import BundleError

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
