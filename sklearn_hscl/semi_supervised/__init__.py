"""Classifiers after an embedder that learns from rows without label, too."""

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.utils import Tags, get_tags, indexable
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from sklearn_hscl._sklearn_compat import (
    HasMethods,
    _check_method_params,
    _fit_context,
    _safe_indexing,
)
from sklearn_hscl.data.targets import LabeledRows, labeled_rows

__all__ = ["LabeledOnlyClassifier"]

_PREDICTIONS = ("predict", "predict_proba", "predict_log_proba", "decision_function")


def _estimator_has(method: str) -> Callable[["LabeledOnlyClassifier"], bool]:
    """Return a check that the wrapped classifier has a method."""

    def check(self: "LabeledOnlyClassifier") -> bool:
        getattr(getattr(self, "estimator_", self.estimator), method)
        return True

    return check


class LabeledOnlyClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """Classifier that is fitted to the rows with a label, and scored by them.

    As the last step of a pipeline it follows an embedder that learns from all rows. Any
    other classifier would take the mark of unlabelled rows for a class.

    Parameters
    ----------
    estimator : classifier
        Classifier of the labelled rows.
    unlabeled_label : int, str or NaN, default=-1
        Label of rows without label, as in :class:`~sklearn_hscl.HSCLEmbedder`; NaN: missing
        values. The default is scikit-learn's.

    Attributes
    ----------
    estimator_ : classifier
        The fitted classifier.
    classes_ : ndarray of shape (n_classes,)
        Its classes, without `unlabeled_label`.
    n_features_in_ : int
        Number of features, if the classifier has it.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if the classifier has them.

    See Also
    --------
    sklearn.semi_supervised.SelfTrainingClassifier : Also learns from its own predictions
        of unlabelled rows, which are marked by -1.

    Notes
    -----
    :meth:`score` leaves out unlabelled rows, and so does a search with ``scoring=None``. A
    scorer by name, such as ``scoring="accuracy"``, counts them as errors.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.semi_supervised import LabeledOnlyClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> few = np.where(np.arange(150) % 10 == 0, y, -1)
    >>> pipe = make_pipeline(
    ...     HSCLEmbedder(unlabeled_label=-1, random_state=0),
    ...     LabeledOnlyClassifier(LogisticRegression()),
    ... )
    >>> pipe.fit(X, few).classes_
    array([0, 1, 2])
    """

    _parameter_constraints = {  # noqa: RUF012 - as in scikit-learn
        "estimator": [HasMethods(["fit", "predict"])],
        "unlabeled_label": [Integral, str, np.nan],
    }

    def __init__(self, estimator: BaseEstimator, unlabeled_label: Any = -1) -> None:
        self.estimator = estimator
        self.unlabeled_label = unlabeled_label

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: ArrayLike, y: ArrayLike, **fit_params: Any) -> Self:
        """Fit the classifier to the labelled rows.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)
            All rows.
        y : array-like of shape (n_samples,)
            Their labels, `unlabeled_label` for rows without one.
        **fit_params
            Arguments of the classifier's `fit`. Of those with an entry per row, such as
            `sample_weight`, it gets the labelled rows'.

        Returns
        -------
        LabeledOnlyClassifier
            The fitted estimator itself.

        Raises
        ------
        ValueError
            If no row has a label.
        """
        (X,) = indexable(X)
        rows, labels = self._labeled(X, y)
        params = _check_method_params(X, self._routed("fit", fit_params), rows)
        self.estimator_ = clone(self.estimator).fit(
            _safe_indexing(X, rows), labels, **params
        )
        self.classes_ = self.estimator_.classes_
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
            elif hasattr(self, name):  # of an earlier fit
                delattr(self, name)
        return self

    @available_if(_estimator_has("predict"))
    def predict(self, X: ArrayLike, **params: Any) -> NDArray[Any]:
        """Predict the class of each row.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)
            Rows.
        **params
            Arguments of the classifier's method.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        return self._call("predict", X, params)

    @available_if(_estimator_has("predict_proba"))
    def predict_proba(self, X: ArrayLike, **params: Any) -> NDArray[np.floating]:
        """Predict the probability of each class; parameters as for :meth:`predict`."""
        return self._call("predict_proba", X, params)

    @available_if(_estimator_has("predict_log_proba"))
    def predict_log_proba(self, X: ArrayLike, **params: Any) -> NDArray[np.floating]:
        """Predict the log-probability of each class; parameters as :meth:`predict`."""
        return self._call("predict_log_proba", X, params)

    @available_if(_estimator_has("decision_function"))
    def decision_function(self, X: ArrayLike, **params: Any) -> NDArray[np.floating]:
        """Return the scores of the classes; parameters as for :meth:`predict`."""
        return self._call("decision_function", X, params)

    @available_if(_estimator_has("score"))
    def score(self, X: ArrayLike, y: ArrayLike, **params: Any) -> float:
        """Return the classifier's score of the labelled rows.

        Parameters
        ----------
        X : array-like, frame or sparse matrix of shape (n_samples, n_features)
            All rows.
        y : array-like of shape (n_samples,)
            Their labels, `unlabeled_label` for rows without one.
        **params
            Arguments of the classifier's `score`; of those with an entry per row, it gets
            the labelled rows'.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If no row has a label.
        """
        check_is_fitted(self)
        (X,) = indexable(X)
        rows, labels = self._labeled(X, y)
        params = _check_method_params(X, self._routed("score", params), rows)
        return float(self.estimator_.score(_safe_indexing(X, rows), labels, **params))

    def get_metadata_routing(self) -> MetadataRouter:
        """Return the routing of arguments to the classifier."""
        methods = MethodMapping()
        for name in ("fit", *_PREDICTIONS, "score"):
            methods.add(caller=name, callee=name)
        router = MetadataRouter(owner=self)
        return router.add(estimator=self.estimator, method_mapping=methods)

    def __sklearn_tags__(self) -> Tags:
        """Return the tags: those of the classifier for X and for classes."""
        tags, inner = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.input_tags = inner.input_tags
        tags.classifier_tags = inner.classifier_tags
        tags.non_deterministic = inner.non_deterministic
        return tags

    def _labeled(self, X: ArrayLike, y: ArrayLike | None) -> LabeledRows:
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but the "
                f"target y is None. Pass labels, {self.unlabeled_label!r} for rows without."
            )
        rows, labels = labeled_rows(y, self.unlabeled_label)
        check_consistent_length(X, y)
        if len(rows) == 0:
            raise ValueError(
                f"y holds unlabeled_label={self.unlabeled_label!r} only, but the "
                f"classifier needs labels. Pass some, or another unlabeled_label."
            )
        return rows, labels

    def _call(self, method: str, X: ArrayLike, params: Mapping[str, Any]) -> NDArray[Any]:
        check_is_fitted(self)
        result = getattr(self.estimator_, method)(X, **self._routed(method, params))
        return np.asarray(result)

    def _routed(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the arguments that the classifier requested; all, without routing."""
        if not get_config()["enable_metadata_routing"]:
            return params
        routed: Mapping[str, Any] = process_routing(self, method, **params).estimator[
            method
        ]
        return routed
