"""The fitted attributes of an embedder: names, optionality, storage."""

from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from enum import Enum
from operator import attrgetter
from types import UnionType
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sklearn_hscl.data.categorical import TableColumns
from sklearn_hscl.data.graphs import is_graph_shape
from sklearn_hscl.data.targets import TargetEncoder
from sklearn_hscl.encoders.contrastive_module import ContrastiveModule
from sklearn_hscl.encoders.preprocessing import Preparation
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.losses.beta_schedules import BetaSchedule
from sklearn_hscl.runtime.precision import Precision
from sklearn_hscl.runtime.random_state import Seeds

T = TypeVar("T")
EpochRecord = dict[str, Any]
Converter = Callable[[Any], Any]


class FittedNet(Protocol):
    """A net after training, or what a loaded embedder has in its place."""

    @property
    def module_(self) -> ContrastiveModule:
        """Encoder, projection head and classifier."""

    @property
    def criterion_(self) -> ContrastiveLoss:
        """The loss, with its resolved settings."""

    @property
    def batch_size(self) -> int:
        """Samples per batch."""

    @property
    def n_views(self) -> int:
        """Views per sample."""

    @property
    def iterator_train__sampler(self) -> str:
        """Name of the batch sampler."""

    @property
    def optimizer_(self) -> torch.optim.Optimizer | None:
        """The optimizer, if its state is known."""


class Storage(Enum):
    """How persistence stores an attribute that has no entry of its own.

    ``INPUT``: as plain attribute of the estimator, with all that describes X.
    ``COMPOSITE``: in several entries and arrays.
    ``DERIVED``: not at all, because it follows from the other attributes.
    """

    INPUT = "input"
    COMPOSITE = "composite"
    DERIVED = "derived"


def _identity(value: T) -> T:
    return value


@dataclass(frozen=True)
class Entry:
    """The entry of a stored fit that holds an attribute.

    Parameters
    ----------
    key : str
        Name of the entry. Files have it: it must not change.
    type : type or union of types
        Type of the stored value.
    write : callable
        From the attribute to the stored value.
    read : callable or None
        From the stored value to the attribute; None if that depends on the parameters.
    """

    key: str
    type: type | UnionType
    write: Converter = _identity
    read: Converter | None = _identity


_STORAGE = "storage"
_INPUT = {_STORAGE: Storage.INPUT}
_COMPOSITE = {_STORAGE: Storage.COMPOSITE}
_DERIVED = {_STORAGE: Storage.DERIVED}


def n_features_of(shape: tuple[int, ...]) -> int:
    """Return the number of columns, channels or node features; of texts, the one column."""
    if is_graph_shape(shape):
        return shape[-1]
    return shape[0] if shape else 1


def is_shape(shape: list[int]) -> bool:
    """Return whether a stored list is the shape of a table's row, an image, ...."""
    sizes = shape[1:] if is_graph_shape(tuple(shape)) else shape
    has_axes = len(shape) in (0, 1, 3) or len(sizes) < len(shape)
    return has_axes and all(type(n) is int and n > 0 for n in sizes)


def _sizes(shape: torch.Size | tuple[int, ...]) -> list[int]:
    return [int(size) for size in shape]


@dataclass(frozen=True, kw_only=True)
class FittedState:
    """All fitted attributes of an embedder.

    Fields without a trailing underscore are private attributes, which have a leading one:
    ``precision`` is `_precision` of the estimator. A field with the default None is
    optional: the estimator lacks it if it is None. The metadata of a field say how
    persistence stores it. Fields that follow from others are computed.
    """

    # X
    n_features_in_: int = field(init=False, metadata=_INPUT)
    feature_names_in_: NDArray[np.object_] | None = field(default=None, metadata=_INPUT)
    pixel_scale: str | None = field(default=None, metadata=_INPUT)
    columns: TableColumns | None = field(metadata=_COMPOSITE)
    is_categorical_: NDArray[np.bool_] | None = field(
        init=False, default=None, metadata=_DERIVED
    )
    categories_: list[NDArray[np.object_]] | None = field(
        init=False, default=None, metadata=_DERIVED
    )
    prepare: Preparation = field(metadata=_COMPOSITE)

    # y
    encode_targets: TargetEncoder | None = field(metadata=_COMPOSITE)
    classes_: NDArray[np.generic] | None = field(
        init=False, default=None, metadata=_DERIVED
    )

    # The network
    module_: nn.Module = field(metadata=_COMPOSITE)
    net_: FittedNet = field(metadata=_COMPOSITE)
    n_features_out: int = field(metadata=_COMPOSITE)

    # The course of training
    history_: list[EpochRecord] = field(metadata=_COMPOSITE)
    loss_curve_: list[float] = field(init=False, metadata=_DERIVED)
    n_iter_: int = field(init=False, metadata=_DERIVED)
    best_epoch_: int = field(metadata={_STORAGE: Entry("best_epoch", int)})
    chance_loss_: float = field(metadata={_STORAGE: Entry("chance_loss", float)})
    valid_score_name_: str | None = field(
        default=None, metadata={_STORAGE: Entry("valid_score_name", str | None)}
    )
    held_out_readout_: dict[str, float] | None = field(
        default=None, metadata={_STORAGE: Entry("held_out_readout", dict | None)}
    )
    n_anchors: int = field(metadata={_STORAGE: Entry("n_anchors", int)})

    # Resolved settings
    input_shape_: tuple[int, ...] = field(
        metadata={_STORAGE: Entry("input_shape", list, _sizes, tuple)}
    )
    n_threads_: int = field(metadata={_STORAGE: Entry("n_threads", int)})
    precision: Precision = field(
        metadata={_STORAGE: Entry("precision", str, attrgetter("name"), None)}
    )
    device_: torch.device = field(
        metadata={_STORAGE: Entry("device_type", str, attrgetter("type"), None)}
    )
    beta_: float | BetaSchedule = field(
        metadata={_STORAGE: Entry("beta", object, read=None)}
    )
    temperature_: float = field(metadata={_STORAGE: Entry("temperature", int | float)})
    seeds: Seeds = field(metadata={_STORAGE: Entry("seeds", list, list, Seeds._make)})

    def __post_init__(self) -> None:
        """Compute the fields that follow from others."""
        derived: dict[str, object] = {
            "n_features_in_": n_features_of(self.input_shape_),
            "loss_curve_": [epoch["train_loss"] for epoch in self.history_],
            "n_iter_": len(self.history_),
        }
        if self.encode_targets is not None:
            derived["classes_"] = self.encode_targets.classes
        if self.columns is not None and self.columns.is_categorical.any():
            derived["is_categorical_"] = self.columns.is_categorical
            derived["categories_"] = self.columns.categories
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, estimator: object) -> Self:
        """Return the state of a fitted estimator."""
        found = vars(estimator)
        values: dict[str, Any] = {
            f.name: found.get(_attribute(f)) for f in fields(cls) if f.init
        }
        return cls(**values)

    def attributes(self) -> dict[str, Any]:
        """Return the attributes by name, without the optional ones that are None."""
        values = {_attribute(f): getattr(self, f.name) for f in fields(self)}
        return {
            name: value
            for name, value in values.items()
            if value is not None or name not in OPTIONAL_ATTRIBUTES
        }


def _attribute(state_field: Field[Any]) -> str:
    """Return the name that the estimator gives to a field."""
    name = state_field.name
    return name if name.endswith("_") else f"_{name}"


_FIELDS = fields(FittedState)
OPTIONAL_ATTRIBUTES = tuple(_attribute(f) for f in _FIELDS if f.default is None)
"""Attributes that only some fits have."""
INPUT_ATTRIBUTES = tuple(
    _attribute(f) for f in _FIELDS if f.metadata[_STORAGE] is Storage.INPUT
)
"""Attributes that describe X."""
SERIALIZED_ATTRIBUTES = frozenset(map(_attribute, _FIELDS)) - frozenset(INPUT_ATTRIBUTES)
"""Attributes that persistence takes apart; all others are stored as they are."""
ENTRIES: dict[str, Entry] = {
    f.name: f.metadata[_STORAGE] for f in _FIELDS if isinstance(f.metadata[_STORAGE], Entry)
}
"""The fields that have an entry of their own."""
