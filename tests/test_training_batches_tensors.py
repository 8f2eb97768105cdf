"""Memory maps: rows that stay in their file, read by the batch."""

import tracemalloc

import numpy as np
import pytest
import torch
from helpers.streamed_losses import (
    IMAGES,
    X,
    Y,
    assert_same_fit,
    assert_stand_for_a_tensor,
    fit,
)
from numpy.testing import assert_array_equal
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.data.out_of_core import MappedRows, is_memory_mapped
from sklearn_hscl.encoders.preprocessing import Identity, TablePreprocessor
from sklearn_hscl.training.batches.tensors import LazyRows

CPU = torch.device("cpu")


@pytest.fixture
def mapped(tmp_path):
    def map_array(array, mode="r", order="C"):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.dat"
        rows = np.memmap(path, array.dtype, "w+", shape=array.shape, order=order)
        rows[:] = array
        rows.flush()
        return np.memmap(path, array.dtype, mode, shape=array.shape, order=order)

    return map_array


def test_memory_maps_are_recognised(mapped):
    rows = mapped(X)
    views = [rows, np.asarray(rows), rows[3:], rows.T, np.moveaxis(rows[:, None], 1, 2)]
    views += [np.lib.stride_tricks.as_strided(rows), np.frombuffer(rows.base, np.uint8)]
    assert all(map(is_memory_mapped, views))
    others = [
        X,
        rows[[1, 2]],
        rows + 1,
        np.array(rows),
        [1.0],
        None,
        np.frombuffer(b"ab", np.uint8),
    ]
    assert not any(map(is_memory_mapped, others))


@pytest.mark.parametrize("loss", ["hscl", "hucl"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int16, np.uint8])
def test_tables_have_the_bits_of_arrays(mapped, dtype, order, loss):
    table = np.asarray(np.abs(50 * X), dtype, order=order)
    assert_same_fit(mapped(table, order=order), table, loss=loss)


@pytest.mark.parametrize("loss", ["hscl", "hucl"])
@pytest.mark.parametrize("channels", ["last", "first", "none"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_images_have_the_bits_of_arrays(mapped, dtype, channels, loss):
    images = {"last": IMAGES, "first": IMAGES.transpose(0, 3, 1, 2), "none": IMAGES[..., 0]}
    images = images[channels].astype(dtype)
    assert_same_fit(mapped(images), images, loss=loss)


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_modules_have_the_bits_of_arrays(mapped, dtype, mode):
    table = (1e3 * X).astype(dtype)
    encoder = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3))
    rows = mapped(table, mode)
    assert_same_fit(rows, table, encoder=encoder)
    assert_array_equal(rows, table)  # a module that works in place leaves the file alone


@pytest.mark.parametrize("loss", ["hscl", "hucl"])
@pytest.mark.parametrize("array", [np.where(X > 2, np.nan, X), IMAGES])
def test_held_out_rows_have_the_bits_of_arrays(mapped, array, loss):
    settings = {"loss": loss, "early_stopping": True, "max_epochs": 3}
    assert_same_fit(mapped(array), array, **settings)
    scores = [
        [
            epoch["valid_score"]
            for epoch in fit(rows, **settings, X_val=rows, y_val=Y).history_
        ]
        for rows in (mapped(array), array)
    ]
    assert scores[0] == scores[1]


def test_rows_without_label_and_warm_starts(mapped):
    y = np.where(np.arange(60) % 5 == 0, -1, Y)
    rows = mapped(X)
    assert_same_fit(rows, X, y=y, unlabeled_label=-1, early_stopping=True)
    embedders = [fit(data, warm_start=True).fit(data, Y) for data in (rows, X)]
    pieces = [HSCLEmbedder(random_state=0).partial_fit(data, Y) for data in (rows, X)]
    for one, other in (embedders, pieces):
        assert_array_equal(one.transform(X), other.transform(X))


def test_categories_of_a_memory_map(mapped):
    codes = np.column_stack([X, Y.astype(float)])
    assert_same_fit(mapped(codes), codes, categorical_features=[4])


def test_host_rows_stand_for_a_tensor(mapped):
    rows = MappedRows(mapped(X)).select(np.arange(59, -1, -1))
    prepare = TablePreprocessor.fit(X)
    dense, stored = prepare(X[::-1]), LazyRows(rows, prepare, CPU)
    assert len(dense) == 60
    assert_stand_for_a_tensor(stored, dense)
    chosen = stored.select(torch.from_numpy(Y == 1))
    assert torch.equal(chosen[:], dense[Y == 1])
    assert chosen.rows.array is rows.array  # by index: nothing was read
    with pytest.raises(ValueError, match="dim=0 only, got dim=1"):
        stored.gather(1, torch.zeros(2, 4, dtype=torch.long))


def test_read_only_arrays_are_copied_for_torch():
    rows = X.astype(np.float32)
    rows.flags.writeable = False
    tensor = Identity()(rows)
    tensor += 1
    assert_array_equal(rows, X.astype(np.float32))


def peak_memory(function, *arguments):
    tracemalloc.start()
    try:
        return function(*arguments), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("dtype", "shape", "batch_size"),
    [
        (np.uint8, (20_000, 32, 32, 3), 1000),
        (np.float32, (20_000, 1, 28, 28), 1000),
        (np.float64, (150_000, 40), 2000),
    ],
)
def test_memory_maps_are_never_copied_as_a_whole(tmp_path, dtype, shape, batch_size):
    rows = np.memmap(tmp_path / "rows", dtype, "w+", shape=shape)
    rows[::3] = 1
    rows[1::3, ::2] = 1
    y = np.arange(len(rows)) % 2
    embedder = HSCLEmbedder(
        hidden_layer_sizes=(4,),
        n_components=2,
        max_epochs=1,
        batch_size=batch_size,
        loss="hscl",
        early_stopping=True,
        validation_fraction=0.001,
    )
    embedder.fit(rows[:100], y[:100])  # loads what torch loads at first use
    _, peak = peak_memory(embedder.fit, rows, y)
    assert peak < 0.7 * rows.nbytes
    if dtype == np.uint8:
        _, peak = peak_memory(embedder.transform, rows)
        assert peak < 0.7 * rows.nbytes


@pytest.mark.parametrize("place", [0, 40])
def test_bad_values_in_memory_maps_are_named(mapped, place):
    images = IMAGES.astype(np.float32)
    images[place, 1, 2, 0] = np.nan
    with pytest.raises(ValueError, match=f"X contains NaN or infinity, in image {place}:"):
        fit(mapped(images))
    table = X.copy()
    table[place, 1] = np.inf
    with pytest.raises(ValueError, match=f"Column 1 .index 1. holds inf in row {place}"):
        fit(mapped(table))
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        fit(mapped(X[:1]), Y[:1])
    huge = np.full((60, 4), 1e300)  # found in the thread, when the batch is prepared
    huge[:4] = X[:4]
    with pytest.raises(ValueError, match="1e.300, too large for float32: scale X"):
        fit(mapped(huge), encoder=nn.Linear(4, 2))
