"""Tables and figures of the theory benchmark."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

from sklearn_hscl.plotting.axes import BLUE, VERMILION

NAMES = {"hucl": "H-UCL", "hscl": "H-SCL", "ucl": "UCL", "scl": "SCL"}
COLORS = {"hucl": VERMILION, "hscl": BLUE, "ucl": VERMILION, "scl": BLUE}
LINES = {"hucl": "-", "hscl": "-", "ucl": "--", "scl": "--"}
KINDS = {"training": "-", "held-out": ":"}
Cells = list[dict[str, Any]]


def report(cells: Cells, betas: tuple[float, ...], path: Path) -> str:
    """Return the tables as markdown; draw the figures beside `path`.

    Parameters
    ----------
    cells : list of dict
        Results of the cells.
    betas : tuple of float
        Strengths of the tilt after training.
    path : Path
        File of the cells.
    """
    if not cells:
        return "No cells yet."
    draw_epochs(cells, path.with_suffix(".png"))
    draw_betas(cells, betas, path.with_name(f"{path.stem}_beta.png"))
    return "\n\n".join(
        [
            title(cells),
            "## Assumption 1 and the inequality along training, beta 1",
            epochs_table(cells),
            f"![Losses and share of anchors along training]({path.stem}.png)",
            "## After training, along beta",
            betas_table(cells, betas),
            f"![Gaps along beta]({path.stem}_beta.png)",
        ]
    )


def title(cells: Cells) -> str:
    """Return the head of the report."""
    seeds = sorted({cell["seed"] for cell in cells})
    n_epochs = len(cells[0]["epochs"]["gap"][0]) - 1
    seconds = sum(cell["seconds"] for cell in cells) / 2  # two cells of one training
    sizes = {c["dataset"]: (c["n_train"], c["n_classes"]) for c in cells}
    described = "; ".join(
        f"{name} {n_train:,} rows, {n_classes} classes"
        for name, (n_train, n_classes) in sizes.items()
    )
    return (
        f"# The theory of the H-SCL paper on real data\n\n"
        f"`python benchmarks/papers/theory.py`, then `--report`: {n_epochs} epochs, seeds "
        f"{', '.join(map(str, seeds))}, {seconds / 60:.0f} minutes of CPU time for "
        f"training and the estimates along it. Training rows: {described}."
    )


def groups(cells: Cells) -> dict[tuple[str, str, str], Cells]:
    """Return cells by data set, training loss and samples: the seeds of each."""
    found: dict[tuple[str, str, str], Cells] = {}
    for cell in cells:
        key = (cell["dataset"], cell["training"], cell["rows"])
        found.setdefault(key, []).append(cell)
    return found


def values(cells: Cells, along: str, measure: str, end: int = 0) -> np.ndarray:
    """Return one measure of several seeds, (n_seeds, n_points)."""
    return np.array([cell[along][measure][end] for cell in cells])


def epochs_table(cells: Cells) -> str:
    """Return the fraction of anchors during training, and the gap of the inequality."""
    header = ["data", "trained by", "rows", "share before", "after 1 epoch", "half-way"]
    header += ["at the end", "smallest gap", "gap at the end", "points with gap ≥ 0"]
    header += ["interval below 0"]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for (name, training, rows), found in groups(cells).items():
        fraction, gap = (values(found, "epochs", m) for m in ("assumption", "gap"))
        indices = (0, 1, fraction.shape[1] // 2, -1)
        columns = [name, NAMES[training], rows]
        columns += [" / ".join(f"{s:.0%}" for s in fraction[:, index]) for index in indices]
        columns += [" / ".join(f"{g:.4f}" for g in gap.min(axis=1))]
        columns += [" / ".join(f"{g:.4f}" for g in gap[:, -1])]
        columns += [f"{(gap >= 0).sum()} of {gap.size}"]
        columns += [str((values(found, "epochs", "gap", 2) < 0).sum())]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def betas_table(cells: Cells, betas: tuple[float, ...]) -> str:
    """Return fractions and gaps at each beta, and the beta from which H-SCL exceeds UCL."""
    header = ["data", "trained by", "rows"]
    header += [f"share, beta {beta:g}" for beta in betas]
    header += [f"share, labels shuffled, beta {betas[2]:g}"]
    header += ["inequality holds", "labels shuffled", "H-SCL above UCL from beta"]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for (name, training, rows), found in groups(cells).items():
        fraction, gap = (values(found, "betas", m) for m in ("assumption", "gap"))
        above = values(found, "betas", "excess", 1) > 0  # (n_seeds, n_betas)
        first = [
            f"{betas[int(seed.argmax())]:g}" if seed.any() else "none" for seed in above
        ]
        columns = [name, NAMES[training], rows]
        columns += [f"{s:.0%}" for s in fraction.mean(axis=0)]
        chance, chance_gap = (values(found, "shuffled", m) for m in ("assumption", "gap"))
        columns += [f"{chance[:, 2].mean():.0%}", f"{(gap >= 0).sum()} of {gap.size}"]
        columns += [f"{(chance_gap >= 0).sum()} of {gap.size}", " / ".join(first)]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def draw_epochs(cells: Cells, picture: Path) -> None:
    """Draw the paper's two figures, on held-out samples of encoders trained with H-UCL."""
    found = groups(cells)
    names = list(dict.fromkeys(cell["dataset"] for cell in cells))
    figure = plt.figure(figsize=(2.4 * len(names), 5.2), layout="constrained")
    axes = figure.subplots(2, len(names), sharex=True, squeeze=False, height_ratios=(3, 2))
    for name, (losses, fraction) in zip(names, axes.T, strict=True):
        seeds = found[name, "hucl", "held-out"]
        for loss, label in NAMES.items():
            style = {"color": COLORS[loss], "linestyle": LINES[loss]}
            losses.plot(values(seeds, "epochs", loss).mean(axis=0), label=label, **style)
        for training in ("hucl", "hscl"):
            for rows, line in KINDS.items():
                if (name, training, rows) not in found:
                    continue
                curves = values(found[name, training, rows], "epochs", "assumption")
                style = {"color": COLORS[training], "linestyle": line}
                label = f"{NAMES[training]}, {rows} rows"
                fraction.plot(100 * curves.mean(axis=0), label=label, **style)
        losses.set_title(name, fontsize=9)
        fraction.set(ylim=(0, 101), xlabel="Epoch")
        fraction.axhspan(60, 70, color="0.85", zorder=0, lw=0)
    axes[0, 0].set_ylabel("Loss, trained by H-UCL")
    axes[1, 0].set_ylabel("% of anchors that\nmeet Assumption 1")
    axes[0, 0].legend(fontsize=8)
    axes[1, 0].legend(fontsize=6, title="trained by", title_fontsize=6)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def draw_betas(cells: Cells, betas: tuple[float, ...], picture: Path) -> None:
    """Draw L_H-UCL - L_H-SCL and L_H-SCL - L_UCL along beta, on held-out samples."""
    found = groups(cells)
    names = list(dict.fromkeys(cell["dataset"] for cell in cells))
    figure = plt.figure(figsize=(2.4 * len(names), 5), layout="constrained")
    axes = figure.subplots(2, len(names), sharex=True, squeeze=False)
    labels = ("L_H-UCL - L_H-SCL", "L_H-SCL - L_UCL")
    for name, column in zip(names, axes.T, strict=True):
        for ax, measure in zip(column, ("gap", "excess"), strict=True):
            for training in ("hucl", "hscl"):
                if (name, training, "held-out") not in found:
                    continue
                curve = values(found[name, training, "held-out"], "betas", measure)
                marker = {"hucl": "o", "hscl": "s"}[training]
                style = {"color": COLORS[training], "marker": marker, "markersize": 4}
                ax.plot(curve.mean(0), label=f"trained by {NAMES[training]}", **style)
            ax.axhline(0, color="0.5", lw=0.8)
        column[0].set_title(name, fontsize=9)
        column[1].set_xticks(range(len(betas)), [f"{beta:g}" for beta in betas])
        column[1].set_xlabel("beta")
    for ax, label in zip(axes[:, 0], labels, strict=True):
        ax.set_ylabel(label)
    axes[0, 0].legend(fontsize=7)
    figure.savefig(picture, dpi=110)
    plt.close(figure)
