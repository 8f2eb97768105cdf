"""Groups: rows that belong together are on the same side of every split."""

from contextlib import suppress

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.data.targets import encode_groups
from sklearn_hscl.data.training_data import LabelledArrays
from sklearn_hscl.training import build_callbacks as watchers
from sklearn_hscl.training import prepared_data
from sklearn_hscl.training.ensemble import (
    draw_group_folds,
    draw_member_folds,
    hold_out_groups,
)
from sklearn_hscl.training.prepared_data import split_held_out

# Eight groups of different sizes, each with rows of all three classes of iris.
GROUPS = np.repeat(range(8), [2, 3, 5, 5, 5, 8, 10, 12])[np.arange(150) % 50]
# One network: the members of "tabular" would score their own folds of so few rows.
SPLIT = {"early_stopping": True, "encoder": "mlp"}


def is_whole(parts, groups):
    """Say whether all rows of each group are in one part."""
    return all(len(np.unique(parts[groups == group])) == 1 for group in np.unique(groups))


@st.composite
def grouped_rows(draw):
    sizes = draw(st.lists(st.integers(1, 12), min_size=2, max_size=25))
    groups = np.repeat(np.arange(len(sizes)), sizes)
    seed = draw(st.integers(0, 2**16))
    order = np.random.default_rng(seed)
    codes = order.integers(-1, draw(st.integers(1, 5)), len(groups))
    return codes, order.permutation(len(sizes))[groups], seed


@given(grouped_rows(), st.integers(2, 6))
def test_folds_keep_groups_whole_and_none_is_empty(rows, n_folds):
    codes, groups, seed = rows
    assume(len(np.unique(groups)) >= n_folds)
    for targets in (None, codes[:, None].astype(float)):
        folds = draw_group_folds(targets, groups, n_folds, seed)
        assert is_whole(folds, groups)
        assert_array_equal(np.unique(folds), np.arange(n_folds))
    with suppress(ValueError):  # where the classes do not allow it
        folds = draw_member_folds(codes, groups, n_folds, seed)
        assert is_whole(folds, groups)
        for member in range(n_folds):
            assert len(set(codes[folds != member]) - {-1}) >= 2


@given(grouped_rows(), st.floats(0.01, 0.99))
def test_held_out_groups_are_whole_and_about_the_share(rows, fraction):
    _, groups, seed = rows
    train, held_out = hold_out_groups(None, groups, fraction, seed)
    assert not set(groups[train]) & set(groups[held_out])
    assert_array_equal(np.sort(np.r_[train, held_out]), np.arange(len(groups)))
    n_groups = len(np.unique(groups))
    # Rounding to folds and to whole groups can each miss by about one group.
    allowed = 2 * np.bincount(groups).max() + len(groups) / min(n_groups, 20)
    assert abs(len(held_out) - fraction * len(groups)) <= allowed


def test_folds_spread_the_classes():
    groups = np.arange(400) // 4
    codes = np.random.default_rng(0).choice(3, size=400, p=[0.6, 0.3, 0.1])
    folds = draw_member_folds(codes, groups, 4, seed=0)
    for code in range(3):
        counts = np.bincount(folds[codes == code], minlength=4)
        assert counts.max() <= 1.25 * counts.mean()
    assert_array_equal(folds, draw_member_folds(codes, groups, 4, seed=0))
    assert (folds != draw_member_folds(codes, groups, 4, seed=1)).any()


def test_classes_smaller_than_the_folds():
    codes = np.repeat(np.arange(10), 2)
    folds = draw_member_folds(codes, np.arange(20), 4, seed=0)
    assert_array_equal(np.bincount(folds), [5, 5, 5, 5])


def test_held_out_groups_carry_the_targets():
    groups = np.arange(100) // 5
    data = LabelledArrays(np.arange(100)[:, None], np.arange(100) % 2, groups)
    train, held_out = split_held_out(data, 0.1, 0)
    assert len(held_out.rows) == 10
    for part in (train, held_out):
        assert_array_equal(part.targets, part.rows[:, 0] % 2)
        assert_array_equal(part.groups, part.rows[:, 0] // 5)


@pytest.mark.parametrize(
    "groups",
    [
        ["a", "b", "a", "c"],
        [7, -1, 7, 2],
        [0.5, 1.5, 0.5, 2.5],
        np.array(["2024-01-01", "2024-01-02", "2024-01-01", "2024-01-03"], "datetime64[D]"),
        pd.Series(["a", "b", "a", "c"], dtype="category", index=[3, 1, 4, 0]),
        pd.Series([1, 2, 1, 3], dtype="Int64"),
        pl.Series(["a", "b", "a", "c"]),
        np.array([(1, 2), "b", (1, 2), None], dtype=object)[[0, 1, 2, 1]],
    ],
)
def test_codes_of_groups(groups):
    codes = encode_groups(groups, 4)
    assert codes.dtype == np.int64
    assert codes[0] == codes[2]
    assert len(set(codes[[0, 1]])) == 2
    assert codes.min() == 0


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([1, 2, 3], "groups holds 3 values for the 4 rows of X"),
        ([1, np.nan, 2, np.nan], "groups holds a missing value in row 1"),
        (["a", "b", None, "b"], "groups holds a missing value in row 2"),
        (pd.Series([1, 2, 3, None], dtype="Int64"), "missing value in row 3"),
        (pl.Series(["a", None, "b", "b"]), "missing value in row 1"),
        (np.zeros((4, 1)), r"groups must have the shape \(n_samples,\), got \(4, 1\)"),
        (pd.DataFrame({"g": range(4)}), r"groups must have the shape"),
        (3, "groups cannot be used: Expected .* a value for each sample, got 3"),
        ([1, [2], 3, 4], "groups cannot be used"),
        ([{}, {}, {}, {}], "groups cannot be used: unhashable"),
    ],
)
def test_what_is_no_group(groups, message):
    with pytest.raises(ValueError, match=message):
        encode_groups(groups, 4)


@pytest.mark.parametrize(
    ("groups", "settings", "message"),
    [
        (GROUPS[:-1], {}, "groups holds 149 values for the 150 rows"),
        (GROUPS % 3, {}, "groups holds 3 different values, .* each of 4 members"),
        (GROUPS % 3, {"cross_fit": 5}, "groups holds 3 different values, .* of 5 members"),
        (np.arange(150) // 50, {"n_members": 3}, "groups holds each class in one group"),
        (np.zeros(150), SPLIT, "groups holds 1 group"),
        (
            np.arange(150) // 50,
            SPLIT,
            "groups holds each class in one group",
        ),
    ],
)
def test_groups_that_cannot_be_split(iris, groups, settings, message):
    with pytest.raises(ValueError, match=message):
        HSCLEmbedder(max_epochs=1, **settings).fit(*iris, groups=groups)


def test_a_member_that_would_see_one_class():
    codes = np.array([0, 0, 0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"groups leaves member \d of 3 rows of 1 class"):
        draw_member_folds(codes, np.array([0, 0, 1, 1, 2, 2]), 3, seed=0)


def test_a_training_share_of_one_class():
    codes = np.array([0] * 20 + [1] * 10)  # the group of the other class has the size
    groups = np.array([0] * 2 + [1] * 18 + [2] * 10)
    data = LabelledArrays(np.zeros((30, 1)), codes, groups)
    with pytest.raises(ValueError, match="of one class: lower it, pass finer groups"):
        split_held_out(data, 0.33, 0)


@pytest.fixture
def splits(monkeypatch):
    """Note the rows held out, and the folds of members."""
    noted = []

    def noting(function):
        def wrapper(*args):
            noted.append((args, function(*args)))
            return noted[-1][1]

        return wrapper

    monkeypatch.setattr(prepared_data, "hold_out_groups", noting(hold_out_groups))
    monkeypatch.setattr(watchers, "draw_member_folds", noting(draw_member_folds))
    return noted


@pytest.mark.parametrize("settings", [{}, {"cross_fit": 3}])
def test_members_do_not_see_whole_groups(iris, splits, settings):
    Z = HSCLEmbedder(max_epochs=2, random_state=0, **settings).fit_transform(
        *iris, groups=GROUPS
    )
    [(_, folds)] = splits
    assert is_whole(folds, GROUPS)
    assert np.isfinite(Z).all()


def test_cross_fit_embeds_by_the_member_that_has_not_seen_the_group(iris, splits):
    X, y = iris
    embedder = HSCLEmbedder(max_epochs=2, random_state=0, cross_fit=4)
    Z = embedder.fit_transform(X, y, groups=GROUPS)
    [(_, folds)] = splits
    members = embedder.module_.members(embedder._prepare(X)).detach().numpy()
    unseeing = members[folds, np.arange(150)]
    length = np.linalg.norm(Z, axis=1, keepdims=True)
    np.testing.assert_allclose(Z, length * unseeing, atol=1e-6)


@pytest.mark.parametrize("loss", ["hscl", "hucl"])
def test_groups_of_the_held_out_split(iris, splits, loss):
    embedder = HSCLEmbedder(loss, max_epochs=2, random_state=0, **SPLIT)
    embedder.fit(*iris, groups=GROUPS.astype(str))
    [(_, (train, held_out))] = splits
    assert not set(GROUPS[train]) & set(GROUPS[held_out])
    assert "valid_score" in embedder.history_[-1]


def test_nothing_to_split(iris, splits):
    X, y = iris
    alike = {"max_epochs": 2, "random_state": 0}
    for settings, held_out in (
        ({"early_stopping": False}, {}),
        ({"early_stopping": True}, {"X_val": X[::7], "y_val": y[::7]}),
        ({"encoder": "mlp"}, {}),
    ):
        embedder = HSCLEmbedder(**alike, **settings)
        plain = embedder.fit(X, y, **held_out).transform(X)
        grouped = embedder.fit(X, y, groups=GROUPS % 3, **held_out).transform(X)
        assert_array_equal(plain, grouped)
    assert splits == []


def test_routed_through_a_pipeline(iris, splits):
    X, y = iris
    with sklearn.config_context(enable_metadata_routing=True):
        embedder = HSCLEmbedder(max_epochs=2, random_state=0).set_fit_request(groups=True)
        pipe = Pipeline(
            [("scale", StandardScaler()), ("embed", embedder), ("lr", LogisticRegression())]
        )
        pipe.fit(X, y, groups=GROUPS)
    [(_, folds)] = splits
    assert is_whole(folds, GROUPS)


def test_routed_through_cross_validation(iris, splits):
    X, y = iris
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = make_pipeline(
            HSCLEmbedder(max_epochs=2, random_state=0, n_members=2).set_fit_request(
                groups=True
            ),
            LogisticRegression(),
        )
        cv = GroupKFold(3)
        cross_validate(pipe, X, y, params={"groups": GROUPS}, cv=cv, error_score="raise")
        parts = [train for train, _ in cv.split(X, y, GROUPS)]
    assert len(splits) == 3
    for train, (_, folds) in zip(parts, splits, strict=True):
        assert is_whole(folds, GROUPS[train])


def test_groups_are_not_routed_unasked(iris):
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = make_pipeline(HSCLEmbedder(max_epochs=1), LogisticRegression())
        with pytest.raises(sklearn.exceptions.UnsetMetadataPassedError, match="groups"):
            pipe.fit(*iris, groups=GROUPS)


def test_nothing_of_the_folds_is_kept(iris):
    embedder = HSCLEmbedder(max_epochs=1, cross_fit=3).fit(*iris, groups=GROUPS)
    assert not [name for name in vars(embedder) if "fold" in name]
    assert embedder.net_.iterator_train__folds is None
