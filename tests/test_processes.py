"""The same seed gives the same bits in any process and thread; threads share a model."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from helpers import killed_fits as kills
from joblib import Parallel, delayed
from numpy.testing import assert_array_equal

from sklearn_hscl import HSCLEmbedder

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
