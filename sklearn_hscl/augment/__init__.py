"""Augmentations: random views of rows, images and graphs, drawn per batch on the device.

A new augmentation is a subclass of :class:`Augmentation` in a module of this package and is
exported here. To be stored in bundles, it is also listed in
``persistence.json_codec._AUGMENTATIONS``.
"""

from sklearn_hscl.augment.base import Augmentation, ClassAugmentation, FunctionAugmentation
from sklearn_hscl.augment.graph import (
    AttributeMasking,
    EdgePerturbation,
    NodeDropping,
    Subgraph,
)
from sklearn_hscl.augment.graph_rows import Graphs
from sklearn_hscl.augment.image import ImageTransforms, RandomShift
from sklearn_hscl.augment.tabular import ClassCorruption, FeatureCorruption

__all__ = [
    "AttributeMasking",
    "Augmentation",
    "ClassAugmentation",
    "ClassCorruption",
    "EdgePerturbation",
    "FeatureCorruption",
    "FunctionAugmentation",
    "Graphs",
    "ImageTransforms",
    "NodeDropping",
    "RandomShift",
    "Subgraph",
]
