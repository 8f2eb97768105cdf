"""Image encoders by name, and models of other libraries with new or pretrained weights."""

from collections.abc import Callable, Sequence
from importlib import import_module
from numbers import Integral
from types import ModuleType
from typing import Any, Self, TypeGuard

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sklearn_hscl.encoders.contrastive_module import freeze_batch_statistics
from sklearn_hscl.encoders.image.conv import ConvEncoder
from sklearn_hscl.encoders.image.pixel_standardization import PixelScaling
from sklearn_hscl.encoders.image.resnet import ResNetEncoder
from sklearn_hscl.encoders.options import EncoderInputs, EncoderOptions

# Built-in encoders ---------------------------------------------------------------------

_CONV_N_COMPONENTS = 64
_CONV_WIDTH = 32


def _build_conv(options: EncoderOptions, inputs: EncoderInputs) -> nn.Module:
    """Build a :class:`ConvEncoder`; its one hidden size is the first number of channels."""
    scaling = _fit_scaling(options, inputs)
    return ConvEncoder(
        scaling,
        inputs.image_size,
        n_components=options.n_components or _CONV_N_COMPONENTS,
        width=_first_width(options.hidden_layer_sizes),
        dropout=options.dropout,
    )


def _build_resnet(options: EncoderOptions, inputs: EncoderInputs) -> nn.Module:
    """Build a :class:`ResNetEncoder` in channels-last memory, which is faster."""
    scaling = _fit_scaling(options, inputs)
    _check_fixed_layers(options)
    depth = int(str(options.encoder).removeprefix("resnet"))
    resnet = ResNetEncoder(
        scaling, inputs.image_size, depth=depth, n_components=options.n_components
    )
    return resnet.channels_last()


IMAGE_BUILDERS: dict[str, Callable[[EncoderOptions, EncoderInputs], nn.Module]] = {
    "conv": _build_conv,
    "resnet18": _build_resnet,
    "resnet50": _build_resnet,
}


def _fit_scaling(options: EncoderOptions, inputs: EncoderInputs) -> PixelScaling:
    if len(inputs.shape) != 3:
        raise ValueError(
            f"encoder={options.encoder!r} takes images, got rows of shape "
            f"{inputs.shape}. Use encoder='auto', 'tabular' or 'mlp', or reshape flattened "
            f"images to (n_samples, H, W) or (n_samples, H, W, C)."
        )
    return PixelScaling.fit(inputs.rows)


def _check_fixed_layers(options: EncoderOptions) -> None:
    if options.hidden_layer_sizes is not None or options.dropout:
        raise ValueError(
            f"encoder={options.encoder!r} has fixed layers, got hidden_layer_sizes="
            f"{options.hidden_layer_sizes!r} and dropout={options.dropout}. Leave both at "
            f"their defaults."
        )


def _first_width(sizes: Sequence[int] | None) -> int:
    if sizes is None:
        return _CONV_WIDTH
    if len(sizes) != 1 or not isinstance(sizes[0], Integral) or sizes[0] < 1:
        raise ValueError(
            f"hidden_layer_sizes={sizes!r} must hold one number for encoder='conv', a "
            f"positive integer: the channels of its first convolution."
        )
    return int(sizes[0])


# Models of other libraries -------------------------------------------------------------

_N_MODEL_CHANNELS = 3


def is_library_model(encoder: object) -> TypeGuard[str]:
    """Return whether this names a library model, such as ``"timm:resnet18"``."""
    if not isinstance(encoder, str):
        return False
    library, _, name = encoder.partition(":")
    return library in LIBRARIES and name != ""


class LibraryEncoder(nn.Module):
    """A model of another library behind the scaling of pixels.

    Greyscale images are repeated to the three channels that such models take.

    Parameters
    ----------
    scaling : PixelScaling
        Scaling of images of 1 or 3 channels.
    model : nn.Module
        Maps (B, 3, H, W) to (B, n_components).
    """

    def __init__(self, scaling: PixelScaling, model: nn.Module) -> None:
        super().__init__()
        self.scaling = scaling
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to embeddings (B, n_components)."""
        return self.model(self.scaling(images).expand(-1, _N_MODEL_CHANNELS, -1, -1))


def build_library_encoder(options: EncoderOptions, inputs: EncoderInputs) -> nn.Module:
    """Build the encoder that `options` names as ``"library:model"``."""
    scaling = _fit_scaling(options, inputs)
    _check_fixed_layers(options)
    return build_library_model(str(options.encoder), scaling, options.n_components)


def build_library_model(
    encoder: str, scaling: PixelScaling, n_components: int | None
) -> LibraryEncoder:
    """Build a model with new weights, without its classifier.

    Parameters
    ----------
    encoder : str
        Library and name, as in ``"torchvision:resnet18"``.
    scaling : PixelScaling
        Scaling of the training images.
    n_components : int or None
        Width of a linear layer in place of the classifier; None for no such layer.

    Returns
    -------
    LibraryEncoder

    Raises
    ------
    ImportError
        If the library is not installed.
    ValueError
        If the library has no such model, or the images have neither 1 nor 3 channels.
    """
    if scaling.n_channels not in (1, _N_MODEL_CHANNELS):
        raise ValueError(
            f"encoder={encoder!r} takes images of 1 or 3 channels, got "
            f"{scaling.n_channels}. Convert them, or pass a module."
        )
    library, _, name = encoder.partition(":")
    try:
        module = import_module(library)
    except ImportError as error:
        raise ImportError(
            f"encoder={encoder!r} needs {library}. Run pip install {library}."
        ) from error
    try:
        return LibraryEncoder(scaling, _MODEL_BUILDERS[library](module, name, n_components))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"encoder={encoder!r} cannot be built: {error}") from error


def _timm_model(timm: ModuleType, name: str, n_components: int | None) -> nn.Module:
    # In timm, 0 classes means no classifier: the model returns pooled features.
    return timm.create_model(name, pretrained=False, num_classes=n_components or 0)


def _torchvision_model(
    torchvision: ModuleType, name: str, n_components: int | None
) -> nn.Module:
    get_model: Callable[..., nn.Module] = torchvision.models.get_model
    if n_components is not None:
        return get_model(name, weights=None, num_classes=n_components)
    model = get_model(name, weights=None)
    linear = [path for path, part in model.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise ValueError("it has no linear classifier to remove. Pass n_components.")
    owner, _, last = linear[-1].rpartition(".")
    setattr(model.get_submodule(owner), last, nn.Identity())
    return model


_MODEL_BUILDERS: dict[str, Callable[[ModuleType, str, int | None], nn.Module]] = {
    "timm": _timm_model,
    "torchvision": _torchvision_model,
}
LIBRARIES = tuple(_MODEL_BUILDERS)
"""Libraries whose models `encoder` accepts."""


# Pretrained weights ---------------------------------------------------------------------

# Of ImageNet, which most weights were trained on.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MARGIN = 0.1  # by which resizing may leave the range from 0 to 1


class PretrainedImageEncoder(LibraryEncoder):
    """A module with pretrained weights, and the images that these weights expect.

    Images are resized, and their channels standardised. Training is that of pretrained
    encoders, see :ref:`encoder_defaults`: few small steps, and final weights between those
    before and after training. Batch normalisation keeps its running statistics.

    Parameters
    ----------
    model : nn.Module
        Maps (B, C, H, W) to (B, n_components). A classifier at its end is kept, but
        features serve better than its scores: remove it first, for example by
        ``num_classes=0`` in timm or ``model.fc = nn.Identity()``.
    size : int, (int, int) or None, default=None
        Height and width to which images are resized. None: they are taken as they are.
    mean, std : array-like of shape (C,)
        Statistics of the channels that the weights were trained with, for pixels from 0
        to 1. The defaults are those of ImageNet; grey images are repeated to as many
        channels. ``mean=(0, 0, 0)`` and ``std=(1, 1, 1)`` leave pixels as they are.

    Raises
    ------
    ValueError
        If `model` is not a module, `size` is not positive, or `mean` and `std` are not of
        equal length and for pixels from 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from torch import nn
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.encoders import PretrainedImageEncoder
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Flatten())
    >>> encoder = PretrainedImageEncoder(model, size=16)  # a model with its weights
    >>> images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    >>> embedder = HSCLEmbedder(encoder=encoder, max_epochs=1)
    >>> embedder.fit(images, np.arange(20) % 2).transform(images).shape
    (20, 128)
    """

    def __init__(
        self,
        model: nn.Module,
        size: int | tuple[int, int] | None = None,
        mean: ArrayLike = _MEAN,
        std: ArrayLike = _STD,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"Expected model to be a torch.nn.Module, got {type(model).__name__}. "
                f"Build it and load its weights first."
            )
        super().__init__(_scaling(mean, std), model)
        self.size = _checked_size(size)

    def train(self, mode: bool = True) -> Self:
        """Set training or eval mode; batch normalisation stays in eval mode."""
        super().train(mode)
        freeze_batch_statistics(self, ("model",))
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) of pixels from 0 to 1 to embeddings (B, n_components)."""
        if self.size not in (None, tuple(images.shape[2:])):
            images = interpolate(images, self.size, mode="bilinear", antialias=True)
        images = self.scaling(images)  # grey ones get the channels of mean and std
        return self.model(images.contiguous(memory_format=torch.channels_last))

    def check_images(self, images: Tensor) -> None:
        """Raise where images have other channels, or another scale, than the weights take.

        Parameters
        ----------
        images : Tensor of shape (n, ...)
            Some training images, of pixels from 0 to 1.

        Raises
        ------
        ValueError
            Naming the shape, or the range of values.
        """
        n_channels = self.scaling.n_channels
        if images.ndim != 4 or images.shape[1] not in (1, n_channels):
            raise ValueError(
                f"Expected images with 1 or {n_channels} channels, got rows of shape "
                f"{tuple(images.shape[1:])}. Pass mean and std of other channels, or "
                f"convert the images."
            )
        low, high = images.min().item(), images.max().item()
        is_scaled = bool((self.scaling.mean != 0).any() or (self.scaling.spread != 1).any())
        if is_scaled and not -_MARGIN <= low <= high <= 1 + _MARGIN:
            raise ValueError(
                f"Expected pixels from 0 to 1, to which mean and std refer, got values "
                f"from {low:g} to {high:g}. Pass uint8, or divide X by 255; for images "
                f"that are standardised already pass a mean of 0 and a std of 1."
            )

    def get_extra_state(self) -> Tensor:
        """Return the size, which goes with the weights into files."""
        return torch.tensor(self.size or (), dtype=torch.int64)

    def set_extra_state(self, state: Any) -> None:
        """Take the size of stored weights."""
        self.size = _checked_size(tuple(torch.as_tensor(state).tolist()) or None)


def _scaling(mean: ArrayLike, std: ArrayLike) -> PixelScaling:
    found = [np.asarray(values) for values in (mean, std)]
    are_numbers = all(v.dtype.kind in "iuf" and v.ndim == 1 and v.size for v in found)
    if not are_numbers or len(found[0]) != len(found[1]):
        raise ValueError(
            f"mean={mean!r} and std={std!r} must hold one number for each channel."
        )
    means, stds = (torch.tensor(values, dtype=torch.float32) for values in found)
    if not ((means >= 0) & (means <= 1) & (stds > 0) & (stds <= 1)).all():
        raise ValueError(
            f"mean={mean!r} and std={std!r} must be those of pixels from 0 to 1. Divide "
            f"statistics of pixels up to 255 by 255."
        )
    return PixelScaling(means, stds)


def _checked_size(size: object) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(sides) != 2 or not all(isinstance(n, Integral) and int(n) > 0 for n in sides):
        raise ValueError(f"size={size!r} must be a positive integer, or two of them.")
    return int(sides[0]), int(sides[1])
