"""Wall time and memory of one model on two processes of one thread, compared with one.

    python benchmarks/bench_distributed.py --turns 3

Prints Markdown. Both run the same program by turns, under torchrun, and time the epochs
of one fit after the first: the MLP on 500,000 rows of covertype's shape in batches of
8,192; the convolutional encoder on 5,000 images of 32 x 32; and the loss alone, value and
gradient, on a batch of 8,192 and one of 65,536 embeddings, whose memory is the growth of
the peak in each process. The times are of the wall: nothing else may run meanwhile.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import covertype_like, extra_memory, medians, print_table, take_turns
from skorch.callbacks import Callback

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.runtime.processes import (
    is_launched,
    processes_of_fit,
    sharing_pairs,
    training_together,
)

LARGE_BATCH = 65_536


class Clock(Callback):
    """Seconds of each epoch."""

    def on_train_begin(self, net, **kwargs):
        self.seconds = []

    def on_epoch_begin(self, net, **kwargs):
        self.start = time.perf_counter()

    def on_epoch_end(self, net, **kwargs):
        self.seconds.append(time.perf_counter() - self.start)


def seconds_of_fit(embedder, X, y):
    """Return the seconds of the fastest epoch."""
    embedder.set_params(net_callbacks=[("clock", Clock())], random_state=0, n_threads=1)
    embedder.fit(X, y)
    return min(dict(embedder.net_.callbacks_)["clock"].seconds)


def mlp(n_rows):
    X, y = covertype_like(n_rows)
    embedder = HSCLEmbedder(encoder="mlp", batch_size=8192, max_epochs=2)
    return seconds_of_fit(embedder, X, y)


def conv(n_rows):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (n_rows // 100, 3, 32, 32), dtype=np.uint8)
    y = np.arange(len(X)) % 10
    return seconds_of_fit(HSCLEmbedder(encoder="conv", max_epochs=2), X, y)


def _embeddings(n_rows):
    torch.manual_seed(0)
    return torch.randn(n_rows, 128).requires_grad_(), torch.arange(n_rows) % 10


@training_together
def _run_loss(z, y):
    loss = ContrastiveLoss()
    if processes_of_fit() is None:
        return loss(z, y).backward()
    with sharing_pairs():
        value = loss(z, y)
    return value.backward()


def loss_seconds(n_rows):
    seconds = []
    for _ in range(3):
        z, y = _embeddings(8192)
        start = time.perf_counter()
        _run_loss(z, y)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def loss_memory(n_rows):
    z, y = _embeddings(LARGE_BATCH)
    return extra_memory(lambda: _run_loss(z, y))


JOBS = {"mlp": mlp, "conv": conv, "loss": loss_seconds, "memory": loss_memory}


def launch(job, n_processes, n_rows):
    """Run a job in some processes; return the largest of their figures."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(n_processes), __file__]
        command += ["--job", job, "--rows", str(n_rows), "--folder", folder]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        return max(json.loads(path.read_text()) for path in Path(folder).iterdir())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--job", choices=JOBS, help="run one job, in a launched process")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.job is not None:
        torch.set_num_threads(1)
        found = JOBS[options.job](options.rows)
        rank = os.environ["RANK"] if is_launched() else "0"
        (options.folder / rank).write_text(json.dumps(found))
        return
    rows = []
    for job in options.jobs:
        runs = {n: partial(launch, job, n, options.rows) for n in (1, 2)}
        found = medians(take_turns(runs, options.turns), 1)
        (one, _), (two, ratio) = found[1], found[2]
        rows.append([job, f"{one:.3g}", f"{two:.3g}", f"{1 / ratio:.2f}"])
    print_table(["", "1 process", "2 processes", "1 / 2"], rows)


if __name__ == "__main__":
    main()
