"""What bench_tabular.py measured: means, ranks, wins and tests as markdown, and a plot."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata, studentized_range, wilcoxon
from tabular_models import ABLATIONS, OURS, PEERS

# Whether more is better.
METRICS = {"accuracy": True, "balanced_accuracy": True, "auc": True, "log_loss": False}
COMPARED = ["accuracy", "auc", "log_loss"]
RANKED = ["accuracy", "auc"]
TITLES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
    "log_loss": "log loss",
    "knn_accuracy": "k-NN accuracy",
}
TIE = 1e-9


def report(cells: list[dict[str, object]], tier: str, plot: Path) -> str:
    """Render all cells of a tier."""
    frame = pd.DataFrame(cells).reindex(
        columns=[
            *["model", "set", "seed", "error", "versions", "dropped_classes"],
            *["fit_seconds", "predict_seconds", "knn_accuracy", *METRICS],
        ]
    )
    frame = frame.drop_duplicates(["model", "set", "seed"], keep="last")
    failed = frame[frame["error"].notna()]
    scored = frame[frame["error"].isna()]
    means = scored.groupby(["model", "set"]).mean(numeric_only=True)
    counts = scored.groupby("model")["set"].nunique()
    common = sorted(means.loc[OURS].index)  # a peer that fails takes no table from others
    models = [
        name for name in [OURS, *PEERS] if name in counts and has_all(means, name, common)
    ]
    lines = [
        f"# Default classifiers on tables: {tier}",
        "",
        f"`python benchmarks/bench_tabular.py {tier}`, one thread, seconds of CPU time. "
        f"{len(common)} tables, seeds {sorted(int(seed) for seed in set(frame['seed']))}; "
        f"{OURS} and NCA are followed by a default logistic regression. "
        f"Versions: {versions(frame)}.",
        "",
        *overview(scored, means, models, common),
        "",
        f"Wins, ties and losses of {OURS}, and the two-sided Wilcoxon test over the "
        "tables' means, p after Holm's correction for the models of a column:",
        "",
        *duels(means, [name for name in PEERS if name in counts]),
        "",
        f"![Mean ranks with Nemenyi's critical difference]({plot.name})",
        "",
        *ablations(means),
        *notes(frame, failed, counts, models, common),
    ]
    plot_ranks(means, models, common, plot)
    return "\n".join(lines)


def has_all(means: pd.DataFrame, model: str, tables: list[str]) -> bool:
    return set(tables) <= set(means.loc[model].index)


def common_tables(means: pd.DataFrame, models: list[str]) -> list[str]:
    """Tables on which all of the models have results."""
    return sorted(set.intersection(*(set(means.loc[name].index) for name in models)))


def per_table(
    means: pd.DataFrame, metric: str, models: list[str], common: list[str]
) -> pd.DataFrame:
    """Tables by models."""
    return means[metric].unstack("model").loc[common, models]


def mean_ranks(
    means: pd.DataFrame, metric: str, models: list[str], common: list[str]
) -> dict[str, float]:
    """Mean over tables, 1 for the best; ties share their ranks."""
    scores = per_table(means, metric, models, common).to_numpy().round(9)
    ranks = rankdata(-scores if METRICS[metric] else scores, axis=1).mean(axis=0)
    return dict(zip(models, ranks, strict=True))


def overview(
    scored: pd.DataFrame, means: pd.DataFrame, models: list[str], common: list[str]
) -> list[str]:
    """Means, times and ranks."""
    header = ["model", *(TITLES[metric] for metric in METRICS), "median fit s", "max fit s"]
    header += ["median predict s", *(f"rank by {TITLES[metric]}" for metric in RANKED)]
    ranks = {metric: mean_ranks(means, metric, models, common) for metric in RANKED}
    rows = []
    for model in models:
        cells = scored[(scored["model"] == model) & scored["set"].isin(common)]
        values = means.loc[model].loc[common]
        rows.append(
            [model]
            + [f"{values[metric].mean():.4f}" for metric in METRICS]
            + [f"{cells['fit_seconds'].median():.2f}", f"{cells['fit_seconds'].max():.1f}"]
            + [f"{cells['predict_seconds'].median():.3f}"]
            + [f"{ranks[metric][model]:.2f}" for metric in RANKED]
        )
    return markdown(header, rows)


def compare(gains: np.ndarray) -> tuple[str, float]:
    """Wins / ties / losses, and Wilcoxon's p."""
    gains = np.where(np.abs(gains) < TIE, 0, gains)
    wins, losses = (gains > 0).sum(), (gains < 0).sum()
    p = wilcoxon(gains).pvalue if wins + losses else 1.0
    return f"{wins}/{len(gains) - wins - losses}/{losses}", float(p)


def holm(p_values: list[float]) -> np.ndarray:
    """Correct for several tests by Holm's step-down method."""
    p = np.asarray(p_values)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(corrected, 1)


def p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.0005 else "<0.001"


def duels(means: pd.DataFrame, others: list[str]) -> list[str]:
    """Compare ours with each other model by each metric, on the tables that both have."""
    gains = {name: (means.loc[OURS] - means.loc[name]).dropna(how="all") for name in others}
    columns = [[len(gain) for gain in gains.values()]]
    header = [f"{OURS} against", "tables"]
    for metric in COMPARED:
        sign = 1 if METRICS[metric] else -1
        results = [compare(sign * gain[metric].to_numpy()) for gain in gains.values()]
        columns.append([record for record, _ in results])
        columns.append([p_value(p) for p in holm([p for _, p in results])])
        header += [f"{TITLES[metric]} w/t/l", "p"]
    return markdown(header, zip(others, *columns, strict=True))


def ablations(means: pd.DataFrame) -> list[str]:
    """Differences to the default, on the tables that both have."""
    there = set(means.index.get_level_values("model"))
    variants = [f"{OURS}({name})" for name in ABLATIONS if f"{OURS}({name})" in there]
    if not variants:
        return []
    metrics = [*METRICS, "knn_accuracy"]
    rows, tests = [], []
    for model in variants:
        common = common_tables(means, [OURS, model])
        old, new = means.loc[OURS].loc[common], means.loc[model].loc[common]
        change = new - old
        duels = [compare(change["accuracy"]), compare(-change["log_loss"])]
        tests.append([p for _, p in duels])
        seconds = f"{new['fit_seconds'].median():.2f} ({old['fit_seconds'].median():.2f})"
        rows.append(
            [model, len(common)]
            + [f"{change[metric].mean():+.4f}" for metric in metrics]
            + [f"{change['accuracy'].std() / np.sqrt(len(common)):.4f}"]
            + [record for record, _ in duels]
            + [seconds]
        )
    for column, place in ((1, -1), (0, -3)):
        corrected = holm([p[column] for p in tests])
        for row, p in zip(rows, corrected, strict=True):
            row.insert(len(row) + place, p_value(p))
    header = ["variant", "tables", *(TITLES[metric] for metric in metrics)]
    header += ["s.e. of accuracy", "accuracy w/t/l", "p", "log loss w/t/l", "p"]
    return [
        f"One change at a time from {OURS}: mean differences to it over the tables that "
        "both have (for log loss, less is better), standard error of that of accuracy, "
        "wins of the variant, Holm's p over the variants, median fit seconds (those of "
        "the default):",
        "",
        *markdown([*header, "fit s"], rows),
        "",
    ]


def notes(
    frame: pd.DataFrame,
    failed: pd.DataFrame,
    counts: pd.Series,
    models: list[str],
    common: list[str],
) -> list[str]:
    """What is missing, failed or was dropped."""
    lines = [f"Tables: {', '.join(common)}."]
    others = sorted(set(frame["set"]) - set(common))
    if others:
        lines.append(f"Without a result of {OURS}: {', '.join(others)}.")
    few = [name for name in PEERS if name in counts.index and name not in models]
    if few:
        named = ", ".join(f"{name} ({counts[name]} tables)" for name in few)
        lines.append(
            f"Without results on some tables, thus without means and ranks: {named}."
        )
    absent = [name for name in PEERS if name not in set(frame["model"])]
    if absent:
        lines.append(f"Not run: {', '.join(absent)}.")
    dropped = frame.drop_duplicates(["set", "seed"]).query("dropped_classes > 0")
    if len(dropped):
        named = ", ".join(
            f"{row.set} {row.dropped_classes} (seed {row.seed})"
            for row in dropped.itertuples()
        )
        lines.append(f"Classes with a single row after subsampling, dropped: {named}.")
    errors = [
        f"- {row.model}, {row.set}, seed {row.seed}: {row.error}"
        for row in failed.itertuples()
    ]
    lines += ["", "Errors:", "", *errors] if errors else ["No cell failed."]
    return lines


def versions(frame: pd.DataFrame) -> str:
    """All that took part."""
    pairs = {f"{k} {v}" for cell in frame["versions"] for k, v in cell.items()}
    return ", ".join(sorted(pairs))


def markdown(header: list[str], rows: object) -> list[str]:
    """Lines of a table."""
    body = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return [f"| {' | '.join(header)} |", "|" + "---|" * len(header), *body]


def plot_ranks(
    means: pd.DataFrame, models: list[str], common: list[str], path: Path
) -> None:
    """Mean ranks, with the span that Nemenyi's test cannot tell from ours."""
    import matplotlib.pyplot as plt

    k, n = len(models), len(common)
    quantile = studentized_range.ppf(0.95, k, np.inf) / np.sqrt(2)
    difference = quantile * np.sqrt(k * (k + 1) / (6 * n))
    fig, axes = plt.subplots(
        1, len(RANKED), figsize=(10, 1 + 0.4 * k), layout="constrained", sharex=True
    )
    for ax, metric in zip(axes, RANKED, strict=True):
        ranks = mean_ranks(means, metric, models, common)
        names = sorted(models, key=ranks.get, reverse=True)
        colors = ["tab:red" if name == OURS else "tab:blue" for name in names]
        values = [ranks[name] for name in names]
        ax.scatter(values, range(k), c=colors, zorder=2)
        ax.hlines(range(k), 1, values, colors=colors, lw=1)
        center = ranks[OURS]
        ax.axvspan(center - difference, center + difference, color="tab:red", alpha=0.1)
        ax.set_yticks(range(k), names)
        ax.set(xlabel=f"mean rank by {TITLES[metric]}, 1 is best", xlim=(1, k))
    fig.suptitle(
        f"{n} tables; shaded: within the critical difference {difference:.2f} "
        f"of {OURS} (Nemenyi, 5 %)"
    )
    fig.savefig(path, dpi=120)
    plt.close(fig)
