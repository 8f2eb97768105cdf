"""Batches: every row once an epoch, classes in pairs and in proportion."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.base import clone
from skorch.dataset import Dataset

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.training.batches.batch_sampler import EpochBatches, stratified_split


def split(codes, n_batches, seed):
    order, sizes = stratified_split(codes, n_batches, np.random.default_rng(seed))
    return np.split(order, np.cumsum(sizes)[:-1])


@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=12),
    st.integers(1, 8),
    st.integers(0, 1000),
)
@settings(deadline=None)
def test_stratified_split(class_sizes, n_batches, seed):
    codes = np.repeat(np.arange(len(class_sizes)), class_sizes)
    parts = split(codes, n_batches, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(codes)))
    assert 1 <= len(parts) <= n_batches
    for part in parts:
        counts = np.bincount(codes[part], minlength=len(class_sizes))
        for size, count in zip(class_sizes, counts, strict=True):
            assert count == 0 or count >= min(2, size)
            if size >= 2 * n_batches == 2 * len(parts):  # large classes are spread evenly
                assert abs(count - size / n_batches) < 1
        assert len(part) > 1 or len(parts) == 1
        assert (np.diff(codes[part]) >= 0).all()  # class by class, for the loss


def test_sizes_differ_little_where_classes_are_large():
    codes = np.repeat([0, 1, 2], [401, 300, 57])
    parts = split(codes, 6, seed=0)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("sampler", ["stratified", "shuffle"])
@pytest.mark.parametrize(
    ("n_rows", "n_batches"), [(5, 1), (7, 1), (64, 1), (65, 2), (200, 4)]
)
def test_epochs(sampler, n_rows, n_batches):
    rows = torch.arange(n_rows, dtype=torch.float32)[:, None]
    labels = torch.arange(n_rows) % 2
    batches = EpochBatches(Dataset(rows, labels), 64, np.random.default_rng(0), sampler)
    first, second = list(batches), list(batches)
    assert len(first) == len(batches) == n_batches
    for epoch in (first, second):
        order = torch.cat([batch.rows for batch in epoch])
        assert torch.equal(order.sort(0).values, rows)
        assert all(torch.equal(b.rows[:, 0].long() % 2, b.targets) for b in epoch)
    orders = (torch.cat([batch.rows for batch in epoch]) for epoch in (first, second))
    assert not torch.equal(*orders)


def test_balanced_batches():
    labels = torch.tensor([0] * 90 + [1] * 9 + [2] * 3 + [-1] * 10)
    rows = torch.arange(112.0)[:, None]
    rng = np.random.default_rng(0)
    dataset = type("Data", (), {"X": rows, "y": labels})
    batches = list(EpochBatches(dataset, 28, rng, "balanced"))
    assert len(batches) == 10
    for _, y, _ in batches:
        assert_array_equal(np.bincount(y + 1)[1:], [9, 9, 9])
    seen = torch.cat([batch.rows for batch in batches])[:, 0].int().bincount()
    assert seen.min() == 1  # every row is there
    assert set(seen[90:99].tolist()) == {10}
    assert set(seen[99:102].tolist()) == {30}


def test_balanced_embedder(iris):
    X, y = iris[0][:112], iris[1][:112]
    embedder = HSCLEmbedder(sampler="balanced", batch_size=30, max_epochs=1, random_state=0)
    assert embedder.fit(X, y).transform(X).shape == (112, 35)
    with pytest.raises(ValueError, match="sampler='balanced' composes batches by class"):
        clone(embedder).set_params(loss="hucl").fit(X)
