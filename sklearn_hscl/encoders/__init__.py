"""Encoders: torch modules that map a row, an image or a graph to its embedding."""

from sklearn_hscl.encoders.contrastive_module import ContrastiveModule
from sklearn_hscl.encoders.gin import GINEncoder
from sklearn_hscl.encoders.image.conv import ConvEncoder
from sklearn_hscl.encoders.image.pixel_standardization import PixelScaling
from sklearn_hscl.encoders.image.registry import PretrainedImageEncoder
from sklearn_hscl.encoders.image.resnet import ResNetEncoder
from sklearn_hscl.encoders.mlp import MLPEncoder
from sklearn_hscl.encoders.options import EncoderOptions
from sklearn_hscl.encoders.registry import ENCODERS, build_module
from sklearn_hscl.encoders.tabular.column_statistics import ColumnStatistics
from sklearn_hscl.encoders.tabular.encoder import TabularEncoder
from sklearn_hscl.encoders.text.transformer import TextEncoder

__all__ = [
    "ENCODERS",
    "ColumnStatistics",
    "ContrastiveModule",
    "ConvEncoder",
    "EncoderOptions",
    "GINEncoder",
    "MLPEncoder",
    "PixelScaling",
    "PretrainedImageEncoder",
    "ResNetEncoder",
    "TabularEncoder",
    "TextEncoder",
    "build_module",
]
