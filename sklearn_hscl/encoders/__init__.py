"""Encoders: torch modules that map a row or an image to its embedding."""

from sklearn_hscl.encoders.base import ContrastiveModule
from sklearn_hscl.encoders.mlp import MLPEncoder
from sklearn_hscl.encoders.registry import ENCODERS, build_module

__all__ = ["ENCODERS", "ContrastiveModule", "MLPEncoder", "build_module"]
