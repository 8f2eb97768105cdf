"""Report of bench_tabular.py: means, ranks, wins and tests as markdown."""

from pathlib import Path

import numpy as np
import pandas as pd
from measure import markdown
from tabular_models import ABLATIONS, EMBEDDERS, OURS, PEERS
from tabular_plot import plot_ranks
from tabular_statistics import (
    COMPARED,
    METRICS,
    RANKED,
    TITLES,
    compare,
    holm,
    mean_ranks,
)

EMBEDDING_METRICS = ["knn_accuracy", "map_at_r"]
COLUMNS = ["model", "set", "seed", "error", "versions", "dropped_classes"]
COLUMNS += ["fit_seconds", "predict_seconds", *METRICS, *EMBEDDING_METRICS]


def report(cells: list[dict[str, object]], tier: str, plot: Path) -> str:
    """Render all cells of a tier."""
    frame = pd.DataFrame(cells).reindex(columns=COLUMNS)
    frame = frame.drop_duplicates(["model", "set", "seed"], keep="last")
    scored = frame[frame["error"].isna()]
    means = scored.groupby(["model", "set"]).mean(numeric_only=True)
    counts = scored.groupby("model")["set"].nunique()
    common = sorted(
        means.loc[OURS].index
    )  # a failing competitor removes no tables of others
    peers = [name for name in PEERS if name in counts]
    models = [name for name in [OURS, *peers] if has_all(means, name, common)]
    plot_ranks(means, models, common, plot)
    lines = [
        *title(frame, tier, common),
        "",
        *overview(scored, means, models, common),
        "",
        f"Wins, ties and losses of {OURS}, and the two-sided Wilcoxon test over the "
        "tables' means, p after Holm's correction for the models of a column:",
        "",
        *duels(means, peers, COMPARED),
        "",
        f"![Mean ranks with Nemenyi's critical difference]({plot.name})",
        "",
        *embeddings(means),
        *ablations(means),
        *notes(frame, counts, models, common),
    ]
    return "\n".join(lines)


def title(frame: pd.DataFrame, tier: str, common: list[str]) -> list[str]:
    seeds = sorted(int(seed) for seed in set(frame["seed"]))
    return [
        f"# Default classifiers on tables: {tier}",
        "",
        f"`python benchmarks/bench_tabular.py {tier}`, one thread, seconds of CPU time. "
        f"{len(common)} tables, seeds {seeds}; "
        f"{OURS}, NCA and UMAP are followed by a default logistic regression. "
        f"Versions: {versions_of(frame)}.",
    ]


def has_all(means: pd.DataFrame, model: str, tables: list[str]) -> bool:
    return set(tables) <= set(means.loc[model].index)


def overview(
    scored: pd.DataFrame, means: pd.DataFrame, models: list[str], common: list[str]
) -> list[str]:
    """Return means, times and ranks."""
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
    return list(markdown(header, rows))


def p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.0005 else "<0.001"


def duels(means: pd.DataFrame, others: list[str], metrics: list[str]) -> list[str]:
    """Compare ours with each other model by each metric, on the tables that both have."""
    gains = {name: (means.loc[OURS] - means.loc[name]).dropna(how="all") for name in others}
    columns = [[len(gain) for gain in gains.values()]]
    header = [f"{OURS} against", "tables"]
    for metric in metrics:
        sign = 1 if METRICS.get(metric, True) else -1
        results = [compare(sign * gain[metric].to_numpy()) for gain in gains.values()]
        columns.append([record for record, _ in results])
        columns.append([p_value(p) for p in holm([p for _, p in results])])
        header += [f"{TITLES[metric]} w/t/l", "p"]
    return list(markdown(header, zip(others, *columns, strict=True)))


def embeddings(means: pd.DataFrame) -> list[str]:
    """Return the quality without the classifier, averaged over tables."""
    scored = means.dropna(subset=EMBEDDING_METRICS)
    there = set(scored.index.get_level_values("model"))
    others = [name for name in EMBEDDERS if name in there]
    if OURS not in there or not others:
        return []
    common = sorted(scored.loc[OURS].index)
    rows = [
        [
            name,
            *(f"{scored.loc[name].loc[common, m].mean():.4f}" for m in EMBEDDING_METRICS),
        ]
        for name in [OURS, *others]
        if has_all(scored, name, common)
    ]
    return [
        f"Embeddings by themselves, that of k-NN being the standardised columns, means of "
        f"{len(common)} tables: accuracy of the 5 nearest training rows, and mean average "
        "precision at R among the test rows:",
        "",
        *markdown(["embedding", *(TITLES[metric] for metric in EMBEDDING_METRICS)], rows),
        "",
        *duels(scored, others, EMBEDDING_METRICS),
        "",
    ]


def ablations(means: pd.DataFrame) -> list[str]:
    """Return differences to the default, on the tables of both."""
    there = set(means.index.get_level_values("model"))
    variants = [f"{OURS}({name})" for name in ABLATIONS if f"{OURS}({name})" in there]
    if not variants:
        return []
    changes = [change(means, model) for model in variants]
    wins = {
        metric: [compare(sign * each[metric].to_numpy()) for each in changes]
        for metric, sign in (("accuracy", 1), ("log_loss", -1))
    }
    columns = [variants, [len(each) for each in changes]]
    for metric in (*METRICS, "knn_accuracy"):
        columns.append([f"{each[metric].mean():+.4f}" for each in changes])
    spreads = [each["accuracy"].std() / np.sqrt(len(each)) for each in changes]
    columns.append([f"{spread:.4f}" for spread in spreads])
    for results in wins.values():
        columns.append([record for record, _ in results])
        columns.append([p_value(p) for p in holm([p for _, p in results])])
    columns.append([fit_seconds(means, model) for model in variants])
    header = ["variant", "tables", *(TITLES[name] for name in (*METRICS, "knn_accuracy"))]
    header += ["s.e. of accuracy", "accuracy w/t/l", "p", "log loss w/t/l", "p", "fit s"]
    return [
        f"One change at a time from {OURS}: mean differences to it over the tables that "
        "both have (for log loss, less is better), standard error of that of accuracy, "
        "wins of the variant, Holm's p over the variants, median fit seconds (those of "
        "the default):",
        "",
        *markdown(header, zip(*columns, strict=True)),
        "",
    ]


def common_tables(means: pd.DataFrame, models: list[str]) -> list[str]:
    """Return the tables on which all models have results."""
    return sorted(set.intersection(*(set(means.loc[name].index) for name in models)))


def change(means: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return the differences of a variant to the default, table by table."""
    common = common_tables(means, [OURS, model])
    return means.loc[model].loc[common] - means.loc[OURS].loc[common]


def fit_seconds(means: pd.DataFrame, model: str) -> str:
    """Return median seconds of a variant and of the default."""
    common = common_tables(means, [OURS, model])
    old, new = (means.loc[name].loc[common, "fit_seconds"] for name in (OURS, model))
    return f"{new.median():.2f} ({old.median():.2f})"


def notes(
    frame: pd.DataFrame, counts: pd.Series, models: list[str], common: list[str]
) -> list[str]:
    """Return notes on missing, failed or dropped cells."""
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
    failed = errors(frame)
    lines += ["", "Errors:", "", *failed] if failed else ["No cell failed."]
    return lines


def errors(frame: pd.DataFrame) -> list[str]:
    """Return the cells without a result, and the reasons."""
    failed = frame[frame["error"].notna()]
    return [
        f"- {row.model}, {row.set}, seed {row.seed}: {row.error}"
        for row in failed.itertuples()
    ]


def versions_of(frame: pd.DataFrame) -> str:
    """Return the versions of all libraries involved."""
    pairs = {f"{k} {v}" for cell in frame["versions"] for k, v in cell.items()}
    return ", ".join(sorted(pairs))
