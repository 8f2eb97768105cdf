"""Gradients in chunks: those of the whole batch, with and without enough memory."""

import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.encoders.contrastive_module import ContrastiveModule
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.runtime.precision import Precision
from sklearn_hscl.runtime.random_state import Draws, repeated
from sklearn_hscl.training.batches.tensors import Batch
from sklearn_hscl.training.loop.gradient_cache import (
    GradientCache,
    _preserve_buffers,
    choose_chunk_rows,
)
from sklearn_hscl.training.loop.step import batch_objective, whole_batch


def module_with(*layers):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(5, 16), *layers, nn.Tanh(), nn.Linear(16, 6))
    precision = Precision("float64", torch.device("cpu"))
    return ContrastiveModule(encoder, 6, 4, 3, precision).double().train()


def gradients(module, differentiate, rows, targets, n_views=1):
    loss = ContrastiveLoss("hscl", ce_weight=0.3)
    objective = batch_objective(loss, n_views, Batch(rows, targets), has_members=False)
    module.zero_grad()
    views = torch.cat([rows + k for k in range(n_views)])
    value, _ = differentiate(module, objective, views)
    return value, [p.grad.clone() for p in module.parameters()]


@pytest.fixture
def batch():
    rows = torch.randn(30, 5, generator=torch.Generator().manual_seed(1)).double()
    return rows, torch.arange(30) % 3


@pytest.mark.parametrize("chunk_rows", [1, 7, 29, 30, 100])
@pytest.mark.parametrize("n_views", [1, 2])
def test_chunks_give_the_gradient_of_the_whole(batch, chunk_rows, n_views):
    module = module_with()
    cache = GradientCache(chunk_rows, can_halve=False)
    whole, expected = gradients(module, whole_batch, *batch, n_views)
    value, found = gradients(module, cache, *batch, n_views)
    assert_allclose(value, whole, rtol=1e-12)
    for a, b in zip(found, expected, strict=True):
        assert_allclose(a, b, rtol=0, atol=1e-13)


def test_chunks_draw_the_same_dropout_twice(batch):
    module = module_with(nn.Dropout(0.5))

    def chunks_in_one_graph(module, objective, views):
        parts = zip(*(module(chunk) for chunk in views.tensor_split(3)), strict=True)
        value, stats = objective(*(torch.cat(part) for part in parts))
        value.backward()
        return value.detach(), stats

    results = []
    for way in (chunks_in_one_graph, GradientCache(10, can_halve=False)):
        torch.manual_seed(3)
        results.append((*gradients(module, way, *batch), torch.get_rng_state()))
    (plain, expected, _), (value, found, _) = results
    assert_allclose(value, plain, rtol=1e-12)
    for a, b in zip(found, expected, strict=True):
        assert_allclose(a, b, rtol=0, atol=1e-13)
    assert torch.equal(results[0][2], results[1][2])  # later draws are new ones


def test_running_statistics_see_every_row_once(batch):
    module = module_with(nn.BatchNorm1d(16))
    gradients(module, GradientCache(10, can_halve=False), *batch)
    norm = module.encoder[1]
    assert norm.num_batches_tracked == 3
    other = module_with(nn.BatchNorm1d(16))
    for chunk in batch[0].tensor_split(3):
        other.encoder(chunk)
    assert_allclose(norm.running_mean, other.encoder[1].running_mean)


class Small(nn.Module):
    """Simulates a device with memory for 8 rows."""

    def __init__(self, error):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.error = error

    def forward(self, rows):
        if len(rows) > 8 and self.training:
            raise self.error
        return self.linear(rows)


def out_of_memory():
    return torch.OutOfMemoryError("CUDA out of memory.")


def test_memory_that_runs_out_halves_the_chunks(iris):
    encoder = Small(out_of_memory())
    embedder = HSCLEmbedder(encoder=encoder, max_epochs=1, random_state=0)
    with pytest.warns(UserWarning, match="continues with 4 rows.*device_batch_size=4"):
        embedder.fit(*iris)
    start = clone(embedder).set_params(device_batch_size=8)
    assert_allclose(start.fit_transform(*iris), embedder.transform(iris[0]), atol=1e-4)


def test_memory_that_runs_out_is_an_error_with_batch_statistics(iris):
    encoder = nn.Sequential(Small(out_of_memory()), nn.BatchNorm1d(3))
    with pytest.raises(MemoryError, match="Pass a smaller device_batch_size"):
        HSCLEmbedder(encoder=encoder).fit(*iris)
    HSCLEmbedder(encoder=encoder, device_batch_size=8, max_epochs=1).fit(*iris)


def test_other_errors_of_the_module_stay_as_they_are(iris):
    with pytest.raises(RuntimeError, match="no memory of this"):
        HSCLEmbedder(encoder=Small(RuntimeError("no memory of this"))).fit(*iris)


def test_chunk_by_the_memory_of_activations():
    sample = torch.zeros(1000, 5)[:4]
    narrow, wide = (
        nn.Sequential(nn.Linear(5, n), nn.Tanh(), nn.Linear(n, 2)) for n in (10, 1000)
    )
    (few, _), (many, _) = (choose_chunk_rows("auto", m, sample) for m in (wide, narrow))
    assert 50 < many / few < 100  # tanh keeps n numbers a row, the input 5
    assert few == 2**31 // (4 * 1005)


class CountingEncoder(nn.Module):
    """Counts its rows; runs out of memory once, at a given call."""

    def __init__(self, failing_call):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.dropout = nn.Dropout(0.5)
        self.failing_call = failing_call
        self.n_calls = 0
        self.register_buffer("n_rows", torch.zeros((), dtype=torch.long))

    def forward(self, rows):
        self.n_calls += 1
        self.n_rows += len(rows)
        z = self.dropout(self.linear(rows))
        if self.n_calls == self.failing_call:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return z, None


def run_batch(chunk_rows, failing_call=0):
    """Run a batch of 12 rows; return the module, its gradient and the generator's state."""
    torch.manual_seed(0)
    module = CountingEncoder(failing_call)
    rows = torch.randn(12, 4)
    batch = Batch(rows, torch.arange(12) % 2)
    objective = batch_objective(ContrastiveLoss("hscl"), 1, batch, has_members=False)
    GradientCache(chunk_rows, can_halve=True)(module, objective, rows)
    return module, module.linear.weight.grad, torch.get_rng_state()


# Chunks of 6 rows: calls 1 and 2 embed without a graph, calls 3 and 4 with one.
@pytest.mark.parametrize(
    ("chunk_rows", "failing_call"), [(12, 1), (6, 1), (6, 2), (6, 3), (6, 4)]
)
def test_retry_after_out_of_memory_counts_each_row_once(chunk_rows, failing_call):
    with pytest.warns(UserWarning, match="[Mm]emory ran out"):
        module, gradient, state = run_batch(chunk_rows, failing_call)
    assert module.n_calls > failing_call
    assert module.n_rows == 12
    _, expected, expected_state = run_batch(chunk_rows // 2)
    assert torch.equal(state, expected_state)
    assert torch.equal(gradient, expected)


def count_one_row(module):
    module.n_rows += 1


@pytest.mark.parametrize(
    ("context", "change", "observe"),
    [
        (_preserve_buffers, count_one_row, lambda module: module.n_rows),
        (
            lambda module: repeated(
                Draws(None, True, (torch.Generator().manual_seed(7).get_state(), None)),
                torch.device("cpu"),
            ),
            lambda module: torch.rand(()),
            lambda module: torch.get_rng_state(),
        ),
    ],
    ids=["buffers", "random state"],
)
@pytest.mark.parametrize("fails", [False, True])
def test_contexts_restore_the_state_after_errors_too(context, change, observe, fails):
    module = CountingEncoder(0)
    before = observe(module).clone()
    try:
        with context(module):
            change(module)
            assert not torch.equal(observe(module), before)
            if fails:
                raise MemoryError
    except MemoryError:
        assert fails
    assert torch.equal(observe(module), before)
