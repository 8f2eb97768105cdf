"""The same seed gives the same bits in any process and thread; threads share a model."""

import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import killed_fits as kills
from joblib import Parallel, delayed
from numpy.testing import assert_array_equal
from sklearn.base import clone
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.runtime import threads

CASES = ["members", "held out"]


@pytest.fixture(scope="module")
def expected():
    return [kills.fit(case) for case in CASES]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_both_start_methods(expected, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(kills.fit, CASES) == expected


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_workers_of_joblib(expected, n_jobs):
    assert Parallel(n_jobs)(delayed(kills.fit)(case) for case in CASES) == expected


@pytest.mark.parametrize("table", [np.asarray, pd.DataFrame])
def test_eight_threads_that_transform_at_once(table):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 5)).astype(np.float32)
    embedder = HSCLEmbedder(max_epochs=1, random_state=0).fit(table(X), np.arange(400) % 3)
    expected = embedder.transform(table(X))

    def in_pieces(n_rows):
        pieces = range(0, 400, n_rows)
        return np.vstack([embedder.transform(table(X)[k : k + n_rows]) for k in pieces])

    with ThreadPoolExecutor(8) as pool:
        for embedding in pool.map(in_pieces, [10, 33, 50, 400, 7, 128, 41, 64]):
            assert_array_equal(embedding, expected)


# Draws of others ---------------------------------------------------------------------


class DrawsOfOthers:
    """scikit-learn callback that draws in every epoch, as another thread may."""

    def __init__(self):
        self.drawn = []

    def setup(self, estimator, context):
        pass

    teardown = on_fit_task_begin = setup

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "epoch":
            self.drawn.append(torch.rand(()).item())


TABLE = np.random.default_rng(0).normal(size=(80, 5))
FITS = {
    "tabular": {"encoder": "tabular", "dropout": 0.2},
    "mlp": {"encoder": "mlp", "dropout": 0.2},
    "conv": {"encoder": "conv", "dropout": 0.2},
    "chunks": {"encoder": "mlp", "dropout": 0.2, "device_batch_size": 16},
    "views": {"encoder": "mlp", "loss": "hucl"},
    "synthetic negatives": {"encoder": "mlp", "loss": "sscl"},
    "cross-entropy": {"encoder": "tabular", "loss": "schane"},
    "early stopping": {"encoder": "mlp", "dropout": 0.2, "early_stopping": True},
}


@pytest.mark.parametrize("name", FITS)
def test_torch_generators_are_neither_read_nor_changed(name):
    X, y = TABLE, np.arange(80) % 3
    if FITS[name]["encoder"] == "conv":
        X = np.random.default_rng(0).random((80, 8, 8))
    embedder = HSCLEmbedder(**FITS[name], max_epochs=3, random_state=0, batch_size=32)
    expected = clone(embedder).fit(X, y).transform(X)
    others = DrawsOfOthers()
    torch.manual_seed(7)
    alone = [torch.rand(()).item() for _ in range(4)]
    torch.manual_seed(7)
    found = embedder.set_callbacks(others).fit(X, y).transform(X)
    assert_array_equal(found, expected)
    assert [*others.drawn, torch.rand(()).item()] == alone


def test_fits_in_threads_do_not_wait_for_each_other():
    """Each draws from its own generator, so that none holds torch's."""
    X, y = TABLE, np.arange(80) % 3
    met = threading.Barrier(2, timeout=60)

    class Meets(DrawsOfOthers):
        def on_fit_task_end(self, estimator, context):
            if context.task_name == "epoch" and context.task_id == 0:
                met.wait()

    def fit(seed, *callbacks):
        embedder = HSCLEmbedder(dropout=0.2, max_epochs=2, random_state=seed)
        return embedder.set_callbacks(*callbacks).fit(X, y).transform(X)

    expected = [fit(seed) for seed in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda seed: fit(seed, Meets()), (0, 1))
    assert_array_equal(list(found), expected)


def test_modules_of_users_get_seeded_generators():
    X, y = TABLE, np.arange(80) % 3
    module = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5))
    embedder = HSCLEmbedder(encoder=module, max_epochs=2, random_state=0)
    expected = clone(embedder).fit(X, y).transform(X)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert_array_equal(embedder.fit(X, y).transform(X), expected)
    assert torch.equal(torch.get_rng_state(), before)


# Forks after work in threads ---------------------------------------------------------

FORKS = """
import os, signal, sys, tempfile, threading
import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn_hscl import HSCLEmbedder, diagnose
from sklearn_hscl.metrics import knn_accuracy
from sklearn_hscl.model_selection import BatchedGridSearchCV
from sklearn_hscl.runtime import matmul, random_state
from sklearn_hscl.encoders import inference

rng = np.random.default_rng(0)
X, y = rng.normal(size=(1500, 5)), np.arange(1500) % 3
images = rng.integers(0, 255, (32, 8, 8), dtype=np.uint8)
few = slice(0, 60)


def fit(encoder="tabular", rows=X[few], **settings):
    settings |= {"encoder": encoder, "max_epochs": 1, "random_state": 0, "n_threads": 2}
    model = HSCLEmbedder(**settings)
    return model.fit(rows, y[: len(rows)])


def search():
    pipe = make_pipeline(HSCLEmbedder(encoder="mlp", max_epochs=1), LogisticRegression())
    grid = {"hsclembedder__beta": [0.0, 1.0]}
    BatchedGridSearchCV(pipe, grid, cv=2).fit(X[few], y[few])


def save_and_load():
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model")
        HSCLEmbedder.load(f"{folder}/model").transform(X)
        fit(checkpoint_dir=folder)


def boosting():
    HistGradientBoostingClassifier(max_iter=2).fit(X, y)


WORK = {
    "fit": fit,
    "fit of images": lambda: fit("conv", images),
    "transform": lambda: model.transform(X),
    "search": search,
    "save and load": save_and_load,
    "diagnose": lambda: diagnose(model, X[few], y[few]),
    "metrics": lambda: knn_accuracy(X, y),
    "scikit-learn": boosting,
}


def all_work():
    for name, work in WORK.items():
        work()
        print(name, flush=True)  # the last one that did not hang


def in_child(work):
    pid = os.fork()
    if pid == 0:
        signal.alarm(100)  # ends a child that hangs
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def wake():
    torch.ones(600, 600) @ torch.ones(600, 600)
    boosting()


torch.set_num_threads(2)
model = fit("mlp")
for work in (all_work, fit):
    wake()
    assert in_child(work) == 0
assert torch.get_num_threads() == 2
wake()  # the parent goes on
locks = matmul._lock, random_state._TORCH_GENERATORS, inference._layouts._lock
held, done = threading.Event(), threading.Event()


def hold():
    with locks[0], locks[1], locks[2], matmul._SETTING.set_to("bf16"):
        held.set()
        done.wait()


def use():
    assert not matmul._SETTING._users
    for lock in locks:
        assert lock.acquire(timeout=0)
        lock.release()
    fit("mlp").transform(X[few])


before = matmul.read_cpu_products()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
assert in_child(use) == 0
done.set()
thread.join()
assert matmul.read_cpu_products() == before
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_children_work_after_the_threads_of_the_parent():
    env = os.environ | {"OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-W", "ignore", "-c", FORKS]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.stdout.endswith("done\n"), result.stdout + result.stderr


@pytest.mark.parametrize("can_end", [True, False])
def test_one_thread_where_the_pool_could_not_be_ended(can_end, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "_could_end_pools", can_end)
    monkeypatch.setattr(threads, "_pools_are_lost", False)
    torch.set_num_threads(2)
    try:
        threads._avoid_lost_pools()
        assert torch.get_num_threads() == (2 if can_end else 1)
        assert (threads.choose_threads(2, small_steps=False) == 1) is not can_end
    finally:
        torch.set_num_threads(before)
