"""From the encoder parameter to a module whose output was checked."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_hscl.encoders.contrastive_module import ContrastiveModule
from sklearn_hscl.encoders.custom import (
    DEFAULT_N_COMPONENTS,
    EncoderFactory,
    own_module,
)
from sklearn_hscl.encoders.image.registry import IMAGE_ENCODERS, build_image_encoder
from sklearn_hscl.encoders.mlp import ColumnExpansion, MLPEncoder
from sklearn_hscl.encoders.preprocessing import ColumnLayout, as_float
from sklearn_hscl.encoders.tabular.column_statistics import MAX_ROWS
from sklearn_hscl.encoders.tabular.encoder import TabularEncoder
from sklearn_hscl.runtime.precision import Precision

TABLE_ENCODERS = ("mlp", "tabular")
ENCODERS = (*TABLE_ENCODERS, *IMAGE_ENCODERS)
"""Names that `encoder` accepts beside ``"auto"`` and those of library models."""

DEFAULT_HIDDEN_LAYER_SIZES = (256, 256)
TABULAR_N_COMPONENTS = 32
TABULAR_LAYER_SIZES = (128, 128, 128)
_MOST_NUMBERS_READ = 2**20  # to learn the scales of columns
_SAMPLE_ROWS = 4  # on which a module is tried
DEFAULT_PRECISION = Precision("float32", torch.device("cpu"))


def build_module(
    encoder: str | nn.Module | EncoderFactory,
    *,
    rows: Any,
    layout: ColumnLayout | None = None,
    n_components: int | None,
    n_members: int = 1,
    hidden_layer_sizes: Sequence[int] | None,
    dropout: float = 0.0,
    projection_dim: int | None,
    n_classes: int | None = None,
    precision: Precision = DEFAULT_PRECISION,
    freeze: Sequence[str] | None = None,
) -> ContrastiveModule:
    """Build the encoder and its head, and try them on a few rows.

    Parameters
    ----------
    encoder : str, nn.Module or callable
        A name, a module (it is copied, its weights are kept), or a factory. A factory
        is called with those of `input_shape`, `n_features` and `n_components` that it
        names as arguments.
    rows : Tensor of shape (n_samples, ...), or rows that are stored elsewhere
        The training rows as the encoder will see them.
    layout : ColumnLayout or None
        What the columns of prepared rows are; None where rows are not prepared.
    n_components : int or None
        Width of the embedding; None for the module's own, that of a ``"resnet"``, 32 for
        ``"tabular"`` or 64.
    n_members : int
        Members of ``"tabular"``.
    hidden_layer_sizes : sequence of int or None
        Hidden widths of the built-in encoders; None for three layers of 128 in
        ``"tabular"`` and two of 256 in ``"mlp"``.
    dropout : float
        Share of hidden units that built-in encoders leave out of each training step.
    projection_dim : int or None
        Width of the projection head's output.
    n_classes : int or None
        Classes of the jointly trained classifier, if there is one.
    precision : Precision
        Types of numbers.
    freeze : sequence of str or None
        Parts or weights of the encoder that training leaves as they are.

    Returns
    -------
    ContrastiveModule
        In training mode.

    Raises
    ------
    ValueError
        If the encoder does not accept the rows or does not return (B, n_components), or
        has nothing of a name in `freeze`.
    """
    input_shape = tuple(rows.shape[1:])
    if isinstance(encoder, str) and layout is not None:
        _check_something_to_learn(layout)
    built: Any
    if encoder == "tabular":
        built = _build_tabular(
            rows, layout, n_components, n_members, hidden_layer_sizes, dropout
        )
    elif isinstance(encoder, str) and encoder not in TABLE_ENCODERS:
        built = build_image_encoder(
            encoder, rows, n_components, hidden_layer_sizes, dropout
        )
    elif isinstance(encoder, str):
        width = DEFAULT_N_COMPONENTS if n_components is None else n_components
        hidden = _checked_sizes(hidden_layer_sizes, DEFAULT_HIDDEN_LAYER_SIZES)
        built = _build_mlp(input_shape, layout, hidden, width, dropout)
    else:
        built = own_module(encoder, input_shape, n_components)
    width = output_width(built, encoder, rows[:_SAMPLE_ROWS].cpu(), n_components)
    frozen = () if freeze is None else tuple(freeze)
    module = ContrastiveModule(built, width, projection_dim, n_classes, precision, frozen)
    return module.to(precision.dtype).train()


def _build_tabular(
    rows: Any,
    layout: ColumnLayout | None,
    n_components: int | None,
    n_members: int,
    hidden_layer_sizes: Sequence[int] | None,
    dropout: float,
) -> TabularEncoder:
    if layout is None:
        raise ValueError(
            f"encoder='tabular' takes tables, got rows of shape "
            f"{tuple(rows.shape[1:])}: use encoder='mlp' or 'auto'."
        )
    hidden = _checked_sizes(hidden_layer_sizes, TABULAR_LAYER_SIZES)
    if len(set(hidden)) != 1:
        raise ValueError(
            f"hidden_layer_sizes={hidden_layer_sizes!r} must hold equal widths, at least "
            f"one, for encoder='tabular', whose layers add to each other."
        )
    n_read = max(1000, min(MAX_ROWS, _MOST_NUMBERS_READ // max(1, rows.shape[1])))
    step = -(-rows.shape[0] // n_read)
    some = rows[torch.arange(0, rows.shape[0], step)]  # rows may lie in a file
    return TabularEncoder.fitted(
        some,
        layout.n_levels.tolist(),
        has_missing=layout.has_missing,
        n_components=TABULAR_N_COMPONENTS if n_components is None else n_components,
        n_members=n_members,
        width=hidden[0],
        n_layers=len(hidden),
        dropout=dropout,
    )


def _check_something_to_learn(layout: ColumnLayout) -> None:
    if not (layout.numeric.size or layout.n_levels.any() or layout.has_missing.any()):
        raise ValueError(
            "X holds categorical columns only, and none of them has the same level in two "
            "training rows, so that there is nothing to learn from: drop identifiers, or "
            "pass columns of numbers or of coarser categories."
        )


def _build_mlp(
    input_shape: tuple[int, ...],
    layout: ColumnLayout | None,
    hidden: Sequence[int],
    width: int,
    dropout: float,
) -> nn.Module:
    if layout is None or layout.is_plain:
        return MLPEncoder(input_shape, hidden, width, dropout)
    expansion = ColumnExpansion(layout)
    return nn.Sequential(expansion, MLPEncoder((expansion.width,), hidden, width, dropout))


def _checked_sizes(sizes: Sequence[int] | None, default: Sequence[int]) -> Sequence[int]:
    if sizes is None:
        return default
    if not all(isinstance(size, Integral) and size > 0 for size in sizes):
        raise ValueError(f"hidden_layer_sizes={sizes!r} must hold positive integers.")
    return [int(size) for size in sizes]


def output_width(
    module: nn.Module, encoder: object, sample: Tensor, n_components: int | None
) -> int:
    """Try the module on a few rows; return the width of its embedding.

    Parameters
    ----------
    module : nn.Module
        The encoder.
    encoder : object
        What the user asked for, which messages name.
    sample : Tensor of shape (n, ...)
        Some training rows.
    n_components : int or None
        The width that is asked for.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If it fails on the rows, or does not return finite float32 embeddings of that
        width, with a gradient, each from its row alone.
    """
    name = encoder if isinstance(encoder, str) else type(module).__name__
    sample = as_float(sample).float()
    try:
        output = module.eval()(sample)  # also gives lazy modules their shapes
        fewer = module(sample[:2])
    except Exception as error:
        raise ValueError(
            f"encoder={name} failed on a batch of shape {tuple(sample.shape)} and dtype "
            f"{sample.dtype}: {error}"
        ) from error
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[0] != len(sample):
        raise ValueError(
            f"encoder={name} must return one embedding per row, shape "
            f"({len(sample)}, n_components) for a batch of {len(sample)} rows, got "
            f"{shape}. Flatten or pool the output."
        )
    if n_components not in (None, shape[1]):
        raise ValueError(
            f"encoder={name} returns embeddings of width {shape[1]}, but "
            f"n_components={n_components}. Leave n_components=None to take the "
            f"module's width."
        )
    _check_embedding(name, output, fewer)
    return shape[1]


def _check_embedding(name: object, output: Tensor, fewer: Tensor) -> None:
    problem = None
    if output.dtype != torch.float32 or output.shape[1] == 0:
        problem = f"{output.dtype} of width {output.shape[1]}: return float32 embeddings"
    elif not output.requires_grad:
        problem = "embeddings without a gradient: it must have trainable parameters"
    elif not output.isfinite().all():
        problem = "NaN or infinity on training rows: scale X, or check its weights"
    elif not torch.allclose(output[:2], fewer, rtol=1e-3, atol=1e-5):
        problem = (
            "different embeddings of a row in different batches, in eval mode: use "
            "layers that treat rows one by one, or keep running statistics"
        )
    if problem is not None:
        raise ValueError(f"encoder={name} returns {problem}.")
