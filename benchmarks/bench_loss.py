"""Speed and memory of the loss, forward and backward, and of other implementations.

Prints Markdown. Times are those of one CPU thread (the process's own time, so that other
work on the machine matters less) or of the GPU; the competitors take turns, and the
median is reported. Memory is the growth of the peak over what the process held before,
in one fresh process per figure.
"""

import argparse
import functools
import os
import statistics
import time

import torch
from measure import extra_memory, in_fresh_process, print_table
from torch.nn.functional import normalize

from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.runtime import matmul as gemm

WIDTH, TEMPERATURE, BETA = 128, 0.5, 1.0
BATCHES, CLASSES = (512, 2048, 8192), (10, 1000)
LARGEST = 65536
# Turns of each competitor, and calls in a turn: short ones would otherwise measure how
# far the caches have been emptied by the competitor before.
TURNS = {512: (31, 10), 2048: (15, 3), 8192: (7, 1), LARGEST: (1, 1)}
MOST_SECONDS = 10  # after which a slow competitor takes no more turns
# NTXentLoss holds a matrix of positives x negatives, far too large for most batches.
NT_XENT_ELEMENTS = 3 * 10**8


@functools.cache
def metric_learning(name):
    from pytorch_metric_learning import losses

    return getattr(losses, name)(temperature=TEMPERATURE)


LOSSES = {
    "ours": ContrastiveLoss("hscl", beta=BETA, temperature=TEMPERATURE),
    "dense autograd": ContrastiveLoss(
        "hscl", beta=BETA, temperature=TEMPERATURE, kernel="dense"
    ),
    "pml SupConLoss": lambda z, y: metric_learning("SupConLoss")(z, y),
    "pml NTXentLoss": lambda z, y: metric_learning("NTXentLoss")(z, y),
}


def fits(name, y):
    if name != "pml NTXentLoss":
        return len(y) < LARGEST or name == "ours"
    same = y.bincount().double().square().sum()
    return (same - len(y)) * (len(y) ** 2 - same) <= NT_XENT_ELEMENTS


def batch(n_rows, n_classes, device):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n_rows, WIDTH, generator=generator)
    y = torch.randint(n_classes, (n_rows,), generator=generator)
    return normalize(z).to(device), y.to(device)


def forward_and_backward(loss, z, y):
    z = z.clone().requires_grad_()
    loss(z, y).backward()
    return z.grad


def seconds(function, calls, device):
    """Return the mean seconds of consecutive calls."""
    if device == "cuda":
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            function()
        stop.record()
        torch.cuda.synchronize()
        return start.elapsed_time(stop) / 1000 / calls
    begin = time.process_time()
    for _ in range(calls):
        function()
    return (time.process_time() - begin) / calls


def median_seconds(functions, turns, calls, device):
    """Return the median seconds of a call of each function; they take turns."""
    for function in functions.values():
        function()
    times = {name: [] for name in functions}
    for _ in range(turns):
        for name, function in functions.items():
            if sum(times[name]) * calls < MOST_SECONDS:
                times[name].append(seconds(function, calls, device))
    return {name: statistics.median(t) for name, t in times.items()}


def rates(device):
    """Return FLOP per second of the faster float32 product, and exp2 per second."""
    a, b = (torch.randn(1024, WIDTH, device=device) for _ in range(2))
    x = torch.rand(512, 512, device=device)
    products = {"torch": lambda: torch.mm(a, b.T)}
    if device == "cpu":
        products["oneDNN"] = lambda: gemm._onednn(a, b)
    out = torch.empty_like(x)
    functions = {**products, "exp2": lambda: torch.exp2(x, out=out)}
    took = median_seconds(functions, 51, 10, device)
    flop = 2 * 1024**2 * WIDTH / min(took[name] for name in products)
    return flop, x.numel() / took["exp2"]


def time_row(n_rows, n_classes, device, speed):
    z, y = batch(n_rows, n_classes, device)
    functions = {
        name: functools.partial(forward_and_backward, loss, z, y)
        for name, loss in LOSSES.items()
        if fits(name, y)
    }
    took = median_seconds(functions, *TURNS[n_rows], device)
    flop, exp2 = speed
    floor = 4 * n_rows**2 * WIDTH / flop + n_rows**2 / exp2
    return took | {"floor": floor}


def time_cells(n_rows, n_classes, took):
    ours, floor = took["ours"], took["floor"]
    cells = [
        f"{took[name] * 1e3:.2f} ({took[name] / ours:.1f})" if name in took else "-"
        for name in LOSSES
    ]
    return [n_rows, n_classes, *cells, f"{floor * 1e3:.2f}", f"{floor / ours:.0%}"]


def plot(path, shapes, times):
    """Plot seconds over rows, for the first number of classes."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6, 4.5), layout="constrained")
    first = [
        (b, took) for (b, c), took in zip(shapes, times, strict=True) if c == CLASSES[0]
    ]
    for name in [*LOSSES, "floor"]:
        points = [(b, took[name]) for b, took in first if name in took]
        if points:
            ax.loglog(
                *zip(*points, strict=True), "--" if name == "floor" else "o-", label=name
            )
    ax.set(xlabel="rows in the batch", ylabel="seconds, forward and backward")
    ax.set_title(f"{CLASSES[0]} classes, D={WIDTH}, float32, β={BETA:g}, T={TEMPERATURE}")
    ax.legend()
    fig.savefig(path, dpi=120)


def memory_of(name, n_rows, n_classes, device):
    """Return the growth of the peak in MB; run in a separate process."""
    small = batch(256, 4, device)
    forward_and_backward(LOSSES[name], *small)  # load libraries, probe
    z, y = batch(n_rows, n_classes, device)
    return extra_memory(lambda: forward_and_backward(LOSSES[name], z, y), device)


def memory_row(n_rows, n_classes, device):
    cells = []
    for name in LOSSES:
        if not fits(name, batch(n_rows, n_classes, "cpu")[1]):
            cells.append("-")
            continue
        arguments = ("--device", device, "--memory-of", name, n_rows, n_classes)
        (memory,) = in_fresh_process(__file__, *arguments)
        cells.append(f"{memory:.0f}")
    return [n_rows, n_classes, *cells]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batches", type=int, nargs="*", default=[*BATCHES, LARGEST])
    parser.add_argument("--plot", metavar="PNG", help="also draw the times")
    parser.add_argument("--memory-of", nargs=3, metavar=("LOSS", "B", "C"))
    arguments = parser.parse_args()
    device = arguments.device
    torch.set_num_threads(1)
    if arguments.memory_of:
        name, n_rows, n_classes = arguments.memory_of
        print(memory_of(name, int(n_rows), int(n_classes), device))
        return
    if device == "cuda":
        LOSSES["ours"] = ContrastiveLoss(
            "hscl", beta=BETA, temperature=TEMPERATURE, kernel="triton"
        )
    shapes = [(b, c) for b in arguments.batches for c in CLASSES]
    print_times(shapes, device, arguments.plot)
    print("Extra memory, MB:\n")
    print_table(["B", "classes", *LOSSES], (memory_row(b, c, device) for b, c in shapes))


def print_times(shapes, device, picture):
    """Print times beside the machine's limits; plot them on request."""
    speed = rates(device)
    print(f"torch {torch.__version__}, {device}, D={WIDTH}, T={TEMPERATURE}, β={BETA:g},")
    print(f"float32, one thread of {os.cpu_count()}; fast GEMM: {gemm.uses_fast_gemm()}.")
    print(f"Product {speed[0] / 1e9:.0f} GFLOP/s, exp2 {speed[1] / 1e9:.1f} G/s; the floor")
    print("is 4 B² D FLOP and B² exp2 at these rates.\n")
    print("Forward and backward, ms (times ours):\n")
    times = [time_row(b, c, device, speed) for b, c in shapes]
    rows = (time_cells(*shape, took) for shape, took in zip(shapes, times, strict=True))
    print_table(["B", "classes", *LOSSES, "floor", "of the floor"], rows)
    if picture:
        plot(picture, shapes, times)


if __name__ == "__main__":
    main()
