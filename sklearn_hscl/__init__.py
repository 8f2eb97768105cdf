"""Contrastive representation learning that feels like scikit-learn."""

import sys

from sklearn_hscl.data import image_files
from sklearn_hscl.diagnostics import diagnose
from sklearn_hscl.embedder import HSCLEmbedder
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.model_selection import BatchedGridSearchCV
from sklearn_hscl.runtime import matmul as gemm

# Public names whose modules live in internal packages.
sys.modules["sklearn_hscl.image_files"] = image_files
sys.modules["sklearn_hscl.gemm"] = gemm

__version__ = "0.1.0"
__all__ = [
    "BatchedGridSearchCV",
    "ContrastiveLoss",
    "HSCLEmbedder",
    "__version__",
    "diagnose",
]
