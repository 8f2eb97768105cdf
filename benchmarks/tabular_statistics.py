"""Ranks and tests over tables."""

import numpy as np
import pandas as pd
from scipy.stats import rankdata, studentized_range, wilcoxon

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
    "map_at_r": "MAP@R",
}
TIE = 1e-9


def per_table(
    means: pd.DataFrame, metric: str, models: list[str], common: list[str]
) -> pd.DataFrame:
    """Return a table of scores: data sets by models."""
    return means[metric].unstack("model").loc[common, models]


def mean_ranks(
    means: pd.DataFrame, metric: str, models: list[str], common: list[str]
) -> dict[str, float]:
    """Return mean ranks over tables, 1 for the best; ties share their ranks."""
    scores = per_table(means, metric, models, common).to_numpy().round(9)
    ranks = rankdata(-scores if METRICS[metric] else scores, axis=1).mean(axis=0)
    return dict(zip(models, ranks, strict=True))


def critical_difference(n_models: int, n_tables: int) -> float:
    """Return the critical difference of mean ranks by Nemenyi's test at 5 %."""
    quantile = studentized_range.ppf(0.95, n_models, np.inf) / np.sqrt(2)
    return quantile * np.sqrt(n_models * (n_models + 1) / (6 * n_tables))


def compare(gains: np.ndarray) -> tuple[str, float]:
    """Return wins, ties, losses, and Wilcoxon's p."""
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
