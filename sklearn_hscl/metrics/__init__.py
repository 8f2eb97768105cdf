"""Quality of an embedding: retrieval, probes, geometry and collapse.

Each function takes arrays and returns a number; :func:`singular_value_decay` returns a
curve. :func:`make_embedding_scorer` turns them into ``scoring=`` for scikit-learn. Samples
are compared by cosine, whatever the norms of their embeddings.
"""

from sklearn_hscl.metrics.classification import (
    knn_accuracy,
    linear_readout_accuracy,
    nearest_class_mean_accuracy,
)
from sklearn_hscl.metrics.collapse import (
    equal_inner_product_error,
    singular_value_decay,
    unit_norm_error,
    within_class_spread,
    zero_sum_error,
)
from sklearn_hscl.metrics.geometry import (
    alignment,
    cosine_silhouette,
    effective_rank,
    uniformity,
)
from sklearn_hscl.metrics.retrieval import (
    map_at_r,
    precision_at_k,
    r_precision,
    recall_at_k,
)
from sklearn_hscl.metrics.scorer import make_embedding_scorer

__all__ = [
    "alignment",
    "cosine_silhouette",
    "effective_rank",
    "equal_inner_product_error",
    "knn_accuracy",
    "linear_readout_accuracy",
    "make_embedding_scorer",
    "map_at_r",
    "nearest_class_mean_accuracy",
    "precision_at_k",
    "r_precision",
    "recall_at_k",
    "singular_value_decay",
    "uniformity",
    "unit_norm_error",
    "within_class_spread",
    "zero_sum_error",
]
