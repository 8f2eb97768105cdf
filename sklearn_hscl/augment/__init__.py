"""Augmentations: random views of rows and images, drawn per batch on the device.

A new augmentation is a subclass of :class:`Augmentation` in a module of this package and is
exported here. To be stored in bundles, it is also listed in
``persistence.json_codec._AUGMENTATIONS``.
"""

from sklearn_hscl.augment.base import Augmentation, ClassAugmentation, FunctionAugmentation
from sklearn_hscl.augment.image import ImageTransforms, RandomShift
from sklearn_hscl.augment.tabular import ClassCorruption, FeatureCorruption

__all__ = [
    "Augmentation",
    "ClassAugmentation",
    "ClassCorruption",
    "FeatureCorruption",
    "FunctionAugmentation",
    "ImageTransforms",
    "RandomShift",
]
