"""Configs of built-in encoders, as they are stored, and the encoders built from them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sklearn_hscl.encoders.mlp import MLPEncoder, OneHotColumns
from sklearn_hscl.encoders.options import EncoderConfig, StoredEncoder
from sklearn_hscl.encoders.preprocessing import ColumnLayout
from sklearn_hscl.encoders.registry import STORED_TYPES

# Keys of stored configs: the name of the type, and whether one-hot columns come first.
_TYPE, _ONE_HOT = "kind", "expands"


def get_config(encoder: nn.Module) -> EncoderConfig | None:
    """Return the arguments that a built-in encoder was built with, None for others."""
    if type(encoder) is nn.Sequential and len(encoder) == 2:
        config = get_config(encoder[1])
        if config is None or type(encoder[0]) is not OneHotColumns:
            return None
        return {**config, _ONE_HOT: True}
    for name, encoder_type in STORED_TYPES.items():
        if type(encoder) is encoder_type:
            flags = {_ONE_HOT: False} if name == "mlp" else {}
            return {_TYPE: name, **flags, **encoder.get_config()}
    return None


def build_from_config(
    config: EncoderConfig,
    tensors: Mapping[str, Tensor],
    input_shape: tuple[int, ...],
    layout: ColumnLayout | None,
) -> nn.Module:
    """Build an encoder on the meta device, whose weights are loaded later.

    Parameters
    ----------
    config : dict
        Result of :func:`get_config`.
    tensors : mapping of str to Tensor
        State of the encoder by the names of its ``state_dict``. It gives some shapes, and
        the statistics of the columns.
    input_shape : tuple of int
        Shape of a row.
    layout : ColumnLayout or None
        Layout of the columns of preprocessed rows.

    Returns
    -------
    nn.Module

    Raises
    ------
    ValueError
        If the type is unknown, or the tensors do not fit the config.
    """
    config = dict(config)
    name = config.pop(_TYPE, None)
    if not isinstance(name, str) or name not in STORED_TYPES:
        raise ValueError(f"no built-in encoder has the type {name!r}")
    stored = StoredEncoder(tensors, input_shape, layout)
    with torch.device("meta"):
        if name == "mlp" and config.pop(_ONE_HOT):
            return _one_hot_mlp(config, stored)
        return STORED_TYPES[name].from_config(config, stored)


def _one_hot_mlp(config: EncoderConfig, stored: StoredEncoder) -> nn.Module:
    if stored.layout is None:
        raise ValueError("the layout of the one-hot columns is missing")
    one_hot = OneHotColumns(stored.layout)
    inner = StoredEncoder(stored.tensors, (one_hot.width,), None)
    return nn.Sequential(one_hot, MLPEncoder.from_config(config, inner))
