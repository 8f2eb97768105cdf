"""Inputs of encoder builders: the user's options, and training data or a stored file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from sklearn_hscl.encoders.preprocessing import ColumnLayout

EncoderFactory = Callable[..., nn.Module]

EncoderConfig = dict[str, Any]
"""Arguments that a built-in encoder was built with, as JSON values."""


class IndexableRows(Protocol):
    """Rows on the device or elsewhere, read by index as a tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (n, ...) of all rows."""

    def __getitem__(self, index: Tensor | slice, /) -> Tensor:
        """Return the rows at these indices."""


@dataclass(frozen=True)
class EncoderOptions:
    """The user's choice of an encoder and its head.

    Attributes
    ----------
    encoder : str, nn.Module or callable
        A name, a module (it is copied with its weights), or a factory. A factory is called
        with those of `input_shape`, `n_features` and `n_components` that it has as
        parameters.
    n_components : int or None
        Width of the embedding. None selects the width of a module or of a resnet, 32 for
        ``"tabular"`` and 64 otherwise.
    n_members : int
        Number of members of ``"tabular"``.
    hidden_layer_sizes : sequence of int or None
        Hidden widths of built-in encoders. None selects three layers of 128 for
        ``"tabular"`` and two of 256 for ``"mlp"``.
    dropout : float
        Fraction of hidden units that built-in encoders drop in each training step.
    projection_dim : int or None
        Width of the projection head's output; None for no head.
    freeze : sequence of str or None
        Names of parts or weights of the encoder that are not trained.
    """

    encoder: str | nn.Module | EncoderFactory
    n_components: int | None = None
    n_members: int = 1
    hidden_layer_sizes: Sequence[int] | None = None
    dropout: float = 0.0
    projection_dim: int | None = None
    freeze: Sequence[str] | None = None


@dataclass(frozen=True)
class EncoderInputs:
    """Training rows as the encoder takes them.

    Attributes
    ----------
    rows : Tensor of shape (n, ...), or rows that are read by index
        The training rows.
    layout : ColumnLayout or None
        Layout of the columns of preprocessed tables; None for images and raw rows.
    """

    rows: IndexableRows
    layout: ColumnLayout | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row."""
        return tuple(self.rows.shape[1:])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of images."""
        return int(self.shape[1]), int(self.shape[2])


@dataclass(frozen=True)
class StoredEncoder:
    """Content of a file, beside the config, that an encoder is rebuilt from.

    Attributes
    ----------
    tensors : mapping of str to Tensor
        State of the encoder by the names of its ``state_dict``.
    input_shape : tuple of int
        Shape of a row.
    layout : ColumnLayout or None
        Layout of the columns of preprocessed tables.
    """

    tensors: Mapping[str, Tensor]
    input_shape: tuple[int, ...]
    layout: ColumnLayout | None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of images."""
        return self.input_shape[1], self.input_shape[2]
