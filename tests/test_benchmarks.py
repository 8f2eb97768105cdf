"""Benchmarks take from each other only what is there; that of a GPU runs on the CPU."""

import ast
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = {path.stem: path for path in sorted(FOLDER.rglob("*.py"))}


def made_in(path):
    """Names that the top level of a script defines or imports."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            stored = (n for n in ast.walk(node) if isinstance(n, ast.Name))
            yield from (n.id for n in stored if isinstance(n.ctx, ast.Store))


@pytest.mark.parametrize("name", SCRIPTS)
def test_names_are_there(name):
    for node in ast.walk(ast.parse(SCRIPTS[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module in SCRIPTS:
            wanted = {alias.name for alias in node.names}
            assert wanted <= set(made_in(SCRIPTS[node.module]))


# The papers ----------------------------------------------------------------------------


def papers(script, *arguments):
    """Run a script of the papers; return the finished process."""
    return subprocess.run(
        [sys.executable, str(FOLDER / "papers" / script), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_page_of_the_papers_shows_their_results():
    done = papers("papers_page.py", "--check")
    assert done.returncode == 0, done.stderr[-3000:]


# The benchmark of a GPU ----------------------------------------------------------------


def run_gpu(folder, *arguments):
    """Run it on the CPU; return its exit status, its JSON and its Markdown."""
    command = [sys.executable, str(FOLDER / "gpu.py"), "--device", "cpu", "--tiny"]
    done = subprocess.run(
        [*command, "--results", str(folder), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr, done.stderr[-3000:]
    report = json.loads((folder / "gpu.json").read_text())
    return done.returncode, report, (folder / "gpu.md").read_text()


def test_gpu_benchmark(tmp_path):
    status, report, text = run_gpu(tmp_path)
    assert status == 0
    answers = {answer["section"] for answer in report["answers"]}
    assert answers == {"loss", "fit and transform", "save and load", "search"}
    assert all(answer["agrees"] for answer in report["answers"])
    timed = {timing["section"] for timing in report["speed"]}
    assert timed == {"loss", "fit", "transform", "images", "search"}
    assert all(timing["ratio"] > 0 for timing in report["speed"])
    (skipped,) = report["skipped"]
    assert skipped["reason"] == "they need an NVIDIA GPU"
    n_answers, n_timings = len(report["answers"]), len(report["speed"])
    assert f"{n_answers} of {n_answers} answers agree" in text
    assert text.count("| **") == n_timings


def test_gpu_benchmark_without_time(tmp_path):
    status, report, text = run_gpu(tmp_path, "--minutes", "0")
    assert status == 0
    assert report["answers"] == report["speed"] == []
    assert "- loss: hscl, tiled, because the limit of 0 minutes was reached." in text
    assert "- images: epoch of conv, because" in text


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu
    import gpu_agreement
    import gpu_speed

    return gpu, gpu_agreement, gpu_speed


def raise_error():
    raise RuntimeError("no | kernel")


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (lambda: [[1.0, 2.1]], "differs by 5.0e-02"),
        (lambda: [[1.0, float("nan")]], "values that are not finite"),
        (lambda: [[1.0]], "or other shapes"),
        (raise_error, "RuntimeError: no | kernel"),
    ],
)
def test_gpu_benchmark_fails_where_answers_differ(scripts, found, reason):
    gpu, agreement, _ = scripts
    good = {"tests": None, "answers": [], "speed": []}
    assert gpu.is_good(good)
    check = agreement.Check("fit", "mlp", 1e-3, lambda: [[1.0, 2.0]], found)
    bad = good | {"answers": [check.run()]}
    assert not gpu.is_good(bad)
    assert any(reason in line for line in gpu.answer_lines(bad))


def test_gpu_benchmark_fails_with_its_tests_and_timings(scripts):
    gpu, _, speed = scripts
    good = {"answers": [], "speed": []}
    assert gpu.is_good(good | {"tests": {"passed": True}})
    assert not gpu.is_good(good | {"tests": {"passed": False}})
    timing = speed.Timing("fit", "mlp", 1, raise_error).run()
    bad = good | {"tests": None, "speed": [timing]}
    assert not gpu.is_good(bad)
    assert list(gpu.rows(bad)) == [["fit", "mlp", "RuntimeError: no / kernel", "-", "-"]]


def test_gpu_benchmark_goes_on_where_memory_ends(scripts):
    gpu, _, speed = scripts

    def runs_out():
        raise speed.torch.OutOfMemoryError

    functions = {"ours": lambda: 0.5, "eager": runs_out}
    timing = speed.Timing("loss", "B=8", 1, lambda: functions).run()
    report = {"tests": None, "answers": [], "speed": [timing]}
    assert gpu.is_good(report)
    (row,) = gpu.rows(report)
    assert row == ["loss", "B=8", "0.5", "eager torch: out of memory", "-"]


# The benchmark of floors -----------------------------------------------------------------


@pytest.fixture
def floor(monkeypatch):
    pytest.importorskip("pandas")
    monkeypatch.syspath_prepend(str(FOLDER))
    import bench_floor
    import floor_cells
    import floor_report
    import floor_targets

    return bench_floor, floor_cells, floor_targets, floor_report


def blobs(n=400, n_classes=4):
    y = np.arange(n) % n_classes
    X = np.random.default_rng(0).normal(size=(n, 6)) + 6 * np.eye(6)[y]
    return X, y.astype(str).astype(object)


def test_floor_hides_labels_of_training_rows(floor):
    _, cells, _, _ = floor
    data = cells.split(cells.Cell("few05", "dense", "blobs", blobs), 0)
    assert (len(data.X_train), len(data.y_test)) == (280, 120)
    shown = data.y_few != -1
    assert list(np.flatnonzero(shown)) == list(data.labeled)
    assert list(np.bincount(data.y_few[shown])) == [4, 4, 4, 4]
    assert list(data.y_few[shown].astype(str)) == list(data.y_train[shown])


def test_floor_splits_by_seed(floor):
    _, cells, _, _ = floor
    cell = cells.Cell("classes", "dense", "blobs", blobs)
    first, same, other = (cells.split(cell, seed) for seed in (0, 0, 1))
    assert first.key == same.key != other.key
    rows = np.vstack([first.X_train, first.X_test])
    assert sorted(rows[:, 0]) == sorted(blobs()[0][:, 0])


def test_floor_thins_positives(floor):
    _, cells, targets, _ = floor
    read = partial(targets.rare, blobs, "2", 0.0385)
    data = cells.split(cells.Cell("rare", "dense", "blobs", read), 0)
    y = np.concatenate([data.y_train, data.y_test])
    assert (y == "other").sum() == 300
    assert (y == "positive").sum() == 12


def test_floor_vocabulary_is_that_of_training_texts(floor):
    _, cells, _, _ = floor
    texts = np.array([f"common word{i // 2}" for i in range(400)], dtype=object)
    cell = cells.Cell("classes", "tfidf", "texts", lambda: (texts, blobs()[1]))
    data = cells.split(cell, 0)
    assert data.X_train.shape[1] == data.X_test.shape[1] < 201
    assert (data.X_train.getnnz(axis=0) >= 2).all()


@pytest.mark.parametrize(
    ("target", "y"),
    [
        ("classes", lambda y: y),
        ("few10", lambda y: y),
        ("none", lambda y: y),
        ("many", lambda y: y),
        ("rare", lambda y: np.where(y == "1", "positive", "other").astype(object)),
        ("labels", lambda y: np.stack([y == "1", y > "1"], axis=1).astype(int)),
        ("number", lambda y: y.astype(float) ** 2),
        ("numbers", lambda y: y.astype(float)[:, None] ** [1, 2]),
    ],
)
def test_floor_scores_separated_groups(floor, target, y):
    bench, cells, _, _ = floor
    cell = cells.Cell(target, "dense", "blobs", lambda: (blobs()[0], y(blobs()[1])))
    data = cells.split(cell, 0)
    for method in ("pca", "supervised", "peer"):
        run = partial(bench.evaluate, method, cell, data, 0, {})
        scores = bench.attempt(run, limit=60)["scores"]
        assert all(0.8 < score <= 1 for score in scores.values())
        assert scores or (method == "supervised" and target in ("none", "labels"))


def test_floor_counts_r2_below_zero_as_zero(floor):
    _, _, _, report = floor
    cell = {"method": "raw", "cell": "number/dense/a", "seed": 0, "metric": "R2"}
    scored = cell | {"seconds": 1.0, "scores": {"knn": -3.0, "linear": 0.5}}
    scores, _ = report.tabulated([scored])
    assert list(scores["score"]) == [0.0, 0.5]


def test_floor_reports_cells_that_lose(floor):
    _, _, _, report = floor
    drops = {"classes/dense/a": 0.02, "classes/dense/b": 0.01, "number/dense/c": 0.019}
    cells = [
        {
            "method": method,
            "cell": cell,
            "seed": 0,
            "metric": "R2" if cell.startswith("number") else "accuracy",
            "seconds": 1.0,
            "scores": {"knn": 0.9 - drop, "linear": 0.9 - drop},
        }
        for cell, loss in drops.items()
        for method, drop in (("raw", 0), ("embed", loss))
    ]
    scores, failed = report.tabulated(cells)
    assert not failed
    means = scores.groupby(["method", "cell", "readout"])["score"].mean()
    lines = report.verdict(means, scores, "embed")
    assert [line for line in lines if "dense" in line] == [
        "| classes/dense/a | -0.020 | -0.020 |"
    ]
