"""Speed and memory of training compared with other training loops for the same network.

Prints Markdown. The network is 54-256-256-128 with ReLU and a head 128-128-64, the loss
H-SCL with β = 1 and T = 0.5, the data 50,000 rows in 7 classes of unequal size. Times
are those of one CPU thread (the process's own time, so that other work on the machine
matters less), on a GPU of the wall. The competitors take turns of one epoch each, and
the median is reported. Memory is the growth of the peak over what the process held
before, in one fresh process per figure.

The competitors: "plain", an index and a dense loss under autograd, written by hand as
in a tutorial; "pml", the same loop with pytorch-metric-learning's SupConLoss; "skorch",
a NeuralNet with its default DataLoader and callbacks on the plain loss; "CEBRA", its
scikit-learn estimator with the model offset1-model, which encodes three rows for each
row of a batch. Those that are not installed are left out.
"""

import argparse
import os

import numpy as np
import torch
from competitors import (
    BETA,
    COMPETITORS,
    ENCODER,
    HEAD,
    LR,
    TEMPERATURE,
    PlainLoss,
    competitor,
    is_installed,
)
from measure import (
    covertype_like,
    extra_memory,
    in_fresh_process,
    medians,
    now,
    print_table,
    take_turns,
)
from skorch.callbacks import Callback

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.runtime import matmul as gemm

N_ROWS, BATCHES = 50_000, (64, 128, 512, 2048)
TABLES = ("speed", "outside", "scaling")
PROFILED_STEPS = 50
# Rows, features, batch size.
SCALING = [(n_rows, 54, 512) for n_rows in (10**3, 10**4, 10**5, 10**6)]
SCALING += [(50_000, n_features, 512) for n_features in (10, 100, 1000)]
SCALING += [(100_000, 54, batch_size) for batch_size in (64, 128, 2048, 8192)]


class EpochClock(Callback):
    """Records the time of each epoch."""

    def __init__(self, device):
        self.device = device
        self.seconds = []

    def on_epoch_begin(self, net, **kwargs):
        self.begin = now(self.device)

    def on_epoch_end(self, net, **kwargs):
        self.seconds.append(now(self.device) - self.begin)


def embedder(batch_size, max_epochs, device="cpu"):
    return HSCLEmbedder(
        loss="hscl",
        encoder="mlp",
        hidden_layer_sizes=ENCODER[1:-1],
        n_components=ENCODER[-1],
        projection_dim=HEAD[-1],
        batch_size=batch_size,
        max_epochs=max_epochs,
        beta=BETA,
        temperature=TEMPERATURE,
        lr=LR,
        device=device,
        random_state=0,
        net_callbacks=[("clock", EpochClock(device))],
    )


def seconds_of_fit(X, y, batch_size, max_epochs, device):
    """Return the seconds of a whole fit, and of each of its epochs."""
    model = embedder(batch_size, max_epochs, device)
    begin = now(device)
    model.fit(X, y)
    took = now(device) - begin
    return took, dict(model.net_.callbacks_)["clock"].seconds


def check_same_loss():
    """Raise an error if the competitors do not minimise the same loss."""
    X, y = (torch.from_numpy(part) for part in covertype_like(256))
    ours = ContrastiveLoss("hscl", beta=BETA, temperature=TEMPERATURE)
    torch.testing.assert_close(PlainLoss()(X, y), ours(X, y), rtol=1e-5, atol=0.0)


def speed_row(batch_size, names, n_rows, n_turns, device):
    X, y = covertype_like(n_rows)
    functions = {
        "ours": lambda: np.mean(seconds_of_fit(X, y, batch_size, 2, device)[1]),
        **{name: competitor(name, X, y, batch_size, device) for name in names},
    }
    took = medians(take_turns(functions, n_turns), "ours")
    rates = {name: f"{n_rows / median / 1e3:.1f}" for name, (median, _) in took.items()}
    cells = [
        f"{rates[name]} ({took[name][1]:.2f})" if name in took else "-"
        for name in COMPETITORS
    ]
    return [batch_size, rates["ours"], *cells]


def outside_row(batch_size, n_rows, device):
    """Return the fraction of a fit of ten epochs that is spent outside of the epochs."""
    X, y = covertype_like(n_rows)
    took, epochs = seconds_of_fit(X, y, batch_size, 10, device)
    first = epochs[0] / np.median(epochs[1:])
    outside = took - sum(epochs)
    return [
        batch_size,
        f"{took:.2f}",
        f"{outside * 1e3:.0f}",
        f"{outside / took:.1%}",
        f"{first:.2f}",
    ]


def fit_once(n_rows, n_features, batch_size, device):
    """Return seconds and MB of a fit of one epoch; run in a separate process."""
    seconds_of_fit(*covertype_like(1000, n_features), 256, 1, device)  # load, probe
    X, y = covertype_like(n_rows, n_features)
    took = []
    memory = extra_memory(
        lambda: took.append(seconds_of_fit(X, y, batch_size, 1, device)[0]), device
    )
    return took[0], memory


def scaling_row(n_rows, n_features, batch_size, device):
    arguments = ("--device", device, "--one-fit", n_rows, n_features, batch_size)
    seconds, memory = in_fresh_process(__file__, *arguments)
    of_X = 4 * n_rows * n_features / 1e6
    rate = n_rows / seconds / 1e3
    cells = [f"{seconds:.2f}", f"{rate:.1f}", f"{of_X:.1f}", f"{memory:.0f}"]
    return [f"{n_rows:,}", n_features, batch_size, *cells]


def print_profile(batch_size, n_rows, device):
    """Print the time of each operator in a fit of some steps."""
    X, y = covertype_like(min(n_rows, PROFILED_STEPS * batch_size))
    seconds_of_fit(X, y, batch_size, 1, device)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        seconds_of_fit(X, y, batch_size, 1, device)
    key = f"self_{'device' if device == 'cuda' else 'cpu'}_time_total"
    table = profile.key_averages().table(
        sort_by=key, row_limit=25, max_name_column_width=40
    )
    print(
        f"{-(-len(X) // batch_size)} steps at B={batch_size}:\n\n```\n{table}\n```\n",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batches", type=int, nargs="*", default=BATCHES)
    parser.add_argument("--rows", type=int, default=N_ROWS)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--against", nargs="*", choices=COMPETITORS, default=COMPETITORS)
    parser.add_argument("--tables", nargs="*", choices=TABLES, default=TABLES)
    parser.add_argument("--profile", action="store_true", help="only show where time goes")
    parser.add_argument("--one-fit", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = options.device
    torch.set_num_threads(1)
    if options.one_fit:
        print(*fit_once(*options.one_fit, device))
        return
    if options.profile:
        for batch_size in options.batches:
            print_profile(batch_size, options.rows, device)
        return
    check_same_loss()
    print_tables(options, device)


def print_tables(options, device):
    names = [name for name in options.against if is_installed(name)]
    print(f"torch {torch.__version__}, {device}, {options.rows:,} rows of 54 features,")
    print(f"one thread of {os.cpu_count()}; fast GEMM: {gemm.uses_fast_gemm()}.\n")
    if "speed" in options.tables:
        print("Thousand rows per second (seconds over ours, higher is slower):\n")
        rows = (
            speed_row(b, names, options.rows, options.turns, device)
            for b in options.batches
        )
        print_table(["B", "ours", *COMPETITORS], rows)
    if "outside" in options.tables:
        print("A fit of 10 epochs; what is outside of them; the first over the others:\n")
        rows = (outside_row(b, options.rows, device) for b in options.batches)
        print_table(["B", "fit, s", "outside, ms", "of the fit", "first epoch"], rows)
    if "scaling" in options.tables:
        print("A fit of one epoch; memory beyond that of X and y:\n")
        header = ["rows", "features", "B", "seconds", "1000 rows/s", "X, MB", "extra, MB"]
        print_table(header, (scaling_row(*shape, device) for shape in SCALING))


if __name__ == "__main__":
    main()
