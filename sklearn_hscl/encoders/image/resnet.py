"""Residual networks for images: the variant for small images, and the standard one."""

from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn

from sklearn_hscl.encoders.image.pixel_standardization import PixelScaling
from sklearn_hscl.encoders.options import EncoderConfig, StoredEncoder

# Up to this many pixels a side, the first convolution keeps the resolution.
_MAX_SMALL_SIZE = 64


class ResNetEncoder(nn.Module):
    """ResNet-18 or ResNet-50 without a classifier, with an optional linear layer.

    Images of up to 64 pixels get the variant for CIFAR: the first convolution is 3×3 with
    stride 1, without pooling after it. Larger ones get the standard network, which starts
    with a 7×7 convolution of stride 2 and a pooling. Normalisation is over the batch.

    Parameters
    ----------
    scaling : PixelScaling
        Scaling of the training images.
    size : (int, int)
        Height and width.
    depth : {18, 50}, default=18
        Depth of the published network.
    n_components : int or None, default=None
        Width of a linear layer at the end. None adds no layer, as in the papers, and the
        embedding has the width of the network, 512 or 2048.

    References
    ----------
    He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016,
    arXiv 1512.03385, table 1. Variant for CIFAR: Chen, Kornblith, Norouzi, Hinton,
    arXiv 2002.05709, appendix B.9.

    Examples
    --------
    >>> import torch
    >>> from sklearn_hscl.encoders import PixelScaling, ResNetEncoder
    >>> images = torch.rand(2, 3, 32, 32)
    >>> ResNetEncoder(PixelScaling.fit(images), size=(32, 32))(images).shape
    torch.Size([2, 512])
    """

    def __init__(
        self,
        scaling: PixelScaling,
        size: tuple[int, int],
        *,
        depth: int = 18,
        n_components: int | None = None,
    ) -> None:
        super().__init__()
        self.scaling = scaling
        self.stem = _stem(scaling.n_channels, is_small=max(size) <= _MAX_SMALL_SIZE)
        block, counts = _BLOCKS[depth]
        stages: list[nn.Module] = []
        widths = [64 // block.expansion, 64, 128, 256, 512]
        for index, (before, width) in enumerate(pairwise(widths)):
            n_in = before * block.expansion
            for k in range(counts[index]):
                stride = 2 if index and k == 0 else 1
                stages.append(block(n_in, width, stride))
                n_in = width * block.expansion
        self.stages = nn.Sequential(*stages)
        width = widths[-1] * block.expansion
        self.last = (
            nn.Identity() if n_components is None else nn.Linear(width, n_components)
        )
        _initialise(self)

    def channels_last(self) -> Self:
        """Convert to channels-last memory, which makes convolutions faster."""
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to embeddings (B, n_components)."""
        maps = self.stages(self.stem(self.scaling(images)))  # (B, width, h, w)
        return self.last(maps.mean((2, 3)))

    def get_config(self) -> EncoderConfig:
        """Return the arguments that the encoder was built with."""
        first = self.stages[0]
        depth = next(d for d, (block, _) in _BLOCKS.items() if isinstance(first, block))
        n_components = getattr(self.last, "out_features", None)
        return {"depth": depth, "n_components": n_components}

    @classmethod
    def from_config(cls, config: EncoderConfig, stored: StoredEncoder) -> Self:
        """Build the encoder of a config, whose weights are loaded later."""
        scaling = PixelScaling.from_state(stored.tensors)
        return cls(scaling, stored.image_size, **config)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut.

    Parameters
    ----------
    n_in, width : int
        Channels of the input and of the convolutions.
    stride : int
        Stride of the first convolution.
    """

    expansion = 1

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *_convolution(n_in, width, 3, stride),
            nn.ReLU(),
            *_convolution(width, width, 3),
        )
        self.shortcut = _shortcut(n_in, width, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, n_in, h, w) to (B, width, h / stride, w / stride)."""
        return (self.convolutions(maps) + self.shortcut(maps)).relu()


class Bottleneck(nn.Module):
    """A 3×3 convolution between two of 1×1, with a shortcut.

    Parameters
    ----------
    n_in, width : int
        Channels of the input and of the 3×3 convolution; the output has four times the
        latter.
    stride : int
        Stride of the 3×3 convolution.
    """

    expansion = 4

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        n_out = self.expansion * width
        self.convolutions = nn.Sequential(
            *_convolution(n_in, width, 1),
            nn.ReLU(),
            *_convolution(width, width, 3, stride),
            nn.ReLU(),
            *_convolution(width, n_out, 1),
        )
        self.shortcut = _shortcut(n_in, n_out, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, n_in, h, w) to (B, 4 * width, h / stride, w / stride)."""
        return (self.convolutions(maps) + self.shortcut(maps)).relu()


_BLOCKS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


def _stem(n_channels: int, *, is_small: bool) -> nn.Sequential:
    if is_small:
        return nn.Sequential(*_convolution(n_channels, 64, 3), nn.ReLU())
    return nn.Sequential(
        *_convolution(n_channels, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)
    )


def _convolution(n_in: int, n_out: int, size: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(n_in, n_out, size, stride, padding=size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(n_out)]


def _shortcut(n_in: int, n_out: int, stride: int) -> nn.Module:
    if stride == 1 and n_in == n_out:
        return nn.Identity()
    return nn.Sequential(*_convolution(n_in, n_out, 1, stride))


def _initialise(network: nn.Module) -> None:
    """Preserve the variance of activations; start every block as its shortcut."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(part, BasicBlock | Bottleneck):
            nn.init.zeros_(part.convolutions[-1].weight)  # type: ignore[arg-type]
