"""Contrastive representation learning that feels like scikit-learn."""

from importlib.metadata import version

from sklearn_hscl.embedder import HSCLEmbedder

__version__ = version("sklearn-hscl")
__all__ = ["HSCLEmbedder", "__version__"]
