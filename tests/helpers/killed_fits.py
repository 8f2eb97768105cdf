"""Fits in processes that are killed, and fits that resume from their checkpoints."""

import hashlib
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits, load_iris

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.losses import WarmUpBeta
from sklearn_hscl.training.callbacks import checkpoint


class PlainMomentum(torch.optim.Optimizer):
    """A custom optimizer, with a setting in its groups that changes."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr, "n_steps": 0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["n_steps"] += 1
            for weight in group["params"]:
                if weight.grad is not None:
                    memory = self.state[weight].setdefault("sum", weight.grad * 0)
                    memory.mul_(0.9).add_(weight.grad)
                    weight.sub_(memory, alpha=group["lr"] / group["n_steps"])


def iris(directory):
    return load_iris(return_X_y=True)


def iris_with_gaps(directory):
    X, y = load_iris(return_X_y=True)
    X = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    return X, np.where(np.arange(150) % 7, y, -1)


def mapped(directory):
    X, y = load_iris(return_X_y=True)
    np.save(directory / "rows.npy", X)
    return np.load(directory / "rows.npy", mmap_mode="r"), y


def digits(directory):
    images = load_digits()
    return images.images[:120].astype(np.uint8), images.target[:120]


SMALL = {"batch_size": 32, "max_epochs": 12, "random_state": 0}
MLP = SMALL | {"encoder": "mlp", "hidden_layer_sizes": (16,), "n_components": 4}
TABULAR = SMALL | {"encoder": "tabular", "hidden_layer_sizes": (16, 16)}
# Parameters and data of the fits.
CASES = {
    "defaults": ({"random_state": 0, "max_epochs": 40}, iris),
    "members": (TABULAR | {"n_iter_no_change": 3, "clip_norm": 1.0}, iris),
    "cross_fit": (TABULAR | {"cross_fit": 3}, iris),
    "views": (MLP | {"loss": "hucl", "dropout": 0.2}, iris),
    "held out": (
        MLP | {"early_stopping": True, "dropout": 0.2, "lr_backoff": 0.1},
        iris,
    ),
    "few labels": (MLP | {"unlabeled_label": -1, "beta": WarmUpBeta(2.0)}, iris_with_gaps),
    "synthetic": (MLP | {"loss": "sscl", "precision": "float64"}, iris),
    "momentum": (
        MLP | {"net_params": {"optimizer": PlainMomentum}, "sampler": "balanced"},
        iris,
    ),
    "memory map": (MLP | {"loss": "hucl"}, mapped),
    "images": (
        SMALL | {"encoder": "conv", "hidden_layer_sizes": (4,), "device_batch_size": 20},
        digits,
    ),
}


def bits(embedder, X):
    """Return a digest of the result of a fit, without times."""
    digest = hashlib.blake2b()
    for _, value in sorted(embedder.net_.module_.state_dict().items()):
        digest.update(value.numpy().tobytes())
    digest.update(embedder.transform(X).tobytes())
    for epoch in embedder.history_:
        digest.update(repr([v for k, v in epoch.items() if k != "dur"]).encode())
    return digest.hexdigest()


def fit(case, directory=None, **parameters):
    """Fit a case, with a checkpoint in a directory; return its bits."""
    settings, data = CASES[case]
    torch.set_num_threads(1)
    checkpoint._MAX_TIME_FRACTION = 0.5  # fits are short here, and need many checkpoints
    place = Path(tempfile.mkdtemp() if directory is None else directory)
    X, y = data(place)
    if directory is not None:
        parameters = {"checkpoint_dir": directory, "resume": True} | parameters
    return bits(HSCLEmbedder(**settings, **parameters).fit(X, y), X)


def in_child(function, *arguments, kill_after=None):
    """Call a function in a forked process; return None if it was killed before its end.

    Returns
    -------
    result : object or None
    seconds : float
        Lifetime of the process.
    """
    begin = time.perf_counter()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, pickle.dumps(function(*arguments)))
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(0)  # without the parent's clean-up
    os.close(writer)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    with open(reader, "rb") as stream:
        written = stream.read()
    _, status = os.waitpid(child, 0)
    seconds = time.perf_counter() - begin
    if os.WIFSIGNALED(status):
        return None, seconds
    return pickle.loads(written), seconds


def try_case(case, n_kills, rng):
    """Kill a fit several times and resume it; compare with an uninterrupted fit.

    Returns
    -------
    n_killed : int
        Number of processes that were killed before their end.
    is_same : bool
        Whether the last one gave the same bits.
    """
    expected = fit(case)  # here, so that the children need no first-time preparations
    with tempfile.TemporaryDirectory() as directory:
        _, seconds = in_child(fit, case)
        n_killed = kill_some(case, Path(directory), rng.uniform(0, seconds, n_kills))
        result, _ = in_child(fit, case, Path(directory))
    return n_killed, result == expected


def kill_some(case, directory, moments):
    """Kill a fit, and those that resume it, at these times; return how many were killed."""
    results = [in_child(fit, case, directory, kill_after=after)[0] for after in moments]
    return sum(result is None for result in results)


if __name__ == "__main__":
    rng = np.random.default_rng(int(sys.argv[2]))
    for name in sys.argv[3:] or CASES:
        print(name, *try_case(name, int(sys.argv[1]), rng), flush=True)
