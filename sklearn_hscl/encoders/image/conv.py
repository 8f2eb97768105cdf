"""A small convolutional network for images, quick enough for a CPU."""

from math import gcd

from torch import Tensor, nn

from sklearn_hscl.encoders.image.pixel_standardization import PixelScaling

# Feature maps are halved until they are no larger than this.
_SMALLEST_MAP = 7
# As often the channels are doubled: more would be for large images, with which weights grow
# fourfold each time (306 million at 512 pixels).
_MOST_DOUBLINGS = 3
_GRID = 4
_GROUPS = 8


class ConvEncoder(nn.Module):
    """Convolutions at falling resolution.

    A 3×3 convolution, then stages that halve the resolution, of two 3×3 convolutions
    each, until the map is at most 7 pixels wide; the first three double the channels. Then
    means over the fields of a 4×4 grid, which keep what is where, and a linear layer.
    Channels are normalised in groups of one image (group normalisation), so that no image
    depends on its batch. Time grows with the number of pixels: beyond about 100 pixels a
    side, make images smaller first.

    Parameters
    ----------
    scaling : PixelScaling
        What is known of the training images.
    size : (int, int)
        Height and width.
    n_components : int, default=64
        Width of the embedding.
    width : int, default=32
        Channels of the first convolution.
    dropout : float in [0, 1), default=0.0
        Share of the means that is left out of each training step.

    Examples
    --------
    >>> import torch
    >>> from sklearn_hscl.encoders import ConvEncoder, PixelScaling
    >>> images = torch.rand(4, 1, 28, 28)
    >>> encoder = ConvEncoder(PixelScaling.of(images), size=(28, 28), n_components=16)
    >>> encoder(images).shape
    torch.Size([4, 16])
    """

    def __init__(
        self,
        scaling: PixelScaling,
        size: tuple[int, int],
        *,
        n_components: int = 64,
        width: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.scaling = scaling
        stages = _convolution(scaling.n_channels, width, stride=1)
        most, remaining = width * 2**_MOST_DOUBLINGS, max(size)
        while remaining > _SMALLEST_MAP:
            wider = min(2 * width, most)
            stages += _convolution(width, wider, stride=2)
            stages += _convolution(wider, wider, stride=1)
            width, remaining = wider, (remaining + 1) // 2
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(_GRID)
        self.last = nn.Linear(width * _GRID**2, n_components)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to embeddings (B, n_components)."""
        maps = self.stages(self.scaling(images))  # (B, width, h, w)
        return self.last(self.dropout(self.pool(maps).flatten(1)))


def _convolution(n_in: int, n_out: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(gcd(_GROUPS, n_out), n_out),
        nn.ReLU(),
    ]
