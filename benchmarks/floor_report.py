"""Report of bench_floor.py: means by kind, the cells that lose, and a plot per kind."""

import platform
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cells import read_cells
from floor_cells import ROWS, TARGETS
from measure import markdown

READOUTS = {"knn": "k-NN", "linear": "linear"}
BASE = "raw"
MARGINS = {"R2": 0.02, "mean R2": 0.02}  # by metric
MARGIN = 0.015
OTHERS = ("labelled", "pca", "supervised", "peer")  # methods that are not embedders


def write_report(path: Path) -> None:
    """Write a page beside the results, and a plot per kind of target."""
    cells = read_cells(path)
    scores, failed = tabulated(cells)
    means = scores.groupby(["method", "cell", "readout"])["score"].mean()
    names = [name for name in scores["method"].unique() if name not in (BASE, *OTHERS)]
    lines = [*title(cells, path), *by_kind(means, names)]
    for name in names:
        lines += [*verdict(means, scores, name), ""]
    lines += [*regression(means, names), *by_cell(means, names), *notes(failed)]
    for target in TARGETS:
        if any(cell.startswith(f"{target}/") for cell in means.loc[BASE].index.levels[0]):
            lines += plot(means, names, target, path.with_name(f"{path.stem}_{target}.png"))
    page = path.with_suffix(".md")
    page.write_text("\n".join(lines) + "\n")
    print(page)


def tabulated(cells: list[dict[str, Any]]) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Return a row per method, cell, seed and readout, and the cells that failed."""
    latest = {(c["method"], c["cell"], c["seed"]): c for c in cells}
    rows = [
        {
            "method": cell["method"],
            "cell": cell["cell"],
            "seed": cell["seed"],
            "metric": cell["metric"],
            "seconds": cell["seconds"],
            "readout": readout,
            "score": max(score, 0.0),
        }
        for cell in latest.values()
        for readout, score in cell.get("scores", {}).items()
    ]
    return pd.DataFrame(rows), [c for c in latest.values() if "error" in c]


def title(cells: list[dict[str, Any]], path: Path) -> list[str]:
    half = "confirmation" if "confirm" in path.stem else "development"
    seeds = sorted({cell["seed"] for cell in cells})
    libraries = {f"{k} {v}" for cell in cells for k, v in cell["versions"].items()}
    n = len({cell["cell"] for cell in cells})
    return [
        f"# Floors: embeddings against the rows that went in ({half} half)",
        "",
        f"`python benchmarks/bench_floor.py`, {n} cells, seeds {seeds}, random splits "
        f"70/30, at most 2,450 training rows, one thread, {_processor()}. "
        f"{', '.join(sorted(libraries))}.",
        "",
        "Two models read each representation: 10 nearest neighbours and a linear model "
        "(logistic regression, one-vs-rest, ridge), with defaults. The score is accuracy; "
        "AUC for rare positives; macro average precision for several labels; R2, averaged "
        "over numbers, where values below 0, the score of the mean, count as 0.",
        "",
        "Embeddings are read as they are. Raw rows are imputed, standardised and one-hot; "
        "counts are scaled by their maximum; TF-IDF, sentence embeddings and pixels in "
        "[0, 1] are read as they are. HSCLEmbedder has its defaults, and "
        "unlabeled_label=-1 where labels are few, target_type='continuous' where they are "
        "numbers. `labelled` is a fit to the labelled rows alone.",
        "",
    ]


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    facts = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
    if "model name" not in facts:
        return platform.processor()
    numbers = "/".join(facts.get(name, "?").strip() for name in ("cpu family", "model"))
    return f"{facts['model name'].strip()} (family/model {numbers})"


def by_kind(means: pd.Series, names: list[str]) -> list[str]:
    """Return mean scores of all methods for each kind of target, then of rows."""
    lines = []
    for position, kinds in enumerate((TARGETS, ROWS)):
        what = ("targets", "rows")[position]
        lines += [f"## Means by kind of {what}", "", "k-NN / linear; a peer has one score."]
        if what == "rows":
            lines += ["", "Differences to the raw rows; scores of several metrics."]
        lines += [
            "",
            *kind_table(means, names, position, kinds, differences=what == "rows"),
            "",
        ]
    return lines


def kind_table(
    means: pd.Series, names: list[str], position: int, kinds: dict, differences: bool
) -> list[str]:
    """Return a row per kind: means over the cells that all methods of the row have."""
    others = [m for m in OTHERS if m in means.index.levels[0] and m != "peer"]
    columns = [BASE, *names, *others]
    peers = "peer" in means.index.levels[0] and not differences
    rows = []
    for kind, label in kinds.items():
        cells = [c for c in _cells(means, BASE) if c.split("/")[position] == kind]
        if not cells:
            continue
        row = [label, len(cells)]
        for method in columns:
            has = [c for c in cells if (method, c, "knn") in means.index]
            values = [_pair_mean(means, method, has)] if has else []
            if values and differences:
                values[0] = values[0] - _pair_mean(means, BASE, has)
            row.append(_written(values, len(has), len(cells), differences))
        if peers:
            row.append(_best_peers(means, cells))
        rows.append(row)
    header = ["kind", "cells", *columns, *(["peers"] if peers else [])]
    return list(markdown(header, rows))


def _cells(means: pd.Series, method: str) -> list[str]:
    return sorted({cell for cell, _ in means.loc[method].index})


def _pair_mean(means: pd.Series, method: str, cells: list[str]) -> np.ndarray:
    pairs = [[means[method, cell, readout] for readout in READOUTS] for cell in cells]
    return np.mean(pairs, axis=0)


def _written(values: list, n: int, n_cells: int, signed: bool) -> str:
    if not values:
        return "-"
    form = "{:+.3f}" if signed else "{:.3f}"
    text = " / ".join(form.format(value) for value in values[0])
    return text if n == n_cells else f"{text} ({n} cells)"


def _best_peers(means: pd.Series, cells: list[str]) -> str:
    peers = means.loc["peer"].unstack().reindex(cells)
    averages = peers.mean().dropna().sort_values(ascending=False)
    return ", ".join(f"{name} {value:.3f}" for name, value in averages.items())


def gains(means: pd.Series, name: str) -> pd.DataFrame:
    """Return differences of an embedder to the raw rows, cell by cell."""
    return (means.loc[name] - means.loc[BASE]).dropna().unstack()[list(READOUTS)].dropna()


def verdict(means: pd.Series, scores: pd.DataFrame, name: str) -> list[str]:
    """Return the median gain, and the cells that are worse by both readouts."""
    gain = gains(means, name)
    metric = scores.drop_duplicates("cell").set_index("cell")["metric"]
    margin = metric.map(MARGINS).fillna(MARGIN).reindex(gain.index)
    worse = gain[gain.lt(-margin, axis=0).all(axis=1)].sort_values("linear")
    one = gain[gain.lt(-margin, axis=0).any(axis=1)].drop(index=worse.index)
    seconds = scores[scores["method"] == name].drop_duplicates(["cell", "seed"])["seconds"]
    lines = [
        f"## {name} against the raw rows",
        "",
        f"Median gain over {len(gain)} cells: {gain['knn'].median():+.4f} by k-NN, "
        f"{gain['linear'].median():+.4f} by the linear model; CPU seconds of a fit: "
        f"median {seconds.median():.1f}, at most {seconds.max():.1f}.",
        "",
        f"Worse by both readouts, by more than {MARGIN} or .02 of R2: {len(worse)} cells. "
        f"By one of them only: {len(one)}.",
        "",
    ]
    rows = [
        [cell, f"{row['knn']:+.3f}", f"{row['linear']:+.3f}"]
        for cell, row in worse.iterrows()
    ]
    return lines + (
        list(markdown(["worse by both", *READOUTS.values()], rows)) if rows else []
    )


def regression(means: pd.Series, names: list[str]) -> list[str]:
    """Return R2 of ridge on the embedding, and of models of the rows, for numbers."""
    if "peer" not in means.index.levels[0] or not names:
        return []
    kinds = ("number/", "numbers/")
    cells = [c for c in _cells(means, "peer") if c.startswith(kinds)]
    models = [(name, "linear", f"{name}, ridge") for name in names]
    models += [(BASE, "linear", "ridge"), ("peer", "ridge", "ridge, alpha by CV")]
    models += [("peer", "forest", "random forest"), ("peer", "PLS", "PLS")]
    table = pd.DataFrame(
        {title: means[method].unstack()[readout] for method, readout, title in models}
    ).reindex(cells)
    table = table.dropna()
    if table.empty:
        return []
    rows = [[cell, *map("{:.3f}".format, row)] for cell, row in table.iterrows()]
    mean = ["**mean**", *map("{:.3f}".format, table.mean())]
    header = ["cell", *table.columns]
    return ["## Numbers: R2 of models", "", *markdown(header, [*rows, mean]), ""]


def by_cell(means: pd.Series, names: list[str]) -> list[str]:
    """Return raw scores of all cells, and the differences of the embedders to them."""
    rows = []
    for cell in _cells(means, BASE):
        raw = _pair_mean(means, BASE, [cell])
        row = [cell, " / ".join(f"{value:.3f}" for value in raw)]
        for name in names:
            has = (name, cell, "knn") in means.index
            values = [_pair_mean(means, name, [cell]) - raw] if has else []
            row.append(_written(values, 1, 1, signed=True))
        rows.append(row)
    header = ["cell", "raw", *(f"{name} - raw" for name in names)]
    return ["## All cells", "", *markdown(header, rows), ""]


def notes(failed: list[dict[str, Any]]) -> list[str]:
    if not failed:
        return ["No cell failed.", ""]
    rows = [f"- {c['method']}, {c['cell']}, seed {c['seed']}: {c['error']}" for c in failed]
    return ["Errors:", "", *rows, ""]


def plot(means: pd.Series, names: list[str], target: str, path: Path) -> list[str]:
    """Plot differences to the raw rows, cell by cell; return the link to the plot."""
    import matplotlib.pyplot as plt

    cells = [c for c in _cells(means, BASE) if c.startswith(f"{target}/")]
    fig, axes = plt.subplots(
        1, 2, figsize=(10, 1.4 + 0.3 * len(cells)), layout="constrained", sharey=True
    )
    labels = [cell.partition("/")[2] for cell in cells]
    for ax, (readout, words) in zip(axes, READOUTS.items(), strict=True):
        for i, name in enumerate(names):
            gain = gains(means, name)[readout].reindex(cells)
            ax.scatter(gain, np.arange(len(cells)) + 0.15 * i, color=f"C{i}", label=name)
        ax.axvline(0, color="black", lw=1)
        ax.set(xlabel=f"difference to the raw rows, {words}", yticks=range(len(cells)))
        ax.set_yticklabels(labels)
        ax.grid(axis="y", alpha=0.3)
    axes[0].legend()
    fig.suptitle(TARGETS[target])
    fig.savefig(path, dpi=100)
    plt.close(fig)
    return [f"![{TARGETS[target]}]({path.name})", ""]
