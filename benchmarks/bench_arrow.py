"""Parquet files against the same rows in memory: training, embedding, and killed calls.

    python benchmarks/bench_arrow.py                  # 1,300,000 rows of 54 float32
    python benchmarks/bench_arrow.py --rows 500000    # fewer

Writes benchmarks/results/arrow.md. Each measurement is a process of its own, whose peak
memory is that of the whole process, with torch. The rows are made on the fly, in float32.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

N_COLUMNS, N_CLASSES, GROUP_ROWS, FILE_ROWS = 54, 7, 65_536, 524_288
RESULTS = Path(__file__).parent / "results/arrow.md"
SETTINGS = {"encoder": "mlp", "random_state": 0, "early_stopping": False}
# Rows of files that embedding is measured on: more would take minutes.
EMBEDDED_FILES = 1


def write(folder, n_rows):
    """Write files of rows with 7 classes and a key."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    centers = np.random.default_rng(0).normal(size=(N_CLASSES, N_COLUMNS))
    for part, start in enumerate(range(0, n_rows, FILE_ROWS)):
        rng = np.random.default_rng(part + 1)
        here = min(FILE_ROWS, n_rows - start)
        labels = rng.integers(0, N_CLASSES, here)
        rows = (centers[labels] + 2 * rng.normal(size=(here, N_COLUMNS))).astype(np.float32)
        columns = {f"x{i}": rows[:, i] for i in range(N_COLUMNS)}
        table = pa.table(columns | {"label": labels, "key": np.arange(start, start + here)})
        pq.write_table(
            table, folder / f"part-{part:03d}.parquet", row_group_size=GROUP_ROWS
        )


def features(folder):
    """Return the files without the key."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    schema = ds.dataset(folder).schema
    return ds.dataset(folder, schema=pa.schema([f for f in schema if f.name != "key"]))


def in_memory(folder, files=None):
    import pyarrow.parquet as pq

    paths = sorted(folder.glob("*.parquet"))[:files]
    parts, labels = [], []
    for path in paths:
        for group in range(pq.read_metadata(path).num_row_groups):
            table = pq.ParquetFile(path).read_row_group(group)
            labels.append(table["label"].to_numpy())
            names = [f"x{i}" for i in range(N_COLUMNS)]
            parts.append(np.column_stack([table[name].to_numpy() for name in names]))
    return np.concatenate(parts), np.concatenate(labels)


def measure_fit(folder, kind, batch_size):
    from sklearn_hscl import HSCLEmbedder

    embedder = HSCLEmbedder(max_epochs=2, batch_size=int(batch_size), **SETTINGS)
    if kind == "arrays":
        X, y = in_memory(folder)
    else:
        X, y = features(folder), "label"
    start = time.perf_counter()
    embedder.fit(X, y)
    seconds = time.perf_counter() - start
    epochs = [epoch["dur"] for epoch in embedder.history_]
    return {"fit": seconds, "epoch": float(np.mean(epochs)), "epochs": epochs}


def some_files(folder, target):
    target.mkdir(exist_ok=True)
    for path in sorted(folder.glob("*.parquet"))[:EMBEDDED_FILES]:
        if not (target / path.name).exists():
            os.link(path, target / path.name)
    return target


def fitted(folder, encoder):
    import pandas as pd

    from sklearn_hscl import HSCLEmbedder

    model = folder / f"{encoder}.hscl"
    if not model.exists():
        X, y = in_memory(folder, 1)
        X = pd.DataFrame(X[:20_000], columns=[f"x{i}" for i in range(N_COLUMNS)])
        settings = SETTINGS | {"encoder": encoder, "max_epochs": 2}
        HSCLEmbedder(**settings).fit(X, y[:20_000]).save(model)
    return HSCLEmbedder.load(model)


def measure_transform(folder, encoder, kind):
    import pandas as pd

    from sklearn_hscl.arrow import embed_dataset

    embedder = fitted(folder, encoder)
    source = some_files(folder, folder / "some")
    rows = in_memory(source)[0]
    n_rows = len(rows)
    frame = pd.DataFrame(rows, columns=[f"x{i}" for i in range(N_COLUMNS)])
    embedder.transform(frame[:2048])  # measures in which batches rows keep their bits
    start = time.perf_counter()
    if kind == "transform":
        embedder.transform(frame)
    else:
        del rows, frame
        embed_dataset(embedder, source, folder / f"{encoder}-timed", keep=["key"])
    return {"rows_per_second": n_rows / (time.perf_counter() - start)}


def measure_embedding(folder, encoder):
    """Embed once, in a process that reads nothing else."""
    from sklearn_hscl.arrow import embed_dataset

    source = some_files(folder, folder / "some")
    print("starts", flush=True)
    embed_dataset(
        fitted(folder, encoder),
        source,
        folder / f"{encoder}-killed",
        keep=["key"],
        rows_per_file=65_536,
    )
    return {}


def start(*arguments):
    command = [sys.executable, __file__, "--measure", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def measured(*arguments):
    process = start(*arguments)
    output = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"{arguments} failed")
    return json.loads(output.splitlines()[-1])


def killed(folder, encoder, n_kills):
    """Kill calls at random times, and finish: rows lost, doubled, and different."""
    import pyarrow.dataset as ds

    fitted(folder, encoder)
    delays, n_killed, n_partial = random.Random(0), 0, 0
    target = folder / f"{encoder}-killed"
    while n_killed < n_kills:
        process = start(folder, "embedding", encoder)
        process.stdout.readline()  # it starts to embed
        try:
            process.wait(delays.uniform(0.1, 3))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            n_killed += 1
        process.communicate()
        n_partial += bool(list(target.glob("*.part")))
        if process.returncode == 0:  # complete: begin again
            shutil.rmtree(target)
    result = measured(folder, "embedding", encoder)
    source = ds.dataset(folder / "some").to_table(columns=["key"])["key"].to_numpy()
    written = ds.dataset(target).to_table(columns=["key", "embedding"])
    keys = written["key"].to_numpy()
    import pandas as pd

    rows = in_memory(folder / "some")[0]
    frame = pd.DataFrame(rows, columns=[f"x{i}" for i in range(N_COLUMNS)])
    embedding = np.stack(written["embedding"].to_numpy())
    return {
        "killed": n_killed,
        "killed while a file was written": n_partial,
        "rows": len(keys),
        "lost": len(set(source) - set(keys)),
        "doubled": len(keys) - len(set(keys)),
        "in order": bool((keys == source).all()),
        "equal to transform": bool(
            np.array_equal(embedding, fitted(folder, encoder).transform(frame))
        ),
        "peak": result["peak"],
    }


def measure(folder, kind, *arguments):
    functions = {"fit": measure_fit, "transform": measure_transform}
    functions["embedding"] = measure_embedding
    result = functions[kind](Path(folder), *arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(result | {"peak": peak}))


def report(folder, n_rows, n_kills):
    lines = [f"{n_rows:,} rows of {N_COLUMNS} columns of float32, {N_CLASSES} classes;"]
    lines += [f"row groups of {GROUP_ROWS:,} rows.", ""]
    lines += ["| batch | rows | seconds an epoch | fit of 2 epochs, s | peak GiB | speed |"]
    lines += ["|---|---|---|---|---|---|"]
    for batch_size in (256,):
        base = None
        for kind in ("arrays", "Parquet"):
            found = measured(folder, "fit", kind, batch_size)
            base = base or found["epoch"]
            lines.append(
                f"| {batch_size} | {kind} | {found['epoch']:.1f} | {found['fit']:.1f} | "
                f"{found['peak']:.2f} | {base / found['epoch']:.0%} |"
            )
            print(lines[-1], flush=True)
    lines += ["", "| encoder | what | rows per second | speed |", "|---|---|---|---|"]
    for encoder in ("mlp", "tabular"):
        base = None
        for kind in ("transform", "embed_dataset"):
            found = measured(folder, "transform", encoder, kind)["rows_per_second"]
            base = base or found
            lines.append(f"| {encoder} | {kind} | {found:,.0f} | {found / base:.0%} |")
            print(lines[-1], flush=True)
    found = killed(folder, "mlp", n_kills)
    lines += ["", "`embed_dataset` killed at random times and repeated:", ""]
    lines += [f"- {name}: {value}" for name, value in found.items() if name != "peak"]
    lines.append(f"- peak memory of the last call: {found['peak']:.2f} GiB")
    print("\n".join(lines[-9:]), flush=True)
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_300_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--measure", nargs="+")
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, options.rows)
        text = report(folder, options.rows, options.kills)
    options.output.write_text(text)


if __name__ == "__main__":
    main()
