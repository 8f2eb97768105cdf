"""Image encoders by name, those of timm and torchvision among them."""

from collections.abc import Sequence
from importlib import import_module
from numbers import Integral
from typing import Any

from torch import Tensor, nn

from sklearn_hscl.encoders.image.conv import ConvEncoder
from sklearn_hscl.encoders.image.pixel_standardization import PixelScaling
from sklearn_hscl.encoders.image.resnet import ResNetEncoder

LIBRARIES = ("timm", "torchvision")
_N_COLOURS = 3  # what these models take


def is_library_model(encoder: Any) -> bool:
    """Say whether this names a model of another library, such as ``"timm:resnet18"``."""
    if not isinstance(encoder, str):
        return False
    library, _, name = encoder.partition(":")
    return library in LIBRARIES and name != ""


class LibraryEncoder(nn.Module):
    """A model of another library behind the scaling of pixels.

    Grey images are repeated as the three channels that such models take.

    Parameters
    ----------
    scaling : PixelScaling
        What is known of the training images, of 1 or 3 channels.
    model : nn.Module
        Maps (B, 3, H, W) to (B, n_components).
    """

    def __init__(self, scaling: PixelScaling, model: nn.Module) -> None:
        super().__init__()
        self.scaling = scaling
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to embeddings (B, n_components)."""
        return self.model(self.scaling(images).expand(-1, _N_COLOURS, -1, -1))


def build_library_model(
    encoder: str, scaling: PixelScaling, n_components: int | None
) -> LibraryEncoder:
    """Build a model with new weights, without its classifier.

    Parameters
    ----------
    encoder : str
        Library and name, as in ``"torchvision:resnet18"``.
    scaling : PixelScaling
        What is known of the training images.
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
        If it has no such model, or the images have neither 1 nor 3 channels.
    """
    if scaling.n_channels not in (1, _N_COLOURS):
        raise ValueError(
            f"encoder={encoder!r} takes images of 1 or 3 channels, got "
            f"{scaling.n_channels}: convert them, or pass a module."
        )
    library, _, name = encoder.partition(":")
    try:
        models = import_module(library)
    except ImportError as error:
        raise ImportError(
            f"encoder={encoder!r} needs {library}: pip install {library}."
        ) from error
    build = _of_timm if library == "timm" else _of_torchvision
    try:
        return LibraryEncoder(scaling, build(models, name, n_components))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"encoder={encoder!r} cannot be built: {error}") from error


def _of_timm(timm: Any, name: str, n_components: int | None) -> nn.Module:
    # timm's own way to say: no classifier, but the pooled features.
    return timm.create_model(name, pretrained=False, num_classes=n_components or 0)


def _of_torchvision(torchvision: Any, name: str, n_components: int | None) -> nn.Module:
    if n_components is not None:
        return torchvision.models.get_model(name, weights=None, num_classes=n_components)
    model = torchvision.models.get_model(name, weights=None)
    linear = [own for own, part in model.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise ValueError("it has no linear classifier to take off: pass n_components.")
    owner, _, last = linear[-1].rpartition(".")
    setattr(model.get_submodule(owner), last, nn.Identity())
    return model


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
    return resnet.channels_last()


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
