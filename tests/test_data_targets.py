"""Targets beyond one class label per row, and the options of the loss, in the estimator."""

import re
import warnings
from decimal import Decimal
from enum import Enum
from functools import partial
from types import SimpleNamespace

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
import torch
from helpers.containers import Refused, mapped
from helpers.targets import (
    ANY_COLUMN,
    BY_KIND,
    CODES,
    FRAMES,
    LABELS,
    ONE_COLUMN,
    SPECIAL,
    arrow,
    object_array,
)
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import has_fit_parameter
from torch.utils.data import TensorDataset

from sklearn_hscl import HSCLEmbedder, diagnose, metrics
from sklearn_hscl.data.missing import column_array
from sklearn_hscl.data.targets import encode_groups, fit_targets
from sklearn_hscl.display import CollapseDisplay
from sklearn_hscl.losses import (
    ContrastiveLoss,
    CosineBeta,
    LinearBeta,
    StepBeta,
    WarmUpBeta,
)
from sklearn_hscl.model_selection import BatchedGridSearchCV
from sklearn_hscl.theory import verify_embedding

pytestmark = pytest.mark.usefixtures("few_trees")


def embedder(**parameters):
    return HSCLEmbedder(**({"max_epochs": 3, "random_state": 0} | parameters))


def same_weights(first, second):
    pairs = zip(first.module_.parameters(), second.module_.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_unlabeled_rows_help_and_are_not_a_class(iris):
    X, y = iris
    few = np.where(np.arange(150) % 10 == 0, y, -1)
    fitted = embedder(unlabeled_label=-1, max_epochs=20).fit(X, few)
    assert_array_equal(fitted.classes_, [0, 1, 2])
    assert fitted.net_.n_views == 1  # as if the predicted labels had been passed
    assert fitted.history_[0]["skipped_anchors"] == 0
    labeled = few >= 0
    classifier = LogisticRegression().fit(fitted.transform(X[labeled]), y[labeled])
    assert classifier.score(fitted.transform(X), y) > 0.85


def test_unlabeled_strings_and_early_stopping(iris):
    X, y = iris
    names = np.asarray(["a", "b", "c", "?"])
    few = names[np.where(np.arange(150) % 3 == 0, y, 3)]
    fitted = embedder(
        unlabeled_label="?", early_stopping=True, ce_weight=0.3, encoder="mlp"
    ).fit(X, few)
    assert_array_equal(fitted.classes_, ["a", "b", "c"])
    assert all(0 <= epoch["valid_score"] <= 1 for epoch in fitted.history_)


def test_minus_one_is_an_everyday_label(iris):
    X, y = iris
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        signed = embedder().fit(X, np.where(y > 0, 1, -1))
    assert same_weights(signed, embedder().fit(X, (y > 0).astype(int)))
    with pytest.warns(UserWarning, match="unlabeled_label=-1") as caught:
        embedder(max_epochs=1).fit(X, y - 1)
    assert len(caught) == 1


def test_several_labels_per_row(iris):
    X, y = iris
    labels = np.column_stack([y == 0, y > 0, X[:, 0] > 6]).astype(int)
    fitted = embedder(max_epochs=20, early_stopping=True).fit(X, labels)
    assert fitted.net_.target_kind == "multilabel"
    assert not hasattr(fitted, "classes_")
    scores = cross_val_score(LogisticRegression(), fitted.transform(X), X[:, 0] > 6)
    assert scores.mean() > 0.8


@pytest.mark.parametrize("target_type", ["auto", "continuous"])
def test_continuous_targets(iris, target_type):
    X, _ = iris
    target = X[:, 0] * 1.37 if target_type == "auto" else (X[:, 0] * 10).astype(int)
    pipe = make_pipeline(embedder(target_type=target_type, max_epochs=20), Ridge())
    assert pipe.fit(X[:, 1:], target).score(X[:, 1:], target) > 0.6
    assert pipe[0].net_.target_kind == "continuous"


def test_integers_that_look_like_numbers_must_be_declared(iris):
    X, _ = iris
    with pytest.raises(ValueError, match="target_type='continuous'"):
        embedder().fit(X, np.arange(150))
    assert embedder(target_type="class").fit(X, np.arange(150)).net_.n_views == 2
    embedder(target_type="continuous").fit(X, np.arange(150))


PRICES = np.random.default_rng(0).permutation(np.arange(150) // 3 * 2.0)
WHOLE = {  # y, and the type that it is taken for
    "prices": (PRICES, "continuous"),
    "prices as integers": (PRICES.astype(int), "class"),
    "codes without gaps": (PRICES / 2, "class"),
    "few values": (np.arange(150) % 15 * 2.0, "class"),
    "fractions": (PRICES + 0.5, "continuous"),
}


@pytest.mark.parametrize(("y", "expected"), WHOLE.values(), ids=WHOLE)
def test_whole_numbers_as_floats_are_numbers_if_they_look_like_them(y, expected):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encode = fit_targets(y, loss="hscl")
    assert encode.target_type == expected
    is_whole = expected == "continuous" and not (y % 1).any()
    assert [w.category for w in caught] == [UserWarning] * is_whole
    if is_whole:
        assert "50 different whole numbers" in str(caught[0].message)
    for chosen in ("class", "continuous"):
        encode = fit_targets(y, loss="hscl", target_type=chosen)
        assert encode.target_type == chosen


@pytest.mark.parametrize(
    "options", [{"unlabeled_label": -1}, {"needs_classes": True}], ids=str
)
def test_whole_numbers_are_classes_where_a_parameter_says_so(options):
    y = np.where(np.arange(150) % 3, PRICES, -1) if "unlabeled_label" in options else PRICES
    assert fit_targets(y, loss="hscl", **options).target_type == "class"


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("rest", [0, -1])
def test_few_integers_of_a_single_row_are_classes(iris, n_classes, rest):
    X, _ = iris
    y = np.full(150, rest)
    y[:n_classes] = np.arange(n_classes) + 1
    unlabeled = {"unlabeled_label": -1} if rest == -1 else {}
    fitted = embedder(max_epochs=1, encoder="mlp", **unlabeled).fit(X, y)
    assert set(fitted.classes_) == set(y) - set(unlabeled.values())


def test_joint_cross_entropy(iris):
    X, y = iris
    fitted = embedder(encoder="mlp", ce_weight=0.5, max_epochs=20).fit(X, y)
    scores = fitted.net_.module_.classifier(torch.from_numpy(fitted.transform(X)).float())
    assert (scores.argmax(1).numpy() == y).mean() > 0.9
    assert embedder(loss="schane").fit(X, y).net_.module_.classifier.out_features == 3
    assert embedder(encoder="mlp").fit(X, y).net_.module_.classifier is None
    assert embedder(ce_weight=0.0).fit(X, y).net_.module_.classifier is None
    tabular = embedder().fit(X, y).net_  # half of its loss
    assert tabular.module_.classifier.out_features == 3
    assert tabular.criterion_.options.ce_weight == 0.5


@pytest.mark.parametrize("loss", ["supcon", "sscl", "schane"])
def test_related_losses_separate_classes(iris, loss):
    X, y = iris
    fitted = embedder(loss=loss, max_epochs=20).fit(X, y)
    assert cross_val_score(LogisticRegression(), fitted.transform(X), y).mean() > 0.9
    assert np.isfinite(fitted.loss_curve_).all()


def test_options_reach_the_loss(iris):
    options = {
        "tau_plus": 0.05,
        "negative_mass": "batch",
        "reduction": "classes",
        "detach_weights": False,
        "positives": "view",
    }
    fitted = embedder(loss="hscl", max_epochs=1, **options).fit(*iris)
    found = fitted.net_.criterion_.options
    assert {name: getattr(found, name) for name in options} == options
    assert fitted.net_.n_views == 2  # twins are views
    official = embedder(loss="hscl", preset="official", max_epochs=1).fit(*iris)
    assert official.net_.criterion_.options.reduction == "pairs"


@pytest.mark.parametrize("hardening", ["polynomial", "top_k", torch.tanh])
def test_hardenings(iris, hardening):
    options = {"top_k": 3} if hardening == "top_k" else {}
    fitted = embedder(hardening=hardening, **options).fit(*iris)
    assert fitted.loss_curve_[-1] < fitted.loss_curve_[0]
    if hardening == "top_k":
        assert fitted.history_[0]["effective_negatives"] == pytest.approx(3, abs=0.1)


@pytest.mark.filterwarnings("ignore:beta=7.0 has no effect")
def test_a_custom_loss(iris):
    loss = ContrastiveLoss("hscl", beta=2.0, reduction="classes")
    plain = partial(embedder, encoder="mlp")
    fitted = plain(loss=loss, beta=7.0).fit(*iris)
    assert fitted.net_.criterion_ is not loss
    assert fitted.net_.criterion_.options.beta == 2.0
    named = plain(loss="hscl", beta=2.0, reduction="classes").fit(*iris)
    assert same_weights(fitted, named)
    few = np.where(np.arange(150) % 3 == 0, iris[1], 9)  # 9: no label
    custom, same = (
        plain(loss=given, unlabeled_label=9).fit(iris[0], few)
        for given in (ContrastiveLoss("hscl"), "hscl")
    )
    assert same_weights(custom, same)
    grid = {"loss": [loss, "scl"]}
    search = GridSearchCV(
        embedder(max_epochs=1), grid, cv=2, scoring=lambda e, X, y: e.transform(X).std()
    )
    assert len(search.fit(*iris).cv_results_["params"]) == 2


SCHEDULES = {
    WarmUpBeta(beta=4.0, share=0.5): [0.0, 2.0, 4.0, 4.0, 4.0],
    LinearBeta(start=4.0, end=0.0): [4.0, 3.0, 2.0, 1.0, 0.0],
    CosineBeta(start=0.0, end=2.0): [0.0, 1 - 2**-0.5, 1.0, 1 + 2**-0.5, 2.0],
    StepBeta(start=2.0, end=0.0, n_steps=3): [2.0, 2.0, 1.0, 0.0, 0.0],
}


@pytest.mark.parametrize(("schedule", "betas"), SCHEDULES.items(), ids=str)
def test_schedules_of_beta(iris, schedule, betas):
    fitted = embedder(beta=schedule, max_epochs=5).fit(*iris)
    assert [epoch["beta"] for epoch in fitted.history_] == pytest.approx(betas)
    assert fitted.net_.criterion_.options.beta == pytest.approx(betas[-1])


def test_a_schedule_that_leaves_the_range():
    X, y = np.arange(12.0).reshape(6, 2), [0, 1] * 3
    with pytest.raises(ValueError, match=r"gave -1\.0, which must be >= 0"):
        embedder(beta=LinearBeta(start=1.0, end=-1.0)).fit(X, y)


# Forms of y ---------------------------------------------------------------------------


class Plain(Enum):
    A, B = 1, 2


def encoded(y, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataConversionWarning)
        encode = fit_targets(y, loss="hscl", **options)
        return encode.target_type, encode(y), encode.classes


def assert_read_alike(y, plain, **options):
    (found, targets, classes), expected = encoded(y, **options), encoded(plain, **options)
    assert found == expected[0]
    assert_array_equal(targets, expected[1])
    assert (classes is None) == (expected[2] is None)
    if classes is not None:
        assert classes.tolist() == expected[2].tolist()
        assert (classes.dtype.kind in "UO") == (expected[2].dtype.kind in "UO")


@pytest.mark.parametrize("kind", ONE_COLUMN)
@pytest.mark.parametrize("form", ANY_COLUMN)
def test_one_column_in_any_container(form, kind):
    assert_read_alike(ANY_COLUMN[form](LABELS[kind]), LABELS[kind])


@pytest.mark.parametrize("kind", ONE_COLUMN)
@pytest.mark.parametrize("form", BY_KIND)
def test_extension_types_of_pandas(form, kind):
    assert_read_alike(BY_KIND[form](LABELS[kind], kind), LABELS[kind])


@pytest.mark.parametrize("form", SPECIAL)
def test_values_of_special_types(form):
    kind, make = SPECIAL[form]
    assert_read_alike(make(LABELS[kind]), LABELS[kind])


def test_a_column_vector_draws_one_warning():
    with pytest.warns(DataConversionWarning) as caught:
        fit_targets(CODES[:, None], loss="hscl")(CODES[:, None])
    assert len(caught) == 1


FITS = ["StringDType", "sparse matrix", "bf16 labels", "requires grad", "big-endian"]


@pytest.mark.parametrize("form", FITS)
def test_a_fit_with_a_special_type_gives_the_same_bits(form):
    kind, make = SPECIAL[form]
    plain, X = LABELS[kind], np.random.default_rng(0).normal(size=(12, 3))
    fit = embedder(max_epochs=1, encoder="mlp").fit
    assert_array_equal(fit(X, make(plain)).transform(X), fit(X, plain).transform(X))


DAYS = np.array("2020-01-01", "M8[D]") + CODES
REFUSED = {
    "dates": (DAYS, "dates or durations.*days by"),
    "durations": (DAYS - DAYS[0], "dates or durations"),
    "date objects": (DAYS.tolist(), "dates or durations .date."),
    "pandas dates": (pd.Series(DAYS).dt.tz_localize("UTC"), "dates or durations"),
    "polars dates": (pl.Series(DAYS), "dates or durations"),
    "arrow dates": (pa.array(DAYS), "dates or durations"),
    "date levels": (pd.Categorical(DAYS), "dates or durations"),
    "periods": (pd.Series(DAYS).dt.to_period("D"), r"Period: convert them to strings"),
    "intervals": (pd.cut(pd.Series(CODES), 3), r"Interval: convert them to strings.*\[str"),
    "tuples": (pd.Series([("a", 1)] * 12), "a tuple per row.*np.stack"),
    "tuple index": (pd.MultiIndex.from_arrays([CODES, CODES]), "a tuple per row"),
    "sets of labels": ([{"a"}, {"b"}] * 6, "a set per row.*MultiLabelBinarizer"),
    "lists of labels": ([["a"], ["a", "b"]] * 6, "different lengths.*MultiLabelBinarizer"),
    "series of arrays": (pd.Series([np.ones(2)] * 12), "a ndarray per row.*np.stack"),
    "polars lists": (pl.Series([[1, 2]] * 12), "a list per row"),
    "enums": (object_array([Plain.A, Plain.B] * 6), "objects of type Plain: convert"),
    "bytes": (CODES.astype("S1"), "bytes: decode them"),
    "bytes objects": ([b"a", b"b"] * 6, "bytes: decode them"),
    "complex": (CODES + 0j, "Complex data not supported: y holds complex128. Pass real"),
    "structured": (np.zeros(12, [("event", "?"), ("t", "f8")]), r"fields.*y\['event'\]"),
    "strings and numbers": (["a", 1] * 6, "int and str.*make all of them strings"),
    "huge integers": ([2**70, 1] * 6, "beyond integers of 64 bits"),
    "three axes": (np.zeros((12, 2, 2)), r"y.reshape\(len\(y\), -1\)"),
    "no column": (np.zeros((12, 0)), "Unknown label type"),
    "a set": (set(range(12)), "a value for each sample.*Pass a list"),
    "an iterator": (iter(CODES), "a value for each sample.*Pass a list"),
    "values of a dict": (dict(enumerate(CODES)).values(), "Pass a list"),
    "text columns": (np.array([["a", "b"]] * 12), "multiclass-multioutput"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_no_target_names_the_remedy(form):
    y, message = REFUSED[form]
    with pytest.raises(ValueError, match=message):
        fit_targets(y, loss="hscl")


MISSING = {
    "NaN": np.where(CODES == 1, np.nan, CODES),
    "None": object_array([None if c == 1 else c for c in CODES.tolist()]),
    "NA": object_array([pd.NA if c == 1 else c for c in CODES.tolist()]),
    "NaT": object_array([pd.NaT if c == 1 else c for c in CODES.tolist()]),
    "masked": np.ma.array(CODES, mask=CODES == 1),
    "masked strings": np.ma.array(np.array(list("abc"))[CODES], mask=CODES == 1),
    "list": [None if c == 1 else c for c in CODES.tolist()],
    "strings and NaN": [np.nan if c == 1 else "ab"[c // 2] for c in CODES.tolist()],
    "StringDType": np.array(
        [np.nan if c == 1 else "ab"[c // 2] for c in CODES.tolist()],
        np.dtypes.StringDType(na_object=np.nan),
    ),
    "nullable": pd.Series(CODES, dtype="Int64").where(CODES != 1),
    "arrow dtype": pd.Series(CODES, dtype="int64[pyarrow]").where(CODES != 1),
    "category": pd.Categorical.from_codes(np.where(CODES == 1, -1, CODES), list("abc")),
    "polars": pl.Series([None if c == 1 else c for c in CODES.tolist()]),
    "polars NaN": pl.Series(np.where(CODES == 1, np.nan, CODES)),
    "arrow": pa.array([None if c == 1 else c for c in CODES.tolist()]),
    "arrow dictionary": pa.DictionaryArray.from_arrays(
        pa.array(CODES), pa.array(["a", None, "c"])
    ),
    "decimal": [Decimal("NaN") if c == 1 else Decimal(c) for c in CODES.tolist()],
    "column": np.where(CODES == 1, np.nan, CODES)[:, None],
    "tensor": torch.tensor(np.where(CODES == 1, np.nan, CODES)).bfloat16(),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
@pytest.mark.parametrize("form", MISSING)
def test_missing_labels_are_errors_or_rows_without_label(form):
    y = MISSING[form]
    with pytest.raises(
        ValueError, match="missing label in row 1: .*unlabeled_label=np.nan"
    ):
        fit_targets(y, loss="hscl")
    encode = fit_targets(y, loss="hscl", unlabeled_label=np.nan)
    assert_array_equal(encode(y), np.array([0, -1, 1])[CODES])
    assert len(encode.classes) == 2
    if np.ndim(y) == 1:
        with pytest.raises(ValueError, match="groups holds a missing value in row 1"):
            encode_groups(y, 12)


@pytest.mark.parametrize("kind", ONE_COLUMN)
@pytest.mark.parametrize("form", ANY_COLUMN)
def test_groups_in_any_container(form, kind):
    groups = ANY_COLUMN[form](LABELS[kind])
    if form in FRAMES:
        with pytest.raises(ValueError, match="pass a single column"):
            encode_groups(groups, 12)
    else:
        assert_array_equal(encode_groups(groups, 12), encode_groups(LABELS[kind], 12))


@pytest.mark.parametrize("form", ["tensor", "bf16 labels", "StringDType", "decimals"])
def test_groups_and_labels_of_metrics_of_special_types(form):
    kind, make = SPECIAL[form]
    y = make(LABELS[kind])
    assert_array_equal(encode_groups(y, 12), encode_groups(LABELS[kind], 12))
    if kind != "numbers":
        X = np.random.default_rng(0).normal(size=(12, 3))
        assert metrics.map_at_r(X, y) == metrics.map_at_r(X, LABELS[kind])
        scorer = metrics.make_embedding_scorer(metrics.map_at_r, unlabeled_label=np.nan)
        identity = FunctionTransformer().fit(X)
        assert scorer(identity, X, y) == metrics.map_at_r(X, LABELS[kind])


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (np.full(12, 2.5), {}, r"same target in every row \(2.5\)"),
        (np.full(12, 2), {"target_type": "continuous"}, "same target in every row"),
        (np.ones((12, 2)) * [0.5, 3], {}, r"same target in every row \(\[0.5, 3.0\]\)"),
        (np.ones((12, 3), int), {}, "same target in every row"),
        (np.zeros((12, 3), int), {}, "same target in every row"),
        (csr_array(np.zeros((12, 3), int)), {}, "same target in every row"),
        (np.tile([1, 0], (12, 1)), {}, "same target in every row"),
        (np.ones(12, int), {}, "one class only"),
        (np.ones(12, bool), {}, "one class only"),
        (np.where(CODES > 0, 1, -1), {"unlabeled_label": -1}, "one class only"),
        (np.full(12, np.nan), {"unlabeled_label": np.nan}, "unlabeled_label=nan only"),
        ([], {}, "y holds nothing"),
        (np.where(np.eye(3)[CODES] > 0, 1, -1), {}, r"hold 0 or 1.*\[-1.0, 1.0\].*y > 0"),
        (CODES, {"target_type": "multilabel"}, "hold 0 or 1"),
        (np.eye(3)[CODES], {"target_type": "class"}, "y.argmax"),
        (["2,5", "3"] * 6, {"target_type": "continuous"}, r"not numbers.*replace\(','"),
        (["a", "b", "-1"] * 4, {"unlabeled_label": -1}, "'-1' of type str.*='-1' if"),
        ([0, 1, -1] * 4, {"unlabeled_label": "-1"}, "-1 of type int.*=-1 if"),
        (["a", "b", "nan"] * 4, {"unlabeled_label": np.nan}, "'nan' of type str"),
        ([f"id{i}" for i in range(12)], {}, "identifiers do.*target_type='class'"),
    ],
)
def test_targets_without_contrast_or_of_the_wrong_type(y, options, message):
    with pytest.raises(ValueError, match=message):
        fit_targets(y, loss="hscl", **options)


TEXTS = ["2,43", "1.234,56", "0.5", "12%", "$ 3", "1e5", "1,234"]
DOUBTFUL = {
    "0, .5 and 1": (CODES / 2, "3 different numbers only.*target_type='class' if"),
    "soft one-hot": (np.eye(3)[CODES] * 0.8 + 0.1, r"numbers only.*\(y > 0\)"),
    "several halves": (np.column_stack([CODES, 2 - CODES]) / 2, "different numbers only"),
    "probabilities": (
        np.random.default_rng(0).dirichlet([1, 1, 1], 12),
        r"sum to 1.*argmax",
    ),
    "identifiers": ([*"abcdefg", *"hhiij"], "8 of them once, as identifiers do"),
    "missing text": (["a", "b", "nan"] * 4, "'nan' among its classes"),
    **{f"numbers {t}": ([t, "1"] * 6, "numbers as strings.*replace") for t in TEXTS},
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_doubtful_targets_draw_one_warning(name):
    y, message = DOUBTFUL[name]
    with pytest.warns(UserWarning, match=message) as caught:
        encode = fit_targets(y, loss="hscl")
    assert len(caught) == 1
    if name != "missing text":
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit_targets(y, loss="hscl", target_type=encode.target_type)


@pytest.mark.parametrize(
    "y",
    [
        ["0", "1", "2"] * 4,
        ["1.0", "2.0", "3,"] * 4,
        ["3.1.2", "3.2.0"] * 6,
        ["a1,5", "2,5"] * 6,
        ["", "1,5"] * 6,
        np.linspace(0, 1, 12),
        CODES.astype(float),
        np.eye(3)[CODES],
        np.where(CODES > 0, "None", "b"),
    ],
    ids=str,
)
def test_ordinary_targets_draw_no_warning(y):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_targets(y, loss="hscl")


def test_unseen_labels_of_another_container_are_named():
    encode = fit_targets(CODES, loss="hscl")
    with pytest.raises(ValueError, match=r"labels \[7\] that were not seen"):
        encode(pd.Series([0, 7], dtype="Int64"))


@pytest.mark.parametrize(
    "container", [TensorDataset, lambda *data: [*zip(*data, strict=True)]]
)
def test_labels_of_a_dataset_that_are_not_read_draw_a_warning(container):
    X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    data = container(X, torch.tensor(CODES))
    fit = embedder(max_epochs=1, encoder="mlp").fit
    with pytest.warns(
        UserWarning, match="loss='auto' does not read.*loss='hucl'"
    ) as caught:
        fit(data)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(data, CODES)
        embedder(loss="hucl", max_epochs=1, encoder="mlp").fit(data)
        assert len(embedder(loss="hscl", max_epochs=1).fit(data).classes_) == 3


# Containers, as in the guide -----------------------------------------------------------


def column(make, kind="integers"):
    """Read as y and as groups."""
    return {"y": (make(LABELS[kind]), kind), "groups": (make(LABELS[kind]), kind)}


def table(make):
    """Read as y; as groups, its only column must be passed."""
    groups = Refused(make(LABELS["integers"]), "pass a single column", np.ravel)
    return {"y": (make(LABELS["integers"]), "integers"), "groups": groups}


def column_y(rows):
    return rows.collect()["y"]


def lazy(rows):
    return {
        role: Refused(
            rows, f"pass {role}.collect()['...']", lambda rows: rows.collect()["y"]
        )
        for role in ("y", "groups")
    }


def not_a_list(make, way_out):
    return {
        role: Refused(make(), "Pass a list or an array", way_out)
        for role in ("y", "groups")
    }


PASSED = {
    "numpy array": column(np.array),
    "numpy array, big-endian": column(SPECIAL["big-endian"][1]),
    "numpy array of objects": column(ANY_COLUMN["objects"], "strings"),
    "numpy masked array": column(np.ma.array),
    "numpy memory map": column(mapped),
    "list or tuple": column(tuple, "strings"),
    "nested list": table(ANY_COLUMN["lists of one"]),
    "list of arrays": {"y": (list(LABELS["indicators"]), "indicators")},
    "list of tensors": column(SPECIAL["list of tensors"][1]),
    "pandas column or index": column(ANY_COLUMN["series"], "strings"),
    "pandas column, nullable": column(partial(BY_KIND["nullable"], kind="integers")),
    "pandas column, Arrow types": column(partial(BY_KIND["arrow dtype"], kind="integers")),
    "pandas categories": column(ANY_COLUMN["category"], "strings"),
    "pandas DataFrame": table(ANY_COLUMN["frame"]),
    "pandas DataFrame, nullable": table(lambda y: pd.DataFrame({"y": y}).convert_dtypes()),
    "pandas DataFrame, sparse": {
        "y": (SPECIAL["sparse frame"][1](LABELS["indicators"]), "indicators")
    },
    "polars column": column(ANY_COLUMN["polars"], "strings"),
    "polars categories": column(SPECIAL["polars categories"][1], "strings"),
    "polars DataFrame": table(ANY_COLUMN["polars frame"]),
    "polars LazyFrame": lazy(pl.LazyFrame({"y": CODES})),
    "pyarrow column": column(arrow, "strings"),
    "pyarrow column in chunks": column(ANY_COLUMN["arrow chunks"], "strings"),
    "pyarrow dictionary column": column(ANY_COLUMN["arrow dictionary"], "strings"),
    "pyarrow Table": table(ANY_COLUMN["arrow table"]),
    "pyarrow RecordBatch": table(lambda y: pa.RecordBatch.from_pydict({"y": y})),
    "narwhals column": column(ANY_COLUMN["narwhals"], "strings"),
    "narwhals DataFrame": table(ANY_COLUMN["narwhals frame"]),
    "narwhals LazyFrame": lazy(nw.from_native(pl.LazyFrame({"y": CODES}))),
    "SciPy sparse matrix or array": {"y": (csr_array(LABELS["indicators"]), "indicators")},
    "torch Tensor": column(torch.tensor),
    "torch Tensor, sparse": {
        "y": (torch.tensor(LABELS["indicators"]).to_sparse(), "indicators")
    },
    "dict of columns": not_a_list(lambda: {"y": CODES}, lambda columns: columns["y"]),
    "generator or other iterator": not_a_list(lambda: iter(CODES), list),
}


def given(role):
    return [name for name, roles in PASSED.items() if role in roles]


def assert_refused(refused, read, plain):
    with pytest.raises((TypeError, ValueError), match=re.escape(refused.remedy)):
        read(refused.container)
    if refused.way_out is not None:
        assert_array_equal(read(refused.way_out(refused.container)), read(plain))


@pytest.mark.parametrize("container", given("y"))
def test_y_in_the_containers_of_the_guide(container):
    passed = PASSED[container]["y"]
    if isinstance(passed, Refused):
        assert_refused(passed, lambda y: encoded(y)[1], CODES)
    else:
        assert_read_alike(passed[0], LABELS[passed[1]])


@pytest.mark.parametrize("container", given("groups"))
def test_groups_in_the_containers_of_the_guide(container):
    passed = PASSED[container]["groups"]
    if isinstance(passed, Refused):
        assert_refused(passed, partial(encode_groups, n_rows=12), CODES)
    else:
        values, kind = passed
        expected = encode_groups(LABELS[kind], 12)
        assert_array_equal(encode_groups(values, 12), expected)


# Chunks -------------------------------------------------------------------------------


def test_later_chunks_take_the_same_classes_only(iris):
    X, y = iris
    chunked = embedder(encoder="mlp").partial_fit(X, y, classes=[0, 1, 2])
    for classes in (None, [2, 1, 0], np.array([0, 1, 2], ">i8"), pd.Categorical([0, 1, 2])):
        chunked.partial_fit(X, y, classes=classes)
    before = chunked.n_iter_
    for classes in ([0, 1], [0, 1, 2, 3], ["0", "1", "2"]):
        with pytest.raises(ValueError, match=r"not the same as on last call.*\[0, 1, 2\]"):
            chunked.partial_fit(X, y, classes=classes)
    assert chunked.n_iter_ == before
    numbers = embedder(encoder="mlp").partial_fit(X, X[:, 0] / 3)
    with pytest.raises(ValueError, match="had continuous targets"):
        numbers.partial_fit(X, X[:, 0] / 3, classes=[0, 1])


@pytest.mark.parametrize("parameters", [{"loss": "hucl"}, {"encoder": "mlp"}], ids=str)
def test_a_last_chunk_of_one_row_is_skipped_with_a_warning(iris, parameters):
    X, y = iris
    chunked = embedder(**parameters).partial_fit(X[::2], y[::2])
    weights, n_iter = clone_of_weights(chunked), chunked.n_iter_
    with pytest.warns(UserWarning, match="holds 1 row, which was skipped.*at least 2"):
        assert chunked.partial_fit(X[:1], y[:1]) is chunked
    assert chunked.n_iter_ == n_iter
    assert all(map(torch.equal, clone_of_weights(chunked), weights))
    chunked.partial_fit(X[1::2], y[1::2])
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        embedder(**parameters).partial_fit(X[:1], y[:1])
    warm = embedder(**parameters, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="X holds 1 row, but at least 2"):
        warm.fit(X[:1], y[:1])


def clone_of_weights(fitted):
    return [weights.detach().clone() for weights in fitted.module_.parameters()]


def test_a_chunk_of_one_class_is_named(iris):
    X, y = iris
    chunked = embedder(encoder="mlp").partial_fit(X, y)
    with pytest.raises(ValueError, match="same target in all 50 rows.*shuffle"):
        chunked.partial_fit(X[:50], y[:50])


# sample_weight ------------------------------------------------------------------------


def test_sample_weight_is_refused_with_a_reason(iris):
    X, y = iris
    weight, match = np.ones(150), "compares pairs .*sampler='balanced'.*last step"
    calls = [
        lambda: embedder().fit(X, y, sample_weight=weight),
        lambda: embedder().partial_fit(X, y, sample_weight=weight),
        lambda: embedder().fit_transform(X, y, sample_weight=weight),
        lambda: embedder(cross_fit=2).fit_transform(X, y, sample_weight=weight),
        lambda: make_pipeline(embedder(), LogisticRegression()).fit(
            X, y, hsclembedder__sample_weight=weight
        ),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=match):
            call()
    with pytest.raises(TypeError, match="unexpected keyword argument 'x_val'"):
        embedder().fit(X, y, x_val=X)
    with sklearn.config_context(enable_metadata_routing=True):
        asked = embedder().set_fit_request(sample_weight=True)
        classifier = LogisticRegression().set_fit_request(sample_weight=True)
        with pytest.raises(TypeError, match=match):
            make_pipeline(asked, classifier).fit(X, y, sample_weight=weight)
        pipe = make_pipeline(embedder(encoder="mlp", max_epochs=1), classifier)
        pipe.fit(X, y, sample_weight=weight)
    assert not has_fit_parameter(embedder(), "sample_weight")


# Callers ------------------------------------------------------------------------------

CALLERS = {
    "diagnose": lambda fitted, X, y: diagnose(fitted, X, y).to_dict(),
    "metrics": lambda fitted, X, y: metrics.linear_readout_accuracy(X, y),
    "theory": lambda fitted, X, y: verify_embedding(X, y),
    "display": lambda fitted, X, y: CollapseDisplay.from_estimator(fitted, X, y),
    "search": lambda fitted, X, y: BatchedGridSearchCV(
        fitted,
        {"beta": [0, 1]},
        cv=KFold(2, shuffle=True, random_state=0),
        scoring=metrics.make_embedding_scorer(metrics.map_at_r),
        error_score="raise",
    ).fit(X, y),
    "held-out rows": lambda fitted, X, y: (
        clone(fitted).set_params(early_stopping=True).fit(X, y, X_val=X, y_val=y)
    ),
    "classes of a stream": lambda fitted, X, y: clone(fitted).partial_fit(X, y, classes=y),
}


@pytest.mark.parametrize("form", ["bf16 labels", "decimal labels", "tensor"])
@pytest.mark.parametrize("caller", CALLERS)
def test_all_callers_take_labels_of_any_type(iris, caller, form):
    X, y = iris
    labels = SPECIAL[form][1](y)
    fitted = embedder(max_epochs=1, encoder="mlp").fit(X, labels)
    assert CALLERS[caller](fitted, X, labels) is not None


def test_dask_computes_y():
    y = SimpleNamespace(__dask_graph__=dict, compute=lambda: pd.Series([0, 1, 1]))
    assert_array_equal(column_array(y), [0, 1, 1])
