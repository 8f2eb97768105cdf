"""BatchedGridSearchCV and BatchedRandomizedSearchCV: searches in few training runs."""

import time
from collections.abc import Mapping
from typing import Self, TypedDict

from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.callback import CallbackContext
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.utils import indexable
from sklearn.utils.parallel import Parallel

from sklearn_hscl._sklearn_compat import (
    BaseSearchCV,
    _check_method_params,
    _fit_context,
    _MultimetricScorer,
)
from sklearn_hscl.model_selection.evaluator import Batched, Evaluator, ResultsTable
from sklearn_hscl.training.param_constraints import announced


class _TaskData(TypedDict):
    """Data that scikit-learn's callbacks get at the begin and the end of a task."""

    estimator: BaseSearchCV
    X: ArrayLike
    y: ArrayLike | None
    metadata: dict[str, object] | None


class _BatchedSearch(BaseSearchCV):
    """A search that trains its candidates in stacks where possible."""

    batched_: list[Batched]

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: ArrayLike, y: ArrayLike | None = None, **params: object) -> Self:
        """Fit all candidates on all folds, then the best one on all samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Training samples.
        y : array-like of shape (n_samples,), default=None
            Targets.
        **params : dict of str -> object
            Parameters of the splitter (``groups``), the scorer and the estimator's
            ``fit``, as in scikit-learn's searches. With parameters for the estimator's
            ``fit``, candidates are fitted one by one.

        Returns
        -------
        estimator
            The fitted search itself.
        """
        scorers, metric = self._get_scorers()
        X, y = indexable(X, y)
        params = _check_method_params(X, params=params)
        weight = params.get("sample_weight")
        metadata = None if weight is None else {"sample_weight": weight}
        task = _TaskData(estimator=self, X=X, y=y, metadata=metadata)
        routed = self._get_routed_params_for_fit(params)
        evaluator = Evaluator(self, X, y, routed, scorers)
        context = self._init_callback_context(max_subtasks=1 + (self.refit is not False))
        context = context.call_on_fit_task_begin(**task)
        evaluator.check_splitter()
        with Parallel(n_jobs=self.n_jobs, pre_dispatch=self.pre_dispatch) as parallel:
            evaluator.parallel = parallel
            self._run_search(evaluator.evaluate, callback_ctx=context)
        scores = evaluator.results[0]["test_scores"]
        self.multimetric_ = isinstance(scores, dict)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(scores)
            metric = self.refit
        self._choose_best(evaluator.table, metric)
        if self.refit:
            refit_context = context.subcontext(task_name="refit-with-best-params")
            self._refit_best(refit_context, task, routed.estimator.fit)
        is_multimetric = isinstance(scorers, _MultimetricScorer)
        self.scorer_ = scorers._scorers if is_multimetric else scorers
        self.cv_results_ = evaluator.table
        self.batched_ = evaluator.batched
        context.call_on_fit_task_end(**task)
        return self

    def _choose_best(self, table: ResultsTable, metric: str) -> None:
        """Set the attributes of the best candidate, unless several metrics compete."""
        if self.multimetric_ and not self.refit:
            return
        self.best_index_ = self._select_best_index(self.refit, metric, table)
        if not callable(self.refit):
            self.best_score_ = table[f"mean_test_{metric}"][self.best_index_]
        self.best_params_ = table["params"][self.best_index_]

    def _refit_best(
        self, context: CallbackContext, task: _TaskData, fit_params: Mapping[str, object]
    ) -> None:
        """Fit the best candidate on all samples."""
        best = clone(self.estimator)
        best.set_params(**clone(self.best_params_, safe=False))
        self.best_estimator_ = best
        targets = () if task["y"] is None else (task["y"],)
        with announced(), context.propagate_callback_context(best):
            context.call_on_fit_task_begin(**task)
            start = time.time()
            best.fit(task["X"], *targets, **fit_params)
            self.refit_time_ = time.time() - start
        if hasattr(best, "feature_names_in_"):
            self.feature_names_in_ = best.feature_names_in_
        context.call_on_fit_task_end(**task)


class BatchedGridSearchCV(_BatchedSearch, GridSearchCV):
    """Grid search that trains the candidates of a fold as one stacked model.

    Drop-in replacement of ``GridSearchCV``: same parameters, methods and attributes, and
    equal results for the same ``random_state``. Candidates are trained as one stack if
    they differ in parameters of the loss (`loss` to `ce_weight`), `lr`, `weight_decay`,
    `tol` or `n_iter_no_change` of an :class:`~sklearn_hscl.HSCLEmbedder`. Steps of a
    pipeline before the embedder are fitted once per fold. Candidates that differ only in
    later steps share one embedder. All other candidates are fitted one by one; `batched_`
    lists the reasons.

    Parameters
    ----------
    estimator : HSCLEmbedder or Pipeline
        A bare embedder, or a pipeline with one among its steps. Other estimators are
        fitted one by one.
    param_grid : dict or list of dict
        Names of parameters, and the values to try for each.
    scoring, n_jobs, refit, cv, verbose, pre_dispatch, error_score, return_train_score
        As in ``GridSearchCV``. Stacks are divided among the `n_jobs` workers, each of
        which uses one thread. A bare embedder has no ``score``: pass `scoring`.

    Attributes
    ----------
    batched_ : list of Batched
        For each candidate whether it was ``stacked`` with others in training, and the
        ``reason`` if not.
    cv_results_, best_estimator_, best_params_, best_score_, best_index_, scorer_, \
n_splits_, refit_time_, multimetric_
        As in ``GridSearchCV``. The ``fit_time`` of a candidate is its fraction of the
        time of its stack.

    Notes
    -----
    With ``random_state=None``, all candidates of a stack share a seed that is drawn for
    each fold, so that they differ by their parameters alone. In float32 the rounding of
    stacked products differs from that of single ones in the last digit. Training can
    amplify that: scores may differ by some tenths of a percentage point.

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
    >>> all(candidate.stacked for candidate in search.batched_)
    True
    """


class BatchedRandomizedSearchCV(_BatchedSearch, RandomizedSearchCV):
    """Randomized search that trains the candidates of a fold as one stacked model.

    Drop-in replacement of ``RandomizedSearchCV``; see :class:`BatchedGridSearchCV` for
    what is trained as one stack.

    Parameters
    ----------
    estimator : HSCLEmbedder or Pipeline
        A bare embedder, or a pipeline with one among its steps.
    param_distributions : dict or list of dict
        Names of parameters, and distributions or lists to sample from.
    n_iter, random_state, scoring, n_jobs, refit, cv, verbose, pre_dispatch, \
error_score, return_train_score
        As in ``RandomizedSearchCV``.

    Attributes
    ----------
    batched_ : list of Batched
        For each candidate whether it was ``stacked`` with others in training, and the
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
