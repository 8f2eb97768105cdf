"""BatchedGridSearchCV and BatchedRandomizedSearchCV: searches in few training runs."""

import time
from typing import Any, Self

from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.utils import indexable
from sklearn.utils.parallel import Parallel

from sklearn_hscl._sklearn_compat import (
    BaseSearchCV,
    _check_method_params,
    _fit_context,
    _MultimetricScorer,
)
from sklearn_hscl.model_selection.evaluator import Batched, Evaluator


class _BatchedSearch(BaseSearchCV):
    """A search whose candidates are trained together where they can be."""

    batched_: list[Batched]

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: ArrayLike, y: ArrayLike | None = None, **params: Any) -> Self:
        """Fit all candidates on all folds, then the best one on all rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Training rows.
        y : array-like of shape (n_samples,), default=None
            Labels.
        **params : dict of str -> object
            For the splitter (``groups``), the scorer and the estimator's ``fit``, as in
            scikit-learn's searches. With parameters for the estimator's ``fit``,
            candidates are fitted one by one.

        Returns
        -------
        estimator
            The fitted search itself.
        """
        scorers, metric = self._get_scorers()
        X, y = indexable(X, y)
        params = _check_method_params(X, params=params)
        weight = params.get("sample_weight")
        task = {
            "estimator": self,
            "X": X,
            "y": y,
            "metadata": None if weight is None else {"sample_weight": weight},
        }
        trial = Evaluator(self, X, y, self._get_routed_params_for_fit(params), scorers)
        context = self._init_callback_context(max_subtasks=1 + (self.refit is not False))
        context = context.call_on_fit_task_begin(**task)
        trial.split()
        with Parallel(n_jobs=self.n_jobs, pre_dispatch=self.pre_dispatch) as parallel:
            trial.parallel = parallel
            self._run_search(trial.evaluate, callback_ctx=context)
        self.multimetric_ = isinstance(trial.results[0]["test_scores"], dict)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(trial.results[0]["test_scores"])
            metric = self.refit
        self._choose_best(trial.table, metric)
        if self.refit:
            refit_context = context.subcontext(task_name="refit-with-best-params")
            self._refit_best(refit_context, task, trial.routed.estimator.fit)
        is_multimetric = isinstance(scorers, _MultimetricScorer)
        self.scorer_ = scorers._scorers if is_multimetric else scorers
        self.cv_results_ = trial.table
        self.batched_ = trial.batched
        context.call_on_fit_task_end(**task)
        return self

    def _choose_best(self, table: dict[str, Any], metric: Any) -> None:
        """Set the attributes of the best candidate, where there is one best."""
        if self.multimetric_ and not self.refit:
            return
        self.best_index_ = self._select_best_index(self.refit, metric, table)
        if not callable(self.refit):
            self.best_score_ = table[f"mean_test_{metric}"][self.best_index_]
        self.best_params_ = table["params"][self.best_index_]

    def _refit_best(
        self, context: Any, task: dict[str, Any], fit_params: dict[str, Any]
    ) -> None:
        """Fit the best candidate on all rows."""
        best = clone(self.estimator)
        best.set_params(**clone(self.best_params_, safe=False))
        self.best_estimator_ = best
        labels = () if task["y"] is None else (task["y"],)
        with context.propagate_callback_context(best):
            context.call_on_fit_task_begin(**task)
            start = time.time()
            best.fit(task["X"], *labels, **fit_params)
            self.refit_time_ = time.time() - start
        if hasattr(best, "feature_names_in_"):
            self.feature_names_in_ = best.feature_names_in_
        context.call_on_fit_task_end(**task)


class BatchedGridSearchCV(_BatchedSearch, GridSearchCV):
    """Grid search that trains the candidates of a fold as one stacked model.

    Takes the place of ``GridSearchCV``: same parameters, methods and attributes, and equal
    results for the same ``random_state``. Candidates that differ in `beta`, `temperature`,
    `threshold`, `ce_weight`, `lr`, `weight_decay`, `tol` or `n_iter_no_change` of an
    :class:`~sklearn_hscl.HSCLEmbedder` are trained together; steps of a pipeline before it
    are fitted once per fold, and an embedder whose candidates differ in later steps only
    once for all of them. Whatever cannot be trained together is fitted one by one;
    `batched_` says which, and why.

    Parameters
    ----------
    estimator : HSCLEmbedder or Pipeline
        A bare embedder, or a pipeline with one among its steps. Other estimators are
        fitted one by one.
    param_grid : dict or list of dict
        Names of parameters, and the values to try.
    scoring, n_jobs, refit, cv, verbose, pre_dispatch, error_score, return_train_score
        As in ``GridSearchCV``. Stacks are divided among the `n_jobs` workers, each of
        which uses one thread. A bare embedder has no score of its own: pass `scoring`.

    Attributes
    ----------
    batched_ : list of Batched
        For each candidate whether it was trained ``together`` with others, and the
        ``reason`` if not.
    cv_results_, best_estimator_, best_params_, best_score_, best_index_, scorer_, \
n_splits_, refit_time_, multimetric_
        As in ``GridSearchCV``. The ``fit_time`` of a candidate is its share of the time
        of its stack.

    Notes
    -----
    With ``random_state=None``, all candidates that are trained together share a seed that
    is drawn for each fold, so that they differ by their parameters alone. In float32 the
    rounding of stacked products differs from that of single ones in the last digit, and
    training can amplify that: scores may differ by some tenths of a point.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.model_selection import BatchedGridSearchCV
    >>> X, y = load_wine(return_X_y=True)
    >>> embedder = HSCLEmbedder(encoder="mlp", max_epochs=5, random_state=0)
    >>> grid = {"hsclembedder__beta": [0.0, 1.0, 2.0]}
    >>> search = BatchedGridSearchCV(
    ...     make_pipeline(embedder, LogisticRegression()), grid, cv=3
    ... ).fit(X, y)
    >>> sorted(search.best_params_)
    ['hsclembedder__beta']
    >>> all(candidate.together for candidate in search.batched_)
    True
    """


class BatchedRandomizedSearchCV(_BatchedSearch, RandomizedSearchCV):
    """Randomized search that trains the candidates of a fold as one stacked model.

    Takes the place of ``RandomizedSearchCV`` as :class:`BatchedGridSearchCV` takes that
    of ``GridSearchCV``; see there.

    Parameters
    ----------
    estimator : HSCLEmbedder or Pipeline
        A bare embedder, or a pipeline with one among its steps.
    param_distributions : dict or list of dict
        Names of parameters, and distributions or lists to draw from.
    n_iter, random_state, scoring, n_jobs, refit, cv, verbose, pre_dispatch, \
error_score, return_train_score
        As in ``RandomizedSearchCV``.

    Attributes
    ----------
    batched_ : list of Batched
        For each candidate whether it was trained ``together`` with others, and the
        ``reason`` if not.
    cv_results_, best_estimator_, best_params_, best_score_, best_index_, scorer_, \
n_splits_, refit_time_, multimetric_
        As in ``RandomizedSearchCV``.

    Examples
    --------
    >>> from scipy.stats import loguniform
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.model_selection import BatchedRandomizedSearchCV
    >>> X, y = load_wine(return_X_y=True)
    >>> embedder = HSCLEmbedder(encoder="mlp", max_epochs=5, random_state=0)
    >>> search = BatchedRandomizedSearchCV(
    ...     make_pipeline(embedder, LogisticRegression()),
    ...     {"hsclembedder__beta": loguniform(0.1, 10)},
    ...     n_iter=4,
    ...     cv=3,
    ...     random_state=0,
    ... ).fit(X, y)
    >>> len(search.cv_results_["params"])
    4
    """
