"""Storage of embedders: bundles without code, and the types that skops has to trust."""

from sklearn_hscl.persistence.bundle import read_card
from sklearn_hscl.persistence.json_codec import named_class_paths
from sklearn_hscl.persistence.schema import BundleError

SKOPS_TRUSTED = (
    *named_class_paths(),
    "sklearn_hscl.embedder.HSCLEmbedder",
    "sklearn_hscl.losses.presets.LossOptions",
    "sklearn_hscl.model_selection.search.BatchedGridSearchCV",
    "sklearn_hscl.model_selection.search.BatchedRandomizedSearchCV",
    "sklearn_hscl.model_selection.evaluator.Batched",
)
"""Types of this library for ``trusted=`` of ``skops.io.load``.

An embedder needs ``HSCLEmbedder``; the other types are possible parameters and searches.
None of them runs code of a file.
"""

__all__ = ["SKOPS_TRUSTED", "BundleError", "read_card"]
