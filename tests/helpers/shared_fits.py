"""Fits that several processes share; run by a launcher, or imported for one process.

    torchrun --standalone --nproc-per-node 2 shared_fits.py JOB FOLDER

Each process writes what it found to FOLDER/JOB-RANK.json.
"""

import json
import os
import signal
import sys
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from joblib import Parallel, delayed
from skorch.callbacks import Callback
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.losses import LinearBeta, dispatch
from sklearn_hscl.losses.kernels import streaming
from sklearn_hscl.runtime.processes import is_launched

RANK = int(os.environ.get("RANK", "0"))
N_ROWS = 151  # of which no batch is a multiple of two
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N_ROWS, 6))
LABELS = (X[:, 0] > 0).astype(int) + 2 * (X[:, 1] > 0.3)
INDICATORS = np.stack([X[:, 0] > 0, X[:, 1] > 0.5, X[:, 2] > 0], 1).astype(int)
SETTINGS = {
    "encoder": "mlp",
    "random_state": 0,
    "precision": "float64",
    "max_epochs": 2,
    "batch_size": 50,
    "n_threads": 1,
}
# A class that fills several tiles, and small ones.
UNEVEN = np.where(np.arange(N_ROWS) < 135, 0, 1 + np.arange(N_ROWS) % 5)
PIXELS = RNG.normal(size=(24, 1, 8, 8))


class Dropped(nn.Module):
    """A module of a user, which draws from torch's global generator."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 4))

    def forward(self, rows):
        return self.layers(rows)


class Routed(nn.Module):
    """A module whose second half is not used by all rows."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.never = (nn.Linear(6, 4) for _ in range(3))

    def forward(self, rows):
        if bool((rows == X[0, 0]).any()):  # in the part of one process
            return self.first(rows) + self.second(rows)
        return self.first(rows)


def noisy(rows, generator):
    """Draw from torch's global generator instead."""
    return rows + 0.1 * torch.randn(rows.shape, dtype=rows.dtype)


# Fits that give what one process gives -------------------------------------------------

EQUAL = {
    "hscl": {},
    "scl": {"loss": "scl"},
    "supcon": {"loss": "supcon"},
    "without labels": {"y": None},
    "views": {"loss": "schane", "n_views": 2},
    "synthetic negatives": {"loss": "sscl"},
    "dropout": {"dropout": 0.3},
    "members": {"encoder": "tabular"},
    "images": {"X": PIXELS, "y": LABELS[:24], "encoder": "conv", "batch_size": 11},
    "several labels": {"y": INDICATORS},
    "numbers": {"y": X[:, 0]},
    "cross-entropy": {"ce_weight": 0.5},
    "chunks": {"device_batch_size": 7},
    "clipped": {"clip_norm": 0.1},
    "early stopping": {"early_stopping": True, "max_epochs": 5, "n_iter_no_change": 2},
    "balanced": {"sampler": "balanced", "batch_size": 64},
    "beta that is selected": {"beta": "auto", "early_stopping": True},
    "beta on a schedule": {"beta": LinearBeta(0.0, 2.0)},
    "views of a user": {"augment": noisy, "loss": "schane", "n_views": 2},
    "cross-fitted": {"encoder": "tabular", "cross_fit": 3},
}
# The same in small blocks, which the processes share.
SHARED = {
    "tiles": {"y": UNEVEN, "batch_size": N_ROWS},
    "tiles of small groups": {"y": np.arange(N_ROWS) % 40, "batch_size": N_ROWS},
    "tiles of members": {"y": UNEVEN, "batch_size": N_ROWS, "encoder": "tabular"},
    "anchors": {"y": INDICATORS},
    "anchors of members": {"y": INDICATORS, "encoder": "tabular"},
    "anchors of numbers": {"y": X[:, 0], "device_batch_size": 9},
    "anchors of views": {"loss": "schane", "n_views": 2},
    "anchors with synthetic negatives": {"loss": "sscl"},
}


def seeded(module):
    torch.manual_seed(0)
    return module()


def fitted(X=X, y=LABELS, **params):
    return HSCLEmbedder(**SETTINGS | params).fit(X, y)


def embedding(case):
    params = EQUAL[case] if case in EQUAL else SHARED[case]
    rows = params.get("X", X)
    if case in EQUAL:
        return fitted(**params).transform(rows)
    with (
        patch.object(streaming, "_MAX_DENSE_ROWS", 8),
        patch.object(streaming, "_TILE_WIDTH", 32),
        patch.object(streaming, "_TILE_HEIGHT", 16),
        patch.object(dispatch, "BLOCK_PAIRS", 300),
    ):
        return fitted(**params).transform(rows)


def equal(folder):
    """Return the embedding of each case, and what other fits say."""
    found = {case: embedding(case).tolist() for case in EQUAL | SHARED}
    chunks = HSCLEmbedder(**SETTINGS)
    for half in (slice(0, 75), slice(75, None)):
        chunks.partial_fit(X[half], LABELS[half], classes=[0, 1, 2, 3])
    found["partial_fit"] = chunks.transform(X).tolist()
    found["unseeded"] = fitted(random_state=None).transform(X).tolist()
    found["dropout of a user"] = fitted(
        encoder=seeded(Dropped), precision="float32"
    ).transform(X)
    found["dropout of a user"] = found["dropout of a user"].tolist()
    found["routed"] = fitted(encoder=seeded(Routed), precision="float32").transform(X)
    found["routed"] = found["routed"].tolist()
    stopped = fitted(net_callbacks=[Stop()], max_epochs=4)
    found["epochs of a stopped fit"] = len(stopped.history_)
    resumed(folder, max_epochs=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted(lr=5.0, max_epochs=1, clip_norm=1e-3)
    found["warnings"] = [str(warning.message) for warning in caught]
    children = Parallel(n_jobs=2)(delayed(is_launched)() for _ in range(2))
    threads = Parallel(n_jobs=2, backend="threading")(
        delayed(is_launched)() for _ in range(2)
    )
    found["launched"] = [is_launched(), *children, *threads]
    return found


def resumed(folder, max_epochs):
    """Continue from a checkpoint in the folder, if there is one."""
    folder = str(Path(folder, "checkpoint"))
    return fitted(checkpoint_dir=folder, max_epochs=max_epochs, lr_schedule="constant")


# Fits that fail ------------------------------------------------------------------------


class Fault(Callback):
    """Fail in the second epoch of process 1."""

    def __init__(self, how):
        self.how = how

    def on_batch_end(self, net, **kwargs):
        if RANK == 1 and len(net.history) == 2:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {"error": ValueError, "memory": MemoryError}[self.how]("of process 1")


class Stop(Callback):
    """Stop process 1 after two epochs."""

    def on_epoch_end(self, net, **kwargs):
        if RANK == 1 and len(net.history) == 2:
            raise KeyboardInterrupt


class BatchStatistics(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))

    def forward(self, rows):
        return self.layers(rows)


def _with_value(value, column=0):
    rows = X.copy()
    rows[3, column] = value if RANK == 1 else rows[3, column]
    return rows


FAULTY = {
    "a cell": lambda: {"X": _with_value(7.0)},
    "infinity": lambda: {"X": _with_value(np.inf)},
    "a label": lambda: {"y": np.where((np.arange(N_ROWS) == 3) & (RANK == 1), 0, LABELS)},
    "a type": lambda: {"X": X.astype(np.float32) if RANK else X},
    "fewer rows": lambda: {"X": X[RANK:], "y": LABELS[RANK:]},
    "a seed": lambda: {"random_state": RANK},
    "a parameter": lambda: {"beta": 1.0 + RANK},
    "a bad parameter": lambda: {"temperature": -1.0 if RANK else 0.5},
    "few rows": lambda: {"y": X[:, 0], "batch_size": 2},
    "batch statistics": lambda: {"encoder": seeded(BatchStatistics)},
    "error": lambda: {"net_callbacks": [Fault("error")]},
    "memory": lambda: {"net_callbacks": [Fault("memory")]},
}


def faulty(folder):
    """Return the error of each fit, and whether a sound fit follows."""
    found = {}
    for case, params in FAULTY.items():
        try:
            fitted(**params())
        except Exception as error:
            found[case] = [type(error).__name__, str(error)]
    found["afterwards"] = fitted().transform(X).tolist()
    return found


def killed(folder):
    """Return the error where another process is killed."""
    try:
        fitted(net_callbacks=[Fault("killed")])
    except Exception as error:
        return [type(error).__name__, str(error)]


if __name__ == "__main__":
    job, folder = sys.argv[1:]
    found = {"equal": equal, "faulty": faulty, "killed": killed}[job](folder)
    Path(folder, f"{job}-{RANK}.json").write_text(json.dumps(found))
