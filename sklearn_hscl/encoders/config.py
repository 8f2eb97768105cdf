"""What a built-in encoder is built from, in plain values, and the encoder from them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_hscl.encoders.image.conv import ConvEncoder
from sklearn_hscl.encoders.image.pixel_standardization import PixelScaling
from sklearn_hscl.encoders.image.resnet import BLOCKS, ResNetEncoder
from sklearn_hscl.encoders.mlp import ColumnExpansion, MLPEncoder
from sklearn_hscl.encoders.preprocessing import ColumnLayout
from sklearn_hscl.encoders.tabular.column_statistics import ColumnStatistics
from sklearn_hscl.encoders.tabular.encoder import TabularEncoder

Blueprint = dict[str, Any]


def describe(encoder: nn.Module) -> Blueprint | None:
    """Return the arguments that a built-in encoder was built with, None for others."""
    if type(encoder) is nn.Sequential and len(encoder) == 2:
        inner = describe(encoder[1])
        expands = type(encoder[0]) is ColumnExpansion
        return {**inner, "expands": True} if expands and inner is not None else None
    if type(encoder) is MLPEncoder:
        return _describe_mlp(encoder)
    if type(encoder) is TabularEncoder:
        return _describe_tabular(encoder)
    if type(encoder) is ConvEncoder:
        return {
            "kind": "conv",
            "n_components": encoder.last.out_features,
            "width": encoder.stages[0].out_channels,
            "dropout": getattr(encoder.dropout, "p", 0.0),
        }
    if type(encoder) is ResNetEncoder:
        depth = next(d for d in BLOCKS if isinstance(encoder.stages[0], BLOCKS[d][0]))
        width = getattr(encoder.last, "out_features", None)
        return {"kind": "resnet", "depth": depth, "n_components": width}
    return None


def _describe_mlp(encoder: MLPEncoder) -> Blueprint:
    linear = [layer for layer in encoder.layers if isinstance(layer, nn.Linear)]
    dropout = [layer.p for layer in encoder.layers if isinstance(layer, nn.Dropout)]
    return {
        "kind": "mlp",
        "expands": False,
        "hidden_layer_sizes": [layer.out_features for layer in linear[:-1]],
        "n_components": linear[-1].out_features,
        "dropout": dropout[0] if dropout else 0.0,
    }


def _describe_tabular(encoder: TabularEncoder) -> Blueprint:
    return {
        "kind": "tabular",
        "n_components": encoder.last.weight.shape[-1],
        "n_members": len(encoder.weights),
        "width": encoder.last.weight.shape[1],
        "n_layers": len(encoder.layers),
        "column_width": encoder.categories.vectors.shape[1],
        "kept": encoder.dropout.kept,
        "pooling": encoder.pooling,
    }


def rebuild(
    blueprint: Blueprint,
    tensors: Mapping[str, Tensor],
    input_shape: tuple[int, ...],
    layout: ColumnLayout | None,
) -> nn.Module:
    """Build an encoder whose weights are still to be loaded; they take no memory yet.

    Parameters
    ----------
    blueprint : dict
        What :func:`describe` returned.
    tensors : mapping of str to Tensor
        State of the encoder, by the names of its ``state_dict``: some shapes follow
        from it, and so does what is known of the columns.
    input_shape : tuple of int
        Shape of a row.
    layout : ColumnLayout or None
        Columns of prepared rows.

    Returns
    -------
    nn.Module

    Raises
    ------
    ValueError
        If the blueprint is of no built-in encoder, or the tensors do not fit it.
    """
    arguments = dict(blueprint)
    kind = arguments.pop("kind", None)
    with torch.device("meta"):
        if kind == "tabular":
            return _tabular(arguments, tensors, layout)
        if kind == "mlp":
            return _mlp(arguments, input_shape, layout)
        if kind in ("conv", "resnet"):
            scaling = PixelScaling(tensors["scaling.mean"], tensors["scaling.spread"])
            size = (input_shape[1], input_shape[2])
            if kind == "conv":
                return ConvEncoder(scaling, size, **arguments)
            return ResNetEncoder(scaling, size, **arguments)
    raise ValueError(f"no built-in encoder is of kind {kind!r}")


def _mlp(
    arguments: dict[str, Any], input_shape: tuple[int, ...], layout: ColumnLayout | None
) -> nn.Module:
    expands = arguments.pop("expands")
    if not expands:
        return MLPEncoder(input_shape, **arguments)
    if layout is None:
        raise ValueError("columns are expanded, but nothing is known of them")
    expansion = ColumnExpansion(layout)
    return nn.Sequential(expansion, MLPEncoder((expansion.width,), **arguments))


def _tabular(
    arguments: dict[str, Any], tensors: Mapping[str, Tensor], layout: ColumnLayout | None
) -> TabularEncoder:
    if layout is None:
        raise ValueError("nothing is known of the columns")
    columns = _column_statistics(tensors, layout)
    kept = arguments.pop("kept")
    encoder = TabularEncoder(columns, **arguments, dropout=0.0)
    encoder.dropout.kept = kept
    return encoder


def _column_statistics(
    tensors: Mapping[str, Tensor], layout: ColumnLayout
) -> ColumnStatistics:
    """Read scales and bins; which columns are what follows from the layout."""
    numeric = layout.n_levels == 0
    sizes = torch.from_numpy(layout.n_levels)
    gappy = torch.from_numpy(layout.has_missing[numeric])
    return ColumnStatistics(
        numeric=(sizes == 0).nonzero()[:, 0],
        categorical=sizes.nonzero()[:, 0],
        cardinalities=sizes[sizes > 0],
        center=tensors["numbers.center"],
        scale=tensors["numbers.scale"],
        left=tensors["numbers.left"],
        per_width=tensors["numbers.per_width"],
        gappy=gappy.nonzero()[:, 0],
    )
