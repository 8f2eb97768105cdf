"""Report of bench_text.py: means by model and by data set as markdown."""

from typing import Any

import numpy as np
import pandas as pd
import texts
from measure import markdown
from tabular_report import errors, versions_of

METRICS = ["accuracy", "balanced_accuracy", "log_loss", "fit_seconds"]


def report(cells: list[dict[str, Any]], names: list[str]) -> str:
    """Return means over data sets and seeds, then accuracy and log loss by data set."""
    frame = pd.DataFrame(cells).reindex(
        columns=["model", "set", "seed", "error", "versions", *METRICS]
    )
    frame = frame.drop_duplicates(["model", "set", "seed"], keep="last")
    models = [name for name in names if name in set(frame["model"])]
    sets = sorted(set(frame["set"]))
    means = frame.groupby(["model", "set"])[METRICS].mean()
    lines = [
        "# Text as tables",
        "",
        f"`python benchmarks/bench_text.py`, one thread, seconds of CPU time. At most "
        f"{texts.MAX_ROWS} rows of each set, stratified splits 70/30, seeds "
        f"{sorted(set(frame['seed']))}. TF-IDF with `min_df=2`, 100 singular vectors, "
        f"LR with `max_iter=2000`, defaults otherwise; HSCL is HSCLEmbedder. "
        f"Versions: {versions_of(frame)}.",
        "",
        *by_model(frame, means, models),
        *by_set(means, "accuracy", models, sets),
        *by_set(means, "log_loss", models, sets),
        "",
        *errors(frame),
    ]
    return "\n".join(lines)


def by_model(frame: pd.DataFrame, means: pd.DataFrame, models: list[str]) -> list[str]:
    """Return means over data sets, and seconds."""
    overall = means.groupby("model").mean()
    longest = frame.groupby("model")["fit_seconds"].max()
    header = ["model", "accuracy", "balanced accuracy", "log loss"]
    rows = [
        [
            model,
            *(written(overall.loc[model, metric]) for metric in METRICS[:-1]),
            f"{overall.loc[model, 'fit_seconds']:.1f}",
            f"{longest[model]:.1f}",
        ]
        for model in models
    ]
    return [*markdown([*header, "mean fit s", "max fit s"], rows)]


def by_set(
    means: pd.DataFrame, metric: str, models: list[str], sets: list[str]
) -> list[str]:
    """Return means over seeds."""
    table = means[metric].unstack("set").reindex(index=models, columns=sets)
    rows = [[model, *map(written, table.loc[model])] for model in models]
    title = f"{metric.capitalize().replace('_', ' ')}, mean over seeds:"
    return ["", title, "", *markdown(["model", *sets], rows)]


def written(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"
