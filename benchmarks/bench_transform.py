"""Speed and memory of transform, and of forward passes of the same encoder.

Prints Markdown. The encoder is 54-256-256-128 with ReLU. Times are those of one CPU
thread (the process's own time, so that other work on the machine matters less), on a GPU
of the wall; the competitors take turns, and the median is reported. Memory is the growth
of the peak over what the process held before, less the result, in one fresh process per
figure.

The competitors get a float32 tensor or array and neither check nor standardise it, as
transform does: "forward", the encoder on all rows at once in inference mode; "chunks",
the same on 2,048 rows at a time; "skorch", the predict of a NeuralNet with its default
DataLoader.
"""

import argparse
import os
import statistics
import time

import numpy as np
import skorch
import torch
from measure import (
    covertype_like,
    extra_memory,
    in_fresh_process,
    medians,
    now,
    print_table,
    take_turns,
)

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.runtime import matmul as gemm

N_ROWS = 50_000
COMPETITORS = ("forward", "chunks", "skorch")
MEMORY_ROWS = (100_000, 300_000, 1_000_000)
DTYPES = ("float32", "float64")


def fitted(device, n_features=54):
    model = HSCLEmbedder(
        loss="hscl",
        encoder="mlp",
        hidden_layer_sizes=(256, 256),
        n_components=128,
        max_epochs=1,
        device=device,
        random_state=0,
    )
    return model.fit(*covertype_like(2000, n_features))


def forward(model, rows):
    with torch.inference_mode():
        return model.module_(rows.to(model.device_)).cpu().numpy()


def in_chunks(model, rows):
    return np.concatenate([forward(model, chunk) for chunk in rows.split(2048)])


def competitors(model, X, dtype):
    """Return the functions to time, by name."""
    rows = torch.from_numpy(X)
    net = skorch.NeuralNet(
        model.module_, torch.nn.MSELoss, device=str(model.device_)
    ).initialize()
    given = X.astype(dtype)
    return {
        "ours": lambda: model.transform(given),
        "forward": lambda: forward(model, rows),
        "chunks": lambda: in_chunks(model, rows),
        "skorch": lambda: net.predict(X),
    }


def seconds(function, device):
    begin = now(device)
    function()
    return now(device) - begin


def speed_row(dtype, n_rows, n_turns, device):
    model = fitted(device)
    functions = competitors(model, covertype_like(n_rows)[0], dtype)
    timed = {
        name: lambda function=function: seconds(function, device)
        for name, function in functions.items()
    }
    took = medians(take_turns(timed, n_turns), "ours")
    rates = {name: f"{n_rows / median / 1e6:.3f}" for name, (median, _) in took.items()}
    cells = [f"{rates[name]} ({took[name][1]:.2f})" for name in COMPETITORS]
    return [dtype, rates["ours"], *cells]


def latency_row(n_rows, n_turns, device):
    """Return wall milliseconds of calls on few rows: the latency of a request."""
    model = fitted(device)
    functions = competitors(model, covertype_like(n_rows)[0], "float32")
    functions.pop("chunks")  # there is only one

    def milliseconds(function):
        times = []
        for _ in range(50):
            begin = time.perf_counter()
            function()
            times.append(time.perf_counter() - begin)
        return statistics.median(times) * 1e3

    timed = {
        name: lambda function=function: milliseconds(function)
        for name, function in functions.items()
    }
    took = medians(take_turns(timed, n_turns), "ours")
    return [n_rows, *(f"{median:.3f}" for median, _ in took.values())]


def transform_memory(n_rows, dtype, device):
    """Return the growth of the peak beyond the result in MB; run in a separate process."""
    model = fitted(device)
    model.transform(covertype_like(5000)[0].astype(dtype))
    X = covertype_like(n_rows)[0].astype(dtype)
    results = []
    grown = extra_memory(lambda: results.append(model.transform(X)), device)
    return grown - (results[0].nbytes / 1e6 if device == "cpu" else 0)


def memory_row(n_rows, device):
    cells = [
        in_fresh_process(__file__, "--device", device, "--memory-of", n_rows, dtype)[0]
        for dtype in DTYPES
    ]
    return [f"{n_rows:,}", *(f"{cell:.0f}" for cell in cells)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rows", type=int, default=N_ROWS)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = options.device
    torch.set_num_threads(1)
    if options.memory_of:
        n_rows, dtype = options.memory_of
        print(transform_memory(int(n_rows), dtype, device))
        return
    print(f"torch {torch.__version__}, {device}, {options.rows:,} rows of 54 features,")
    print(f"one thread of {os.cpu_count()}; fast GEMM: {gemm.uses_fast_gemm()}.\n")
    print("Million rows per second (seconds over ours, higher is slower):\n")
    rows = (speed_row(dtype, options.rows, options.turns, device) for dtype in DTYPES)
    print_table(["X", "ours", *COMPETITORS], rows)
    print("Milliseconds of a call on few rows, wall time:\n")
    rows = (latency_row(n_rows, options.turns, device) for n_rows in (1, 10, 100))
    print_table(["rows", "ours", "forward", "skorch"], rows)
    print("Memory of transform beyond X and its result, MB:\n")
    print_table(["rows", *DTYPES], (memory_row(n_rows, device) for n_rows in MEMORY_ROWS))


if __name__ == "__main__":
    main()
