"""Tables of the graph benchmark."""

import platform
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

Cell = dict[str, Any]
READOUTS = {"svm": "linear SVM", "logistic": "logistic regression"}

NOTES = """\
- As drawn: the network with its random weights, and normalization by the training
  graphs. Trained networks are not ahead of it on sets of this size.
- Whether labelled graphs get views, the dropout, the rate and the number of steps were
  chosen on 1,000 training and 1,500 other graphs of NCI1, in three draws; `--full`
  includes NCI1. The four views, and the normalization of the output, were first tried on
  these folds without labels, where they did not differ beyond chance, as on NCI1.
- The graph tables of the papers of H-UCL and H-SCL were not at hand, so that there are
  no numbers of theirs to compare with. The public code of H-UCL trains another loss, of
  nodes against graphs, and reads out with an SVM with RBF kernel.
- 54 minutes of one core under other load, of which 34 minutes were fits.
"""


def report(cells: list[Cell], size: str, cs: tuple[float, ...]) -> str:
    """Return the tables as markdown, of the cells of a size, "cpu" or "full"."""
    cells = [cell for cell in cells if cell["size"] == size]
    if not cells:
        return f"No cells of the size {size!r} yet."
    sets = list(dict.fromkeys(cell["set"] for cell in cells))
    seeds = sorted({cell["seed"] for cell in cells})
    command = "python benchmarks/papers/graphs.py" + " --full" * (size == "full")
    lines = [
        "# Graphs",
        "",
        f"`{command}`, seeds {seeds}; "
        f"{_epochs(cells, sets)}. Ten test folds as stored beside the data. Torch "
        f"{torch.__version__}, {_processor()}, one thread a process.",
        "",
        f"C of the readouts: one of {', '.join(f'{c:g}' for c in cs)}, chosen in the "
        "training graphs. Accuracy in %, mean ± standard deviation over folds.",
    ]
    for readout, title in READOUTS.items():
        lines += ["", f"## {title}", ""]
        lines += _table(cells, sets, readout)
    lines += ["", "## H-SCL minus SCL, H-UCL minus UCL", "", *_differences(cells, sets)]
    return "\n".join([*lines, "", NOTES.rstrip()])


def _epochs(cells: list[Cell], sets: list[str]) -> str:
    """Return how many epochs each set has."""
    epochs = {cell["set"]: cell["epochs"] for cell in cells}
    return ", ".join(f"{name} {epochs[name]} epochs" for name in sets)


def _processor() -> str:
    """Return family and model of the processor."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    found = dict(
        (part.strip() for part in line.split(":", 1))
        for line in text.split("\n\n")[0].splitlines()
        if ":" in line
    )
    if not {"cpu family", "model"} <= found.keys():
        return platform.machine()
    maker = "AMD EPYC" if found.get("vendor_id") == "AuthenticAMD" else "processor"
    name = f"{maker} family {found['cpu family']} model {found['model']}"
    return f"{name} (Zen 3)" if name.endswith("family 25 model 1") else name


def _table(cells: list[Cell], sets: list[str], readout: str) -> list[str]:
    header = ["model", *sets, "mean", "seconds of a fit"]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for name, found in _rows(cells).items():
        if not any(readout in cell for cell in found):
            continue
        scores = [_by_fold(found, one, readout) for one in sets]
        shown = [
            f"{100 * s.mean():.1f} ± {100 * s.std():.1f}" if len(s) else "" for s in scores
        ]
        means = [s.mean() for s in scores if len(s)]
        mean = f"{100 * np.mean(means):.1f}" if len(means) == len(sets) else ""
        seconds = [cell["fit_seconds"] for cell in found if "fit_seconds" in cell]
        cost = f"{np.mean(seconds):.1f}" if seconds else ""
        lines.append(f"| {' | '.join([name, *shown, mean, cost])} |")
    return lines


def _rows(cells: list[Cell]) -> dict[str, list[Cell]]:
    """Return the test cells of each model and setting, and of the chosen settings."""
    tested = [cell for cell in cells if cell["stage"] == "test"]
    rows: dict[str, list[Cell]] = {}
    for cell in tested:
        rows.setdefault(_name(cell), []).append(cell)
    for model in ("UCL", "H-UCL", "SCL", "H-SCL"):
        n_settings = len({_name(cell) for cell in tested if cell["model"] == model})
        if n_settings > 1:
            rows[f"**{model}, chosen**"] = chosen(cells, model)
    return rows


def _name(cell: Cell) -> str:
    name = cell["model"]
    if name.startswith("H-"):
        name += f", beta = {cell['beta']:g}"
    return name + (f", T = {cell['temperature']:g}" if "CL" in name else "")


def chosen(cells: list[Cell], model: str) -> list[Cell]:
    """Return the test cells of the settings that are best on the validation folds."""
    found = [cell for cell in cells if cell["model"] == model]
    scores: dict[tuple[Any, ...], dict[tuple[float, float], Cell]] = {}
    for cell in found:
        if cell["stage"] == "validation":
            place = (cell["set"], cell["fold"], cell["seed"])
            scores.setdefault(place, {})[cell["beta"], cell["temperature"]] = cell
    best = []
    for place, by_setting in scores.items():
        setting = max(by_setting, key=lambda one: float(by_setting[one]["logistic"]))
        best += [
            cell
            for cell in found
            if cell["stage"] == "test"
            and (cell["set"], cell["fold"], cell["seed"]) == place
            and (cell["beta"], cell["temperature"]) == setting
        ]
    return best


def _by_fold(cells: list[Cell], name: str, readout: str) -> np.ndarray:
    """Return the accuracy of each fold of a set, as mean over seeds."""
    by_fold: dict[int, list[float]] = {}
    for cell in cells:
        if cell["set"] == name and readout in cell:
            by_fold.setdefault(cell["fold"], []).append(cell[readout])
    return np.array([np.mean(by_fold[fold]) for fold in sorted(by_fold)])


# Differences ---------------------------------------------------------------------------


def _differences(cells: list[Cell], sets: list[str]) -> list[str]:
    """Return mean differences over sets and folds, with 95 % intervals."""
    lines = [
        "Mean over sets of paired differences in points, with 95 % intervals of the "
        "corrected resampled t-test (Nadeau and Bengio), as folds share training graphs.",
        "",
        f"| difference | {' | '.join(READOUTS.values())} |",
        "|---|---|---|",
    ]
    rows = _rows(cells)
    for hard, plain in (("H-SCL", "SCL"), ("H-UCL", "UCL")):
        reference = next(
            (rows[name] for name in (f"**{plain}, chosen**",) if name in rows),
            [c for c in cells if c["model"] == plain and c["stage"] == "test"],
        )
        for name, found in rows.items():
            if name.strip("*").startswith(hard):
                shown = [_interval(found, reference, sets, r) for r in READOUTS]
                lines.append(f"| {name.strip('*')} minus {plain} | {' | '.join(shown)} |")
    return lines


def _interval(
    found: list[Cell], reference: list[Cell], sets: list[str], readout: str
) -> str:
    means, variances, n_folds = [], [], []
    for name in sets:
        ours, theirs = (_by_fold(part, name, readout) for part in (found, reference))
        if len(ours) != len(theirs) or len(ours) < 2:
            continue
        difference = 100 * (ours - theirs)
        cell = next(cell for cell in found if cell["set"] == name)
        fraction = cell["n_test"] / cell["n_train"]
        means.append(difference.mean())
        variances.append((1 / len(difference) + fraction) * difference.var(ddof=1))
        n_folds.append(len(difference))
    if not means:
        return ""
    error = sqrt(sum(variances)) / len(means)
    reach = student.ppf(0.975, sum(n_folds) - len(n_folds)) * error
    mean = float(np.mean(means))
    return f"{mean:+.1f} [{mean - reach:+.1f}, {mean + reach:+.1f}]"
