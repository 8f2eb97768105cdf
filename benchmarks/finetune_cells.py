"""Cells of the benchmarks of fine-tuning: draw, train by a method, embed, score."""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import attempt, read_cells, write_cells
from finetune_report import Page, report
from sklearn.linear_model import LogisticRegression

from sklearn_hscl.metrics import map_at_r

Samples = Any  # a list of texts, or an array of images
Few = tuple[Samples, np.ndarray, Samples, np.ndarray]
Embed = Callable[[Samples], np.ndarray]
Method = Callable[[str, Samples, np.ndarray, int], Embed]
"""Trains on samples and labels by a seed, from the weights of a model."""
STRENGTHS = (1.0, 10.0)  # C of the logistic regression


@dataclass(frozen=True)
class FineTuning:
    """A benchmark of methods that train on few samples a class.

    Attributes
    ----------
    script : str
        File of the benchmark, which runs each cell in a process of its own.
    cells : Path
        Where cells are stored; those already there are skipped.
    methods : dict of callable
        The methods by name.
    draw : callable
        Maps a set, samples a class and seed to training and test samples with labels.
    defaults : dict
        Values of ``--model``, ``--sets``, ``--shots`` and ``--seeds``.
    page : Page
        Words of the report.
    """

    script: str
    cells: Path
    methods: Mapping[str, Method]
    draw: Callable[[str, int, int], Few]
    defaults: Mapping[str, Any]
    page: Page

    def main(self, description: str) -> None:
        """Run missing cells, or print the report."""
        options = self._parser(description).parse_args()
        if options.report:
            print(report(read_cells(self.cells), self.page))
        elif options.one:
            self._run_one(options)
        else:
            self._run(options)

    def _parser(self, description: str) -> argparse.ArgumentParser:
        known = self.defaults
        parser = argparse.ArgumentParser(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        add = parser.add_argument
        add("--model", default=known["model"], help="folder or name of the encoder")
        add("--methods", nargs="+", choices=self.methods, default=list(self.methods))
        add("--sets", nargs="+", default=known["sets"])
        add("--shots", nargs="+", type=int, default=known["shots"], help="a class; 0: all")
        add("--seeds", nargs="+", type=int, default=known["seeds"])
        add("--limit", type=int, default=3600, help="CPU seconds for a cell")
        add("--one", action="store_true", help="run one cell, in this process")
        add("--report", action="store_true")
        return parser

    def _run(self, options: argparse.Namespace) -> None:
        """Run each missing cell in its own process, for its memory and random state."""
        stored = read_cells(self.cells)
        done = {(c["method"], c["set"], c["shots"], c["seed"]) for c in stored}
        for seed in options.seeds:
            for name in options.sets:
                for shots in options.shots:
                    for method in options.methods:
                        if (method, name, shots, seed) in done:
                            continue
                        command = [sys.executable, self.script, "--one"]
                        command += ["--model", options.model, "--limit", str(options.limit)]
                        command += ["--methods", method, "--sets", name]
                        command += ["--shots", str(shots), "--seeds", str(seed)]
                        subprocess.run(command, check=True)

    def _run_one(self, options: argparse.Namespace) -> None:
        """Run one cell and store it."""
        torch.set_num_threads(1)
        cell = {
            "method": options.methods[0],
            "set": options.sets[0],
            "shots": options.shots[0],
            "seed": options.seeds[0],
        }
        few = self.draw(cell["set"], cell["shots"], cell["seed"])
        method, seed = self.methods[cell["method"]], cell["seed"]
        cell |= attempt(lambda: _scores(method, options.model, few, seed), options.limit)
        write_cells(self.cells, [cell], "a")
        print(cell, flush=True)


def _scores(method: Method, model: str, few: Few, seed: int) -> dict[str, object]:
    """Train by one method on one draw, in this process."""
    train, y, test, truth = few
    start = time.process_time()
    embed = method(model, train, y, seed)
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


def readouts(
    train: np.ndarray, y: np.ndarray, test: np.ndarray, truth: np.ndarray
) -> dict[str, float]:
    """Return the scores of an embedding, in percent."""
    scores = {
        f"lr{c:g}": LogisticRegression(C=c, max_iter=2000).fit(train, y).score(test, truth)
        for c in STRENGTHS
    }
    train, test = _unit(train), _unit(test)
    classes = np.unique(y)
    means = _unit(np.stack([train[y == label].mean(0) for label in classes]))
    scores["means"] = np.mean(classes[(test @ means.T).argmax(1)] == truth)
    scores["map"] = map_at_r(train, y, X_query=test, y_query=truth)
    return {name: round(100 * float(score), 2) for name, score in scores.items()}


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)
