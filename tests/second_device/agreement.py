"""The same computation on the CPU and on the second device."""

import warnings

import numpy as np

from second_device.backend import NAME
from sklearn_hscl import HSCLEmbedder

DEVICES = ("cpu", NAME)
SMALL = {
    "max_epochs": 2,
    "random_state": 0,
    "batch_size": 32,
    "hidden_layer_sizes": (16,),
    "net_params": {"optimizer__fused": False},  # of which the second device has none
}
TOLERANCE = {"float64": 1e-9, "float32": 4e-5, "bf16": 3e-3}


def embedder(device, **parameters):
    """Return a small embedder, of the perceptron unless told otherwise."""
    settings = SMALL | {"encoder": "mlp"} | parameters
    if not isinstance(settings["encoder"], str):
        del settings["hidden_layer_sizes"]
    return HSCLEmbedder(device=device, **settings)


def assert_agree(compute, tolerance=4e-5):
    """Compare what `compute(device)` returns, relative to the largest value."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, found = ([*_arrays(compute(device))] for device in DEVICES)
    assert len(expected) == len(found) > 0
    for one, other in zip(expected, found, strict=True):
        assert one.shape == other.shape
        size = max(np.abs(one).max(), 1e-30)
        assert np.isfinite(one).all()
        np.testing.assert_allclose(other / size, one / size, atol=tolerance, rtol=0)


def _arrays(result):
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, list | tuple):
        for part in result:
            yield from _arrays(part)
    else:
        yield np.asarray(result, dtype=np.float64)
