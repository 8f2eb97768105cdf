"""Contrastive representation learning that feels like scikit-learn."""

from sklearn_hscl.diagnostics import diagnose
from sklearn_hscl.embedder import HSCLEmbedder

__version__ = "0.1.0"
__all__ = ["HSCLEmbedder", "__version__", "diagnose"]
