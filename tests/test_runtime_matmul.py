"""Matrix products: right in any layout and thread, and without a trace elsewhere."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sklearn_hscl.losses.kernels.closed_form import ClosedFormOptions
from sklearn_hscl.losses.kernels.streaming import streaming_loss
from sklearn_hscl.runtime import matmul as gemm


@pytest.fixture(params=["fast", "default"])
def path(request, monkeypatch):
    monkeypatch.setattr(gemm, "_allowed", True)
    monkeypatch.setattr(gemm, "_found_better", request.param == "fast" and _has_operator())
    return request.param


def _has_operator():
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


def matrix(m, n, layout="rows", seed=0):
    generator = torch.Generator().manual_seed(seed)
    if layout == "columns":
        return torch.randn(n, m, generator=generator).T
    if layout == "every second":
        return torch.randn(2 * m, 2 * n, generator=generator)[::2, ::2]
    if layout == "part":
        return torch.randn(m + 3, n + 5, generator=generator)[1 : m + 1, 2 : n + 2]
    return torch.randn(m, n, generator=generator)


LAYOUTS = ["rows", "columns", "every second", "part"]


@pytest.mark.parametrize("left", LAYOUTS)
@pytest.mark.parametrize("right", LAYOUTS)
@pytest.mark.parametrize("shape", [(165, 130, 70), (1, 300, 90), (2, 3, 4)])
def test_products_in_every_layout(path, left, right, shape):
    m, k, n = shape
    a, b = matrix(m, k, left), matrix(k, n, right, seed=1)
    exact = a.double() @ b.double()
    for product in (gemm.mm(a, b), gemm.mm_t(a, b.T)):
        assert product.shape == (m, n)
        assert (product - exact).norm() <= 1e-6 * exact.norm()


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (4, 3, 0)])
def test_empty_products(path, shape):
    m, k, n = shape
    assert (gemm.mm(torch.ones(m, k), torch.ones(k, n)) == torch.zeros(m, n)).all()


def test_float64_stays_float64(path):
    a, b = matrix(64, 64).double(), matrix(64, 64, seed=1).double()
    assert torch.equal(gemm.mm(a, b), a @ b)


def test_autograd_goes_through(path):
    a = matrix(64, 64).requires_grad_()
    gemm.mm(a, matrix(64, 64, seed=1)).sum().backward()
    torch.testing.assert_close(a.grad, matrix(64, 64, seed=1).sum(1).expand(64, 64))


def test_off_switch_gives_the_bits_of_torch(monkeypatch):
    monkeypatch.setattr(gemm, "_found_better", True)
    monkeypatch.setattr(gemm, "_allowed", True)
    gemm.use_fast_gemm(False)
    a, b = matrix(300, 512), matrix(512, 200, seed=1)
    assert not gemm.uses_fast_gemm()
    assert torch.equal(gemm.mm(a, b), a @ b)
    gemm.use_fast_gemm()
    assert gemm.uses_fast_gemm()


@pytest.mark.parametrize(("setting", "expected"), [("0", "False"), ("1", "True")])
def test_environment_variable(setting, expected):
    code = "from sklearn_hscl import gemm; print(gemm._allowed)"
    environment = {"SKLEARN_HSCL_FAST_GEMM": setting}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert result.stdout.strip() == expected, result.stderr


def test_a_less_accurate_operator_is_refused(monkeypatch):
    def rounded(a, b):
        return (a.bfloat16() @ b.bfloat16().T).float()

    monkeypatch.setattr(
        gemm, "_seconds", lambda product, a, b: float(product is not rounded)
    )
    assert not gemm._probe(rounded)


@pytest.mark.parametrize(("fast", "better"), [(0.5, True), (0.9, False), (2.0, False)])
def test_only_a_clearly_faster_operator_is_used(monkeypatch, fast, better):
    def product(a, b):
        return a @ b.T

    seconds = {product: fast, gemm._default: 1.0}
    monkeypatch.setattr(gemm, "_seconds", lambda product, a, b: seconds[product])
    assert gemm._probe(product) == better


def test_without_the_operator_torch_is_used(monkeypatch):
    def missing(a, b):
        raise AttributeError("no such operator")

    monkeypatch.setattr(gemm, "_onednn", missing)
    monkeypatch.setattr(gemm, "_allowed", True)
    monkeypatch.setattr(gemm, "_found_better", None)
    a, b = matrix(128, 128), matrix(128, 128, seed=1)
    assert torch.equal(gemm.mm(a, b), a @ b)


def test_probe_happens_once_and_leaves_random_state_alone(monkeypatch):
    calls = []
    probe = gemm._probe
    monkeypatch.setattr(gemm, "_probe", lambda way: calls.append(1) or probe(way))
    monkeypatch.setattr(gemm, "_allowed", True)
    monkeypatch.setattr(gemm, "_found_better", None)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: gemm.uses_fast_gemm(), range(8)))
    assert len(calls) == 1
    assert len(set(answers)) == 1
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def switch(monkeypatch):
    """Return the state of torch's switch, as if the probe had found it better."""
    monkeypatch.setattr(gemm, "_allowed", True)
    monkeypatch.setattr(gemm, "_setting_found_better", True)
    return lambda: torch.backends.mkldnn.matmul.fp32_precision


def test_switch_is_on_inside_only(switch):
    with gemm.fast_gemm():
        with gemm.fast_gemm():
            assert switch() == "bf16"
        assert switch() == "bf16"
    assert switch() == "none"
    with pytest.raises(ZeroDivisionError), gemm.fast_gemm():
        1 / 0  # noqa: B018
    assert switch() == "none"


def test_switch_stays_off_where_it_is_forbidden_or_no_better(switch, monkeypatch):
    gemm.use_fast_gemm(False)
    with gemm.fast_gemm():
        assert switch() == "none"
    gemm.use_fast_gemm()
    monkeypatch.setattr(gemm, "_setting_found_better", False)
    with gemm.fast_gemm():
        assert switch() == "none"


def test_last_thread_out_restores_the_switch(switch):
    product = matrix(200, 200)
    exact = product.double() @ product.double()

    def work(k):
        for _ in range(50):
            if k % 2:
                with gemm.fast_gemm():
                    assert switch() == "bf16"
                    result = product @ product
            else:
                result = product @ product
            assert (result - exact).norm() < tolerance * exact.norm()

    tolerance = 1e-2 if rounds_to_bfloat16() else 1e-6
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert switch() == "none"


def test_switched_products_are_as_accurate(switch):
    a, b = matrix(512, 256), matrix(256, 256, seed=1)
    exact = a.double() @ b.double()
    with gemm.fast_gemm():
        product = a @ b
    if rounds_to_bfloat16():
        pytest.skip("this processor has matrix units for bfloat16")
    assert (product - exact).norm() <= 2 * (a @ b - exact).norm()


def rounds_to_bfloat16():
    a = torch.full((64, 64), 1 + 2.0**-12)
    return bool((gemm._multiply_with_setting(a, torch.eye(64)) != a).any())


def global_state():
    return (
        torch.backends.mkldnn.matmul.fp32_precision,
        torch.get_float32_matmul_precision(),
        torch.backends.mkldnn.enabled,
        torch.get_num_threads(),
    )


def test_eight_threads_mixing_kernels_and_plain_products(path):
    z = torch.nn.functional.normalize(matrix(300, 32))
    groups = torch.arange(300) % 7
    a, b = matrix(200, 300), matrix(300, 100, seed=1)
    state, plain = global_state(), a @ b

    def loss(z):
        z = z.clone().requires_grad_()
        options = ClosedFormOptions(
            beta=1.0, temperature=0.5, negative_mass="negatives",
            reduction="anchors", detach_weights=True,
        )  # fmt: skip
        value, _ = streaming_loss(z, groups, options)
        value.backward()
        return z.grad

    expected = loss(z.double())

    def work(k):
        for _ in range(10):
            if k % 2:
                assert torch.equal(a @ b, plain)
            else:
                error = (loss(z) - expected).norm() / expected.norm()
                assert error < 2e-6
            assert global_state() == state

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert global_state() == state
