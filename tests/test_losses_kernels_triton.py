"""The Triton kernel against the dense loss: on a GPU, or else in Triton's interpreter.

Triton decides at import whether it interprets, so the interpreter's run of this file
is a process of its own, started by ``test_in_the_interpreter``.
"""

import os
import subprocess
import sys

import pytest
import torch

from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.losses.kernels.closed_form import ClosedFormOptions
from sklearn_hscl.runtime.normalize import l2_normalize

pytest.importorskip("triton")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
REDUCTIONS = ("anchors", "pairs", "classes")
MASSES = ("negatives", "batch", 3.7)

runs_kernel = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="run by test_in_the_interpreter"
)
# Triton warns of its own settings.
pytestmark = pytest.mark.filterwarnings("default:TRITON:UserWarning")


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton is for Linux")
def test_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_is_imported_only_where_used():
    code = "import sys, sklearn_hscl.losses; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def batch(n_rows, n_columns, n_groups, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = l2_normalize(torch.randn(n_rows, n_columns, generator=generator))
    groups = torch.randint(n_groups, (n_rows,), generator=generator) * 7 - 3
    return z.to(DEVICE), groups.to(DEVICE)


def by_kernel(z, groups, *, precision="ieee", **options):
    from sklearn_hscl.losses.kernels.triton.launch import triton_loss

    z, options = z.clone().requires_grad_(), ClosedFormOptions(**options)
    value, stats = triton_loss(z, groups, options, precision=precision)
    (3 * value).backward()
    return value.detach(), z.grad / 3, stats


def by_formula(z, groups, dtype=torch.float64, **options):
    z = z.to(dtype).requires_grad_()
    loss = ContrastiveLoss("hscl", normalize=False, kernel="dense", **options)
    value, stats = loss(z, groups, return_stats=True)
    value.backward()
    return value.detach(), z.grad, stats


def options_with(**changed):
    options = {
        "beta": 1.0,
        "temperature": 0.5,
        "negative_mass": "negatives",
        "reduction": "anchors",
        "detach_weights": True,
    }
    return {**options, **changed}


def assert_equal(z, groups, options, tolerance=5e-6, **kernel_options):
    value, gradient, stats = by_kernel(z, groups, **options, **kernel_options)
    expected, expected_gradient, expected_stats = by_formula(z, groups, **options)
    torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=1e-12)
    error = (gradient.double() - expected_gradient).norm()
    assert error <= tolerance * expected_gradient.norm() + 1e-12
    assert stats.skipped_anchors == expected_stats.skipped_anchors
    assert stats.hardest_fallbacks == 0
    if stats.skipped_anchors < len(z):
        effective = stats.effective_negatives.double()
        expected = expected_stats.effective_negatives
        torch.testing.assert_close(effective, expected, rtol=max(tolerance, 1e-5), atol=0)


@runs_kernel
@pytest.mark.parametrize("n_rows", [2, 17, 64, 200])
@pytest.mark.parametrize("n_columns", [3, 16, 40])
@pytest.mark.parametrize("detach_weights", [True, False])
def test_equals_dense_at_every_size(n_rows, n_columns, detach_weights):
    for n_groups, beta, temperature in [(2, 1.0, 0.5), (10, 2.5, 0.2), (70, 0.0, 0.1)]:
        z, groups = batch(n_rows, n_columns, n_groups)
        options = {"beta": beta, "temperature": temperature}
        options = options_with(detach_weights=detach_weights, **options)
        assert_equal(z, groups, options)


@runs_kernel
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("negative_mass", MASSES)
@pytest.mark.parametrize("detach_weights", [True, False])
@pytest.mark.parametrize("beta", [0.0, 1.0, 1.7])
def test_equals_dense_for_every_option(reduction, negative_mass, detach_weights, beta):
    z, groups = batch(57, 6, 9)
    options = {"reduction": reduction, "negative_mass": negative_mass, "beta": beta}
    options = options_with(detach_weights=detach_weights, **options)
    assert_equal(z, groups, options)
    # (1 + β) / T past the bound: the largest u leaves the exponents.
    assert_equal(z, groups, {**options, "temperature": 0.03})


@runs_kernel
@pytest.mark.parametrize("temperature", [0.01, 0.1, 10.0])
@pytest.mark.parametrize("beta", [0.0, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("detach_weights", [True, False])
def test_finite_and_close_at_extremes(temperature, beta, detach_weights):
    z, groups = batch(40, 5, 3)
    z[3], z[5], z[7], groups[0] = z[4], -z[6], 0.0, 99
    options = {"temperature": temperature, "beta": beta}
    options = options_with(detach_weights=detach_weights, **options)
    value, gradient, _ = by_kernel(z, groups, **options)
    expected, expected_gradient, _ = by_formula(z, groups, **options)
    assert gradient.isfinite().all()
    torch.testing.assert_close(value.double(), expected, rtol=2e-6, atol=0)
    # Rounding of s by 1e-7/T is multiplied by 1+β in the exponent; where the gradient
    # flows through the weights, terms 1+β and β times as large nearly cancel.
    tolerance = 3e-6 + 3e-8 * (1 + beta) / temperature + 1e-7 * beta
    error = (gradient.double() - expected_gradient).norm() / expected_gradient.norm()
    assert error <= tolerance


@runs_kernel
@pytest.mark.parametrize("n_groups", [1, 64])
def test_no_usable_anchor_gives_zero(n_groups):
    z, _ = batch(64, 4, 2)
    groups = torch.arange(64, device=DEVICE) % n_groups
    value, gradient, stats = by_kernel(z, groups, **options_with())
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(z))
    assert stats.skipped_anchors == 64


@runs_kernel
@pytest.mark.parametrize("n_columns", [300, 520])
@pytest.mark.parametrize("precision", ["ieee", "bf16", "tf32"])
def test_wide_rows_are_read_in_pieces(n_columns, precision):
    z, groups = batch(70, n_columns, 5)
    tolerance = {"ieee": 5e-6, "tf32": 5e-3, "bf16": 2e-2}[precision]
    assert_equal(z, groups, options_with(), tolerance, precision=precision)


@runs_kernel
def test_rounds_only_as_much_as_asked():
    z, groups = batch(80, 40, 5)
    tolerances = {"bf16": 2e-2, "tf32": 5e-3, "tf32x3": 2e-5}
    for precision, tolerance in tolerances.items():
        for beta in (0.0, 1.0, 2.0):
            options = options_with(beta=beta, detach_weights=False)
            assert_equal(z, groups, options, tolerance, precision=precision)


@runs_kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_takes_half_precision_rows(dtype):
    z, groups = batch(40, 8, 4)
    value, gradient, _ = by_kernel(z.to(dtype), groups, **options_with())
    expected, expected_gradient, _ = by_formula(z.to(dtype), groups, **options_with())
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=2e-2, atol=1e-5)


@runs_kernel
def test_value_without_gradient():
    from sklearn_hscl.losses.kernels.triton.launch import triton_loss

    z, groups = batch(40, 8, 4)
    options = ClosedFormOptions(**options_with(), effective_negatives=False)
    value, stats = triton_loss(z, groups, options)
    assert not value.requires_grad
    assert stats.effective_negatives.isnan()
    assert not stats.skipped_anchors.requires_grad


@runs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_second_derivatives_are_those_of_the_dense_loss(dtype):
    from sklearn_hscl.losses.kernels.triton.launch import triton_loss

    def second(loss, z):
        z = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(z), z, create_graph=True)
        return torch.autograd.grad((gradient * z.detach()[:, :1]).sum(), z)[0]

    z, groups = batch(17, 4, 4)
    z = z.to(dtype)
    options = ClosedFormOptions(**options_with(detach_weights=False))
    dense = ContrastiveLoss(
        normalize=False, kernel="dense", **options_with(detach_weights=False)
    )
    result = second(lambda z: triton_loss(z, groups, options)[0], z)
    assert result.dtype == dtype
    expected = second(lambda z: dense(z, groups), z.double())
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)


@runs_kernel
def test_refuses_what_it_would_round():
    z, groups = batch(17, 4, 4)
    with pytest.raises(TypeError, match="float64"):
        by_kernel(z.double(), groups, **options_with())
    with pytest.raises(ValueError, match="precision must be one of"):
        by_kernel(z, groups, precision="fp8", **options_with())


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_on_a_gpu_memory_is_linear(precision):
    z, groups = batch(16384, 128, 10)
    by_kernel(z, groups, precision=precision, **options_with())  # tunes the blocks
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    by_kernel(z, groups, precision=precision, **options_with())
    assert torch.cuda.max_memory_allocated() - before < 64e6  # B × B would be 1 GB
