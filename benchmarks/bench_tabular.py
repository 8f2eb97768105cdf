"""Default classifiers on real tables, including HSCLEmbedder.

Tables belong by the sha256 of their name to a development half (even), for choosing
defaults, and a confirmation half (odd), for release candidates alone. Four tiers:

    python benchmarks/bench_tabular.py tune     # 16 development tables, 1,000 rows
    python benchmarks/bench_tabular.py ablate   # development half, 3,000 rows
    python benchmarks/bench_tabular.py full     # all rows of the 10 largest of that half
    python benchmarks/bench_tabular.py confirm --look "reason"  # confirmation half
    python benchmarks/bench_tabular.py tune --report > benchmarks/results/tabular_tune.md

Cells are appended to results/tabular_TIER.jsonl; those already there are skipped.
"""

import argparse
import datetime
import time
from pathlib import Path

import numpy as np
from cells import RESULTS, attempt, read_cells, write_cells
from embedding_quality import embedding_scores
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    log_loss,
    roc_auc_score,
)
from tables import TIERS, Split, load_split
from tabular_models import EMBEDDERS, MODELS, OURS, libraries, versions
from tabular_report import report

LOOKS = RESULTS / "LOOKS.md"


def mean_auc(y: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean one-vs-rest ROC AUC over the classes of the test rows."""
    if probabilities.shape[1] == 2:
        return roc_auc_score(y, probabilities[:, 1])
    return np.mean([roc_auc_score(y == c, probabilities[:, c]) for c in np.unique(y)])


def evaluate(model: str, split: Split, seed: int) -> dict[str, float]:
    """Return the scores of one model on one split, and its seconds of CPU time."""
    estimator = MODELS[model](seed)
    start = time.process_time()
    estimator.fit(split.X_train, split.y_train)
    fitted = time.process_time()
    probabilities = estimator.predict_proba(split.X_test).astype(np.float64)
    predicted = time.process_time()
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    y, classes = split.y_test, estimator.classes_
    labels = classes[probabilities.argmax(axis=1)]
    scores = {
        "accuracy": accuracy_score(y, labels),
        "balanced_accuracy": balanced_accuracy_score(y, labels),
        "log_loss": log_loss(y, probabilities, labels=classes),
        "auc": mean_auc(y, probabilities),
        "fit_seconds": fitted - start,
        "predict_seconds": predicted - fitted,
    }
    if model.startswith(OURS) or model in EMBEDDERS:
        scores |= embedding_scores(estimator[:-1], split)
    return {name: round(float(value), 6) for name, value in scores.items()}


def run_cell(tier: str, model: str, name: str, seed: int, limit: int) -> dict[str, object]:
    """Evaluate one cell; an error is its result."""
    split = load_split(name, tier, seed)
    cell = {
        "tier": tier,
        "model": model,
        "set": name,
        "seed": seed,
        "n_train": len(split.y_train),
        "n_test": len(split.y_test),
        "dropped_classes": split.dropped_classes,
    }
    cell |= attempt(lambda: evaluate(model, split, seed), limit)
    return cell | {"versions": versions(model), "split": split.key}


def cell_key(cell: dict[str, object]) -> tuple[object, ...]:
    """Return what a result depends on, except versions of libraries."""
    made_with = tuple(cell["versions"].get(name) for name in libraries(cell["model"]))
    return cell["model"], cell["set"], cell["seed"], cell["split"], made_with


def forget(path: Path, models: list[str], only: list[str]) -> None:
    """Delete the cells of these models, on these tables or on all."""
    kept = [
        cell
        for cell in read_cells(path)
        if cell["model"] not in models or (only and cell["set"] not in only)
    ]
    write_cells(path, kept, "w")


def note_look(reason: str | None, models: list[str]) -> None:
    """Record an evaluation on the confirmation half, and its reason."""
    if not reason or not reason.strip():
        raise SystemExit(
            f'The confirmation half wears out: say why with --look "reason", which adds a '
            f"line to {LOOKS.name}."
        )
    today = datetime.datetime.now(datetime.UTC).date()
    with LOOKS.open("a") as file:
        file.write(f"- {today}: {' '.join(reason.split())} ({', '.join(models)})\n")


def run_tier(tier: str, models: list[str], only: list[str], limit: int) -> None:
    """Run missing cells, model by model, if the model's library is installed."""
    names = [name for name in TIERS[tier].names() if not only or name in only]
    for model in models:
        try:
            versions(model)
        except ImportError as error:
            print(f"{model} left out: {error}", flush=True)
            continue
        for name in names:
            for seed in TIERS[tier].seeds:
                run_missing(tier, model, name, seed, limit)


def run_missing(tier: str, model: str, name: str, seed: int, limit: int) -> None:
    """Run a cell, unless its result exists."""
    path = RESULTS / f"tabular_{tier}.jsonl"
    wanted = {"model": model, "set": name, "seed": seed, "versions": versions(model)}
    wanted["split"] = load_split(name, tier, seed).key
    if cell_key(wanted) in {cell_key(cell) for cell in read_cells(path)}:
        return
    cell = run_cell(tier, model, name, seed, limit)
    write_cells(path, [cell], "a")
    outcome = cell.get("error") or (
        f"accuracy {cell['accuracy']:.4f}, log loss {cell['log_loss']:.3f}, "
        f"{cell['fit_seconds']:.1f} s"
    )
    print(f"{model} | {name} | {seed} | {outcome}", flush=True)


def main() -> None:
    """Run a tier or report on it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tier", choices=TIERS)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--sets", nargs="+", default=[], help="only these tables")
    parser.add_argument("--rerun", nargs="+", choices=MODELS, default=[], help="drop cells")
    parser.add_argument("--limit", type=int, default=3600, help="CPU seconds for one cell")
    parser.add_argument("--look", help="reason for using the confirmation half")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    path = RESULTS / f"tabular_{options.tier}.jsonl"
    if options.report:
        print(report(read_cells(path), options.tier, path.with_suffix(".png")))
        return
    if TIERS[options.tier].confirmation:
        note_look(options.look, options.models)
    if options.rerun:
        forget(path, options.rerun, options.sets)
    run_tier(options.tier, options.models, options.sets, options.limit)


if __name__ == "__main__":
    main()
