"""Settings of the tests on a second device, which run in a process of their own."""

import os

# Collected by tests/test_second_device.py alone: the device changes torch for good.
if os.environ.get("SECOND_DEVICE"):
    collect_ignore = []
    from second_device import backend  # before sklearn_hscl
else:
    collect_ignore_glob = ["*.py"]

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris


@pytest.fixture(autouse=True)
def no_waits_so_far():
    backend.WAITS.clear()
    yield
    backend.REFUSED_DTYPES.clear()


@pytest.fixture(scope="session")
def table():
    """Every other row of iris: each operation of this device takes its time."""
    X, y = load_iris(return_X_y=True)
    return X[::2], y[::2]


@pytest.fixture(scope="session")
def images():
    """96 grey images of 8 x 8 pixels in [0, 1]."""
    digits = load_digits()
    return digits.images[:96].astype(np.float32) / 16, digits.target[:96]
