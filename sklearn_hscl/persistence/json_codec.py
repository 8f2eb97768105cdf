"""Parameters as JSON, strings as an array."""

import inspect
import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sklearn_hscl.augment import (
    Augmentation,
    ClassCorruption,
    FeatureCorruption,
    ImageTransforms,
    RandomShift,
)
from sklearn_hscl.losses import (
    ContrastiveLoss,
    CosineBeta,
    LinearBeta,
    StepBeta,
    WarmUpBeta,
)
from sklearn_hscl.persistence.schema import BundleError

TAG = "$"
# Classes whose instances are told by name and settings.
SCHEDULES = (WarmUpBeta, LinearBeta, CosineBeta, StepBeta)
AUGMENTATIONS = (
    Augmentation,
    ClassCorruption,
    FeatureCorruption,
    ImageTransforms,
    RandomShift,
)
BY_NAME: dict[str, Any] = {
    kind.__name__: kind for kind in (*SCHEDULES, *AUGMENTATIONS, ContrastiveLoss)
}
# Names that classes had when earlier versions wrote them.
_FORMER_NAMES = {"PictureTransforms": "ImageTransforms"}
OPTIMIZERS: dict[str, Any] = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)
}
_NUMBERS = "biuf"


class NotStorable(TypeError):  # noqa: N818 - of a value, of which the caller says more
    """A value is code, or holds it."""


class Encoder:
    """From values to JSON.

    Attributes
    ----------
    pool : list of str
        Strings of arrays, in their order.
    """

    def __init__(self) -> None:
        self.pool: list[str] = []

    def __call__(self, value: Any) -> Any:
        """Return what `json` can write of a value.

        Raises
        ------
        NotStorable
            If it is, or holds, something else than values.
        """
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {TAG: "float", "value": str(value)}
        if type(value) is list:
            return [self(item) for item in value]
        if type(value) is tuple:
            return {TAG: "tuple", "items": [self(item) for item in value]}
        if type(value) is dict and all(type(key) is str for key in value):
            items = {key: self(item) for key, item in value.items()}
            return items if TAG not in value else self._refuse(value)
        if isinstance(value, np.generic) and value.dtype.kind in _NUMBERS:
            return {TAG: "number", "dtype": value.dtype.name, "value": self(value.item())}
        if isinstance(value, np.str_):
            return str(value)
        if isinstance(value, np.ndarray) and value.ndim == 1:
            return self._array(value)
        if isinstance(value, PurePath):
            return str(value)
        if isinstance(value, torch.device):
            return {TAG: "device", "name": str(value)}
        optimizer = next((n for n, kind in OPTIMIZERS.items() if kind is value), None)
        if optimizer is not None:
            return {TAG: "optimizer", "name": optimizer}
        name = type(value).__name__
        if BY_NAME.get(name) is type(value):
            return {TAG: "object", "name": name, "settings": self(_settings(value))}
        return self._refuse(value)

    def _array(self, array: NDArray[Any]) -> dict[str, Any]:
        values = array.tolist()
        if array.dtype.kind in _NUMBERS:
            return {TAG: "array", "dtype": array.dtype.name, "values": self(values)}
        if array.dtype.kind not in "OU":
            self._refuse(array)
        dtype = "object" if array.dtype.kind == "O" else "str"
        if all(type(value) is str for value in values):
            self.pool += values
            return {TAG: "strings", "dtype": dtype, "count": len(values)}
        return {TAG: "array", "dtype": "object", "values": [self(v) for v in values]}

    def _refuse(self, value: Any) -> Any:
        raise NotStorable(f"{value!r:.80} ({type(value).__name__})")


def _settings(value: Any) -> dict[str, Any]:
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, ContrastiveLoss):
        return value.plain_params()
    return value.get_params(deep=False)


class Decoder:
    """From JSON to values; the opposite of :class:`Encoder`.

    Parameters
    ----------
    pool : sequence of str
        Strings of arrays, each of which is taken once.
    """

    def __init__(self, pool: Sequence[str]) -> None:
        self.pool = pool
        self.n_taken = 0

    def __call__(self, stored: Any) -> Any:
        """Return a value.

        Raises
        ------
        BundleError
            If it is not what :class:`Encoder` makes.
        """
        if isinstance(stored, list):
            return [self(item) for item in stored]
        if not isinstance(stored, dict):
            return stored
        if TAG not in stored:
            return {key: self(item) for key, item in stored.items()}
        entries = {key: item for key, item in stored.items() if key != TAG}
        kind = stored[TAG]
        if kind not in _KINDS:
            raise BundleError(f"it holds a value of the unknown kind {kind!r:.80}")
        try:
            return getattr(self, f"_{kind}")(**entries)
        except BundleError:
            raise
        except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
            raise BundleError(f"it holds an impossible {kind}: {error}") from error

    def check_empty(self) -> None:
        """Raise where strings are left, which nothing is known of."""
        if self.n_taken != len(self.pool):
            raise BundleError(f"it holds {len(self.pool) - self.n_taken} unknown strings")

    def _float(self, value: str) -> float:
        return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[value]

    def _tuple(self, items: list[Any]) -> tuple[Any, ...]:
        return tuple(self(items))

    def _number(self, dtype: str, value: Any) -> Any:
        return _number_type(dtype).type(self(value))

    def _device(self, name: str) -> torch.device:
        try:
            return torch.device(name)
        except RuntimeError as error:
            raise BundleError(f"it names the unknown device {name!r:.80}") from error

    def _optimizer(self, name: str) -> Any:
        return OPTIMIZERS[name]

    def _array(self, dtype: str, values: list[Any]) -> NDArray[Any]:
        values = self(values)
        if dtype == "object":
            return np.fromiter(values, dtype=object, count=len(values))
        return np.array(values, dtype=_number_type(dtype)).reshape(len(values))

    def _strings(self, dtype: str, count: int) -> NDArray[Any]:
        strings = self.pool[self.n_taken : self.n_taken + count]
        if type(count) is not int or not 0 <= count == len(strings):
            raise BundleError(f"it holds fewer than {count} strings")
        self.n_taken += count
        if dtype not in ("object", "str"):
            raise ValueError(f"strings in an array of {dtype}")
        return np.array(strings, dtype=dtype)

    def _object(self, name: str, settings: dict[str, Any]) -> Any:
        settings = self(settings)
        if name == "ContrastiveLoss":
            return ContrastiveLoss.from_settings(settings)
        return BY_NAME[_FORMER_NAMES.get(name, name)](**settings)


# What a tagged value can be; a method of the decoder for each.
_KINDS = ("float", "tuple", "number", "device", "optimizer", "array", "strings", "object")


def _number_type(name: str) -> np.dtype[Any]:
    dtype = np.dtype(name)
    if dtype.kind not in _NUMBERS or dtype.name != name:
        raise ValueError(f"{name} is no type of numbers")
    return dtype


def pool_arrays(pool: list[str]) -> dict[str, NDArray[Any]]:
    """Return strings as their bytes and where each of them ends."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in pool]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return {"text.bytes": np.frombuffer(b"".join(encoded), np.uint8), "text.ends": ends}


def pool_strings(arrays: dict[str, NDArray[Any]]) -> list[str]:
    """Return the strings; the opposite of :func:`pool_arrays`."""
    text, ends = arrays.pop("text.bytes", None), arrays.pop("text.ends", None)
    if text is None or ends is None or text.dtype != np.uint8 or ends.dtype != np.int64:
        raise BundleError("its strings are missing")
    starts = np.concatenate([np.zeros(1, np.int64), ends])
    if text.ndim != 1 or starts[-1] != len(text) or (np.diff(starts) < 0).any():
        raise BundleError("its strings end where they cannot")
    whole = text.tobytes()
    pairs = zip(starts[:-1].tolist(), ends.tolist(), strict=True)
    return [whole[i:j].decode("utf-8", "surrogatepass") for i, j in pairs]
