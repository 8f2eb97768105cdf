"""Image encoders by name: built-in ones, and models of timm and torchvision."""

from collections.abc import Callable, Sequence
from importlib import import_module
from numbers import Integral
from types import ModuleType
from typing import TypeGuard

from torch import Tensor, nn

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
