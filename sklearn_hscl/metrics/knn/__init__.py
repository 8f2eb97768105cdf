"""Internal. Exact nearest neighbours by cosine, in memory linear in the rows.

Import from this package only: how similarities are packed, pruned and ranked is an
implementation detail of its modules.
"""

from sklearn_hscl.metrics.knn.nearest import (
    map_class_codes,
    map_relevance,
    nearest_rows,
)
from sklearn_hscl.metrics.knn.similarity_tiles import (
    SimilaritySearch,
    l2_normalize_at,
)

__all__ = [
    "SimilaritySearch",
    "l2_normalize_at",
    "map_class_codes",
    "map_relevance",
    "nearest_rows",
]
