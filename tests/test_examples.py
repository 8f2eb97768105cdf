"""The examples run, on a third of the digits and with one epoch where they set none."""

import runpy
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import sklearn.datasets

from sklearn_hscl import HSCLEmbedder

EXAMPLES = Path(__file__).parent.parent / "examples"
load_digits = sklearn.datasets.load_digits


def few_digits(*, return_X_y=False):
    digits = load_digits()
    for name in ("data", "images", "target"):
        digits[name] = digits[name][::3]
    return (digits.data, digits.target) if return_X_y else digits


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    monkeypatch.setitem(HSCLEmbedder.__init__.__kwdefaults__, "max_epochs", 1)
    monkeypatch.setattr(sklearn.datasets, "load_digits", few_digits)
    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.mark.parametrize(
    "example", sorted(EXAMPLES.glob("plot_*.py")), ids=lambda p: p.stem
)
def test_example(example, fast, capsys):
    runpy.run_path(str(example))
    assert plt.get_fignums()
    assert "embedding" in capsys.readouterr().out


def test_vector_index_names_the_missing_package(fast, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    runpy.run_path(str(EXAMPLES / "plot_vector_index.py"))
    printed = capsys.readouterr().out
    assert "pip install usearch" in printed
    assert printed.count("MAP@R") == 2
    assert "recall@10" not in printed


def test_demo(fast, capsys, tmp_path):
    demo = runpy.run_path(str(EXAMPLES / "demo.py"))
    picture = tmp_path / "demo.png"
    sizes = ["--splits=2", "--jobs=1", "--beta=1", "--temperature=0.5"]
    demo["main"]([*sizes, f"--output={picture}"])
    printed = capsys.readouterr().out
    rows = [line.split()[0] for line in printed.splitlines() if "±" in line]
    assert rows == ["raw", "UCL", "H-UCL", "SCL", "H-SCL"]
    assert "Best of 1: {'beta': 1.0, 'temperature': 0.5}" in printed
    assert picture.stat().st_size > 10_000
