"""Plot of mean ranks."""

from pathlib import Path

import pandas as pd
from tabular_models import OURS
from tabular_statistics import RANKED, TITLES, critical_difference, mean_ranks


def plot_ranks(
    means: pd.DataFrame, models: list[str], common: list[str], path: Path
) -> None:
    """Plot mean ranks, with the range that does not differ from ours by Nemenyi's test."""
    import matplotlib.pyplot as plt

    k, n = len(models), len(common)
    difference = critical_difference(k, n)
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
