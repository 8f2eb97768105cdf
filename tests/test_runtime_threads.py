"""Prefetching in a thread: the same items in the same order, and no thread left."""

import itertools
import threading

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch.utils.data import TensorDataset

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.runtime.threads import prefetched

Y = np.arange(60) % 3


def prefetching():
    return [t for t in threading.enumerate() if t.name.startswith("sklearn_hscl")]


def test_prefetched_items_keep_their_order_and_stay_few():
    begun = []

    def items():
        for item in range(20):
            begun.append(item)
            yield item

    for item in prefetched(items(), depth=2):
        assert begun[: item + 1] == list(range(item + 1))
        assert len(begun) <= item + 3
    assert begun == list(range(20))
    assert [*prefetched(iter([]))] == []
    assert not prefetching()


def test_prefetching_works_in_another_thread_and_ends_with_it():
    names = (threading.current_thread().name for _ in itertools.count())
    ahead = prefetched(names)
    assert next(ahead).startswith("sklearn_hscl-prefetch")
    assert len(prefetching()) == 1
    ahead.close()
    assert not prefetching()


def test_exceptions_of_prefetching_come_in_their_turn():
    def items():
        yield 1
        raise OSError("the disk is gone")

    ahead = prefetched(items())
    assert next(ahead) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)
    assert not prefetching()


class Raises(Callback):
    def __init__(self, error, method):
        self.error, self.method, self.seen = error, method, []

    def on_batch_end(self, net, **kwargs):
        self.seen += prefetching()
        if self.method == "on_batch_end" and len(net.history) == 2:
            raise self.error

    def on_epoch_end(self, net, **kwargs):
        if self.method == "on_epoch_end" and len(net.history) == 2:
            raise self.error


@pytest.mark.parametrize("kind", ["memory map", "dataset"])
@pytest.mark.parametrize("method", ["on_batch_end", "on_epoch_end"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_no_thread_is_left_behind(tmp_path, kind, method, error):
    rows = np.memmap(tmp_path / "rows", np.float32, "w+", shape=(60, 4))
    rows[:] = np.random.default_rng(0).normal(size=rows.shape)
    if kind == "dataset":
        rows = TensorDataset(torch.from_numpy(rows).reshape(60, 2, 2))
    embedder = HSCLEmbedder(
        max_epochs=4, batch_size=8, net_callbacks=[Raises(error, method)]
    )
    if error is RuntimeError:
        with pytest.raises(error):
            embedder.fit(rows, Y)
    elif method == "on_batch_end":
        with pytest.warns(UserWarning, match="interrupted after 1 of 4"):
            embedder.fit(rows, Y)
        raises = dict(embedder.net_.callbacks_)["Raises"]
        assert raises.seen  # before the end
    else:
        assert embedder.fit(rows, Y).n_iter_ == 2  # how skorch stops early
    assert not prefetching()


def test_an_exception_in_the_thread_ends_the_fit():
    items = TensorDataset(torch.rand(60, 2, 2))
    items.tensors[0][50] = torch.nan  # not the first item, so found in the thread
    with pytest.raises(ValueError, match="NaN or infinity, nan in item 50"):
        HSCLEmbedder(max_epochs=1, batch_size=8).fit(items, Y)
    assert not prefetching()
