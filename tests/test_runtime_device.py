"""Threads, devices and precision: settled from parameters and surroundings, restored."""

import os
import shutil
from contextlib import contextmanager
from typing import ClassVar

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.sparse import csr_array
from sklearn.base import clone
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.encoders.preprocessing import Identity
from sklearn_hscl.losses import ContrastiveLoss, LossStats
from sklearn_hscl.runtime import device as devices
from sklearn_hscl.runtime.device import Accelerator
from sklearn_hscl.runtime.global_setting import GlobalSetting
from sklearn_hscl.runtime.precision import Precision, resolve_precision
from sklearn_hscl.runtime.random_state import scoped_torch_seed
from sklearn_hscl.runtime.threads import (
    choose_threads,
    has_small_steps,
    prefetched,
    torch_threads,
)
from sklearn_hscl.training.batches.tensors import LazyRows
from sklearn_hscl.training.loop import gradient_cache
from sklearn_hscl.training.loop.gradient_cache import GradientCache


@pytest.fixture
def cores(monkeypatch):
    def allow(n):
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda pid: set(range(n)), raising=False
        )

    return allow


@pytest.mark.parametrize(
    ("n_threads", "small", "expected"),
    [(None, True, 1), (None, False, 3), (2, True, 2), (7, False, 4)],
)
def test_threads(cores, monkeypatch, n_threads, small, expected):
    cores(4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert choose_threads(n_threads, small_steps=small) == expected


def test_small_steps():
    assert has_small_steps(256, ndim=2)
    assert not has_small_steps(256, ndim=4)
    assert not has_small_steps(5000, ndim=2)


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def threads_of_a_fit(images, y):
    embedder = HSCLEmbedder(max_epochs=1, random_state=0).fit(images, y)
    return embedder.n_threads_


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_one_thread_in_workers_of_joblib(digit_images, backend):
    with torch_threads(2):
        found = joblib.Parallel(2, backend=backend)(
            joblib.delayed(threads_of_a_fit)(*digit_images) for _ in range(2)
        )
    assert found == [1, 1]


def test_as_many_threads_as_asked_for(digit_images, cores):
    cores(2)
    before = torch.get_num_threads()
    embedder = HSCLEmbedder(n_threads=2, max_epochs=1).fit(*digit_images)
    assert embedder.n_threads_ == 2
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("worker", "expected"), [(0, 0), (1, 1), (5, 2)])
def test_workers_spread_over_gpus(monkeypatch, worker, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(devices, "worker_index", lambda: worker)
    assert devices.resolve_device("auto") == torch.device("cuda", expected)


CPU, GPU, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.mark.parametrize(
    ("device", "ndim", "expected"),
    [(CPU, 2, "float32"), (CPU, 4, "float32"), (MPS, 2, "float32"), (GPU, 2, "tf32")],
)
def test_automatic_precision(device, ndim, expected):
    assert resolve_precision("auto", device, ndim).name == expected


@pytest.mark.parametrize(("has_units", "expected"), [(True, "bf16"), (False, "tf32")])
def test_images_on_a_gpu_are_bf16(monkeypatch, has_units, expected):
    monkeypatch.setattr(devices.Accelerator, "supports_bf16", lambda self: has_units)
    assert resolve_precision("auto", GPU, 4).name == expected


def test_precision_that_a_device_lacks():
    with pytest.raises(ValueError, match="precision='tf32' needs an NVIDIA GPU"):
        resolve_precision("tf32", CPU, 2)
    with pytest.raises(ValueError, match="device='mps', which has no float64"):
        resolve_precision("float64", MPS, 2)


# TF32 --------------------------------------------------------------------------------


def set_common(value):
    torch.backends.fp32_precision = value


def set_new(value):
    torch.backends.cuda.matmul.fp32_precision = value


def set_conv(value):
    torch.backends.cudnn.conv.fp32_precision = value


def set_old_cudnn(value):
    torch.backends.cudnn.allow_tf32 = value


USERS = {
    "defaults": [],
    "old": [(torch.set_float32_matmul_precision, "high")],
    "old medium": [(torch.set_float32_matmul_precision, "medium")],
    "new": [(set_new, "tf32")],
    "common": [(set_common, "tf32")],
    "convolutions": [(set_old_cudnn, False)],
    "new convolutions": [(set_conv, "ieee")],
    "old and new": [(torch.set_float32_matmul_precision, "high"), (set_new, "ieee")],
    "common and old": [(set_common, "tf32"), (set_old_cudnn, False)],
}


def read(getter):
    try:
        return getter()
    except RuntimeError:  # the user has mixed the interfaces
        return "mixed"


def settings():
    backends = torch.backends
    new = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    new += [backends.mkldnn.matmul, backends]
    old = [torch.get_float32_matmul_precision, lambda: backends.cudnn.allow_tf32]
    old += [lambda: backends.cuda.matmul.allow_tf32]
    return [read(getter) for getter in old] + [part.fp32_precision for part in new]


@pytest.fixture
def torch_settings():
    before = settings()
    yield
    set_common("none")
    torch.set_float32_matmul_precision("highest")
    set_old_cudnn(True)
    torch.backends.mkldnn.matmul.fp32_precision = "none"
    set_new("none")
    assert settings() == before


@pytest.mark.parametrize("precision", ["float32", "float64", "tf32", "bf16"])
@pytest.mark.parametrize("user", USERS)
def test_products_on_a_gpu(torch_settings, user, precision):
    for setter, value in USERS[user]:
        setter(value)
    before = settings()
    with Precision(precision, GPU).products():
        inside = settings()
    assert settings() == before
    allowed = precision in ("tf32", "bf16")
    assert inside[:3] == ["high" if allowed else "highest", allowed, allowed]
    assert inside[3:6] == 3 * ["tf32" if allowed else "ieee"]


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_a_common_setting_can_be_changed_afterwards(torch_settings, precision):
    set_common("tf32")
    set_common("ieee")
    expected = settings()
    set_common("tf32")
    with Precision(precision, GPU).products():
        pass
    set_common("ieee")
    assert settings() == expected


def test_products_of_the_cpu_leave_tf32_alone(torch_settings):
    set_new("tf32")
    before = settings()
    with Precision("float32", CPU).products():
        assert settings() == before


# The interface of a device -----------------------------------------------------------


class RecordedModule:
    """Stands in for torch.cuda, and records the calls in their order."""

    def __init__(self):
        self.calls = []

    def _record(self, *call):
        self.calls.append(call)

    def device(self, device):
        @contextmanager
        def current():
            self._record("enter", device)
            yield
            self._record("exit", device)

        return current()

    def manual_seed(self, seed):
        self._record("manual_seed", seed)

    def get_rng_state(self, *device):
        self._record("get_rng_state", *device)
        return torch.zeros(16, dtype=torch.uint8)

    def set_rng_state(self, state, *device):
        self._record("set_rng_state", *device)

    def mem_get_info(self, device):
        return 100, 1000

    def memory_reserved(self, device):
        return 50

    def memory_allocated(self, device):
        return 20

    def empty_cache(self):
        self._record("empty_cache")

    def is_bf16_supported(self, including_emulation=True):
        self._record("is_bf16_supported")
        return including_emulation


SECOND_GPU = torch.device("cuda", 1)


@pytest.fixture
def module(monkeypatch):
    recorded = RecordedModule()
    monkeypatch.setattr(torch, "get_device_module", lambda device: recorded)
    return recorded


def test_one_gpu_is_seeded(module):
    with scoped_torch_seed(3, SECOND_GPU):
        torch.randn(1)
    assert module.calls == [
        ("get_rng_state", SECOND_GPU),
        ("enter", SECOND_GPU),
        ("manual_seed", 3),
        ("exit", SECOND_GPU),
        ("set_rng_state", SECOND_GPU),
    ]


def test_mps_has_one_generator(module):
    with scoped_torch_seed(3, MPS):
        pass
    assert module.calls == [("get_rng_state",), ("manual_seed", 3), ("set_rng_state",)]


def test_seeds_of_the_cpu_are_those_of_torch(module):
    with scoped_torch_seed(3):
        found = torch.randn(5)
    assert not module.calls
    assert torch.equal(found, torch.randn(5, generator=torch.Generator().manual_seed(3)))


def test_memory_that_torch_holds_but_does_not_use_is_free(module):
    assert Accelerator(SECOND_GPU).free_memory() == 100 + 50 - 20
    assert Accelerator(CPU).free_memory() is None


def test_gpus_that_cannot_tell_what_is_free(module, monkeypatch):
    def refuse(device):
        raise RuntimeError("The device doesn't support querying the free memory")

    monkeypatch.setattr(module, "mem_get_info", refuse)
    assert Accelerator(torch.device("xpu", 0)).free_memory() is None
    with pytest.raises(RuntimeError):
        Accelerator(SECOND_GPU).free_memory()


def test_rows_are_pinned_for_their_gpu_in_any_thread(module, monkeypatch):
    def pin_memory(rows):
        module.calls.append(("pin_memory", len(rows)))
        return rows

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda rows: False)
    rows = LazyRows(csr_array(np.eye(4)), Identity(), SECOND_GPU)
    batches = prefetched(rows.read(slice(first, first + 2)) for first in (0, 2))
    assert [len(batch) for batch in batches] == [2, 2]
    one = [("enter", SECOND_GPU), ("pin_memory", 2), ("exit", SECOND_GPU)]
    assert module.calls == 2 * one


def test_bf16_is_asked_for_without_emulation(module):
    assert not Accelerator(SECOND_GPU).supports_bf16()
    assert module.calls[1] == ("is_bf16_supported",)
    assert not Accelerator(MPS).supports_bf16()


class RecordedAccelerator(Accelerator):
    """Records the calls of the training engine; the device is the CPU."""

    calls: ClassVar = []
    free: ClassVar = None

    def random_state(self):
        self.calls.append("random_state")
        return torch.zeros(16, dtype=torch.uint8)

    def free_memory(self):
        return self.free

    def release_memory(self):
        self.calls.append("release_memory")

    def set_random_state(self, state):
        self.calls.append("set_random_state")


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(devices, "Accelerator", RecordedAccelerator)
    monkeypatch.setattr(RecordedAccelerator, "calls", [])
    return RecordedAccelerator


def test_memory_is_given_back_before_smaller_chunks_are_tried(recorded):
    module = nn.Linear(3, 2)
    sizes = []

    def objective(z, logits):
        sizes.append(len(z))
        recorded.calls.append(f"loss of {len(z)}")
        if len(sizes) == 1:
            z.sum().backward()
            raise torch.OutOfMemoryError("a stand-in")
        stats = LossStats(*torch.zeros(3))
        return z.sum(), stats

    class Headed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, rows):
            return self.inner(rows), None

    cache = GradientCache(8, can_halve=True)
    rows = torch.randn(8, 3)
    with pytest.warns(UserWarning, match="continues with 4 rows"):
        cache(Headed(), objective, rows)
    undone = ["random_state", "loss of 8", "release_memory", "set_random_state"]
    assert recorded.calls[:4] == undone
    torch.testing.assert_close(module.weight.grad, rows.sum(0).expand(2, 3))


@pytest.mark.parametrize(("free", "expected"), [(None, 2**31), (10_000, 5000)])
def test_budget_is_half_of_what_is_free(recorded, monkeypatch, free, expected):
    monkeypatch.setattr(recorded, "free", free)
    monkeypatch.setattr(gradient_cache, "_activation_bytes", lambda module, sample: 10)
    rows, _ = gradient_cache.choose_chunk_rows("auto", nn.Linear(3, 2), torch.ones(2, 3))
    assert rows == expected // 10


def test_several_numbers_come_to_the_host_at_once():
    given = torch.tensor(3), torch.randn(2, 3, dtype=torch.float64), torch.tensor(True)
    found = devices.to_host(*given)
    assert all(torch.equal(a, b) for a, b in zip(found, given, strict=True))


def test_searches_do_not_call_a_gpu_that_they_only_plan_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", None)
    assert not devices.runs_on_cpu("auto")
    assert not devices.runs_on_cpu("cuda:3")
    assert devices.runs_on_cpu("cpu")


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float64", 1e-4), ("bf16", 0.1), ("float32", 1e-4)]
)
def test_precisions_agree(iris, precision, tolerance):
    X, y = iris
    embedder = HSCLEmbedder(random_state=0, max_epochs=2)
    expected = embedder.fit(X, y).transform(X)
    found = clone(embedder).set_params(precision=precision).fit(X, y).transform(X)
    assert found.dtype == np.float64  # as X
    assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
    wanted = torch.float64 if precision == "float64" else torch.float32
    weights = clone(embedder).set_params(precision=precision).fit(X, y).module_
    assert {weight.dtype for weight in weights.parameters()} == {wanted}


def test_float64_keeps_what_float32_would_round_away():
    X = np.zeros((40, 1)) + 1 / 3
    X[::2] += 1e-12
    embedder = HSCLEmbedder(
        encoder=nn.Linear(1, 2), precision="float64", max_epochs=1, projection_dim=None
    ).fit(X, np.arange(40) % 2)
    Z = embedder.transform(X[:2])
    assert (Z[0] != Z[1]).any()


def test_loss_under_autocast_is_computed_in_float32():
    z = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    y, loss = torch.arange(40) % 4, ContrastiveLoss("hscl", ce_weight=0.5)
    expected = loss(z, y, logits=z[:, :4])
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(z, y, logits=z[:, :4])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_compiled_networks_learn_the_same(iris):
    X, y = iris
    plain = HSCLEmbedder(encoder="mlp", max_epochs=2, early_stopping=True, random_state=0)
    compiled = clone(plain).set_params(
        compile=True, net_params={"compile__backend": "aot_eager"}
    )
    expected = plain.fit(X, y).transform(X)
    assert_allclose(compiled.fit(X, y).transform(X), expected, atol=1e-5)


def layer_norm_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 8, bias=False)
    )


# AdamW divides small gradients of the deep network by their own size, with their errors.
COMPILED = {
    "mlp": {"encoder": "mlp", "hidden_layer_sizes": (16,)},
    "tabular": {"encoder": "tabular", "hidden_layer_sizes": (16, 16)},
    "conv": {"encoder": "conv", "precision": "float64"},
    "custom": {"encoder": layer_norm_network()},
}


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None,
    reason="torch.compile needs a C++ compiler on the CPU",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
@pytest.mark.parametrize("name", COMPILED)
def test_compiler_of_the_cpu(iris, digit_images, name):
    """As one graph: what splits a network keeps CUDA graphs from working."""
    X, y = digit_images if name == "conv" else iris
    X, y = X[::2][:32], y[::2][:32]
    plain = HSCLEmbedder(
        max_epochs=1,
        random_state=0,
        batch_size=16,
        device_batch_size=32,
        early_stopping=False,
        **COMPILED[name],
    )
    options = {"cpp.simdlen": 1, "compile_threads": 1}  # which compile faster
    settings = {"compile__fullgraph": True, "compile__options": options}
    compiled = clone(plain).set_params(compile=True, net_params=settings)
    expected = plain.fit(X, y).transform(X)
    found = compiled.fit(X, y).transform(X)
    assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


ONE_GRAPH = {
    "tabular, dropout": {"encoder": "tabular", "dropout": 0.3},
    "tabular, two views": {"encoder": "tabular", "loss": "hucl"},
    "tabular, chunks": {"encoder": "tabular", "device_batch_size": 8},
    "tabular, classifier": {"encoder": "tabular", "ce_weight": 0.5},
    "tabular, bf16": {"encoder": "tabular", "precision": "bf16"},
    "mlp, dropout": {"encoder": "mlp", "dropout": 0.3},
    "mlp, chunks": {"encoder": "mlp", "dropout": 0.3, "device_batch_size": 8},
    "conv, dropout": {"encoder": "conv", "dropout": 0.3},
    "conv, two views": {"encoder": "conv", "loss": "hucl"},
    "resnet18": {"encoder": "resnet18"},
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
@pytest.mark.parametrize("name", ONE_GRAPH)
def test_networks_are_one_graph(iris, digit_images, name):
    """And draw the same numbers, also where a chunk is embedded twice."""
    torch._dynamo.reset()  # one graph for each size of a batch: eight at most
    is_image = name.startswith(("conv", "resnet"))
    X, y = (part[::2][:32] for part in (digit_images if is_image else iris))
    if not is_image:
        X = np.column_stack([np.where(X > 6.5, np.nan, X), np.arange(32) % 3])
    plain = HSCLEmbedder(
        max_epochs=1,
        random_state=0,
        batch_size=16,
        categorical_features=None if is_image else [4],
        early_stopping=False,
        **ONE_GRAPH[name],
    )
    settings = {"compile__fullgraph": True, "compile__backend": "eager"}
    compiled = clone(plain).set_params(compile=True, net_params=settings)
    expected = plain.fit(X, y).transform(X)
    found = compiled.fit(X, y).transform(X)
    assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_float32_beside_tf32_stays_float32(torch_settings):
    first, second = (Precision(name, GPU).products() for name in ("tf32", "float32"))
    before = settings()
    first.__enter__()
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    with second:
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        with Precision("tf32", GPU).products():
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    first.__exit__(None, None, None)
    assert settings() == before


def test_switch_with_users_that_overlap():
    log = ["off"]
    switch = GlobalSetting(lambda: log[-1], log.append)
    first, second = switch.set_to("on"), switch.set_to("on")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert log == ["off", "on"]
    second.__exit__(None, None, None)
    assert log == ["off", "on", "off"]
