"""Feature importances, and the initial weights of columns that follow from them."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from sklearn import ensemble
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.encoders import TabularEncoder
from sklearn_hscl.encoders.tabular import forests
from sklearn_hscl.encoders.tabular.feature_importance import (
    _FLOOR,
    _MAX_WEIGHT,
    feature_importance,
)
from sklearn_hscl.encoders.tabular.forests import grow_forests
from sklearn_hscl.training import build_run, prepared_data


def importance_of(rows, codes, folds, n_members, seed):
    grown = grow_forests(rows, codes, folds, n_members, seed)
    return None if grown is None else feature_importance(grown)


def table(n_rows: int = 300, n_columns: int = 40, *, seed: int = 0):
    """Columns of noise, of which the first two are informative."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_rows, n_columns))
    codes = (rows[:, 0] + rows[:, 1] > 0).astype(np.int64)
    return torch.from_numpy(rows), torch.from_numpy(codes)


def test_informative_columns_get_larger_weights_than_all_others():
    importance = importance_of(*table(), None, n_members=3, seed=0)
    assert importance.shape == (3, 40)
    assert importance[:, :2].min() > 3 * importance[:, 2:].max()
    assert (importance == importance[0]).all()
    torch.testing.assert_close(importance.mean(1), torch.ones(3))
    assert importance.min() >= _FLOOR / (1 + _FLOOR)


def test_no_weight_exceeds_the_maximum():
    rows, _ = table(n_rows=1000, n_columns=100)
    importance = importance_of(rows, (rows[:, 7] > 0).long(), None, 1, 0)
    assert importance[0, 7] == importance.max() == _MAX_WEIGHT


def test_the_forest_of_a_member_excludes_its_held_out_rows():
    rows, codes = table()
    folds = torch.arange(len(codes)) % 3
    other = torch.where(folds == 1, 1 - codes, codes)
    before = importance_of(rows, codes, folds, 3, 0)
    after = importance_of(rows, other, folds, 3, 0)
    assert [bool((a == b).all()) for a, b in zip(before, after, strict=True)] == [
        False,
        True,
        False,
    ]


def test_unlabelled_rows_do_not_matter():
    rows, codes = table()
    known = torch.arange(len(codes)) % 4 > 0
    folds = torch.arange(len(codes)) % 2
    some = importance_of(rows, torch.where(known, codes, -1), folds, 2, 0)
    alone = importance_of(rows[known], codes[known], folds[known], 2, 0)
    assert (some == alone).all()


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1e9, 1e300])
def test_importance_does_not_depend_on_units(scale):
    rows, codes = table()
    importance = importance_of(rows, codes, None, 1, 0)
    assert (importance_of(rows * scale, codes, None, 1, 0) == importance).all()
    rows[:, 0] = 1.7e9 + rows[:, 0].argsort().argsort().double()  # seconds since 1970
    assert (importance_of(rows, codes, None, 1, 0) == importance).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_missing_infinite_and_constant_columns_get_the_smallest_weights(dtype):
    rows, codes = table()
    rows = rows.to(dtype)
    rows[:, 5] = torch.nan
    rows[:, 6] = torch.finfo(dtype).max
    rows[::2, 7] = -torch.inf
    rows[1::3, 0] = torch.nan
    importance = importance_of(rows, codes, None, 1, 0)[0]
    assert importance.isfinite().all()
    assert (importance[5:7] == importance.min()).all()
    assert importance[:2].min() > 2 * importance[2:].max()


def test_constant_tables_get_equal_weights():
    _, codes = table()
    importance = importance_of(torch.ones(len(codes), 16), codes, None, 2, 0)
    assert (importance == 1).all()


def test_one_class_and_very_many_classes_get_no_weights():
    rows, codes = table()
    many = torch.arange(len(codes)) % 65
    assert importance_of(rows, torch.where(codes == 0, 0, -1), None, 1, 0) is None
    assert importance_of(rows, many, None, 1, 0) is None
    assert importance_of(rows, many % 64, None, 1, 0) is not None


def test_members_with_fewer_than_five_rows_a_class_get_equal_weights():
    rows, _ = table(n_rows=79, n_columns=16)
    sixteen = torch.arange(80) % 16
    assert (importance_of(rows, sixteen[:79], None, 1, 0) == 1).all()
    rows, _ = table(n_rows=80, n_columns=16)
    rows[:, 3] = sixteen
    assert importance_of(rows, sixteen, None, 1, 0)[0].argmax() == 3


def test_a_member_without_sampled_rows_gets_equal_weights():
    rows, codes = table(n_rows=20_000, n_columns=16)
    folds = torch.zeros(20_000, dtype=torch.long)
    folds[:2] = 1
    with patch.object(forests, "_MAX_ROWS", 1000):
        importance = importance_of(rows, codes, folds, 2, 3)
    assert (importance[0] == 1).all()
    assert importance[1, :2].min() > 3 * importance[1, 2:].max()


def test_rows_are_drawn_from_all_of_a_long_table():
    rows, codes = table(n_rows=6000)
    in_order = codes.argsort()
    with patch.object(
        ensemble.RandomForestClassifier,
        "fit",
        autospec=True,
        side_effect=ensemble.RandomForestClassifier.fit,
    ) as fit:
        importance = importance_of(rows[in_order], codes[in_order], None, 1, 0)
    assert fit.call_args.args[1].shape == (4096, 40)
    assert importance[0, :2].min() > 3 * importance[0, 2:].max()


def test_weights_are_more_equal_for_fewer_rows():
    rows, codes = table(n_rows=4000)
    least = [importance_of(rows[:n], codes[:n], None, 1, 0).min() for n in (50, 250, 4000)]
    assert least[0] > 0.8
    assert 0.55 < least[1] < 0.7
    assert 0.2 < least[2] < 0.5


def test_the_result_depends_on_the_arguments_alone():
    rows, codes = table(n_rows=120, n_columns=18, seed=5)
    folds = torch.arange(len(codes)) % 2
    arguments = (rows.clone(), codes.clone(), folds.clone())
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    first = importance_of(rows, codes, folds, 2, 0)
    importance_of(rows.flip(1), 1 - codes, None, 2, 1)
    assert (importance_of(rows, codes, folds, 2, 0) == first).all()
    np.testing.assert_equal(np.random.get_state(), numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    for given, before in zip((rows, codes, folds), arguments, strict=True):
        assert torch.equal(given, before)
    with (
        patch.object(ensemble, "RandomForestClassifier", side_effect=AssertionError),
        pytest.raises(AssertionError),  # no result of an earlier call is reused
    ):
        importance_of(rows, codes, folds, 2, 0)


def test_a_member_with_one_class_left_gets_equal_weights():
    rows, codes = table()
    importance = importance_of(rows, codes, codes, 2, 0)
    assert (importance == 1).all()


@pytest.mark.parametrize("column", range(4))
def test_the_encoder_ignores_a_column_of_weight_zero(column):
    gap = torch.nan
    rows = torch.tensor(
        [[0.5, 1.0, gap, 2.0], [gap, 2.0, 1.0, 1.0], [1.5, 1.0, 3.0, gap], [2.0, 2, 2, 1]]
    )
    encoder = TabularEncoder.fit(rows, [0, 2, 0, 2], n_bins=4).eval()
    changed = rows.clone()
    changed[:, column] = rows[:, column].flip(0)
    with torch.no_grad():
        assert (encoder(rows) != encoder(changed)).any()
        importance = torch.ones(encoder.n_members, 4)
        importance[:, column] = 0
        encoder.scale_by_importance(importance)
        assert (encoder(rows) == encoder(changed)).all()


def test_few_useful_columns_of_many_are_found_in_a_fit():
    rows, codes = (part.numpy() for part in table(n_rows=1200, n_columns=300))
    classifier = make_pipeline(HSCLEmbedder(random_state=0), LogisticRegression())

    def accuracy() -> float:
        return classifier.fit(rows[:200], codes[:200]).score(rows[200:], codes[200:])

    with patch.object(prepared_data, "feature_importance", return_value=None):
        alike = accuracy()
    assert accuracy() > alike + 0.15


def test_only_first_fits_with_classes_use_importances():
    rows, codes = (part.numpy() for part in table(n_rows=80, n_columns=16))
    embedder = HSCLEmbedder(encoder="tabular", max_epochs=1, random_state=0)
    with patch.object(
        prepared_data, "feature_importance", wraps=feature_importance
    ) as weigh:
        embedder.partial_fit(rows, codes, classes=[0, 1])
        assert weigh.call_count == 1
        embedder.partial_fit(rows, codes)
        embedder.set_params(loss="ucl").fit(rows)
        embedder.set_params(loss="hscl", encoder="mlp").fit(rows, codes)
        assert weigh.call_count == 1


def test_narrow_tables_get_no_weights():
    rows, codes = (part.numpy() for part in table(n_rows=80, n_columns=16))
    embedder = HSCLEmbedder(encoder="tabular", max_epochs=1, random_state=0)
    with patch.object(
        prepared_data, "feature_importance", wraps=feature_importance
    ) as weigh:
        embedder.fit(rows[:, :15], codes)
        assert weigh.call_count == 0
        embedder.fit(rows, codes)
        assert weigh.call_count == 1


def test_forests_of_members_exclude_their_folds_in_a_fit():
    rows, codes = (part.numpy() for part in table(n_rows=80, n_columns=16))
    embedder = HSCLEmbedder(max_epochs=1, random_state=0)
    with patch.object(prepared_data, "grow_forests", wraps=grow_forests) as grow:
        embedder.fit(rows, codes)
        _, _, folds, n_members, seed = grow.call_args.args
        assert n_members == 4
        assert folds.bincount().tolist() == [20, 20, 20, 20]
        with patch.object(build_run, "member_folds", return_value=folds.flip(0)) as drawn:
            embedder.fit(rows, codes)
        assert grow.call_args.args[2] is drawn.return_value
        assert grow.call_args.args[4] == seed
        embedder.set_params(early_stopping=False, random_state=1).fit(rows, codes)
        assert grow.call_args.args[2] is None
        assert grow.call_args.args[4] != seed


def test_wrong_parameters_are_found_before_forests_grow():
    rows, codes = (part.numpy() for part in table(n_rows=80, n_columns=16))
    with (
        patch.object(prepared_data, "grow_forests", side_effect=AssertionError),
        pytest.raises(ValueError, match="freeze"),
    ):
        HSCLEmbedder(freeze=["nope"], max_epochs=1).fit(rows, codes)


def test_many_small_classes_fit_without_a_warning():
    rows, _ = (part.numpy() for part in table(n_rows=64, n_columns=16))
    classes = np.arange(64) % 32
    embedder = HSCLEmbedder(encoder="tabular", max_epochs=1, random_state=0)
    assert embedder.fit(rows, classes).transform(rows).shape == (64, 32)
