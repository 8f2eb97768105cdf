"""The tiled kernel: value, gradient and statistics of the dense loss, in any layout."""

import itertools

import numpy as np
import pytest
import torch
from helpers.loss_reference import reference_loss
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.losses.kernels import label_sorted, streaming
from sklearn_hscl.losses.kernels.closed_form import ClosedFormOptions

OPTIONS = {
    "negative_mass": ["negatives", "batch", 3.0],
    "reduction": ["anchors", "pairs", "classes"],
    "detach_weights": [True, False],
}
COMBINATIONS = [
    dict(zip(OPTIONS, values, strict=True))
    for values in itertools.product(*OPTIONS.values())
]
DEFAULTS = {
    "beta": 1.0,
    "temperature": 0.5,
    "negative_mass": "negatives",
    "reduction": "anchors",
    "detach_weights": True,
}
N_ROWS = 60
GROUPS = {
    "two": torch.arange(N_ROWS) % 2,
    "ten": torch.arange(N_ROWS) * 7 % 10 - 3,
    "views": torch.arange(N_ROWS // 2).repeat(2),
    "one large": torch.where(torch.arange(N_ROWS) < 40, 5, torch.arange(N_ROWS) // 3),
    "mostly single": torch.cat([torch.arange(N_ROWS - 10), torch.arange(10)]),
}


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles so small that every kind of tile occurs, and few of them are cached."""
    monkeypatch.setattr(streaming, "_TILE_HEIGHT", 8)
    monkeypatch.setattr(streaming, "_TILE_WIDTH", 11)
    monkeypatch.setattr(streaming, "_MAX_CACHED", 300)
    monkeypatch.setattr(streaming, "_MAX_SMALL_GROUP", 4)
    monkeypatch.setattr(streaming, "_MAX_STRIP", 7 * N_ROWS)
    monkeypatch.setattr(label_sorted, "_MAX_TILE", 5)
    monkeypatch.setattr(label_sorted, "_MAX_PADDED", 20)


def l2_normalize(n_rows=N_ROWS, width=5, seed=0, dtype=torch.float64, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n_rows, width, generator=generator, dtype=torch.float64) + offset
    return (z / z.norm(dim=1, keepdim=True)).to(dtype)


def streaming_loss(z, groups, **options):
    return streaming.streaming_loss(z, groups, ClosedFormOptions(**options))


def dense_loss(z, groups, **options):
    return ContrastiveLoss("hscl", normalize=False, kernel="dense", **options)(
        z, groups, return_stats=True
    )


def evaluate(loss, z, groups, **options):
    z = z.clone().requires_grad_()
    value, stats = loss(z, groups, **(DEFAULTS | options))
    value.backward()
    return value.detach(), z.grad, stats


def assert_equals_dense(z, groups, rtol=1e-12, **options):
    value, gradient, stats = evaluate(streaming_loss, z, groups, **options)
    expected, slope, expected_stats = evaluate(dense_loss, z, groups, **options)
    torch.testing.assert_close(value, expected, rtol=rtol, atol=0)
    assert (gradient - slope).norm() <= rtol * slope.norm()
    assert stats.skipped_anchors == expected_stats.skipped_anchors
    assert stats.hardest_fallbacks == 0
    torch.testing.assert_close(
        stats.effective_negatives, expected_stats.effective_negatives, rtol=rtol, atol=0
    )


# The last is beyond what exponentials without a shift can hold.
SCALES = [(0.0, 0.5), (1.0, 0.5), (2.5, 0.3), (5.0, 0.1), (9.0, 0.01)]


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize(("beta", "temperature"), SCALES)
@pytest.mark.parametrize("options", COMBINATIONS, ids=str)
@pytest.mark.usefixtures("small_tiles")
def test_every_option_equals_dense(groups, beta, temperature, options):
    z = l2_normalize()
    assert_equals_dense(z, groups, beta=beta, temperature=temperature, **options)


@pytest.mark.parametrize("n_groups", [2, 10, 300])
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
def test_default_tiles_equal_dense(n_groups, beta):
    n_rows = 1100
    groups = torch.from_numpy(np.random.default_rng(0).integers(n_groups, size=n_rows))
    z = l2_normalize(n_rows, 16)
    for detach in (True, False):
        assert_equals_dense(z, groups, beta=beta, detach_weights=detach)


@pytest.mark.parametrize("options", COMBINATIONS, ids=str)
@pytest.mark.usefixtures("small_tiles")
def test_equals_the_explicit_reference(options):
    z, groups = l2_normalize(14), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 0, 0, 3, 0, 2, 0])
    options = {**options, "beta": 1.7, "temperature": 0.3}

    def reference(z, groups, **options):
        return reference_loss(z, groups, **options)

    value, gradient, _ = evaluate(streaming_loss, z, groups, **options)
    expected, slope, _ = evaluate(reference, z, groups, **options)
    # The reference normalises z, which removes the part of the gradient along z.
    gradient = gradient - (gradient * z).sum(1, keepdim=True) * z
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reduction", OPTIONS["reduction"])
@pytest.mark.parametrize(("beta", "temperature"), [(0.0, 0.5), (2.0, 0.5), (20.0, 0.03)])
@pytest.mark.usefixtures("small_tiles")
def test_gradcheck_through_the_weights(reduction, beta, temperature):
    groups = torch.tensor([0, 1, 0, 2, 1, 0, 2, 1, 3, 0])
    options = {**DEFAULTS, "beta": beta, "temperature": temperature}
    options |= {"reduction": reduction, "detach_weights": False}
    z = l2_normalize(10, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: streaming_loss(z, groups, **options)[0], z)


# (1 + β)/T up to 100.
@pytest.mark.parametrize(
    ("beta", "temperature"),
    [(0, 0.5), (1, 0.5), (5, 0.5), (19, 1.0), (0, 0.05), (1, 0.1), (1, 0.02), (99, 1.0)],
)
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("spread", [2.0, 0.5, 0.1], ids=["random", "clusters", "points"])
def test_float32_error(beta, temperature, detach, spread):
    groups = torch.arange(600) % 10
    z = l2_normalize(10, 64, seed=1)[groups] + spread * l2_normalize(600, 64)
    z = (z / z.norm(dim=1, keepdim=True)).float()
    options = {"beta": beta, "temperature": temperature, "detach_weights": detach}
    value, gradient, _ = evaluate(streaming_loss, z, groups, **options)
    expected, slope, _ = evaluate(dense_loss, z.double(), groups, **options)
    assert gradient.dtype == value.dtype == torch.float32
    assert abs(value - expected) <= 1e-6 * expected
    assert (gradient - slope).norm() <= 2e-6 * slope.norm()


@given(
    st.integers(0, 1000),
    st.lists(st.integers(0, 3), min_size=2, max_size=12),
    st.floats(0.01, 10),
    st.floats(0, 1000),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(["random", "duplicates", "zeros"]),
    st.booleans(),
    st.sampled_from(OPTIONS["negative_mass"]),
)
@settings(deadline=None, max_examples=200)
def test_any_setting_is_finite_and_equals_dense(
    seed, groups, temperature, beta, dtype, kind, detach, mass
):
    z, groups = l2_normalize(len(groups), seed=seed, dtype=dtype), torch.tensor(groups)
    z = {"random": z, "duplicates": z[:1].repeat(len(z), 1), "zeros": 0 * z}[kind]
    options = {"beta": beta, "temperature": temperature, "detach_weights": detach}
    options["negative_mass"] = mass
    value, gradient, stats = evaluate(streaming_loss, z, groups, **options)
    expected, slope, expected_stats = evaluate(dense_loss, z.double(), groups, **options)
    assert gradient.isfinite().all()
    sharpness = (1 + beta) / temperature
    error = (1e-6 if dtype is torch.float32 else 1e-15) * (10 + sharpness)
    torch.testing.assert_close(value.double(), expected, rtol=error, atol=error * 1e-3)
    # Of the terms that may cancel: with the gradient of the weights, the two parts of M.
    parts = (1 if detach else 1 + 2 * beta) / temperature
    scale = slope.norm().clamp_min(parts)
    assert (gradient - slope).norm() <= error * scale
    assert stats.skipped_anchors == expected_stats.skipped_anchors


@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_infinite_beta_is_the_hardest_negative(temperature):
    z, groups = l2_normalize(10), torch.tensor([0, 1] * 5)
    s = z @ z.T / temperature
    same = groups[:, None] == groups
    hardest = s.masked_fill(same, -torch.inf).amax(1, keepdim=True) + np.log(5)
    pair = torch.logaddexp(hardest - s, torch.zeros_like(s))
    expected = pair[same.fill_diagonal_(False)].mean()
    value, _, stats = evaluate(streaming_loss, z, groups, beta=1e6, temperature=temperature)
    torch.testing.assert_close(value, expected)
    assert stats.effective_negatives == pytest.approx(1)


@pytest.mark.parametrize("groups", [[4, 4, 4, 4], [0, 1, 2, 3]], ids=["one", "no pair"])
@pytest.mark.parametrize("temperature", [0.5, 0.001])
def test_batch_without_usable_anchor(groups, temperature):
    value, gradient, stats = evaluate(
        streaming_loss, l2_normalize(4), torch.tensor(groups), temperature=temperature
    )
    assert value == 0
    assert (gradient == 0).all()
    assert stats.skipped_anchors == 4
    assert stats.effective_negatives == 0


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_statistic_only_when_asked(beta):
    options = {**DEFAULTS, "beta": beta}
    with_it, stats = streaming_loss(l2_normalize(), GROUPS["ten"], **options)
    without, fewer = streaming_loss(
        l2_normalize(), GROUPS["ten"], **options, effective_negatives=False
    )
    assert with_it == without
    assert stats.effective_negatives.isfinite()
    assert fewer.effective_negatives.isnan()


def test_gradient_only_when_wanted():
    z = l2_normalize().requires_grad_()
    value, _ = streaming_loss(z.detach(), GROUPS["ten"], **DEFAULTS)
    assert not value.requires_grad
    with torch.no_grad():
        assert not streaming_loss(z, GROUPS["ten"], **DEFAULTS)[0].requires_grad
    value, _ = streaming_loss(z, GROUPS["ten"], **DEFAULTS)
    (gradient,) = torch.autograd.grad(value**2, z, create_graph=True)
    _, expected, _ = evaluate(streaming_loss, z.detach(), GROUPS["ten"])
    torch.testing.assert_close(gradient.detach(), 2 * value.detach() * expected)


@pytest.mark.usefixtures("small_tiles")
def test_tiles_cover_each_pair_of_negatives_once():
    for groups in GROUPS.values():
        rows = label_sorted.sort_rows(l2_normalize(), groups)
        covered = torch.zeros(N_ROWS, N_ROWS)
        for tile in streaming._tiles(rows.bounds):
            covered[tile.rows, tile.columns] += 1
            if tile.rows != tile.columns:
                covered[tile.columns, tile.rows] += 1
        ordered = groups if rows.order is None else groups[rows.order]
        negatives = ordered[:, None] != ordered
        assert (covered[negatives] == 1).all()
        assert covered.max() == 1


def test_memory_grows_linearly():
    largest = {}
    for n_rows in (1500, 3000):
        z = l2_normalize(n_rows, 8, dtype=torch.float32).requires_grad_()
        sizes = _LargestTensor()
        with sizes:
            streaming_loss(z, torch.arange(n_rows) % 30, **DEFAULTS)
        largest[n_rows] = sizes.n_elements
    assert largest[3000] <= 2 * largest[1500]
    assert largest[3000] < 3000**2 / 8


class _LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    n_elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.n_elements = max(self.n_elements, result.numel())
        return result
