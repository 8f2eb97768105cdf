"""Is HSCLEmbedder with its defaults ever worse than the rows that it is given?

    python benchmarks/bench_floor.py tune  # development half
    python benchmarks/bench_floor.py tune --cells number --methods embed raw --seeds 0
    python benchmarks/bench_floor.py tune --methods embed --name tabular \\
        --embedder 'encoder="tabular"'
    python benchmarks/bench_floor.py confirm --look "reason"  # confirmation half
    python benchmarks/bench_floor.py report
    python benchmarks/bench_floor.py check  # loads all cells, scores none
    python benchmarks/bench_floor.py embed --model FOLDER  # sentence embeddings

Rows are split 70/30 at random, by class where there are classes, with at most 2,450
training rows. Two readouts, 10 nearest neighbours and a linear model, receive embeddings
as they are, and prepared rows. Results are appended to a file of lines of JSON; those
already there are skipped. Cells whose package or array is missing are left out.
"""

import argparse
import os
import re
import time
from importlib.metadata import version
from pathlib import Path

import floor_methods as methods
import floor_sources as sources
import numpy as np
from bench_tabular import note_look
from cells import RESULTS, attempt, read_cells, write_cells
from floor_cells import Cell, Data, split
from floor_list import CELLS
from floor_report import write_report

METHODS = ("raw", "embed", "labelled", "pca", "supervised", "peer")
OUT = {half: RESULTS / f"floor_{half}.jsonl" for half in ("tune", "confirm")}
COMMANDS = ("tune", "confirm", "report", "check", "embed")


def parsed(text: str) -> dict[str, object]:
    """Return parameters of the embedder, written as in a call."""
    from sklearn_hscl import augment, losses

    return eval(f"dict({text})", {**vars(augment), **vars(losses)})


def evaluate(
    method: str, cell: Cell, data: Data, seed: int, options: dict[str, object]
) -> dict[str, object]:
    """Return scores of a method, and CPU seconds until the representation is ready."""
    start = time.process_time()
    if method == "peer":
        scores = methods.peers(cell, data, seed)
        return {"scores": _rounded(scores), "seconds": _since(start)}
    if method == "raw":
        pair = methods.raw(cell, data)
    elif method == "embed":
        pair = methods.embedded(cell, data, seed, options)
    else:
        pair = methods.OTHERS[method](cell, data, seed)
    seconds = _since(start)
    if pair is None:
        return {"scores": {}, "seconds": seconds}
    width = pair[0].shape[1]
    scores = _rounded(methods.readouts(cell, data, *pair))
    return {"scores": scores, "width": width, "seconds": seconds}


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    return {name: round(float(value), 5) for name, value in scores.items()}


def _since(start: float) -> float:
    return round(time.process_time() - start, 2)


def run_missing(cell: Cell, seed: int, options: argparse.Namespace) -> None:
    """Run the methods of a cell without a result."""
    stored = read_cells(options.out)
    done = {(c["method"], c["cell"], c["seed"]): c for c in stored}
    names = {m: options.name if m == "embed" else m for m in options.methods}
    missing = [m for m in options.methods if (names[m], cell.name, seed) not in done]
    if not missing:
        return
    try:
        data = split(cell, seed)
    except ImportError as error:
        print(f"{cell.name} left out: {error}", flush=True)
        return
    for method in missing:
        changes = options.embedder if method == "embed" else {}
        result = {
            "method": names[method],
            "cell": cell.name,
            "seed": seed,
            "n_train": len(data.y_train),
            "n_labeled": len(data.labeled),
            "n_test": len(data.y_test),
            "metric": methods.metric(cell),
            "split": data.key,
        }
        result |= attempt(
            lambda m=method: evaluate(m, cell, data, seed, options.embedder), options.limit
        )
        result |= {"embedder": repr(changes) if changes else "", "versions": _versions()}
        write_cells(options.out, [result], "a")
        done[names[method], cell.name, seed] = result
    print(line(cell.name, seed, done, list(names.values())), flush=True)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("numpy", "scikit-learn", "torch")}


def line(name: str, seed: int, done: dict, names: list[str]) -> str:
    """Return the scores of the raw rows, and the differences of the others to them."""
    parts = []
    base = done.get(("raw", name, seed), {}).get("scores", {})
    for method in names:
        cell = done[method, name, seed]
        scores = cell.get("scores")
        if scores is None:
            parts.append(f"{method} {cell['error'][:80]}")
            continue
        shown = [
            f"{key} {value - base[key]:+.3f}"
            if method != "raw" and key in base
            else f"{key} {value:.3f}"
            for key, value in scores.items()
        ]
        parts.append(f"{method} {' '.join(shown)} ({cell['seconds']:.1f} s)")
    return f"{name} | {seed} | {' | '.join(parts)}"


def check() -> None:
    """Load all cells and print their shapes; no model is fitted."""
    for cell in CELLS:
        half = "confirm" if cell.confirmation else "tune"
        try:
            data = split(cell, 0)
        except ImportError as error:
            print(half, cell.name, "left out:", error)
            continue
        y = data.y_train
        shape = y.shape[1:] if y.ndim > 1 or cell.is_numeric else len(np.unique(y))
        shapes = data.X_train.shape, len(data.labeled), len(data.y_test), shape
        print(half, cell.name, *shapes, sep=" | ", flush=True)


def embed(folder: Path) -> None:
    """Embed the texts of all cells of sentence embeddings by a model in a local folder."""
    from embed_text import MeanOfTokens
    from embed_text import embed as embedded

    sources.EMBEDDINGS.mkdir(parents=True, exist_ok=True)
    model = MeanOfTokens(folder)
    short = {name.rpartition("/")[2]: name for name in sources.R_TEXTS}
    for name in sorted({c.source for c in CELLS if c.rows == "sentences"}, key=len):
        path = sources.EMBEDDINGS / f"{name}.npy"
        if not path.exists():
            texts = sources.embedded_texts(short.get(name, name))["text"].astype(str)
            np.save(path, embedded(model, texts.to_numpy()))
            print(path, flush=True)


def main() -> None:
    """Run missing cells, or another command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--cells", default="", help="regular expression of their names")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="file of results")
    parser.add_argument("--name", default="embed", help="name of this embedder")
    parser.add_argument("--embedder", type=parsed, default={}, help="its parameters")
    parser.add_argument("--limit", type=int, default=600, help="CPU seconds for a fit")
    parser.add_argument("--look", help="reason for using the confirmation half")
    parser.add_argument("--model", type=Path, help="folder of a sentence transformer")
    options = parser.parse_args()
    if options.embedder and options.name == "embed":
        parser.error("--embedder needs a --name other than embed")
    if options.command == "check":
        check()
    elif options.command == "embed":
        embed(options.model)
    elif options.command == "report":
        for path in [options.out] if options.out else OUT.values():
            write_report(path)
    else:
        run(options)


def run(options: argparse.Namespace) -> None:
    """Run the missing cells of a half."""
    is_confirm = options.command == "confirm"
    if is_confirm:
        note_look(options.look, ["bench_floor.py", options.name, *options.methods])
    options.out = options.out or OUT[options.command]
    for seed in options.seeds:
        for cell in CELLS:
            if cell.confirmation == is_confirm and re.search(options.cells, cell.name):
                run_missing(cell, seed, options)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
