"""Models of timm and torchvision as encoders, by their names there."""

from importlib import import_module
from typing import Any

from torch import Tensor, nn

from sklearn_hscl.encoders.pixels import PixelScaling

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
