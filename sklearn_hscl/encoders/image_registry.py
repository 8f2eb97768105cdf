"""Encoders of images, by name."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from torch import nn

from sklearn_hscl.encoders.conv import ConvEncoder
from sklearn_hscl.encoders.library_models import build_library_model, is_library_model
from sklearn_hscl.encoders.pixels import PixelScaling
from sklearn_hscl.encoders.resnet import ResNetEncoder

IMAGE_ENCODERS = ("conv", "resnet18", "resnet50")
DEFAULT_CONV_COMPONENTS = 64
DEFAULT_CONV_WIDTH = 32


def build_image_encoder(
    encoder: str,
    images: Any,
    n_components: int | None,
    hidden_layer_sizes: Sequence[int] | None,
    dropout: float,
) -> nn.Module:
    """Build an encoder that knows the scale of the training images.

    Parameters
    ----------
    encoder : {"conv", "resnet18", "resnet50"} or str
        Which one; or a model of timm or torchvision, as in ``"timm:resnet18"``.
    images : Tensor of shape (n, C, H, W), or images that are stored elsewhere
        The training images.
    n_components : int or None
        Width of the embedding; None for 64 in ``"conv"``, else that of the network.
    hidden_layer_sizes : sequence of one int, or None
        Channels of the first convolution of ``"conv"``; None for 32.
    dropout : float
        Share of pooled means that ``"conv"`` leaves out of each training step.

    Returns
    -------
    nn.Module
        A resnet has its channels innermost in memory, where convolutions are faster.

    Raises
    ------
    ValueError
        If the rows are no images, or a size does not fit the encoder.
    ImportError
        If the model is one of a library that is not installed.
    """
    if len(images.shape) != 4:
        raise ValueError(
            f"encoder={encoder!r} takes images, got rows of shape "
            f"{tuple(images.shape[1:])}: use encoder='auto', 'tabular' or 'mlp', or "
            f"reshape flattened images to (n_samples, H, W) or (n_samples, H, W, C)."
        )
    scaling = PixelScaling.of(images)
    size = (int(images.shape[2]), int(images.shape[3]))
    if encoder == "conv":
        return _build_conv(scaling, size, n_components, hidden_layer_sizes, dropout)
    _check_nothing_to_choose(encoder, hidden_layer_sizes, dropout)
    if is_library_model(encoder):
        return build_library_model(encoder, scaling, n_components)
    depth = int(encoder.removeprefix("resnet"))
    resnet = ResNetEncoder(scaling, size, depth=depth, n_components=n_components)
    return resnet.with_channels_innermost()


def _build_conv(
    scaling: PixelScaling,
    size: tuple[int, int],
    n_components: int | None,
    hidden_layer_sizes: Sequence[int] | None,
    dropout: float,
) -> ConvEncoder:
    width = _first_width(hidden_layer_sizes)
    n_components = n_components or DEFAULT_CONV_COMPONENTS
    return ConvEncoder(
        scaling, size, n_components=n_components, width=width, dropout=dropout
    )


def _check_nothing_to_choose(
    encoder: str, hidden_layer_sizes: Sequence[int] | None, dropout: float
) -> None:
    if hidden_layer_sizes is not None or dropout:
        raise ValueError(
            f"encoder={encoder!r} has fixed layers: leave hidden_layer_sizes and dropout, "
            f"got {hidden_layer_sizes!r} and {dropout}."
        )


def _first_width(sizes: Sequence[int] | None) -> int:
    if sizes is None:
        return DEFAULT_CONV_WIDTH
    if len(sizes) != 1 or not isinstance(sizes[0], Integral) or sizes[0] < 1:
        raise ValueError(
            f"hidden_layer_sizes={sizes!r} must hold one number for encoder='conv', the "
            f"channels of its first convolution, a positive integer."
        )
    return int(sizes[0])
