"""Names of scikit-learn (>=1.9,<1.10) that are private there.

The package takes them from here only: a new version of scikit-learn has to be compared with
one file. ``tests/test_sklearn_compat.py`` tests that each behaves as relied on.

Inherited private methods cannot be gathered here. ``model_selection.search`` overrides
``BaseSearchCV.fit`` and calls ``_get_scorers``, ``_check_refit_for_multimetric``,
``_check_input_parameters``, ``_get_routed_params_for_fit``, ``_run_search``,
``_format_results`` and ``_select_best_index``; it sets ``_checked_cv_orig`` as the original
does. Estimators with callbacks call ``_init_callback_context``. ``HSCLEmbedder`` calls
``_validate_params`` and extends ``_get_fitted_attr_html``.
"""

# Validates parameters before a fit, and handles nested fits.
from sklearn.base import BaseEstimator, _fit_context

# Combines several scorers; _fit_and_score tests for this class.
from sklearn.metrics._scorer import _MultimetricScorer

# Common base of the searches, whose `fit` the batched searches override.
from sklearn.model_selection._search import BaseSearchCV

# The first fits and scores one candidate on one fold, with all options of a search. The
# others put `error_score` in place of failed fits, and warn about these or raise.
from sklearn.model_selection._validation import (
    _fit_and_score,
    _insert_error_scores,
    _warn_or_raise_about_fit_failures,
)

# Selects samples of arrays, frames and lists.
from sklearn.utils import _safe_indexing

# Constraints for `_parameter_constraints`.
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

# Table of fitted attributes in the HTML representation.
from sklearn.utils._repr_html.fitted_attributes import AttrsDict

# Selects the samples of a fold as _fit_and_score does.
from sklearn.utils.metaestimators import _safe_split

# Validates the metadata that `fit` gets against X.
from sklearn.utils.validation import _check_method_params

__all__ = [
    "WRAPPER_MODULES",
    "AttrsDict",
    "BaseSearchCV",
    "HasMethods",
    "Interval",
    "StrOptions",
    "_MultimetricScorer",
    "_check_method_params",
    "_fit_and_score",
    "_fit_context",
    "_insert_error_scores",
    "_safe_indexing",
    "_safe_split",
    "_warn_or_raise_about_fit_failures",
    "has_callbacks",
]

# Modules whose decorators wrap a user's own call of `fit` or `fit_transform`.
WRAPPER_MODULES = ("sklearn.base", "sklearn.utils._set_output")


def has_callbacks(estimator: BaseEstimator) -> bool:
    """Return whether callbacks are set on an estimator; no public method lists them."""
    return bool(getattr(estimator, "_skl_callbacks", None))
