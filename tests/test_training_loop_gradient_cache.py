"""Memory that runs out within a batch leaves no trace in the module or the generator."""

import pytest
import torch
from torch import nn

from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.training.loop.gradient_cache import (
    GradientCache,
    _preserve_buffers,
    _use_random_state,
)
from sklearn_hscl.training.loop.step import Batch, batch_objective


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
            lambda module: _use_random_state(
                torch.device("cpu"), (torch.Generator().manual_seed(7).get_state(), None)
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
