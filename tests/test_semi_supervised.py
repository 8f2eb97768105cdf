"""LabeledOnlyClassifier, and pipelines of an embedder whose rows have few labels."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from numpy.testing import assert_array_equal
from scipy.sparse import coo_matrix
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.model_selection import BatchedGridSearchCV
from sklearn_hscl.semi_supervised import LabeledOnlyClassifier

NAMES = np.array(["setosa", "versicolor", "virginica"])
LABELED = np.arange(150) % 10 == 0
# A check of scikit-learn has classes -1 and 1.
FAILED = {"check_classifiers_classes": "samples of the class -1 have no label"}


@parametrize_with_checks(
    [
        LabeledOnlyClassifier(LogisticRegression()),
        LabeledOnlyClassifier(LogisticRegression(), unlabeled_label=-7),
    ],
    expected_failed_checks=lambda estimator: (
        FAILED if estimator.unlabeled_label == -1 else {}
    ),
)
def test_scikit_learns_checks(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


# Marks of rows without label, and labels of the others.
MARKS = {
    "-1": (-1, lambda y: np.where(LABELED, y, -1)),
    "string": ("?", lambda y: np.where(LABELED, NAMES[y], "?")),
    "string among objects": ("?", lambda y: np.where(LABELED, y.astype(object), "?")),
    "NaN": (np.nan, lambda y: np.where(LABELED, y, np.nan)),
    "None": (np.nan, lambda y: np.where(LABELED, NAMES[y], None)),
    "NA": (np.nan, lambda y: pd.Series(y, dtype="Int64").where(LABELED)),
    "category": (np.nan, lambda y: pd.Series(NAMES[y], dtype="category").where(LABELED)),
    "masked": (np.nan, lambda y: np.ma.array(y, mask=~LABELED)),
}


@pytest.mark.parametrize("mark", MARKS)
def test_rows_without_label_are_left_out(iris, mark):
    X, y = iris
    unlabeled, make = MARKS[mark]
    few = make(y)
    fitted = LabeledOnlyClassifier(LogisticRegression(), unlabeled).fit(X, few)
    plain = LogisticRegression().fit(X[LABELED], y[LABELED])
    assert_array_equal(fitted.predict_proba(X), plain.predict_proba(X))
    assert len(fitted.classes_) == 3
    assert fitted.score(X, few) == plain.score(X[LABELED], y[LABELED])
    embedder = HSCLEmbedder(
        encoder="mlp", max_epochs=1, random_state=0, unlabeled_label=unlabeled
    )
    assert_array_equal(embedder.fit(X, few).classes_, fitted.classes_)
    as_usual = clone(embedder).set_params(unlabeled_label=-1)
    as_usual.fit(X, np.where(LABELED, y, -1))
    assert_array_equal(embedder.transform(X), as_usual.transform(X))


def few_labels(encoder="mlp", **parameters):
    parameters = {"max_epochs": 2, "random_state": 0} | parameters
    return HSCLEmbedder(encoder=encoder, unlabeled_label=-1, **parameters)


def test_a_pipeline_with_few_labels(iris):
    X, y = iris
    few = np.where(LABELED, y, -1)
    pipe = make_pipeline(
        few_labels(max_epochs=20),
        StandardScaler(),
        LabeledOnlyClassifier(LogisticRegression()),
    ).set_output(transform="pandas")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy = pickle.loads(pickle.dumps(pipe.fit(X, few)))
    assert_array_equal(copy.classes_, [0, 1, 2])
    assert copy.score(X[~LABELED], y[~LABELED]) > 0.8
    assert_array_equal(copy.predict(X), pipe.predict(X))
    assert cross_val_score(pipe, X, few, cv=3).min() > 0.3


@pytest.mark.parametrize("search", [GridSearchCV, BatchedGridSearchCV])
@pytest.mark.parametrize("mark", ["-1", "NaN"])
def test_searches_with_few_labels(iris, search, mark):
    X, y = iris
    unlabeled, make = MARKS[mark]
    embedder = few_labels().set_params(unlabeled_label=unlabeled)
    pipe = make_pipeline(embedder, LabeledOnlyClassifier(LogisticRegression(), unlabeled))
    grid = {"labeledonlyclassifier__estimator__C": [0.1, 10]}
    cv = KFold(3, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = search(pipe, grid, cv=cv).fit(X, make(y))
    assert_array_equal(found.classes_, [0, 1, 2])
    assert found.score(X, make(y)) == found.score(X[LABELED], y[LABELED])


class KnowsUnlabeled(ClassifierMixin, BaseEstimator):
    def __init__(self, unlabeled_label=None):
        self.unlabeled_label = unlabeled_label

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self


@pytest.mark.parametrize(
    ("last", "warns"),
    [
        (LogisticRegression(), True),
        (CalibratedClassifierCV(LinearSVC(), cv=2), True),
        (GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=2), True),
        (SelfTrainingClassifier(LogisticRegression()), False),
        (LabeledOnlyClassifier(LogisticRegression()), False),
        (GridSearchCV(LabeledOnlyClassifier(LogisticRegression()), {}, cv=2), False),
        (KnowsUnlabeled(), False),
        (StandardScaler(), False),
    ],
    ids=str,
)
def test_a_classifier_that_takes_the_mark_for_a_class_draws_a_warning(iris, last, warns):
    X, y = iris
    pipe = make_pipeline(few_labels(max_epochs=1), last)
    match = rf"{type(last).__name__} follows .*unlabeled_label=-1.*LabeledOnlyClassifier\("
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipe.fit(X, np.where(LABELED, y, -1))
    messages = [str(w.message) for w in caught if "follows an HSCL" in str(w.message)]
    assert len(messages) == warns
    if warns:
        with pytest.warns(UserWarning, match=match):
            pipe.fit(X, np.where(LABELED, y, -1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_pipeline(few_labels(max_epochs=1), LogisticRegression()).fit(X, y)


def test_arguments_of_the_classifier_follow_its_rows(iris):
    X, y = iris
    few, weight = np.where(LABELED, y, -1), 1.0 + np.arange(150) % 4
    plain = LogisticRegression().fit(X[LABELED], y[LABELED], weight[LABELED])
    wrapped = LabeledOnlyClassifier(LogisticRegression())
    expected = plain.score(X[LABELED], y[LABELED], weight[LABELED])
    direct = clone(wrapped).fit(X, few, sample_weight=weight)
    assert_array_equal(direct.estimator_.coef_, plain.coef_)
    assert direct.score(X, few, sample_weight=weight) == expected
    with sklearn.config_context(enable_metadata_routing=True):
        wrapped.estimator.set_fit_request(sample_weight=True)
        wrapped.estimator.set_score_request(sample_weight=True)
        pipe = make_pipeline(FunctionTransformer(), wrapped)
        pipe.fit(X, few, sample_weight=weight)
        assert_array_equal(pipe[-1].estimator_.coef_, plain.coef_)
        assert pipe.score(X, few, sample_weight=weight) == expected


def test_methods_and_rows_are_those_of_the_classifier(iris):
    X, y = iris
    few = np.where(LABELED, y, -1)
    machine = LabeledOnlyClassifier(LinearSVC()).fit(coo_matrix(X), few)
    assert not hasattr(machine, "predict_proba")
    assert machine.decision_function(coo_matrix(X)).shape == (150, 3)
    frame = pd.DataFrame(X, columns=list("abcd"))
    fitted = LabeledOnlyClassifier(LogisticRegression()).fit(frame, few)
    assert_array_equal(fitted.feature_names_in_, list("abcd"))
    assert not hasattr(fitted.fit(X, few), "feature_names_in_")
    assert fitted.predict_log_proba(X).shape == (150, 3)


@pytest.mark.parametrize(
    ("arguments", "y", "message"),
    [
        ({}, np.full(150, -1), "unlabeled_label=-1 only, but the classifier needs labels"),
        ({}, ["a", "-1"] * 75, "'-1' of type str.*Pass unlabeled_label='-1'"),
        ({}, [np.nan, 1.0] * 75, "missing label in row 0"),
        ({}, None, "requires y to be passed"),
        ({"unlabeled_label": None}, [0, 1] * 75, "'unlabeled_label' parameter"),
        ({"estimator": StandardScaler()}, [0, 1] * 75, "'estimator' parameter"),
    ],
)
def test_refused(iris, arguments, y, message):
    given = {"estimator": LogisticRegression()} | arguments
    with pytest.raises(ValueError, match=message):
        LabeledOnlyClassifier(**given).fit(iris[0], y)
