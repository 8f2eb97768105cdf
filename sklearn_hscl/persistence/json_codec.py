"""Values as JSON without code: plain values, and objects of this library by name.

A value of a type that JSON lacks is a dictionary with the key ``"$"``. The strings of
arrays are collected into one table, which is stored as two arrays.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import PurePath
from typing import Any, NoReturn, TypeAlias

import numpy as np
import torch

from sklearn_hscl.augment import (
    AttributeMasking,
    Augmentation,
    ClassCorruption,
    EdgePerturbation,
    FeatureCorruption,
    ImageTransforms,
    NodeDropping,
    RandomShift,
    Subgraph,
)
from sklearn_hscl.losses import (
    ContrastiveLoss,
    CosineBeta,
    LinearBeta,
    StepBeta,
    WarmUpBeta,
)
from sklearn_hscl.persistence.schema import Array, Arrays, BundleError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Schedule = WarmUpBeta | LinearBeta | CosineBeta | StepBeta
NamedObject = Schedule | Augmentation | ContrastiveLoss

_SCHEDULES = (WarmUpBeta, LinearBeta, CosineBeta, StepBeta)
_AUGMENTATIONS = (
    AttributeMasking,
    Augmentation,
    ClassCorruption,
    EdgePerturbation,
    FeatureCorruption,
    ImageTransforms,
    NodeDropping,
    RandomShift,
    Subgraph,
)
# Classes whose instances are stored as name and settings.
_CLASSES: dict[str, type[NamedObject]] = {
    cls.__name__: cls for cls in (*_SCHEDULES, *_AUGMENTATIONS, ContrastiveLoss)
}
# Names of classes in files of earlier versions.
_EARLIER_NAMES = {"PictureTransforms": "ImageTransforms"}
_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer)
}
_TAG = "$"
# Types of tagged values; the decoder has a method for each.
_TAGS = ("float", "tuple", "number", "device", "optimizer", "array", "strings", "object")
_NUMERIC = "biuf"


def named_class_paths() -> tuple[str, ...]:
    """Return the import paths of the classes that are stored by name."""
    return tuple(f"{cls.__module__}.{cls.__qualname__}" for cls in _CLASSES.values())


class NotStorable(TypeError):  # noqa: N818 - the caller raises an error with the context
    """A value is code, or contains it."""


class JsonEncoder:
    """Encoder of values as JSON.

    Attributes
    ----------
    strings : list of str
        The table of strings, in the order of the arrays.
    """

    def __init__(self) -> None:
        self.strings: list[str] = []

    def __call__(self, value: object) -> Json:
        """Return a value in a form that the module json can write.

        Raises
        ------
        NotStorable
            If the value is, or contains, code or an object of another library.
        """
        if value is None or type(value) is bool or type(value) is int or type(value) is str:
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {_TAG: "float", "value": str(value)}
        if type(value) is list:
            return [self(item) for item in value]
        if type(value) is tuple:
            return {_TAG: "tuple", "items": [self(item) for item in value]}
        if type(value) is dict:
            if _TAG in value or not all(type(key) is str for key in value):
                self._refuse(value)
            return {key: self(item) for key, item in value.items()}
        if isinstance(value, np.generic):
            return self._scalar(value)
        if isinstance(value, np.ndarray):
            return self._array(value)
        return self._named(value)

    def _scalar(self, value: np.generic) -> Json:
        if value.dtype.kind in _NUMERIC:
            return {_TAG: "number", "dtype": value.dtype.name, "value": self(value.item())}
        return str(value) if isinstance(value, np.str_) else self._refuse(value)

    def _array(self, array: Array) -> Json:
        if array.ndim != 1 or array.dtype.kind not in _NUMERIC + "OU":
            self._refuse(array)
        values = array.tolist()
        if array.dtype.kind in _NUMERIC:
            return {_TAG: "array", "dtype": array.dtype.name, "values": self(values)}
        if all(type(value) is str for value in values):
            self.strings += values
            dtype = "object" if array.dtype.kind == "O" else "str"
            return {_TAG: "strings", "dtype": dtype, "count": len(values)}
        return {_TAG: "array", "dtype": "object", "values": [self(v) for v in values]}

    def _named(self, value: object) -> Json:
        if isinstance(value, PurePath):
            return str(value)
        if isinstance(value, torch.device):
            return {_TAG: "device", "name": str(value)}
        optimizer = next((n for n, cls in _OPTIMIZERS.items() if cls is value), None)
        if optimizer is not None:
            return {_TAG: "optimizer", "name": optimizer}
        name = type(value).__name__
        if isinstance(value, NamedObject) and _CLASSES.get(name) is type(value):
            return {_TAG: "object", "name": name, "settings": self(_settings(value))}
        return self._refuse(value)

    def _refuse(self, value: object) -> NoReturn:
        raise NotStorable(f"{value!r:.80} ({type(value).__name__})")


def _settings(value: NamedObject) -> dict[str, object]:
    if isinstance(value, ContrastiveLoss):
        return value.plain_params()
    if isinstance(value, Augmentation):
        return value.get_params(deep=False)
    return {field.name: getattr(value, field.name) for field in fields(value)}


class JsonDecoder:
    """Decoder of JSON to values; the inverse of :class:`JsonEncoder`.

    Parameters
    ----------
    strings : sequence of str
        The table of strings, each of which is used once.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._table = strings
        self._n_used = 0

    def __call__(self, stored: object) -> Any:
        """Return the value.

        Raises
        ------
        BundleError
            If :class:`JsonEncoder` does not write such a value.
        """
        if isinstance(stored, list):
            return [self(item) for item in stored]
        if not isinstance(stored, dict):
            return stored
        if _TAG not in stored:
            return {key: self(item) for key, item in stored.items()}
        entries = {key: item for key, item in stored.items() if key != _TAG}
        tag = stored[_TAG]
        if tag not in _TAGS:
            raise BundleError(f"it holds a value of the unknown type {tag!r:.80}")
        try:
            return getattr(self, f"_{tag}")(**entries)
        except BundleError:
            raise
        except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
            raise BundleError(f"it holds an invalid {tag}: {error}") from error

    def check_empty(self) -> None:
        """Raise an error if a string was not used."""
        n_unused = len(self._table) - self._n_used
        if n_unused:
            raise BundleError(f"it holds {n_unused} unknown strings")

    def _float(self, value: str) -> float:
        return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[value]

    def _tuple(self, items: list[Json]) -> tuple[object, ...]:
        return tuple(self(items))

    def _number(self, dtype: str, value: Json) -> np.generic:
        return _numeric_dtype(dtype).type(self(value))

    def _device(self, name: str) -> torch.device:
        try:
            return torch.device(name)
        except RuntimeError as error:
            raise BundleError(f"it names the unknown device {name!r:.80}") from error

    def _optimizer(self, name: str) -> type[torch.optim.Optimizer]:
        return _OPTIMIZERS[name]

    def _array(self, dtype: str, values: list[Json]) -> Array:
        decoded = self(values)
        if dtype == "object":
            return np.fromiter(decoded, dtype=object, count=len(decoded))
        return np.array(decoded, dtype=_numeric_dtype(dtype)).reshape(len(decoded))

    def _strings(self, dtype: str, count: int) -> Array:
        strings = self._table[self._n_used : self._n_used + count]
        if type(count) is not int or not 0 <= count == len(strings):
            raise BundleError(f"expected {count} strings, got fewer")
        self._n_used += count
        if dtype not in ("object", "str"):
            raise ValueError(
                f"expected the dtype of strings to be object or str, got {dtype}"
            )
        return np.array(strings, dtype=dtype)

    def _object(self, name: str, settings: dict[str, Json]) -> NamedObject:
        decoded = self(settings)
        if name == "ContrastiveLoss":
            return ContrastiveLoss.from_settings(decoded)
        return _CLASSES[_EARLIER_NAMES.get(name, name)](**decoded)


def _numeric_dtype(name: str) -> np.dtype[np.generic]:
    dtype = np.dtype(name)
    if dtype.kind not in _NUMERIC or dtype.name != name:
        raise ValueError(f"expected a numeric dtype, got {name}")
    return dtype


# The table of strings ----------------------------------------------------------------


def string_arrays(strings: Sequence[str]) -> Arrays:
    """Return a table of strings as bytes and the offset at which each string ends."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in strings]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return {"text.bytes": np.frombuffer(b"".join(encoded), np.uint8), "text.ends": ends}


def take_strings(arrays: Arrays) -> list[str]:
    """Remove the table of strings from the arrays, and return the strings."""
    text, ends = arrays.pop("text.bytes", None), arrays.pop("text.ends", None)
    if text is None or ends is None or text.dtype != np.uint8 or ends.dtype != np.int64:
        raise BundleError("the table of strings is missing")
    starts = np.concatenate([np.zeros(1, np.int64), ends])
    if text.ndim != 1 or starts[-1] != len(text) or (np.diff(starts) < 0).any():
        raise BundleError("invalid string offsets")
    whole = text.tobytes()
    pairs = zip(starts[:-1].tolist(), ends.tolist(), strict=True)
    return [whole[i:j].decode("utf-8", "surrogatepass") for i, j in pairs]
