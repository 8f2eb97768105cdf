"""Residual networks for images, in the form for small pictures and the standard one."""

from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn

from sklearn_hscl.encoders.image.pixel_standardization import PixelScaling

# Up to this many pixels across, the first convolution keeps the resolution.
_SMALL_IMAGE = 64


class ResNetEncoder(nn.Module):
    """ResNet-18 or ResNet-50 without a classifier, with a linear layer where one is wanted.

    Images of up to 64 pixels get the form that the papers train on CIFAR: a first
    convolution of 3×3 with stride 1, and no pooling after it. Larger ones get the
    standard form, 7×7 with stride 2 and a pooling. Normalisation is over the batch.

    Parameters
    ----------
    scaling : PixelScaling
        What is known of the training images.
    size : (int, int)
        Height and width.
    depth : {18, 50}, default=18
        Which of the published networks.
    n_components : int or None, default=None
        Width of the embedding; None for that of the network, 512 or 2048, without a
        further layer, as in the papers.

    References
    ----------
    He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016,
    arXiv 1512.03385, table 1; the form for CIFAR: Chen, Kornblith, Norouzi, Hinton,
    arXiv 2002.05709, appendix B.9.

    Examples
    --------
    >>> import torch
    >>> from sklearn_hscl.encoders import PixelScaling, ResNetEncoder
    >>> images = torch.rand(2, 3, 32, 32)
    >>> ResNetEncoder(PixelScaling.of(images), size=(32, 32))(images).shape
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
        self.stem = _stem(scaling.n_channels, is_small=max(size) <= _SMALL_IMAGE)
        block, counts = BLOCKS[depth]
        stages: list[nn.Module] = []
        widths = [64 // block.expansion, 64, 128, 256, 512]
        for number, (before, width) in enumerate(pairwise(widths)):
            n_in = before * block.expansion
            for k in range(counts[number]):
                stride = 2 if number and k == 0 else 1
                stages.append(block(n_in, width, stride))
                n_in = width * block.expansion
        self.stages = nn.Sequential(*stages)
        width = widths[-1] * block.expansion
        self.last = (
            nn.Identity() if n_components is None else nn.Linear(width, n_components)
        )
        _initialise(self)

    def channels_last(self) -> Self:
        """Hold the channels innermost in memory, where convolutions are faster."""
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to embeddings (B, n_components)."""
        maps = self.stages(self.stem(self.scaling(images)))  # (B, width, h, w)
        return self.last(maps.mean((2, 3)))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut.

    Parameters
    ----------
    n_in, width : int
        Channels of the input and of the convolutions.
    stride : int
        Of the first one.
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
    """A 3×3 convolution between two of 1×1, beside a shortcut.

    Parameters
    ----------
    n_in, width : int
        Channels of the input and of the 3×3 convolution; the output has four times as
        many.
    stride : int
        Of the 3×3 convolution.
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


BLOCKS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
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
    """Keep the variance of activations; let every block start as its shortcut."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(part, BasicBlock | Bottleneck):
            nn.init.zeros_(part.convolutions[-1].weight)  # type: ignore[arg-type]
