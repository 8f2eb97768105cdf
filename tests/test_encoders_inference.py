"""Batches in which rows keep their bits: how they are cut, and how they are found."""

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.encoders.inference import (
    IMAGE_SIZES,
    TABLE_SIZES,
    BatchLayout,
    LayoutCache,
    measured_layout,
)
from sklearn_hscl.runtime.normalize import l2_normalize

LIKE = torch.zeros(1, 3)


def exact(batch):
    return batch * 2


def by_address(period):
    """Make a function whose bits depend on the position modulo a period."""

    def embed(batch):
        position = torch.arange(len(batch)).unsqueeze(1)
        return batch + (position % period) * 1e-6

    return embed


def by_size(batch):
    return batch + 1e-6 * (len(batch) < 100)


def at_the_end(batch):
    return torch.cat([batch[:-1], batch[-1:] + 1e-6])


def by_neighbours(batch):
    return batch - batch[:1]


@pytest.mark.parametrize("n_rows", [1, 31, 32, 33, 100, 256, 257, 1000])
@pytest.mark.parametrize("spacing", [1, 2, 16])
def test_rows_come_back_in_order(n_rows, spacing):
    rows = torch.arange(3.0 * n_rows).reshape(n_rows, 3)
    sizes = []

    def embed(batch):
        sizes.append(len(batch))
        return batch * 2

    assert torch.equal(BatchLayout((32, 256), spacing).embed(embed, rows), rows * 2)
    assert set(sizes) <= {32, 256}


@pytest.mark.parametrize(
    ("embed", "expected"),
    [
        (exact, BatchLayout(TABLE_SIZES)),
        (by_address(2), BatchLayout(TABLE_SIZES, 2)),
        (by_address(3), BatchLayout(TABLE_SIZES[-1:])),
        (by_address(4), BatchLayout(TABLE_SIZES, 4)),
        (by_size, BatchLayout(TABLE_SIZES[-2:])),
        (at_the_end, BatchLayout(TABLE_SIZES, 2)),
        (by_neighbours, BatchLayout(TABLE_SIZES[-1:])),
    ],
)
def test_the_closest_positions_that_agree_are_found(embed, expected):
    before = torch.get_rng_state()
    assert measured_layout(embed, LIKE) == expected
    assert torch.equal(before, torch.get_rng_state())


def test_functions_that_take_no_random_rows_get_whole_batches():
    def refuse(batch):
        raise KeyError("Expected a code, got 0.5.")

    assert measured_layout(refuse, LIKE) == BatchLayout(TABLE_SIZES[-1:])


def test_bytes_of_images_are_measured_as_bytes():
    def embed(batch):
        assert batch.dtype == torch.uint8
        return batch.flatten(1).float()

    images = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    assert measured_layout(embed, images) == BatchLayout(IMAGE_SIZES)


def test_layouts_are_measured_once_and_go_with_their_module():
    cache, module, calls = LayoutCache(), nn.Linear(2, 2), []

    def measure():
        calls.append(1)
        return BatchLayout((32,))

    for key in ("a", "a", "b"):
        assert cache.get(module, key, measure) == BatchLayout((32,))
    assert len(calls) == 2
    cache.get(copy.deepcopy(module), "a", measure)
    assert len(calls) == 3


def test_copies_measure_for_themselves_and_agree(iris):
    embedder = HSCLEmbedder(n_components=5, max_epochs=1).fit(*iris)
    size = len(pickle.dumps(embedder))
    expected = embedder.transform(iris[0])
    assert len(pickle.dumps(embedder)) == size
    for copied in (copy.deepcopy(embedder), pickle.loads(pickle.dumps(embedder))):
        assert_array_equal(copied.transform(iris[0][::-1]), expected[::-1])


def test_rows_of_zeros_leave_the_bits_of_others_alone():
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 7))).float()
    mixed = torch.cat([rows, torch.zeros(1, 7), torch.full((1, 7), 1e30)])
    assert torch.equal(l2_normalize(mixed)[:50], l2_normalize(rows))
