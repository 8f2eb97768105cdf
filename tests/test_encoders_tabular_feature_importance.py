"""What columns of wide tables count before training."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from sklearn import ensemble
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.encoders import TabularEncoder
from sklearn_hscl.encoders.tabular import feature_importance as module
from sklearn_hscl.encoders.tabular.feature_importance import (
    _FLOOR,
    _MAX_WEIGHT,
    feature_importance,
)
from sklearn_hscl.training import run


def table(n_rows: int = 300, n_columns: int = 40, *, seed: int = 0):
    """Columns of noise, of which the first two tell the classes apart."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_rows, n_columns))
    codes = (rows[:, 0] + rows[:, 1] > 0).astype(np.int64)
    return torch.from_numpy(rows), torch.from_numpy(codes)


def test_columns_that_tell_classes_apart_count_more_than_all_others():
    relevance = feature_importance(*table(), None, n_members=3, seed=0)
    assert relevance.shape == (3, 40)
    assert relevance[:, :2].min() > 3 * relevance[:, 2:].max()
    assert (relevance == relevance[0]).all()
    torch.testing.assert_close(relevance.mean(1), torch.ones(3))
    assert relevance.min() >= _FLOOR / (1 + _FLOOR)


def test_no_column_counts_more_than_the_most():
    rows, _ = table(n_rows=1000, n_columns=100)
    relevance = feature_importance(rows, (rows[:, 7] > 0).long(), None, 1, 0)
    assert relevance[0, 7] == relevance.max() == _MAX_WEIGHT


def test_the_forest_of_a_member_does_not_see_rows_that_the_member_does_not():
    rows, codes = table()
    folds = torch.arange(len(codes)) % 3
    other = torch.where(folds == 1, 1 - codes, codes)
    before = feature_importance(rows, codes, folds, 3, 0)
    after = feature_importance(rows, other, folds, 3, 0)
    assert [bool((a == b).all()) for a, b in zip(before, after, strict=True)] == [
        False,
        True,
        False,
    ]


def test_rows_without_a_label_do_not_matter():
    rows, codes = table()
    known = torch.arange(len(codes)) % 4 > 0
    folds = torch.arange(len(codes)) % 2
    some = feature_importance(rows, torch.where(known, codes, -1), folds, 2, 0)
    alone = feature_importance(rows[known], codes[known], folds[known], 2, 0)
    assert (some == alone).all()


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1e9, 1e300])
def test_relevance_does_not_depend_on_units(scale):
    rows, codes = table()
    relevance = feature_importance(rows, codes, None, 1, 0)
    assert (feature_importance(rows * scale, codes, None, 1, 0) == relevance).all()
    rows[:, 0] = 1.7e9 + rows[:, 0].argsort().argsort().double()  # seconds since 1970
    assert (feature_importance(rows, codes, None, 1, 0) == relevance).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_missing_infinite_and_constant_columns_count_the_least(dtype):
    rows, codes = table()
    rows = rows.to(dtype)
    rows[:, 5] = torch.nan
    rows[:, 6] = torch.finfo(dtype).max
    rows[::2, 7] = -torch.inf
    rows[1::3, 0] = torch.nan
    relevance = feature_importance(rows, codes, None, 1, 0)[0]
    assert relevance.isfinite().all()
    assert (relevance[5:7] == relevance.min()).all()
    assert relevance[:2].min() > 2 * relevance[2:].max()


def test_where_nothing_can_be_told_all_columns_are_alike():
    _, codes = table()
    relevance = feature_importance(torch.ones(len(codes), 16), codes, None, 2, 0)
    assert (relevance == 1).all()


def test_narrow_tables_one_class_and_very_many_classes_are_left_alone():
    rows, codes = table()
    many = torch.arange(len(codes)) % 65
    assert feature_importance(rows[:, :15], codes, None, 1, 0) is None
    assert feature_importance(rows[:, :16], codes, None, 1, 0) is not None
    assert feature_importance(rows, torch.where(codes == 0, 0, -1), None, 1, 0) is None
    assert feature_importance(rows, many, None, 1, 0) is None
    assert feature_importance(rows, many % 64, None, 1, 0) is not None


def test_members_with_fewer_than_five_rows_a_class_weigh_all_columns_alike():
    rows, _ = table(n_rows=79, n_columns=16)
    sixteen = torch.arange(80) % 16
    assert (feature_importance(rows, sixteen[:79], None, 1, 0) == 1).all()
    rows, _ = table(n_rows=80, n_columns=16)
    rows[:, 3] = sixteen
    assert feature_importance(rows, sixteen, None, 1, 0)[0].argmax() == 3


def test_a_member_of_whose_few_rows_none_is_drawn_weighs_all_columns_alike():
    rows, codes = table(n_rows=20_000, n_columns=16)
    folds = torch.zeros(20_000, dtype=torch.long)
    folds[:2] = 1
    with patch.object(module, "_MAX_ROWS", 1000):
        relevance = feature_importance(rows, codes, folds, 2, 3)
    assert (relevance[0] == 1).all()
    assert relevance[1, :2].min() > 3 * relevance[1, 2:].max()


def test_rows_are_drawn_from_all_of_a_long_table():
    rows, codes = table(n_rows=6000)
    in_order = codes.argsort()
    with patch.object(
        ensemble.RandomForestClassifier,
        "fit",
        autospec=True,
        side_effect=ensemble.RandomForestClassifier.fit,
    ) as fit:
        relevance = feature_importance(rows[in_order], codes[in_order], None, 1, 0)
    assert fit.call_args.args[1].shape == (4096, 40)
    assert relevance[0, :2].min() > 3 * relevance[0, 2:].max()


def test_columns_are_less_unequal_where_rows_are_few():
    rows, codes = table(n_rows=4000)
    least = [
        feature_importance(rows[:n], codes[:n], None, 1, 0).min() for n in (50, 250, 4000)
    ]
    assert least[0] > 0.8
    assert 0.55 < least[1] < 0.7
    assert 0.2 < least[2] < 0.5


def test_the_result_depends_on_the_arguments_alone():
    rows, codes = table(n_rows=120, n_columns=18, seed=5)
    folds = torch.arange(len(codes)) % 2
    arguments = (rows.clone(), codes.clone(), folds.clone())
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    first = feature_importance(rows, codes, folds, 2, 0)
    feature_importance(rows.flip(1), 1 - codes, None, 2, 1)
    assert (feature_importance(rows, codes, folds, 2, 0) == first).all()
    np.testing.assert_equal(np.random.get_state(), numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    for given, before in zip((rows, codes, folds), arguments, strict=True):
        assert torch.equal(given, before)
    with (
        patch.object(ensemble, "RandomForestClassifier", side_effect=AssertionError),
        pytest.raises(AssertionError),  # no result of an earlier call is reused
    ):
        feature_importance(rows, codes, folds, 2, 0)


def test_a_fold_with_one_class_left_weighs_all_columns_alike_for_its_member():
    rows, codes = table()
    relevance = feature_importance(rows, codes, codes, 2, 0)
    assert (relevance == 1).all()


@pytest.mark.parametrize("column", range(4))
def test_the_encoder_does_not_see_a_column_that_counts_nothing(column):
    gap = torch.nan
    rows = torch.tensor(
        [[0.5, 1.0, gap, 2.0], [gap, 2.0, 1.0, 1.0], [1.5, 1.0, 3.0, gap], [2.0, 2, 2, 1]]
    )
    encoder = TabularEncoder.fit(rows, [0, 2, 0, 2], n_bins=4).eval()
    changed = rows.clone()
    changed[:, column] = rows[:, column].flip(0)
    with torch.no_grad():
        assert (encoder(rows) != encoder(changed)).any()
        relevance = torch.ones(encoder.n_members, 4)
        relevance[:, column] = 0
        encoder.scale_by_importance(relevance)
        assert (encoder(rows) == encoder(changed)).all()


def test_few_useful_columns_of_many_are_found_in_a_fit():
    rows, codes = (part.numpy() for part in table(n_rows=400, n_columns=300))
    classifier = make_pipeline(HSCLEmbedder(random_state=0), LogisticRegression())

    def accuracy() -> float:
        return classifier.fit(rows[:200], codes[:200]).score(rows[200:], codes[200:])

    with patch.object(run, "feature_importance", return_value=None):
        alike = accuracy()
    assert accuracy() > alike + 0.15


def test_only_fits_from_the_start_with_classes_weigh_columns():
    rows, codes = (part.numpy() for part in table(n_rows=80, n_columns=16))
    embedder = HSCLEmbedder(encoder="tabular", max_epochs=1, random_state=0)
    with patch.object(run, "feature_importance", wraps=feature_importance) as weigh:
        embedder.partial_fit(rows, codes, classes=[0, 1])
        assert weigh.call_count == 1
        embedder.partial_fit(rows, codes)
        embedder.set_params(loss="ucl").fit(rows)
        embedder.set_params(loss="hscl", encoder="mlp").fit(rows, codes)
        assert weigh.call_count == 1


def test_forests_of_members_do_not_see_their_folds_in_a_fit():
    rows, codes = (part.numpy() for part in table(n_rows=80, n_columns=16))
    embedder = HSCLEmbedder(max_epochs=1, random_state=0)
    with patch.object(run, "feature_importance", wraps=feature_importance) as weigh:
        embedder.fit(rows, codes)
        _, _, folds, n_members, seed = weigh.call_args.args
        assert n_members == 4
        assert folds.bincount().tolist() == [20, 20, 20, 20]
        with patch.object(run, "member_folds", return_value=folds.flip(0)) as drawn:
            embedder.fit(rows, codes)
        assert weigh.call_args.args[2] is drawn.return_value
        assert weigh.call_args.args[4] == seed
        embedder.set_params(early_stopping=False, random_state=1).fit(rows, codes)
        assert weigh.call_args.args[2] is None
        assert weigh.call_args.args[4] != seed


def test_wrong_parameters_are_found_before_forests_grow():
    rows, codes = (part.numpy() for part in table(n_rows=80, n_columns=16))
    with (
        patch.object(run, "feature_importance", side_effect=AssertionError),
        pytest.raises(ValueError, match="freeze"),
    ):
        HSCLEmbedder(freeze=["nope"], max_epochs=1).fit(rows, codes)


def test_many_small_classes_fit_without_a_warning():
    rows, _ = (part.numpy() for part in table(n_rows=64, n_columns=16))
    classes = np.arange(64) % 32
    embedder = HSCLEmbedder(encoder="tabular", max_epochs=1, random_state=0)
    assert embedder.fit(rows, classes).transform(rows).shape == (64, 32)
