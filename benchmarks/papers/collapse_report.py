"""Table and figure of the benchmark of collapse."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

from sklearn_hscl.plotting.axes import BLUE, GREY, VERMILION

Runs = list[dict[str, Any]]
COLORS = {"SCL": GREY, "H-SCL, β = 2": BLUE, "H-SCL, β = 5": VERMILION}
LINES = {"random": "-", "collapsed": "--"}
PANELS = {
    "zero_sum": "Zero-sum error",
    "unit_norm": "Unit-norm error",
    "equal_inner_product": "Equal-inner-product error",
    "within_class": "Within-class spread",
    "accuracy": "Test accuracy, class means",
}
# Smallest part of the largest singular value at which a dimension counts as used.
USED = 0.1
# At the end of training from random weights: equal-inner-product error, used dimensions
# of 99, accuracy in % by class means. From the authors' notebook of CIFAR-100, one seed.
PAPER = {
    "SCL": (0.24, 10, 10.38),
    "H-SCL, β = 2": (0.04, 46, 31.86),
    "H-SCL, β = 5": (0.0, 98, 58.39),
}


def report(runs: Runs, picture: Path) -> str:
    """Return the table as markdown; draw the figure.

    Parameters
    ----------
    runs : list of dict
        Settings, and measures along training.
    picture : Path
        File of the figure.
    """
    draw(runs, picture)
    first = runs[0]
    seeds = sorted({each["seed"] for each in runs})
    full = " --full" if picture.stem.endswith("_full") else ""
    header = [
        "start", "loss", *PANELS.values(), "accuracy on training images",
        "used dimensions of 99", "seconds",
    ]  # fmt: skip
    lines = [
        "# Collapse: SCL and H-SCL after arXiv 2311.05139",
        "",
        f"`OMP_NUM_THREADS=1 python benchmarks/papers/collapse.py{full}`: CIFAR-100 (lossy "
        f"copies, WebP of quality 92), {first['n_train']:,} training images, "
        f"{first['epochs']} epochs, {first['n_sampled']} negatives drawn for each "
        f"positive, seeds {', '.join(map(str, seeds))}. Processor: AMD EPYC family 25 "
        "model 1 (Zen 3).",
        "",
        "State at the end of training, mean ± standard deviation over seeds. Errors are 0 "
        "under neural collapse, and are those of class means of the training images. "
        "Accuracies are those of the class mean with the largest inner product, as in the "
        f"authors' code. A dimension is used if its singular value is at least {USED} of "
        "the largest one; those of the covariance of class means, as in their notebook. "
        "This limit is chosen here: the paper's dimensions are read off a plot.",
        "",
        f"| {' | '.join(header)} |",
        "|" + "---|" * len(header),
        *(row(start, loss, runs) for start in LINES for loss in COLORS),
        "",
        *of_paper(runs),
        "",
        f"![Along training]({picture.name})",
        "",
        "Lines: mean over seeds. Solid: from random weights. Dashed: from a network that "
        "was trained to collapse. Last panel: singular values at the end of training.",
    ]
    return "\n".join(lines) + "\n"


def of(runs: Runs, start: str, loss: str) -> Runs:
    """Return the runs of one line of the figure."""
    return [run for run in runs if (run["start"], run["loss"]) == (start, loss)]


def used(run: dict[str, Any]) -> int:
    """Return how many dimensions the class means use at the end."""
    return int((np.array(run["curve"][-1]["singular_values"]) >= np.log(USED)).sum())


def row(start: str, loss: str, runs: Runs) -> str:
    """Return a row of the table."""
    found = of(runs, start, loss)
    ends = [run["curve"][-1] for run in found]
    columns = [start, loss]
    columns += [shown([end[name] for end in ends], 3) for name in PANELS]
    columns.append(shown([end["train_accuracy"] for end in ends], 3))
    columns.append(shown([used(run) for run in found], 0))
    columns.append(shown([run["seconds"] for run in found], 0))
    return f"| {' | '.join(columns)} |"


def of_paper(runs: Runs) -> list[str]:
    """Return a table that compares the runs from random weights with the paper's."""
    header = ["from random weights", "equal-inner-product error", "used dimensions", ""]
    header[-1] = "accuracy in %"
    lines = [
        "Paper (CIFAR-100 whole, ResNet-50, 400 epochs, one seed, read off the authors' "
        "notebook) and ours. The sizes differ, so the order is comparable, not the values:",
        "",
        f"| {' | '.join(header)} |",
        "|" + "---|" * len(header),
    ]
    for loss, (error, dimensions, accuracy) in PAPER.items():
        found = of(runs, "random", loss)
        ends = [run["curve"][-1] for run in found]
        ours = (
            shown([end["equal_inner_product"] for end in ends], 2),
            shown([used(run) for run in found], 0),
            shown([100 * end["accuracy"] for end in ends], 1),
        )
        theirs = f"{error:.2f}", f"{dimensions}", f"{accuracy:.1f}"
        cells = [f"{p} / {o}" for p, o in zip(theirs, ours, strict=True)]
        lines.append(f"| {loss} | {' | '.join(cells)} |")
    return lines


def shown(values: list[float], digits: int) -> str:
    """Return mean and standard deviation as text."""
    if not values:
        return "–"
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def draw(runs: Runs, path: Path) -> None:
    """Draw all measures along training, and the singular values at its end."""
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.5), layout="constrained")
    for start, line in LINES.items():
        for loss, color in COLORS.items():
            found = of(runs, start, loss)
            if not found:
                continue
            style = {"color": color, "ls": line, "label": f"{loss}, {start} start"}
            epochs = [state["epoch"] for state in found[0]["curve"]]
            for ax, name in zip(axes.flat, PANELS, strict=False):
                curves = [[state[name] for state in run["curve"]] for run in found]
                ax.plot(epochs, np.mean(curves, 0), **style)
            ends = [run["curve"][-1]["singular_values"] for run in found]
            axes.flat[-1].plot(range(1, len(ends[0]) + 1), np.mean(ends, 0), **style)
    for ax, title in zip(axes.flat, PANELS.values(), strict=False):
        ax.set(xlabel="Epoch", ylabel=title, ylim=(0, None))
    last = axes.flat[-1]
    last.set(xlabel="Dimension", ylabel="log(σ_k / σ_1), class means", ylim=(-8, 0.2))
    axes.flat[0].legend(fontsize=8)
    figure.savefig(path, dpi=90)
    plt.close(figure)
