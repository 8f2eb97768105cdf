"""Threads, devices and precision: settled from parameters and surroundings, restored."""

import os

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.runtime import device as devices
from sklearn_hscl.runtime.global_setting import GlobalSetting
from sklearn_hscl.runtime.precision import Precision, resolve_precision
from sklearn_hscl.runtime.threads import choose_threads, has_small_steps, torch_threads


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


def test_images_on_a_gpu_are_bf16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert resolve_precision("auto", GPU, 4).name == "bf16"


def test_precision_that_a_device_lacks():
    with pytest.raises(ValueError, match="precision='tf32' needs an NVIDIA GPU"):
        resolve_precision("tf32", CPU, 2)
    with pytest.raises(ValueError, match="device='mps', which has no float64"):
        resolve_precision("float64", MPS, 2)


def test_tf32_is_given_back():
    before = torch.backends.cuda.matmul.fp32_precision
    with Precision("tf32", GPU).products():
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == before


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
