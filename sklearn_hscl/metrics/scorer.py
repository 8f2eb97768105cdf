"""Measures of an embedding as ``scoring=`` for scikit-learn."""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Protocol, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from sklearn_hscl.data.missing import column_array
from sklearn_hscl.data.targets import labeled_mask
from sklearn_hscl.metrics.collapse import (
    equal_inner_product_error,
    unit_norm_error,
    within_class_spread,
    zero_sum_error,
)
from sklearn_hscl.metrics.geometry import alignment, uniformity

_LOWER_IS_BETTER = {
    alignment,
    equal_inner_product_error,
    uniformity,
    unit_norm_error,
    within_class_spread,
    zero_sum_error,
}


class _Transformer(Protocol):
    def transform(self, X: object) -> ArrayLike: ...


def make_embedding_scorer(
    metric: Callable[..., float],
    *,
    greater_is_better: bool | None = None,
    unlabeled_label: object = None,
    **kwargs: object,
) -> "EmbeddingScorer":
    """Make a scorer from a measure of embeddings, for transformers without a classifier.

    ``GridSearchCV(HSCLEmbedder(), grid, scoring=make_embedding_scorer(map_at_r))`` selects
    the embedding with the best retrieval of held-out samples.

    Parameters
    ----------
    metric : callable
        ``metric(X, y, **kwargs)`` or ``metric(X, **kwargs)``, of this module or custom.
    greater_is_better : bool, default=None
        Whether higher is better; if not, scores are the negated measure. None knows the
        measures of this module, and is True for others.
    unlabeled_label : int, str or NaN, default=None
        Label of unlabelled samples, which are excluded; NaN: missing values. Pass the
        embedder's parameter of the same name.
    **kwargs
        Further arguments of `metric`.

    Returns
    -------
    EmbeddingScorer
        ``scorer(estimator, X, y=None)`` transforms X and returns the score.

    Raises
    ------
    TypeError
        If `metric` is not callable.

    Notes
    -----
    For estimators other than classifiers, scikit-learn's ``cv=5`` makes folds of
    consecutive samples, in which classes may be missing: pass a ``StratifiedKFold``.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.model_selection import GridSearchCV, StratifiedKFold
    >>> from sklearn_hscl.metrics import make_embedding_scorer, recall_at_k
    >>> scoring = make_embedding_scorer(recall_at_k, k=1)
    >>> search = GridSearchCV(
    ...     PCA(), {"n_components": [1, 2]}, scoring=scoring, cv=StratifiedKFold(5)
    ... )
    >>> search.fit(*load_iris(return_X_y=True)).best_params_
    {'n_components': 2}
    """
    if not callable(metric):
        raise TypeError(
            f"Expected metric to be a function, got {metric!r}. Pass a function such as "
            f"sklearn_hscl.metrics.map_at_r."
        )
    if greater_is_better is None:
        measure = metric.func if isinstance(metric, partial) else metric
        greater_is_better = measure not in _LOWER_IS_BETTER
    return EmbeddingScorer(metric, 1 if greater_is_better else -1, unlabeled_label, kwargs)


class EmbeddingScorer:
    """Scorer that :func:`make_embedding_scorer` returns."""

    def __init__(
        self,
        metric: Callable[..., float],
        sign: int,
        unlabeled_label: object,
        kwargs: dict[str, object],
    ) -> None:
        self.metric = metric
        self.sign = sign
        self.unlabeled_label = unlabeled_label
        self.kwargs = kwargs

    def __call__(self, estimator: object, X: object, y: ArrayLike | None = None) -> float:
        """Transform X and return the score; higher is better."""
        if not _is_transformer(estimator):
            raise TypeError(
                f"Expected a transformer, got {type(estimator).__name__}, which has no "
                f"transform. Score the transformer, or use the classifier's own score."
            )
        embedding = np.asarray(estimator.transform(X))
        if y is not None:
            values = column_array(y)
            known = labeled_mask(values, self.unlabeled_label)
            embedding, y = embedding[known], values[known]
        targets = (y,) if "y" in signature(self.metric).parameters else ()
        return self.sign * self.metric(embedding, *targets, **self.kwargs)

    def __repr__(self) -> str:
        name = getattr(self.metric, "__name__", repr(self.metric))
        options = "".join(f", {key}={value!r}" for key, value in self.kwargs.items())
        lower = "" if self.sign > 0 else ", greater_is_better=False"
        return f"make_embedding_scorer({name}{lower}{options})"


def _is_transformer(estimator: object) -> TypeGuard[_Transformer]:
    return hasattr(estimator, "transform")
