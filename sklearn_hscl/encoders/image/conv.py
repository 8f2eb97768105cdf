"""A small convolutional network for images, fast enough for a CPU."""

from math import gcd
from typing import Self

from torch import Tensor, nn

from sklearn_hscl.encoders.image.pixel_standardization import PixelScaling
from sklearn_hscl.encoders.options import EncoderConfig, StoredEncoder
from sklearn_hscl.runtime.random_state import Dropout

# Feature maps are halved until they are no larger than this.
_MAX_FINAL_SIZE = 7
# The number of times that the channels double. Each time the weights grow fourfold, to 306
# million for 512 pixels without this limit.
_MAX_DOUBLINGS = 3
_GRID = 4
_GROUPS = 8


class ConvEncoder(nn.Module):
    """Convolutions at falling resolution.

    A 3×3 convolution is followed by stages of two 3×3 convolutions, which halve the
    resolution until the map is at most 7 pixels wide. The first three stages double the
    channels. Average pooling to a 4×4 grid keeps spatial information, and a linear layer
    follows. Group normalisation makes each embedding independent of its batch. Time grows
    with the number of pixels: downscale images of more than about 100 pixels a side.

    Parameters
    ----------
    scaling : PixelScaling
        Scaling of the training images.
    size : (int, int)
        Height and width.
    n_components : int, default=64
        Width of the embedding.
    width : int, default=32
        Channels of the first convolution.
    dropout : float in [0, 1), default=0.0
        Fraction of the pooled values that are dropped in each training step.

    Examples
    --------
    >>> import torch
    >>> from sklearn_hscl.encoders import ConvEncoder, PixelScaling
    >>> images = torch.rand(4, 1, 28, 28)
    >>> encoder = ConvEncoder(PixelScaling.fit(images), size=(28, 28), n_components=16)
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
        max_width, remaining = width * 2**_MAX_DOUBLINGS, max(size)
        while remaining > _MAX_FINAL_SIZE:
            wider = min(2 * width, max_width)
            stages += _convolution(width, wider, stride=2)
            stages += _convolution(wider, wider, stride=1)
            width, remaining = wider, (remaining + 1) // 2
        self.stages = nn.Sequential(*stages)
        self.dropout = Dropout(dropout) if dropout else nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(_GRID)
        self.last = nn.Linear(width * _GRID**2, n_components)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to embeddings (B, n_components)."""
        maps = self.stages(self.scaling(images))  # (B, width, h, w)
        return self.last(self.dropout(self.pool(maps).flatten(1)))

    def get_config(self) -> EncoderConfig:
        """Return the arguments that the encoder was built with."""
        return {
            "n_components": self.last.out_features,
            "width": self.stages[0].out_channels,
            "dropout": getattr(self.dropout, "p", 0.0),
        }

    @classmethod
    def from_config(cls, config: EncoderConfig, stored: StoredEncoder) -> Self:
        """Build the encoder of a config, whose weights are loaded later."""
        scaling = PixelScaling.from_state(stored.tensors)
        return cls(scaling, stored.image_size, **config)


def _convolution(n_in: int, n_out: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(gcd(_GROUPS, n_out), n_out),
        nn.ReLU(),
    ]
