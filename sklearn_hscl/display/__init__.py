"""Figures of an embedding and of its training, with scikit-learn's display API.

Each display has ``from_estimator`` and, if arrays are enough, ``from_embedding``. ``plot``
draws into given axes and returns the display with ``ax_`` (or ``axes_``), ``figure_`` and
the artists as attributes. Displays need matplotlib: ``pip install sklearn-hscl[plots]``.
"""

from sklearn_hscl.display.collapse import CollapseDisplay
from sklearn_hscl.display.embedding import EmbeddingDisplay
from sklearn_hscl.display.loss_curve import LossCurveDisplay
from sklearn_hscl.display.neighbors import NeighborsDisplay
from sklearn_hscl.display.similarity import SimilarityDisplay

__all__ = [
    "CollapseDisplay",
    "EmbeddingDisplay",
    "LossCurveDisplay",
    "NeighborsDisplay",
    "SimilarityDisplay",
]
