"""Losses, Assumption 1 and the inequality, against loops and by their properties."""

import numpy as np
import pandas as pd
import pytest
from helpers.theory_reference import theory
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_hscl.theory import estimate as anchors
from sklearn_hscl.theory import verify_embedding
from sklearn_hscl.theory.estimate import PairSample

LOSSES = ("ucl", "scl", "hucl", "hscl")
BETAS = [0.0, 1.0, 6.0]


def rows(n=30, width=3, n_classes=4, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, width)), random.integers(n_classes, size=n)


def cone_classes(n_classes=4, per_class=6, spread=0.1, seed=0):
    """Classes in narrow cones around orthogonal directions."""
    random = np.random.default_rng(seed)
    y = np.repeat(np.arange(n_classes), per_class)
    return np.eye(n_classes)[y] + spread * random.uniform(-1, 1, (len(y), n_classes)), y


X, Y = rows()
VIEWS = np.arange(30) // 2
Y_OF_VIEWS = Y[VIEWS]


@pytest.mark.parametrize(("y", "view_ids"), [(Y, None), (Y_OF_VIEWS, VIEWS)])
def test_equals_loops(y, view_ids):
    estimate = verify_embedding(
        X, y, BETAS, temperature=0.3, negative_mass=7, view_ids=view_ids
    )
    for k, beta in enumerate(BETAS):
        expected = theory(X, y, beta, 0.3, 7, view_ids)
        for name in LOSSES:
            found = estimate.anchor_losses[name][k]
            np.testing.assert_allclose(found, expected[name], rtol=1e-12)
            mean = getattr(estimate, name).value[k]
            assert mean == pytest.approx(expected[name].mean(), rel=1e-12)
        margin = np.log(expected["collision"] / expected["negative"])
        np.testing.assert_allclose(estimate.margins[k], margin, atol=1e-12)
        assert estimate.assumption.value[k] == pytest.approx(np.mean(margin >= 0))
        gap = expected["hucl"].mean() - expected["hscl"].mean()
        assert estimate.gap.value[k] == pytest.approx(gap, abs=1e-12)
        assert estimate.inequality_holds[k] == (gap >= 0)
        excess = expected["hscl"].mean() - expected["ucl"].mean()
        assert estimate.excess.value[k] == pytest.approx(excess, abs=1e-12)


def test_forms_of_input():
    expected = verify_embedding(X, Y, BETAS).hscl.value
    names = np.array(["d", "a", "c", "b"])[Y]
    for x, y in ((X.tolist(), Y.tolist()), (pd.DataFrame(X), pd.Series(names)), (5 * X, Y)):
        np.testing.assert_allclose(verify_embedding(x, y, BETAS).hscl.value, expected)
    single = verify_embedding(X.astype(np.float32), Y, BETAS).hscl.value
    np.testing.assert_allclose(single, expected, rtol=1e-5)


def has_anchors(data):
    counts = np.bincount(data[1])
    return (counts > 0).sum() > 1 and counts.max() > 1


DATA = st.builds(
    rows,
    n=st.integers(8, 40),
    width=st.integers(1, 6),
    n_classes=st.integers(2, 3),
    seed=st.integers(0, 10**6),
).filter(has_anchors)
TEMPERATURES = st.sampled_from([0.05, 0.5, 2.0])


@given(DATA, TEMPERATURES, st.floats(0, 20))
@settings(deadline=None, max_examples=60)
def test_of_each_anchor_assumption_and_inequality_are_one(data, temperature, beta):
    estimate = verify_embedding(*data, [beta], temperature=temperature, n_bootstrap=1)
    gap = estimate.anchor_losses["hucl"] - estimate.anchor_losses["hscl"]
    clear = np.abs(estimate.margins) > 1e-9
    assert (np.sign(gap) == np.sign(estimate.margins))[clear & (np.abs(gap) > 0)].all()
    assert (gap >= -1e-12)[estimate.margins >= 0].all()
    assert (gap <= 1e-12)[estimate.margins <= 0].all()


@given(DATA, TEMPERATURES)
@settings(deadline=None, max_examples=40)
def test_without_tilt_the_hard_losses_are_the_others(data, temperature):
    found = verify_embedding(*data, [0], temperature=temperature, n_bootstrap=1)
    np.testing.assert_allclose(found.hucl.value, found.ucl.value, rtol=1e-12)
    np.testing.assert_allclose(found.hscl.value, found.scl.value, rtol=1e-12)


@given(DATA, TEMPERATURES)
@settings(deadline=None, max_examples=40)
def test_the_tilt_raises_the_loss_of_each_anchor(data, temperature):
    """Theorem 1 of arXiv 2311.05139: L_H-SCL >= L_SCL, L_H-UCL >= L_UCL."""
    found = verify_embedding(*data, [0, 0.5, 2, 8], temperature=temperature, n_bootstrap=1)
    for name in ("hucl", "hscl"):
        assert (np.diff(found.anchor_losses[name], axis=0) >= -1e-9).all()
    for name in ("ucl", "scl"):
        assert (np.diff(found.anchor_losses[name], axis=0) == 0).all()


@given(DATA, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_order_and_names_play_no_part(data, random):
    x, y = data
    order = random.sample(range(len(y)), len(y))
    found = verify_embedding(x, y, BETAS, n_bootstrap=1)
    other = verify_embedding(x[order], 7 - y[order], BETAS, n_bootstrap=1)
    for name in (*LOSSES, "assumption"):
        value = getattr(found, name).value
        np.testing.assert_allclose(getattr(other, name).value, value, rtol=1e-9)


@given(st.integers(2, 6), st.integers(2, 8), st.integers(0, 10**6), st.floats(0, 50))
@settings(deadline=None, max_examples=60)
def test_classes_in_narrow_cones_satisfy_the_assumption(n_classes, per_class, seed, beta):
    data = cone_classes(n_classes, per_class, seed=seed)
    estimate = verify_embedding(*data, [beta], n_bootstrap=5)
    assert estimate.assumption.value == estimate.assumption.low == 1
    assert estimate.inequality_holds.all()
    gap = estimate.anchor_losses["hucl"] - estimate.anchor_losses["hscl"]
    assert (gap >= 0).all()


def test_classes_of_opposite_rows_break_assumption_and_inequality():
    # The other row of the class is at cosine -1, those of the other class at 0.
    x, y = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]]), [0, 0, 1, 1]
    estimate = verify_embedding(x, y, [0, 2], n_bootstrap=5)
    assert (estimate.margins < 0).all()
    assert (estimate.assumption.value == 0).all()
    assert (estimate.gap.high < 0).all() and not estimate.inequality_holds.any()
    assert (estimate.excess.low > 0).all()  # H-SCL above UCL as well


def test_a_strong_tilt_lifts_hscl_above_ucl_where_classes_touch():
    x, y = rows(200, 2, 5)
    estimate = verify_embedding(x, y, [0, 4])
    assert estimate.excess.low[1] > 0 > estimate.excess.low[0]
    by_anchor = estimate.anchor_losses["hscl"] - estimate.anchor_losses["ucl"]
    np.testing.assert_allclose(by_anchor.mean(axis=1), estimate.excess.value)


def test_all_rows_in_one_place_satisfy_the_assumption():
    estimate = verify_embedding(np.ones((30, 3)) / 3, Y, [0, 1, 300], temperature=0.01)
    assert (estimate.assumption.value == 1).all() and estimate.inequality_holds.all()


def test_extreme_settings_are_finite():
    estimate = verify_embedding(X, Y, [0, 1000], temperature=0.01)
    assert np.isfinite(list(estimate.anchor_losses.values())).all()
    assert np.isfinite(estimate.margins).all()


def test_blocks_do_not_change_the_result(monkeypatch):
    expected = verify_embedding(X, Y, BETAS)
    shapes = []

    def pairs(sample, block, original=PairSample.pairs):
        found = original(sample, block)
        shapes.append(found.different.positive.shape)
        return found

    monkeypatch.setattr(PairSample, "pairs", pairs)
    monkeypatch.setattr(anchors, "_BLOCK_PAIRS", 400)
    found = verify_embedding(X, Y, BETAS)
    assert max(height * width * len(BETAS) for height, width in shapes) <= 400
    assert sum(height for height, _ in shapes) == 30
    np.testing.assert_allclose(found.margins, expected.margins, atol=1e-12)
    np.testing.assert_allclose(found.hscl, expected.hscl, rtol=1e-12)


def test_intervals_narrow_and_hold_the_mean():
    x, y = rows(600, 4, 3)
    wide = verify_embedding(x, y, [1], max_anchors=100).hucl
    narrow = verify_embedding(x, y, [1], max_anchors=None)
    level = verify_embedding(x, y, [1], max_anchors=None, confidence_level=0.5).hucl
    assert narrow.hucl.low < narrow.hucl.value < narrow.hucl.high
    spread = narrow.anchor_losses["hucl"].std() / np.sqrt(600)
    width = narrow.hucl.high - narrow.hucl.low
    assert width == pytest.approx(2 * 1.96 * spread, rel=0.15)
    assert level.high - level.low == pytest.approx(2 * 0.674 * spread, rel=0.2)
    assert wide.high - wide.low > 1.7 * width


def test_the_interval_of_the_gap_is_that_of_pairs():
    x, y = cone_classes(spread=0.8, per_class=40)
    estimate = verify_embedding(x, y, [1])
    width = estimate.gap.high - estimate.gap.low
    by_anchor = estimate.anchor_losses["hucl"] - estimate.anchor_losses["hscl"]
    expected = 2 * 1.96 * by_anchor.std() / np.sqrt(by_anchor.shape[1])
    assert width == pytest.approx(expected, rel=0.15)


def test_draws():
    x, y = rows(300)
    small = {"max_anchors": 20, "max_negatives": 50}
    first, again = (verify_embedding(x, y, [1], **small) for _ in range(2))
    other = verify_embedding(x, y, [1], **small, random_state=1)
    assert first.margins.shape == (1, 20)
    np.testing.assert_array_equal(first.margins, again.margins)
    assert not np.array_equal(first.margins, other.margins)
    everything = verify_embedding(x, y, [1], max_anchors=None, max_negatives=None)
    assert everything.margins.shape == (1, 300)
    assert first.hscl.value == pytest.approx(everything.hscl.value, rel=0.1)


def test_rows_that_cannot_be_anchors_are_counted():
    y = np.array([0, 0, 0, 1, 1, 2, *[0] * 24])
    estimate = verify_embedding(X, y, [1])
    assert estimate.n_skipped == 1 and estimate.margins.shape == (1, 29)
    views = np.arange(30)
    views[1] = 0
    estimate = verify_embedding(X, y, [1], view_ids=views)
    assert estimate.n_skipped == 28 and estimate.margins.shape == (1, 2)


def test_views_are_drawn_together():
    x, y = rows(100)
    views = np.arange(100) % 50
    estimate = verify_embedding(x, y[views], [1], view_ids=views, max_negatives=21)
    assert estimate.margins.shape[1] + estimate.n_skipped == 22


BAD = np.where(np.arange(90).reshape(30, 3) == 50, np.nan, X)


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        ((BAD, Y), {}, "X contains NaN"),
        ((X, np.zeros(30)), {}, "Expected y to contain at least two classes"),
        ((X, Y[1:]), {}, "y cannot be used: .*inconsistent"),
        ((X, None), {}, "Expected y to hold class labels, got None"),
        ((X, np.arange(30)), {}, "No row drawn .* raise max_negatives"),
        ((X, Y, []), {}, "betas=.* at least one"),
        ((X, Y, 1.0), {}, "betas=1.0 must be a sequence"),
        ((X, Y, ["hard"]), {}, "betas=.* sequence of numbers"),
        ((X, Y, [1, -1]), {}, "betas=.* from 0 up"),
        ((X, Y, [np.inf]), {}, "betas=.* finite"),
        ((X, Y), {"temperature": 0}, "temperature must be from"),
        ((X, Y), {"negative_mass": 0}, "negative_mass must be above 0"),
        ((X, Y), {"negative_mass": "batch"}, "negative_mass='batch' must be a number"),
        ((X, Y), {"max_anchors": 0}, "max_anchors=0 must be an integer from 1"),
        ((X, Y), {"max_negatives": 1.5}, "max_negatives=1.5 must be an integer from 2"),
        ((X, Y), {"n_bootstrap": None}, "n_bootstrap=None must be"),
        ((X, Y), {"confidence_level": 95}, r"confidence_level=95 must be in \(0, 1\)"),
        ((X, Y), {"view_ids": VIEWS[1:]}, r"view_ids of shape \(29,\) .* 30 rows"),
        ((X, Y), {"view_ids": VIEWS}, "view_ids=.* rows of several classes"),
        ((X, Y), {"view_ids": np.arange(30)}, "two views of each row"),
    ],
)
def test_refused(arguments, changes, message):
    with pytest.raises(ValueError, match=message):
        verify_embedding(*arguments, **changes)
