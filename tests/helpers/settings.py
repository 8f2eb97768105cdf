"""Settings of the process that a caller may have changed."""

import contextlib
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from joblib import parallel_config


@contextlib.contextmanager
def changed(read, write, value):
    before = read()
    write(value)
    try:
        yield
        assert read() == value
    finally:
        write(before)


def default_dtype(dtype):
    return changed(torch.get_default_dtype, torch.set_default_dtype, dtype)


def pandas_option(name, value):
    def read():
        return pd.get_option(name)

    return changed(read, lambda value: pd.set_option(name, value), value)


def polars_option(**options):
    return pytest.importorskip("polars").Config(**options)


@contextlib.contextmanager
def products(value):
    backends = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    before = [backend.fp32_precision for backend in backends]
    torch.set_float32_matmul_precision(value)
    try:
        yield
        assert torch.get_float32_matmul_precision() == value
    finally:
        torch.set_float32_matmul_precision("highest")
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


@contextlib.contextmanager
def errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def _option(name):
    with warnings.catch_warnings():  # pandas 3 warns of those that it will remove
        warnings.simplefilter("ignore")
        return pd.get_option(name)


PANDAS_OPTIONS = (
    "mode.chained_assignment",
    "future.infer_string",
    "display.max_rows",
)
SETTINGS = {
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "gradients off": lambda: changed(torch.is_grad_enabled, torch.set_grad_enabled, False),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "another device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast disabled": lambda: torch.autocast("cpu", enabled=False),
    "deterministic": lambda: changed(
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
        True,
    ),
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True),
    "threads": lambda: changed(torch.get_num_threads, torch.set_num_threads, 2),
    "medium products": lambda: products("medium"),
    "high products": lambda: products("high"),
    "errors of numpy": lambda: np.errstate(all="raise"),
    "print options": lambda: np.printoptions(precision=1, threshold=2),
    "copy on write": lambda: pandas_option("mode.copy_on_write", True),
    "strings of pandas": lambda: pandas_option("future.infer_string", True),
    "objects of pandas": lambda: pandas_option("future.infer_string", False),
    "chained assignment": lambda: pandas_option("mode.chained_assignment", "raise"),
    "polars": lambda: polars_option(tbl_rows=1, fmt_str_lengths=1),
    "pandas as output": lambda: sklearn.config_context(transform_output="pandas"),
    "polars as output": lambda: sklearn.config_context(transform_output="polars"),
    "finite": lambda: sklearn.config_context(assume_finite=True),
    "routing": lambda: sklearn.config_context(enable_metadata_routing=True),
    "little memory": lambda: sklearn.config_context(working_memory=1e-3),
    "distances": lambda: sklearn.config_context(enable_cython_pairwise_dist=False),
    "no validation": lambda: sklearn.config_context(skip_parameter_validation=True),
    "two threads of joblib": lambda: parallel_config("threading", n_jobs=2),
    "forks of joblib": lambda: parallel_config("multiprocessing", n_jobs=2),
    "warnings": errors,
}


def state():
    """Return all settings that a call could change, and must not."""
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomalies": torch.is_anomaly_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "products": torch.get_float32_matmul_precision(),
        "errors of numpy": np.geterr(),
        "print options": np.get_printoptions(),
        "pandas": [_option(name) for name in PANDAS_OPTIONS],
        "scikit-learn": sklearn.get_config(),
        "warnings": [
            # A pattern is a text until it was used.
            tuple(getattr(part, "pattern", part) for part in entry)
            for entry in warnings.filters
        ],
        "random numbers": (
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
        ),
    }
