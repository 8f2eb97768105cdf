"""Forests of members: what they learn from, and tensors that repeat the trees."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn import ensemble

from sklearn_hscl.encoders.tabular.forest_scores import ForestScores, score_forests
from sklearn_hscl.encoders.tabular.forests import DEEP, SHALLOW, Pruning, grow_forests

RNG = np.random.default_rng(0)
N_ROWS = 300
ROWS = RNG.normal(size=(N_ROWS, 6))
ROWS[:, 3] = RNG.integers(0, 4, N_ROWS)  # category codes
CODES = (ROWS[:, 0] + ROWS[:, 1] ** 2 > 0.8).astype(int) + (ROWS[:, 3] > 1)
FOLDS = torch.arange(N_ROWS) % 4
SOME = 7  # every so many rows are predicted one by one


LIMITS = {
    np.dtype(dtype): np.array([-0.125, 0.125], dtype) * np.finfo(dtype).max
    for dtype in (np.float32, np.float64)
}


def with_gaps(rows):
    rows = rows.copy()
    rows[::7, 1] = np.nan
    rows[:, 4] = np.nan
    rows[::5, 5] = np.inf
    rows[1::5, 5] = -np.inf
    return rows


def grow(rows, codes=CODES, folds=FOLDS, *, n_members=4, seed=0, pruning=SHALLOW):
    grown = grow_forests(
        torch.as_tensor(rows), torch.as_tensor(codes), folds, n_members, seed
    )
    return None if grown is None else score_forests(grown, pruning)


def ranks_of(rows, seen=None):
    """Dense ranks among the seen rows; others have the rank of the closer neighbor."""
    seen = np.ones(len(rows), dtype=bool) if seen is None else seen
    columns = []
    for column in np.clip(rows, *LIMITS[rows.dtype]).T:
        values = np.unique(column[seen & ~np.isnan(column)])
        middles = values[:-1] + np.diff(values) / 2
        middles = np.where(middles < values[1:], middles, values[:-1])
        ranks = 1.0 + np.searchsorted(middles, column)
        columns.append(np.where(np.isnan(column), 0, ranks))
    return np.stack(columns, 1)


def prediction(tree, row, pruning):
    """Walk down a tree of scikit-learn, up to where a pruned one ends."""
    node = depth = 0
    while (left := tree.children_left[node]) >= 0 and depth < pruning.max_depth:
        children = left, tree.children_right[node]
        if min(tree.n_node_samples[child] for child in children) < pruning.min_samples_leaf:
            break
        node = children[int(row[tree.feature[node]] > tree.threshold[node])]
        depth += 1
    return tree.value[node, 0]


def scores_by_scikit_learn(rows, codes, folds, pruning, seed=0):
    """Centred log probabilities of some rows, by the forests of four members."""
    scores = []
    for member in range(4):
        seen = folds.numpy() != member
        ranks = ranks_of(rows, seen).astype(np.float32)
        forest = ensemble.RandomForestClassifier(
            25, max_depth=40, random_state=seed + member
        ).fit(ranks[seen], codes[seen])
        some = ranks[::SOME]
        probabilities = np.zeros((len(some), codes.max() + 1))
        probabilities[:, forest.classes_] = np.mean(
            [
                [prediction(estimator.tree_, row, pruning) for row in some]
                for estimator in forest.estimators_
            ],
            axis=0,
        )
        logs = np.log(np.maximum(probabilities, 1 / 200))
        scores.append(logs - logs.mean(1, keepdims=True))
    return np.mean(scores, 0)


TABLES = {
    "float32": ROWS.astype(np.float32),
    "float64": ROWS,
    "missing and infinite": with_gaps(ROWS),
    "close values": 1 + np.finfo(float).eps * np.round(9 * ROWS),
    "tiny": ROWS * 1e-300,
    "huge": ROWS * 1e300,
}


@pytest.mark.parametrize("pruning", [SHALLOW, DEEP, Pruning(3, 9), Pruning(0, 1)])
@pytest.mark.parametrize("rows", TABLES.values(), ids=TABLES)
def test_scores_are_those_of_scikit_learn(rows, pruning):
    expected = scores_by_scikit_learn(rows, CODES, FOLDS, pruning)
    found = grow(rows, pruning=pruning)(torch.from_numpy(rows[::SOME])).numpy()
    assert found.dtype == rows.dtype
    assert_allclose(found, expected, atol=1e-5 if rows.dtype == np.float32 else 1e-12)


def test_a_member_without_a_class_takes_it_for_unlikely():
    folds = torch.as_tensor(np.where(CODES == 2, 1, 0))
    expected = scores_by_scikit_learn(ROWS, CODES, folds, SHALLOW)
    found = grow(ROWS, folds=folds)(torch.from_numpy(ROWS[::SOME]))
    assert_allclose(found, expected, atol=1e-12)


def test_new_rows_find_their_side_of_a_threshold():
    rows = np.repeat([[0.0], [1.0], [4.0]], 40, axis=0)
    forests = grow(rows, np.repeat([0, 1, 0], 40), None)

    def scores(*values):
        return forests(torch.tensor(values, dtype=torch.float64)[:, None])[:, 1]

    low, inside, high = scores(0.0, 1.0, 4.0)
    assert inside > max(low, high)
    assert (scores(-np.inf, -9, 0.49, np.nan) == low).all()
    assert (scores(0.51, 2.49) == inside).all()
    assert (scores(2.51, 9, np.inf) == high).all()


def test_forests_of_members_exclude_their_folds():
    with patch.object(
        ensemble.RandomForestClassifier,
        "fit",
        autospec=True,
        side_effect=ensemble.RandomForestClassifier.fit,
    ) as fit:
        grow(ROWS)
    for member, call in enumerate(fit.call_args_list):
        seen = FOLDS.numpy() != member
        np.testing.assert_array_equal(call.args[1], ranks_of(ROWS[seen]))
        np.testing.assert_array_equal(call.args[2], CODES[seen])


def test_unlabelled_rows_do_not_matter():
    codes = np.where(np.arange(N_ROWS) % 3, CODES, -1)
    known = codes >= 0
    some, alone = grow(ROWS, codes), grow(ROWS[known], codes[known], FOLDS[known])
    rows = torch.from_numpy(ROWS)
    assert torch.equal(some(rows), alone(rows))


def test_seeds_and_members_without_folds_differ():
    rows = torch.from_numpy(ROWS)
    assert not torch.equal(grow(ROWS)(rows), grow(ROWS, seed=1)(rows))
    assert torch.equal(grow(ROWS)(rows), grow(ROWS)(rows))
    forests = grow(ROWS, folds=None, n_members=2)
    half = len(forests.root) // 2
    nodes = forests.threshold.tensor_split([int(forests.root[half])])
    assert nodes[0].tolist() != nodes[1].tolist()


TOO_LITTLE = {
    "one class": (ROWS, np.zeros(N_ROWS, dtype=int)),
    "no label": (ROWS, np.full(N_ROWS, -1)),
    "65 classes": (np.tile(ROWS, (2, 1)), np.arange(2 * N_ROWS) % 65),
    "39 rows": (ROWS[:39], CODES[:39]),
    "four rows a class": (ROWS[:72], np.arange(72) % 18),
}


@pytest.mark.parametrize(("rows", "codes"), TOO_LITTLE.values(), ids=TOO_LITTLE)
def test_there_are_no_forests_where_rows_say_too_little(rows, codes):
    assert grow(rows, codes, None) is None


def test_there_are_no_forests_where_a_member_sees_hardly_a_row():
    folds = torch.zeros(N_ROWS, dtype=torch.long)
    folds[:5] = 1
    assert grow(ROWS, folds=folds, n_members=2) is None


@pytest.mark.parametrize("seed", range(5))
def test_there_is_a_score_for_each_class_also_if_it_is_not_drawn(seed):
    rng = np.random.default_rng(1)
    rows, codes = rng.normal(size=(12_000, 2)), rng.integers(0, 2, 12_000)
    codes[:2] = 2
    assert grow(rows, codes, None, seed=seed).n_classes == 3


def test_other_types_have_the_same_scores():
    rows = with_gaps(np.round(ROWS, 3)).astype(np.float32)
    forests = grow(rows)
    double = forests.copied(torch.float64, torch.device("cpu"))
    assert forests.threshold.dtype == torch.float32  # as before
    again = double.copied(torch.float32, torch.device("cpu"))
    found = torch.from_numpy(rows)
    for other in (double, again):
        tensors = dict(other.state_dict())
        ForestScores.from_config(other.get_config(), tensors, (6,))
        assert torch.isfinite(other.threshold).all()
        scores = other(found.to(other.threshold.dtype))
        assert_allclose(scores, forests(found), rtol=1e-5, atol=1e-6)


def test_leaves_of_many_classes_stay_few():
    rng = np.random.default_rng(1)
    rows, codes = rng.normal(size=(4096, 4)), rng.integers(0, 64, 4096)
    assert grow(rows, codes, None, pruning=DEEP).probabilities.numel() <= 2**21


def test_long_tables_have_no_more_nodes():
    rng = np.random.default_rng(1)
    rows, codes = rng.normal(size=(40_000, 3)), rng.integers(0, 2, 40_000)
    few, many = (len(grow(rows[:n], codes[:n], None).left) for n in (5000, 40_000))
    assert many < 1.1 * few


def test_the_depth_is_limited():
    rng = np.random.default_rng(1)
    table = rng.normal(size=(4000, 3)), rng.integers(0, 2, 4000), None
    assert grow(*table).depth == 12
    assert 12 < grow(*table, pruning=DEEP).depth <= 40


def state(**changes):
    forests = grow(ROWS)
    tensors = {name: tensor.clone() for name, tensor in forests.state_dict().items()}
    config = forests.get_config()
    for name, value in changes.items():
        if name in config:
            config[name] = value
        elif callable(value):
            tensors[name] = value(tensors[name])
        else:
            tensors.pop(name)
    return config, tensors


def test_stored_forests_have_the_same_scores():
    config, tensors = state()
    copy = ForestScores.from_config(config, tensors, (6,))
    rows = torch.from_numpy(with_gaps(ROWS))
    assert torch.equal(copy(rows), grow(ROWS)(rows))


def filled(value):
    return lambda tensor: torch.full_like(tensor, value)


DAMAGE = {
    "a column beyond the last": {"feature": filled(6)},
    "a negative child": {"left": filled(-1)},
    "children beyond the last": {"left": filled(10**6)},
    "a last node with a right child": {"left": lambda left: left.clamp_min(len(left) - 1)},
    "leaves that lead on": {"threshold": filled(0.0)},
    "a leaf beyond the last": {"leaf": filled(10**6)},
    "roots beyond the last": {"root": filled(10**6)},
    "no trees": {"root": lambda root: root[:0]},
    "other types": {"left": lambda left: left.float()},
    "fewer nodes": {"left": lambda left: left[:-1]},
    "fewer thresholds": {"threshold": lambda threshold: threshold[:-1]},
    "a matrix of nodes": {"leaf": lambda leaf: leaf[:, None]},
    "no leaves": {"probabilities": lambda values: values[:0]},
    "no classes": {"probabilities": lambda values: values[:, :0]},
    "one dimension": {"probabilities": lambda values: values[:, 0]},
    "a missing tensor": {"leaf": None},
    "members that share trees": {"n_members": 7},
    "no members": {"n_members": 0},
    "members of another type": {"n_members": "4"},
    "a negative depth": {"depth": -1},
    "endless depth": {"depth": 10**9},
    "depth of another type": {"depth": None},
}


@pytest.mark.parametrize("changes", DAMAGE.values(), ids=DAMAGE)
def test_damaged_forests_are_refused(changes):
    config, tensors = state(**changes)
    with pytest.raises(ValueError, match="forests"):
        ForestScores.from_config(config, tensors, (6,))


def test_another_config_is_refused():
    _, tensors = state()
    for config in (None, {}, {"n_members": 4}):
        with pytest.raises(ValueError, match="forests"):
            ForestScores.from_config(config, tensors, (6,))
