"""Data and settings shared by the tests."""

import os

import numpy as np
import pytest
import torch
from hypothesis import settings
from sklearn.datasets import load_digits, load_iris

# The same examples in every run of continuous integration; new ones everywhere else.
settings.register_profile("reproducible", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("reproducible")


@pytest.fixture(scope="session", autouse=True)
def one_thread_per_worker():
    # The suite runs in several processes; torch's threads would fight over the cores.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def iris():
    return load_iris(return_X_y=True)


@pytest.fixture(scope="session")
def digit_images():
    """300 real grey images, (300, 8, 8) in [0, 16]."""
    digits = load_digits()
    return digits.images[:300].astype(np.float32), digits.target[:300]


@pytest.fixture
def few_trees(monkeypatch):
    """Forests of 10 trees in place of 100, for tests of anything but their quality."""
    monkeypatch.setattr("sklearn_hscl.encoders.tabular.forests._N_TREES", 10)
