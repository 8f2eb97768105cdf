"""Private names of scikit-learn exist and behave as the package relies on."""

import ast
import inspect
from numbers import Integral, Real
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.callback import CallbackContext, CallbackSupportMixin, ProgressBar
from sklearn.datasets import load_iris
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.utils.fixes import parse_version

from sklearn_hscl import _sklearn_compat as compat

SUPPORTED = "1.9", "1.10"  # from the first, below the second
PACKAGE = Path(compat.__file__).parent
X, Y = load_iris(return_X_y=True)
TRAIN, TEST = np.arange(0, 150, 2), np.arange(1, 150, 2)


def test_supported_version_of_scikit_learn():
    oldest, too_new = map(parse_version, SUPPORTED)
    version = parse_version(sklearn.__version__)
    assert oldest <= version < too_new, (
        f"scikit-learn {sklearn.__version__} is outside of the range {SUPPORTED}. "
        f"Compare model_selection/search.py and evaluator.py with BaseSearchCV.fit, and "
        f"_sklearn_compat.py with what it imports; then change SUPPORTED."
    )


def private_imports(path):
    """Return the private names and modules of scikit-learn that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            package, *parts = name.split(".")
            if package == "sklearn" and any(part.startswith("_") for part in parts):
                yield name


def test_private_names_are_imported_in_one_module_only():
    modules = {path.name for path in PACKAGE.rglob("*.py") if list(private_imports(path))}
    assert modules == {"_sklearn_compat.py"}
    for path in PACKAGE.rglob("*.py"):
        if path.name != "_sklearn_compat.py":
            assert "_skl_callbacks" not in path.read_text(encoding="utf-8"), path


def test_it_imports_nothing_from_the_package():
    assert "from sklearn_hscl" not in Path(compat.__file__).read_text(encoding="utf-8")


SIGNATURES = {
    compat._fit_and_score: """estimator X y scorer train test verbose parameters
        fit_params score_params return_train_score return_parameters
        return_n_test_samples return_times return_estimator split_progress
        candidate_progress error_score caller callback_ctx""",
    compat._insert_error_scores: "results error_score",
    compat._warn_or_raise_about_fit_failures: "results error_score",
    compat._MultimetricScorer.__init__: "self scorers raise_exc",
    compat._safe_split: "estimator X y indices train_indices",
    compat._check_method_params: "X params indices",
    compat._fit_context: "prefer_skip_nested_validation",
    compat.AttrsDict.__init__: "self fitted_attrs estimator_class doc_link",
    compat.BaseSearchCV.fit: "self X y params",
    compat.BaseSearchCV._format_results: "self candidate_params n_splits out more_results",
    compat.BaseSearchCV._select_best_index: "refit refit_metric results",
    compat.BaseSearchCV._get_scorers: "self",
    compat.BaseSearchCV._check_refit_for_multimetric: "self scores",
    compat.BaseSearchCV._check_input_parameters: "self X y split_params",
    compat.BaseSearchCV._get_routed_params_for_fit: "self params",
    GridSearchCV._run_search: "self evaluate_candidates callback_ctx",
    RandomizedSearchCV._run_search: "self evaluate_candidates callback_ctx",
    CallbackSupportMixin._init_callback_context: """self task_name task_id max_subtasks
        sequential_subtasks""",
    CallbackContext.subcontext: "self task_name task_id max_subtasks sequential_subtasks",
    CallbackContext.propagate_callback_context: "self sub_estimator",
    BaseEstimator._validate_params: "self",
    BaseEstimator._get_fitted_attr_html: "self doc_link",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda each: each.__qualname__)
def test_signatures(function):
    found = list(inspect.signature(function).parameters)
    assert found == SIGNATURES[function].split(), (
        f"{function.__qualname__} of scikit-learn {sklearn.__version__} has other "
        f"parameters than the package relies on."
    )


def fit_and_score(estimator, scorer=None, **options):
    options = {"scorer": scorer or get_scorer("accuracy"), "verbose": 0} | options
    options |= {"fit_params": {}, "score_params": {}, "train": TRAIN, "test": TEST}
    return compat._fit_and_score(estimator, X, Y, **{"parameters": {}} | options)


def test_fit_and_score_calls_set_params_fit_and_the_scorer():
    """A wrapper of an estimator needs these methods, and gets the scorer's call."""
    calls = []

    class Wrapper:
        def __sklearn_tags__(self):
            return LogisticRegression().__sklearn_tags__()

        def set_params(self, **params):
            calls.append(params)
            return self

        def fit(self, X, y):
            calls.append(len(y))

    def score(estimator, X, y):
        calls.append(type(estimator))
        return 0.5

    result = fit_and_score(Wrapper(), score, parameters={"C": 2.0}, return_times=True)
    assert calls == [{"C": 2.0}, len(TRAIN), Wrapper]
    assert result["test_scores"] == 0.5
    assert {"fit_time", "score_time", "fit_error"} <= set(result)


def test_errors_of_fits_are_kept_counted_and_replaced():
    failed = fit_and_score(LogisticRegression(C=-1.0), error_score=-7.0)
    assert "InvalidParameterError" in failed["fit_error"]
    fitted = {"fit_error": None, "test_scores": {"one": 0.5}}
    with pytest.warns(FitFailedWarning, match="1 fits failed out of a total of 2"):
        compat._warn_or_raise_about_fit_failures([failed, fitted], -7.0)
    with pytest.raises(ValueError, match="All the 1 fits failed"):
        compat._warn_or_raise_about_fit_failures([failed], -7.0)
    results = [failed, fitted]
    compat._insert_error_scores(results, -7.0)
    assert results[0]["test_scores"] == {"one": -7.0}


def test_multimetric_scorer_is_a_dict_of_scores():
    scorer = compat._MultimetricScorer(scorers={"one": get_scorer("accuracy")})
    assert list(scorer._scorers) == ["one"]
    assert scorer._raise_exc is True
    scores = fit_and_score(LogisticRegression(max_iter=1000), scorer)["test_scores"]
    assert list(scores) == ["one"]


def test_searches_keep_the_checked_splitter():
    search = GridSearchCV(LogisticRegression(), {"C": [0.1]}, cv=2).fit(X, Y)
    assert search._checked_cv_orig.get_n_splits() == 2
    assert np.isfinite(search.refit_time_)
    assert issubclass(GridSearchCV, compat.BaseSearchCV)


def test_safe_split_and_indexing_select_samples():
    rows, labels = compat._safe_split(LogisticRegression(), X, Y, TEST)
    np.testing.assert_array_equal(rows, X[TEST])
    np.testing.assert_array_equal(labels, Y[TEST])
    assert compat._safe_split(LogisticRegression(), X, None, TEST)[1] is None
    frame = pd.DataFrame({"a": [1, 2, 3]}, index=[5, 6, 7])
    assert compat._safe_indexing(frame, [2, 0])["a"].tolist() == [3, 1]
    assert compat._safe_indexing(["a", "b", "c"], np.array([2, 0])) == ["c", "a"]


def test_check_method_params_makes_metadata_indexable():
    found = compat._check_method_params(X, params={"weight": list(Y), "name": "x"})
    assert found["name"] == "x"
    assert len(found["weight"]) == len(Y)


def test_fit_context_and_constraints_validate_parameters():
    class Step(BaseEstimator):
        _parameter_constraints: ClassVar = {
            "n": [compat.Interval(Integral, 1, None, closed="left")],
            "f": [compat.Interval(Real, 0, 1, closed="both"), None],
            "how": [compat.StrOptions({"a", "b"}), compat.HasMethods(["run"])],
        }

        def __init__(self, n=1, f=None, how="a"):
            self.n, self.f, self.how = n, f, how

        @compat._fit_context(prefer_skip_nested_validation=True)
        def fit(self, X):
            return self

    assert Step(f=0.5).fit(X)
    for name, value in {"n": 0, "f": 2.0, "how": "c"}.items():
        with pytest.raises(ValueError, match=f"The '{name}' parameter of Step must be"):
            Step(**{name: value}).fit(X)


def test_attrs_dict_is_the_table_of_fitted_attributes():
    attributes = LogisticRegression(max_iter=1000).fit(X, Y)._get_fitted_attr_html()
    assert isinstance(attributes, compat.AttrsDict)
    copy = compat.AttrsDict(
        fitted_attrs=attributes.data,
        estimator_class=attributes.estimator_class,
        doc_link=attributes.doc_link,
    )
    assert copy._html_repr() == attributes._html_repr()
    assert "Fitted attributes" in copy._html_repr()


def test_callbacks_of_an_estimator():
    estimator = LogisticRegression()
    assert not compat.has_callbacks(estimator)
    assert not compat.has_callbacks("passthrough")
    assert compat.has_callbacks(estimator.set_callbacks(ProgressBar()))
    assert not compat.has_callbacks(estimator.set_callbacks())


def test_wrapper_modules_are_those_around_a_call_of_a_user():
    modules = []

    class Step(TransformerMixin, BaseEstimator):
        _parameter_constraints: ClassVar = {}

        @compat._fit_context(prefer_skip_nested_validation=True)
        def fit(self, X, y=None):
            return self

        def transform(self, X):
            return X

        @compat._fit_context(prefer_skip_nested_validation=True)
        def fit_transform(self, X, y=None):
            modules.extend(frame.frame.f_globals["__name__"] for frame in inspect.stack())
            return X

    Step().fit_transform(X)
    ours = modules[: modules.index(__name__, 1)]
    assert set(ours[1:]) == set(compat.WRAPPER_MODULES)
