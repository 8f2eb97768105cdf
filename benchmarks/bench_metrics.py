"""Time and memory of the metrics.

Prints Markdown. Rows are Gaussian around the centres of balanced classes, 128 numbers in
float32. Each figure comes from a fresh process: seconds are its own CPU time over all
threads (so that other work on the machine matters less) and those of the wall; memory is
the growth of the peak over what was held before, X among it.

Measures that compare pairs of rows are asked with a draw of queries, those that are
linear in the rows with all of them. The calculator is pytorch-metric-learning's with its
default search, faiss, where both are installed, by `k="max_bin_count"`: its own default
keeps all pairs. It keeps the neighbours of all queries.
"""

import argparse
import time
from functools import partial

import numpy as np
import torch
from measure import around_centres, extra_memory, in_fresh_process, print_table

from sklearn_hscl import metrics
from sklearn_hscl.runtime import matmul as gemm

N_COLUMNS = 128
N_QUERIES = 2_000
HEADER = ["measure", "classes", "CPU s", "wall s", "MB"]
PAIRWISE = {
    "recall_at_k, k=1": partial(metrics.recall_at_k, k=1),
    "recall_at_k, k=100": partial(metrics.recall_at_k, k=100),
    "precision_at_k, k=100": partial(metrics.precision_at_k, k=100),
    "r_precision": metrics.r_precision,
    "map_at_r": metrics.map_at_r,
    "knn_accuracy, 200 neighbours": metrics.knn_accuracy,
    "uniformity": lambda X, y, **settings: metrics.uniformity(X, **settings),
}
LINEAR = {
    "nearest_class_mean_accuracy": metrics.nearest_class_mean_accuracy,
    "cosine_silhouette": metrics.cosine_silhouette,
    "alignment": metrics.alignment,
    "effective_rank": lambda X, y: metrics.effective_rank(X),
    "zero_sum_error": metrics.zero_sum_error,
    "unit_norm_error": metrics.unit_norm_error,
    "equal_inner_product_error": metrics.equal_inner_product_error,
    "within_class_spread": metrics.within_class_spread,
    "singular_value_decay": metrics.singular_value_decay,
}


def linear_readout(X, y):
    """Fit a linear probe on all rows except 10,000, and score it on those."""
    return metrics.linear_readout_accuracy(X[10_000:], y[10_000:], X[:10_000], y[:10_000])


def calculator(X, y, n_queries=None):
    """Return MAP@R by pytorch-metric-learning."""
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    name = "mean_average_precision_at_r"
    calculate = AccuracyCalculator(
        include=(name,), k="max_bin_count", device=torch.device("cpu")
    )
    X = X / np.linalg.norm(X, axis=1, keepdims=True)
    if n_queries is None:
        return calculate.get_accuracy(X, y)[name]
    drawn = slice(n_queries)  # rows are in no order
    return calculate.get_accuracy(X[drawn], y[drawn], X, y, ref_includes_query=True)[name]


OTHERS = {
    "linear_readout_accuracy": linear_readout,
    "map_at_r": metrics.map_at_r,
    "calculator": calculator,
}


def embedding(n_rows, n_classes):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(n_classes, N_COLUMNS)).astype(np.float32)
    y = rng.permutation(np.arange(n_rows) % n_classes)
    return around_centres(rng, centres, y), y


def measured(function, n_rows, n_classes):
    """Return CPU seconds, wall seconds and MB of one call in a separate process."""
    X, y = embedding(n_rows, n_classes)
    gemm.uses_fast_gemm()
    small = slice(0, min(n_rows, 4 * n_classes + 1000))
    metrics.map_at_r(X[small], y[small])  # loads what is loaded once
    seconds = []

    def timed():
        wall, own = time.perf_counter(), time.process_time()
        function(X, y)
        seconds.extend((time.process_time() - own, time.perf_counter() - wall))

    megabytes = extra_memory(timed)
    return [*seconds, megabytes]


def row(table, name, n_rows, n_classes, n_queries=0):
    try:
        own, wall, megabytes = in_fresh_process(
            __file__, "--one", table, name, n_rows, n_classes, n_queries
        )
    except Exception as error:
        stderr = getattr(error, "stderr", None) or str(error)
        return [name, n_classes, stderr.strip().splitlines()[-1][:60], "", ""]
    return [name, n_classes, f"{own:.1f}", f"{wall:.1f}", f"{megabytes:.0f}"]


def one(table, name, n_rows, n_classes, n_queries):
    functions = {"pairwise": PAIRWISE, "linear": LINEAR, "others": OTHERS}[table]
    function = functions[name]
    if int(n_queries):
        function = partial(function, n_queries=int(n_queries))
    print(*measured(function, int(n_rows), int(n_classes)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--compared-rows", type=int, default=100_000)
    parser.add_argument("--all-queries", action="store_true", help="recall@100 of all rows")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(*options.one)
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads,", end=" ")
    print(f"fast GEMM: {gemm.uses_fast_gemm()}.\n")
    if options.all_queries:
        print(f"{options.rows:,} rows of 128 numbers, all of them queries:\n")
        print_table(HEADER, [row("pairwise", "recall_at_k, k=100", options.rows, 1000)])
        return
    print_measures(options.rows)
    print_comparison(options.compared_rows)


def print_measures(n_rows):
    print(f"{n_rows:,} rows of 128 numbers, all of them:\n")
    rows = [row("linear", name, n_rows, 1000) for name in LINEAR]
    rows.append(row("others", "linear_readout_accuracy", n_rows, 10))
    print_table(HEADER, rows)
    print(f"{n_rows:,} rows of 128 numbers, {N_QUERIES:,} queries:\n")
    print_table(
        HEADER, (row("pairwise", name, n_rows, 1000, N_QUERIES) for name in PAIRWISE)
    )
    print(f"{n_rows:,} rows of 128 numbers, 1,000 queries, few large classes:\n")
    print_table(HEADER, [row("pairwise", "map_at_r", n_rows, 10, 1000)])


def print_comparison(n_rows):
    """Print the comparison of MAP@R with the calculator."""
    print(f"{n_rows:,} rows of 128 numbers, all of them queries:\n")
    names = ("map_at_r", "calculator", "map_at_r", "calculator")  # quiet hours differ
    print_table(HEADER, [row("others", name, n_rows, 1000) for name in names])
    print(f"{n_rows:,} rows of 128 numbers, {N_QUERIES:,} queries, few large classes:\n")
    print_table(HEADER, [row("others", name, n_rows, 10, N_QUERIES) for name in names])


if __name__ == "__main__":
    main()
