"""The Triton kernel against the dense loss: on a GPU, or else in Triton's interpreter.

Triton decides at import whether it interprets, so the interpreter's run of this file
is a process of its own, started by ``test_in_the_interpreter``.
"""

import copy
import dataclasses
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sklearn_hscl.losses import ContrastiveLoss, dispatch
from sklearn_hscl.losses.kernels.closed_form import ClosedFormOptions
from sklearn_hscl.losses.kernels.streaming import streaming_loss
from sklearn_hscl.losses.presets import LossOptions
from sklearn_hscl.runtime.normalize import l2_normalize

triton = pytest.importorskip("triton")
tl = triton.language
load_rows = pytest.importorskip("sklearn_hscl.losses.kernels.triton.forward").load_rows

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
REDUCTIONS = ("anchors", "pairs", "classes")
MASSES = ("negatives", "batch", 3.7)

runs_kernel = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="run by test_in_the_interpreter"
)
not_interpreted = pytest.mark.skipif(INTERPRETED, reason="run without the interpreter")
# Triton warns of its own settings.
pytestmark = pytest.mark.filterwarnings("default:TRITON:UserWarning")


@not_interpreted
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton is for Linux")
def test_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@not_interpreted
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
@pytest.mark.parametrize("n_rows", [2, 17, 64, 127, 200])
@pytest.mark.parametrize("n_columns", [3, 16, 40])
def test_equals_dense_at_every_size(n_rows, n_columns):
    for n_groups, beta, temperature, detach_weights in [
        (2, 1.0, 0.5, True),
        (10, 2.5, 0.2, False),
        (70, 0.0, 0.1, True),
    ]:
        z, groups = batch(n_rows, n_columns, n_groups)
        options = {"beta": beta, "temperature": temperature}
        options = options_with(detach_weights=detach_weights, **options)
        assert_equal(z, groups, options)


CLAIMED = {
    "ucl": {},
    "scl": {},
    "hucl": {},
    "hscl": {},
    "scl, official": {"preset": "official"},
    "hscl, official": {"preset": "official"},
    "hucl, no prior": {"preset": "official", "tau_plus": 0.0},
    "scl, sharp": {"temperature": 0.02},
    "hscl, sharp": {"temperature": 0.02, "detach_weights": False},
    "hscl, gentle": {"beta": 0.3, "reduction": "classes", "negative_mass": "batch"},
    "hucl, strong": {"beta": 5.0, "negative_mass": 12.5},
}
SMALL = [(name, n_rows) for name in CLAIMED for n_rows in (31, 130)]
LARGE = [("ucl", 511), ("hscl", 512), ("hscl, official", 512), ("hscl, sharp", 385)]


@runs_kernel
@pytest.mark.parametrize(
    ("claim", "n_rows", "dtype"),
    [(*case, torch.float32) for case in SMALL + LARGE]
    + [(claim, 31, torch.bfloat16) for claim in CLAIMED]
    + [("hscl", 130, torch.bfloat16), ("hscl, sharp", 385, torch.bfloat16)],
    ids=str,
)
def test_equals_dense_for_every_loss_that_it_claims(claim, n_rows, dtype):
    z, y = batch(n_rows, 24, 11)
    z, views = z.to(dtype), torch.arange(n_rows, device=DEVICE) // 2
    results = []
    for kernel, dtype_of_z in (("triton", dtype), ("dense", torch.float64)):
        leaf = z.detach().to(dtype_of_z).requires_grad_()
        loss = ContrastiveLoss(
            claim.split(",")[0], normalize=False, kernel=kernel, **CLAIMED[claim]
        )
        value, stats = loss(leaf, y, views, return_stats=True)
        value.backward()
        results.append((value.double(), leaf.grad.double(), stats))
    (value, gradient, stats), (expected, expected_gradient, expected_stats) = results
    # Rows of bfloat16 get a gradient of bfloat16.
    tolerance = 1e-5 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    error = (gradient - expected_gradient).norm() / expected_gradient.norm()
    assert error <= tolerance
    assert stats.skipped_anchors == expected_stats.skipped_anchors


@runs_kernel
@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ("supcon", {}),
        ("sscl", {}),
        ("schane", {"ce_weight": 0.0}),
        ("hucl", {"preset": "official"}),
        ("ucl", {"tau_plus": 0.1}),
        ("hscl", {"positives": "view"}),
        ("hscl", {"hardening": "threshold"}),
        ("hscl", {"temperature": torch.tensor(0.5, requires_grad=True)}),
        ("hscl", {"beta": torch.tensor(0.5, requires_grad=True)}),
    ],
)
def test_refuses_losses_that_it_does_not_claim(loss, options):
    z, y = batch(12, 4, 3)
    with pytest.raises(ValueError, match="kernel='triton' computes losses with"):
        ContrastiveLoss(loss, kernel="triton", **options)(z, y, y)


@runs_kernel
@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.uint16, torch.uint32, torch.uint64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    ],
    ids=str,
)
def test_groups_of_every_dtype(dtype):
    z, groups = batch(20, 5, 2 if dtype == torch.bool else 4)
    groups = (groups + 3) // 7
    by_int64 = by_kernel(z, groups, **options_with())
    by_dtype = by_kernel(z, groups.to(dtype), **options_with())
    assert torch.equal(by_dtype[0], by_int64[0])
    assert torch.equal(by_dtype[1], by_int64[1])


@runs_kernel
def test_a_nan_label_is_equal_to_none():
    z, groups = batch(45, 5, 6)
    alone = groups.clone()
    alone[[3, 9, 40]] = torch.tensor([900, 901, 902], device=DEVICE)
    expected = by_kernel(z, alone, **options_with())
    unknown = torch.where(alone >= 900, torch.nan, alone.float())
    value, gradient, stats = by_kernel(z, unknown, **options_with())
    torch.testing.assert_close((value, gradient), expected[:2])
    assert stats.skipped_anchors == expected[2].skipped_anchors


@runs_kernel
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("layout", ["columns", "steps", "expanded"])
def test_any_strides(layout):
    z, groups = batch(40, 6, 4)
    expected = by_kernel(z, groups, **options_with())
    if layout == "columns":
        z, groups = z.T.contiguous().T, torch.stack([groups, -groups], 1)[:, 0]
    elif layout == "steps":
        z = z.repeat_interleave(2, 0)[::2]
        groups = groups.repeat_interleave(3)[::3]
    else:
        z, groups = z[:, :1].expand(-1, 6), groups[:1].expand(40)
        expected = by_kernel(z.contiguous(), groups.contiguous(), **options_with())
    value, gradient, _ = by_kernel(z, groups, **options_with())
    assert torch.equal(value, expected[0])
    assert torch.equal(gradient, expected[1])


@runs_kernel
@pytest.mark.parametrize("norm", [0.0, 3.0, 30.0, 1e6])
@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("kernel", ["triton", "auto"])
def test_rows_of_any_length(norm, beta, kernel):
    z, groups = batch(60, 5, 4)
    z = norm * z
    results = []
    for which, dtype in ((kernel, torch.float32), ("dense", torch.float64)):
        leaf = z.detach().to(dtype).requires_grad_()
        loss = ContrastiveLoss("hscl", beta=beta, normalize=False, kernel=which)
        value = loss(leaf, groups)
        value.backward()
        results.append((value.detach().double(), leaf.grad.double()))
    (value, gradient), (expected, expected_gradient) = results
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    assert gradient.isfinite().all()
    if norm <= 3:  # beyond, rounding decides which of several negatives is the hardest
        error = (gradient - expected_gradient).norm()
        assert error <= 1e-4 * expected_gradient.norm()


@runs_kernel
@pytest.mark.parametrize("beta", [1e-300, 1e-45, 1e-39, 1e-30])
@pytest.mark.parametrize("temperature", [0.5, 0.01])
def test_tiny_beta_is_no_hardening(beta, temperature):
    z, groups = batch(45, 5, 6)
    expected = by_kernel(z, groups, **options_with(beta=0.0, temperature=temperature))
    value, gradient, _ = by_kernel(
        z, groups, **options_with(beta=beta, temperature=temperature)
    )
    torch.testing.assert_close(value, expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-5, atol=1e-8)


@runs_kernel
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # the interpreter's
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("temperature", [0.5, 0.02])
def test_nan_in_a_row_reaches_value_and_gradient(beta, temperature):
    z, groups = batch(70, 5, 4)
    z[37, 2] = torch.nan
    options = options_with(beta=beta, temperature=temperature)
    value, gradient, _ = by_kernel(z, groups, **options)
    assert value.isnan()
    assert gradient.isnan().any(-1).all()


@triton.jit
def copy_rows(z, out, first, N_ROWS: tl.constexpr, WIDTH: tl.constexpr):
    from_z = load_rows(z, first, 0, N_ROWS, WIDTH, WIDTH)
    offsets = tl.arange(0, N_ROWS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(out + offsets, from_z)


@runs_kernel
def test_rows_beyond_32_bits():
    width, first = 1024, 2**21  # element 2³¹
    z = torch.empty(first + 16, width, dtype=torch.uint8, device=DEVICE)
    z[first:] = torch.arange(16, dtype=torch.uint8, device=DEVICE)[:, None]
    out = torch.zeros_like(z[first:])
    copy_rows[(1,)](z, out, first, N_ROWS=16, WIDTH=width)
    assert torch.equal(out, z[first:])


# How the kernels are launched --------------------------------------------------------


@pytest.fixture
def launches(monkeypatch):
    """Record the launches of the kernels, which do not run."""
    from sklearn_hscl.losses.kernels.triton import launch

    class Recorder(launch.Interpreted):
        def _launch(self, grid, *arguments, **constants):
            recorded.append(constants | {"device": current[-1]})

    recorded, current = [], [None]

    class DeviceOf:
        def __init__(self, tensor):
            self.device = tensor.device

        def __enter__(self):
            current.append(self.device)

        def __exit__(self, *_):
            current.pop()

    monkeypatch.setattr(torch.cuda, "device_of", DeviceOf)
    monkeypatch.setattr(launch, "forward_kernel", Recorder(None))
    monkeypatch.setattr(launch, "backward_kernel", Recorder(None))
    return recorded


def launch_on(z, groups=None):
    from sklearn_hscl.losses.kernels.triton.launch import triton_loss

    groups = torch.arange(4) % 2 if groups is None else groups
    options = ClosedFormOptions(**options_with())
    return triton_loss(z.requires_grad_(), groups, options)


@pytest.fixture
def matmul_precision():
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    yield lambda value: setattr(matmul, "fp32_precision", value)
    matmul.fp32_precision = before


@pytest.mark.parametrize(
    ("setting", "dtype", "expected"),
    [
        ("none", torch.float32, "ieee"),
        ("ieee", torch.float32, "ieee"),
        ("tf32", torch.float32, "tf32"),
        ("ieee", torch.float16, "tf32"),
        ("tf32", torch.float16, "tf32"),
    ],
    ids=str,
)
def test_multiplies_as_torch_does(launches, matmul_precision, setting, dtype, expected):
    matmul_precision(setting)
    launch_on(torch.eye(4, 3, dtype=dtype))
    assert [launch["PRECISION"] for launch in launches] == [expected, expected]


def test_multiplies_bfloat16_as_it_is(launches, monkeypatch):
    from sklearn_hscl.losses.kernels.triton import launch

    given = []
    padded = launch._padded_rows
    monkeypatch.setattr(
        launch, "_padded_rows", lambda *args: given.append(args[-1]) or padded(*args)
    )
    launch_on(torch.eye(4, 3).bfloat16())
    assert [settings.precision for settings in given] == ["bf16"]


@runs_kernel
def test_multiplies_as_the_legacy_setting_says():
    from sklearn_hscl.losses.kernels.triton.launch import _products

    before = torch.get_float32_matmul_precision()
    try:
        for legacy, expected in {"highest": "ieee", "high": "tf32"}.items():
            torch.set_float32_matmul_precision(legacy)
            assert _products(torch.float32) == expected
    finally:
        torch.set_float32_matmul_precision(before)


def test_launches_on_the_device_of_the_rows(launches):
    z = torch.eye(4, 3)
    launch_on(z)
    assert [launch["device"] for launch in launches] == [z.device, z.device]


class NoWaits(TorchDispatchMode):
    """Fail where a GPU would have to be waited for."""

    WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.WAITS, f"waits in {name}"
        assert not (name == "index" and any(_is_mask(i) for i in args[1])), "a mask waits"
        return func(*args, **(kwargs or {}))


def _is_mask(index):
    return index is not None and index.dtype == torch.bool


@not_interpreted
@pytest.mark.parametrize("loss", ["ucl", "hscl"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("negative_mass", MASSES)
def test_never_waits_for_the_device(launches, loss, reduction, negative_mass):
    z, groups = torch.eye(7, 3).requires_grad_(), torch.arange(7) % 3
    options = {"reduction": reduction, "negative_mass": negative_mass}
    criterion = ContrastiveLoss(loss, normalize=False, kernel="triton", **options)
    with NoWaits():
        value, _ = criterion(z, groups, groups, return_stats=True)
        value.backward()
    assert len(launches) == 2


def test_refuses_groups_on_another_device(launches):
    groups = torch.zeros(4, dtype=torch.int64, device="meta")
    with pytest.raises(ValueError, match="on the device of the embeddings, cpu, got meta"):
        launch_on(torch.eye(4, 3), groups)


@not_interpreted
@pytest.mark.parametrize(
    ("size", "deterministic", "capturing", "timed"),
    [
        (4096, False, False, False),
        (8192, False, False, True),
        (8192, True, False, False),
        (8192, False, True, False),
    ],
)
def test_times_blocks_only_where_it_may(monkeypatch, size, deterministic, capturing, timed):
    from sklearn_hscl.losses.kernels.triton.forward import Compiled, forward_kernel

    calls = []

    class Recorder:
        def __init__(self, name):
            self.name = name

        def __getitem__(self, grid):
            return lambda *args, **constants: calls.append((self.name, constants))

    kernel = copy.copy(forward_kernel)
    assert isinstance(kernel, Compiled)
    kernel.kernel, kernel.timed = Recorder("fixed"), Recorder("timed")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    monkeypatch.setattr(
        torch, "are_deterministic_algorithms_enabled", lambda: deterministic
    )
    kernel[lambda meta: (1,)](SIZE=size, PRECISION="tf32", BLOCK_D=64)
    ((name, constants),) = calls
    assert name == ("timed" if timed else "fixed")
    assert ("BLOCK_M" in constants) != timed


def compiled(name, precision, width, cache, monkeypatch):
    """Compile a kernel for a GPU of compute capability 8.0, which need not be there."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from sklearn_hscl.losses.kernels.triton import backward, forward

    monkeypatch.setenv("TRITON_CACHE_DIR", str(cache))
    kernel = {
        "forward": forward.forward_kernel,
        "backward": backward.backward_kernel,
    }[name].kernel
    block_width = min(width, 256)
    blocks = forward.fixed_blocks(precision, block_width)
    constants = {"DETACHED": False, "TILT": 2, "SHIFTED": True, "PRECISION": precision}
    constants |= {"WIDTH": width, "BLOCK_D": block_width}
    constants |= {"BLOCK_M": blocks["BLOCK_M"], "BLOCK_N": blocks["BLOCK_N"]}
    if name == "backward":
        constants["TRANSPOSED"] = precision == "tf32"
    types = dict.fromkeys(("n_rows", "n_columns", "n_padded", "SIZE"), "i32")
    types |= dict.fromkeys(("beta", "sharpness", "scale"), "fp32")
    types |= {"start": "*i32", "end": "*i32", "order": "*i64"}
    types |= dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "*fp32") for name in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*")
    }
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, values, aligned)
    options = {key: blocks[key] for key in ("num_warps", "num_stages")}
    return triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)


@not_interpreted
@pytest.mark.parametrize("kernel", ["forward", "backward"])
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_machine_code_multiplies_as_asked(kernel, precision, tmp_path, monkeypatch):
    code = compiled(kernel, precision, 16, tmp_path, monkeypatch)
    assert ("tf32" in code.asm["ptx"]) == (precision == "tf32")
    assert "atom" not in code.asm["ptx"]  # sums in one order: the same bits in each call
    assert code.metadata.shared <= 99 * 1024


# Chosen by "auto" only where it is right ---------------------------------------------


@pytest.fixture
def on_gpu(monkeypatch):
    """Let "auto" choose as on a GPU; no batch was checked yet."""
    monkeypatch.setattr(dispatch, "_runs_streaming", lambda z: False)
    monkeypatch.setattr(dispatch, "_is_on_gpu", lambda z: True)
    monkeypatch.setattr(dispatch, "_checked", {})


@pytest.fixture
def install(on_gpu, monkeypatch):
    """Return a function that replaces the kernel, and the list of its calls."""
    from sklearn_hscl.losses.kernels.triton import launch

    def replace(kernel):
        calls = []

        def recorded(z, groups, options):
            calls.append(z.detach())
            return kernel(z, groups, options)

        monkeypatch.setattr(launch, "triton_loss", recorded)
        return calls

    return replace


def with_gradient(change):
    """Return a kernel whose gradient is changed."""

    def kernel(z, groups, options):
        value, stats = streaming_loss(z, groups, options)
        if not value.requires_grad:
            return value, stats
        (gradient,) = torch.autograd.grad(value, z)
        return value.detach() + (change(gradient) * (z - z.detach())).sum(), stats

    return kernel


def with_value(change):
    def kernel(z, groups, options):
        value, stats = streaming_loss(z, groups, options)
        return change(value), stats

    return kernel


def fails(z, groups, options):
    raise RuntimeError("ptxas is missing")


def without_row(gradient):
    return torch.cat([gradient[:-1], torch.zeros_like(gradient[-1:])])


WRONG = {
    "value": with_value(lambda value: value + 1e-3 * value.detach()),
    "value is NaN": with_value(lambda value: value * torch.nan),
    "value is infinite": with_value(lambda value: value + torch.inf),
    "scale": with_gradient(lambda gradient: 1.003 * gradient),
    "sign": with_gradient(torch.neg),
    "last row": with_gradient(without_row),
    "order of rows": with_gradient(lambda gradient: gradient.roll(1, 0)),
    "order of columns": with_gradient(lambda gradient: gradient.flip(1)),
    "gradient is NaN": with_gradient(lambda gradient: gradient * torch.nan),
    "groups": lambda z, groups, options: streaming_loss(z, groups.roll(1), options),
    "beta": lambda z, groups, options: streaming_loss(
        z, groups, dataclasses.replace(options, beta=options.beta + 0.01)
    ),
    "fails": fails,
}


@not_interpreted
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_kernel_is_never_used(install, wrong):
    calls = install(WRONG[wrong])
    z, y = batch(40, 6, 4)
    loss = ContrastiveLoss("hscl")
    with pytest.warns(UserWarning, match="Triton kernel of the loss is not used") as caught:
        value = loss(z, y)
    assert len(caught) == 1
    assert loss.kernel_ == "dense"
    torch.testing.assert_close(value, ContrastiveLoss("hscl", kernel="dense")(z, y))
    loss(z, y)  # not checked again
    loss(z[:7], y[:7])  # another class of shapes, which is checked without a warning
    assert loss.kernel_ == "dense"
    assert [len(rows) for rows in calls] == [40, 7]


@not_interpreted
def test_the_warning_says_what_is_wrong(install):
    install(fails)
    with pytest.warns(UserWarning, match="it failed with RuntimeError: ptxas is missing"):
        ContrastiveLoss("hscl")(*batch(40, 6, 4))


@not_interpreted
def test_a_right_kernel_is_checked_once_per_class(install):
    calls = install(streaming_loss)
    z, y = batch(40, 6, 4)
    loss = ContrastiveLoss("hscl")
    for rows, labels in [(z, y), (-z, y), (z[:39], y[:39])]:  # one class of shapes
        loss(rows, labels)
        assert loss.kernel_ == "triton"
    assert [len(rows) for rows in calls] == [40, 40, 40, 39]  # the first is the check
    loss.set_beta(0.7)  # other code
    loss(z, y)
    loss.set_beta(0.6)  # the same
    loss(z, y)
    assert len(calls) == 7
    ContrastiveLoss("hscl", normalize=False)(3 * z, y)  # any length of rows: other code
    assert len(calls) == 9


@not_interpreted
def test_the_check_leaves_no_trace(install):
    install(streaming_loss)
    z, y = batch(40, 6, 4)
    z.requires_grad_()
    state = torch.get_rng_state()
    with torch.inference_mode():  # a loss without a gradient may come first
        ContrastiveLoss("hscl")(z, y)
    assert torch.equal(torch.get_rng_state(), state)
    loss = ContrastiveLoss("hscl")
    loss(z, y).backward()
    assert loss.kernel_ == "triton"
    assert z.grad.isfinite().all()


@not_interpreted
def test_a_full_memory_is_no_verdict(install):
    def full(z, groups, options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    install(full)
    z, y = batch(40, 6, 4)
    with pytest.raises(torch.OutOfMemoryError):
        ContrastiveLoss("hscl")(z, y)
    install(streaming_loss)
    loss = ContrastiveLoss("hscl")
    loss(z, y)
    assert loss.kernel_ == "triton"


@not_interpreted
@pytest.mark.filterwarnings("error")
def test_warnings_of_triton_are_no_fault(install):
    def warns(z, groups, options):
        warnings.warn("TRITON_DEFAULT_FP_FUSION is unset", UserWarning, stacklevel=1)
        return streaming_loss(z, groups, options)

    install(warns)
    z, _ = batch(40, 6, 4)
    assert dispatch.triton_is_right(z, LossOptions())


@not_interpreted
def test_one_warning_for_all_threads(install):
    calls = install(WRONG["scale"])
    z, y = batch(40, 6, 4)
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("always")
        list(pool.map(lambda _: ContrastiveLoss("hscl")(z, y), range(8)))
    assert [str(each.category) for each in caught] == ["<class 'UserWarning'>"]
    assert len(calls) == 1


@not_interpreted
@pytest.mark.filterwarnings("ignore:temperature=0.0001 is extreme")
@pytest.mark.filterwarnings("ignore:beta=.* has no effect")
@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({}, lambda z: z.double()),
        ({}, lambda z: z[:2]),
        ({}, lambda z: z.expand(17, *z.shape)),  # one by one they take longer
        ({"temperature": torch.tensor(0.5)}, lambda z: z),
        ({"temperature": 1e-4}, lambda z: z),  # too steep to be checked
        ({"hardening": "threshold"}, lambda z: z),
        ({"temperature": torch.tensor(0.5, requires_grad=True)}, lambda z: z),
    ],
)
def test_auto_leaves_other_batches_to_autograd(install, options, changed):
    calls = install(streaming_loss)
    z, y = batch(40, 6, 4)
    z = changed(z)
    loss = ContrastiveLoss("hscl", **options)
    loss(z, y[: z.shape[-2]])
    assert loss.kernel_ == "dense"
    assert calls == []


@not_interpreted
def test_auto_takes_few_batches_one_by_one(install):
    calls = install(streaming_loss)
    z, y = batch(40, 6, 4)
    loss = ContrastiveLoss("hscl")
    loss(z.expand(3, *z.shape), y)
    assert loss.kernel_ == "triton" and calls


@not_interpreted
def test_without_triton_there_is_no_warning(on_gpu, monkeypatch):
    monkeypatch.setattr(dispatch, "_triton_launch", lambda: None)
    loss = ContrastiveLoss("hscl")
    loss(*batch(40, 6, 4))
    assert loss.kernel_ == "dense"


@runs_kernel
@pytest.mark.filterwarnings("ignore:temperature=0.001 is extreme")
@pytest.mark.parametrize("precision", ["none", "tf32"])
@pytest.mark.parametrize("claim", [*CLAIMED, "steep"])
def test_passes_its_check(on_gpu, matmul_precision, claim, precision):
    steep = {"temperature": 0.001, "beta": 4.0, "detach_weights": False}
    options = CLAIMED.get(claim, steep)
    name = "hscl" if claim == "steep" else claim.split(",")[0]
    matmul_precision(precision)
    z, y = batch(75, 20, 6)
    loss = ContrastiveLoss(name, **options)
    loss(z, y, y)
    assert loss.kernel_ == "triton"


# Past the bound of (1 + β) / T, the largest u leaves the exponents.
UNSHIFTED, SHIFTED = 0.5, 0.03


@runs_kernel
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("negative_mass", MASSES)
@pytest.mark.parametrize("beta", [0.0, 1.0, 1.7])
def test_equals_dense_for_every_option(reduction, negative_mass, beta):
    z, groups = batch(41, 6, 9)
    options = {"reduction": reduction, "negative_mass": negative_mass, "beta": beta}
    for detach_weights, temperature in [(True, UNSHIFTED), (False, SHIFTED)]:
        others = {"detach_weights": detach_weights, "temperature": temperature}
        assert_equal(z, groups, options_with(**options, **others))


@runs_kernel
@pytest.mark.parametrize(
    ("detach_weights", "temperature"), [(True, SHIFTED), (False, UNSHIFTED)]
)
@pytest.mark.parametrize("beta", [0.0, 1.0, 1.7])
def test_equals_dense_in_every_kernel(detach_weights, temperature, beta):
    """Of the kernels that :func:`test_equals_dense_for_every_option` leaves out."""
    options = {"detach_weights": detach_weights, "temperature": temperature, "beta": beta}
    assert_equal(*batch(41, 6, 9), options_with(**options))


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


def test_batches_on_leading_axes_are_computed_one_by_one(monkeypatch):
    shapes = []

    def kernel(z, groups, options):
        shapes.append(tuple(z.shape))
        return streaming_loss(z, groups, options)

    monkeypatch.setattr(dispatch, "_closed_form_kernel", lambda name: kernel)
    z = torch.randn(2, 3, 8, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.arange(8) % 2
    expected, expected_stats = ContrastiveLoss("hscl", kernel="dense")(
        z, labels, return_stats=True
    )
    value, stats = ContrastiveLoss("hscl", kernel="triton")(z, labels, return_stats=True)
    assert shapes == [(8, 4)] * 6
    torch.testing.assert_close(value, expected)
    for found, wanted in zip(stats, expected_stats, strict=True):
        torch.testing.assert_close(found, wanted)
    gradient, expected_gradient = (
        torch.autograd.grad(each.sum(), z)[0] for each in (value, expected)
    )
    torch.testing.assert_close(gradient, expected_gradient)
