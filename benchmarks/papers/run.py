"""One command for each paper: its number, ours, and how they differ.

    python benchmarks/papers/run.py hscl        # or hcl, supcon, sscl, clce
    python benchmarks/papers/run.py collapse
    python benchmarks/papers/run.py graphs
    python benchmarks/papers/run.py clce --full                 # on a GPU
    python benchmarks/papers/run.py clce --epochs 2 --seeds 0   # proves the path

The papers train large networks for days. The CPU size takes at most 30 minutes on two
cores: 5,000 images of CIFAR-10, the ``"conv"`` encoder, 5 epochs, three seeds. What can be
compared is the gain of a paper's loss over its baseline, both trained alike, with the
settings that the paper or its code names and none chosen here. Its interval is that of
Student's t over the differences of pairs of runs with the same seed, at 95 %.

Results go to results/papers_NAME.json, from which papers_page.py makes a page of the docs.
"""

import argparse
import importlib
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import collapse
import numpy as np
from image_data import load
from images import RESULTS, SETTINGS, Setting, scores, train
from scipy.stats import t as student

SEEDS = [0, 1, 2]


@dataclass(frozen=True)
class Paper:
    """A loss and its baseline, and the numbers of the paper in % (None: not known)."""

    title: str
    arxiv: str
    method: tuple[str, dict[str, Any]]
    baseline: tuple[str, dict[str, Any]]
    numbers: tuple[float | None, float | None] = (None, None)
    gain: float | None = None
    where: str = "not known"
    full: str = "cifar10"
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def theirs(self) -> float | None:
        """The gain of the paper, in points."""
        method, baseline = self.numbers
        if method is None or baseline is None:
            return self.gain
        return method - baseline


TWO_VIEWS = {"n_views": 2, "ce_weight": 0.0, "temperature": 0.5}
CROSS_ENTROPY = {"loss": "scl", "ce_weight": 1.0}
PAPERS = {
    "hscl": Paper(
        "Supervised contrastive learning with hard negative samples",
        "2209.00078",
        ("H-SCL", {"loss": "hscl", "preset": "official", "beta": 1.0}),
        ("SCL", {"loss": "scl", "preset": "official"}),
        (73.0, 70.0),
        where="CIFAR-100, ResNet-50, linear probe; approximate, from the author's page",
        full="cifar100",
        params=TWO_VIEWS,
    ),
    "hcl": Paper(
        "Contrastive learning with hard negative samples",
        "2010.04592",
        ("H-UCL", {"loss": "hucl", "preset": "official", "beta": 1.0}),
        ("UCL", {"loss": "ucl"}),
        (87.44, 80.15),
        where="STL10, ResNet-50, linear probe, from the authors' repository",
        params=TWO_VIEWS,
    ),
    "supcon": Paper(
        "Supervised contrastive learning",
        "2004.11362",
        ("SupCon", {"loss": "supcon", "ce_weight": 0.0, "temperature": 0.1}),
        ("cross-entropy", CROSS_ENTROPY),
        (96.0, 95.0),
        where="CIFAR-10, ResNet-50, linear probe, from the authors' repository",
        params={"n_views": 2},
    ),
    "sscl": Paper(
        "Synthetic hard negative samples for contrastive learning",
        "2304.02971",
        ("SSCL", {"loss": "sscl", "preset": "official", "beta": 1.0}),
        ("UCL", {"loss": "ucl"}),
        params=TWO_VIEWS,
    ),
    "clce": Paper(
        "CLCE: an approach to refining cross-entropy and contrastive learning",
        "2402.14551",
        ("CLCE", {"loss": "schane", "preset": "official", "ce_weight": 0.5}),
        ("cross-entropy", CROSS_ENTROPY),
        gain=3.52,
        where="few-shot learning, BEiT-3, the largest gain of 12 sets, from the abstract",
        params={"temperature": 0.5},
    ),
}
NAMES = (*PAPERS, "collapse", "graphs")


def summary(method: list[float], baseline: list[float]) -> dict[str, Any]:
    """Return the gain in points, and half the width of its interval."""
    gains = 100 * (np.array(method) - np.array(baseline))
    half = None
    if len(gains) > 1:
        quantile = student.ppf(0.975, len(gains) - 1)
        half = float(quantile * gains.std(ddof=1) / len(gains) ** 0.5)
    return {"gain": float(gains.mean()), "half_interval": half}


def run_images(
    name: str, setting: Setting, seeds: list[int], command: str
) -> dict[str, Any]:
    """Train a paper's loss and its baseline; return all numbers."""
    paper = PAPERS[name]
    data = load(setting.dataset, setting.n_train, setting.n_test)
    start = time.perf_counter()
    found: dict[str, list[dict[str, float]]] = {}
    for model, params in (paper.method, paper.baseline):
        for seed in seeds:
            without_labels = params["loss"] in ("ucl", "hucl", "sscl")
            given = data._replace(y_train=None) if without_labels else data
            labelled, record = train(setting, paper.params | params, given, seed)
            labelled = (labelled[0], data.y_train, *labelled[2:])
            cell = scores(labelled) | {"seconds": round(record["seconds"], 1)}
            found.setdefault(model, []).append(cell)
            print(model, seed, cell, flush=True)
    pairs = [[cell["linear"] for cell in cells] for cells in found.values()]
    return {
        "paper": name,
        "command": command,
        "data": f"{setting.dataset.split('_')[0]}, {len(data.y_train):,} images",
        "epochs": setting.epochs,
        "seeds": seeds,
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "scores": found,
    } | summary(*pairs)


def of_collapse(path: Path, command: str) -> dict[str, Any]:
    """Return the numbers of the experiment of collapse, from random weights."""
    runs = [run for run in json.loads(path.read_text()) if run["start"] == "random"]
    found = {
        loss: [
            {"linear": run["curve"][-1]["accuracy"], "seconds": run["seconds"]}
            for run in sorted(runs, key=lambda run: run["seed"])
            if run["loss"] == loss
        ]
        for loss in ("H-SCL, β = 5", "SCL")
    }
    pairs = [[cell["linear"] for cell in cells] for cells in found.values()]
    return {
        "paper": "collapse",
        "command": command,
        "data": f"cifar100, {runs[0]['n_train']:,} images",
        "epochs": runs[0]["epochs"],
        "seeds": sorted({run["seed"] for run in runs}),
        "minutes": round(sum(run["seconds"] for run in runs) / 60, 1),
        "scores": found,
    } | summary(*pairs)


def printed(result: dict[str, Any], theirs: float | None) -> str:
    """Return the paper's gain, ours and the difference, in one line each."""
    half = result["half_interval"]
    interval = "" if half is None else f" ± {half:.1f}"
    lines = [
        f"Paper: {'not known' if theirs is None else f'{theirs:+.1f} points'}",
        f"Ours: {result['gain']:+.1f}{interval} points",
    ]
    if theirs is not None:
        lines.append(f"Difference: {result['gain'] - theirs:+.1f}{interval} points")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run one paper."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paper", choices=NAMES)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--n-train", type=int)
    parser.add_argument("--n-test", type=int, help="the first so many test images")
    parser.add_argument("--out", type=Path, help="folder of the results", default=RESULTS)
    options = parser.parse_args(argv)
    full = ["--full"] if options.full else []
    if options.paper == "graphs":
        importlib.import_module("graphs").main(full)
        return
    given = {name: getattr(options, name) for name in ("epochs", "n_train", "n_test")}
    given = {name: value for name, value in given.items() if value}
    extra = [f"--{name.replace('_', '-')} {value}" for name, value in given.items()]
    if options.seeds != SEEDS:
        extra.append(f"--seeds {' '.join(map(str, options.seeds))}")
    command = " ".join(["python benchmarks/papers/run.py", options.paper, *full, *extra])
    if options.paper == "collapse":
        collapse.main([*full, "--out", str(options.out)])
        path = options.out / f"collapse{'_full' if full else ''}.json"
        result, theirs = of_collapse(path, command), 58.39 - 10.38
    else:
        paper = PAPERS[options.paper]
        setting = SETTINGS[paper.full if full else "cpu_cifar10"]
        if not full:  # float32, as not every processor has arithmetic in bf16
            params = setting.params | {"precision": "float32"}
            setting = replace(setting, epochs=5, params=params)
        setting = replace(setting, **given)
        result = run_images(options.paper, setting, options.seeds, command)
        theirs = paper.theirs
    suffix = "_full" if full else ""
    path = options.out / f"papers_{options.paper}{suffix}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(printed(result, theirs))


if __name__ == "__main__":
    main()
