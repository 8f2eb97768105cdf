"""Random views of rows and images, made per batch on the device."""

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
