"""Make the page "Reproducing the papers" of the docs from the results.

python benchmarks/papers/papers_page.py             # writes docs/user_guide/papers.rst
python benchmarks/papers/papers_page.py --check     # fails if the page is out of date
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from run import PAPERS, RESULTS

PAGE = RESULTS.parent.parent / "docs/user_guide/papers.rst"
HEAD = """\
Reproducing the papers
======================

..
    Made by ``benchmarks/papers/papers_page.py``; changes belong there.

Each paper has one command, ``python benchmarks/papers/run.py NAME``, with ``hscl``,
``hcl``, ``supcon``, ``sscl``, ``clce``, ``collapse`` or ``graphs``. ``--full`` needs a
GPU. Data are read from the folder that ``SKLEARN_HSCL_DATA`` names.

The papers train ResNet-50 or larger on whole data sets. On a CPU only the direction of an
effect can be checked: the gain in accuracy of a paper's loss over its baseline, both
trained alike on few images, with settings that the paper names. Absolute accuracies are
not comparable. Intervals are those of Student's t for the mean gain, 95 %, over runs with
the same seed.
"""
COLLAPSE_TITLE = (
    "Hard-negative sampling for contrastive learning: optimal representation geometry and "
    "neural- vs dimensional-collapse"
)


def page(results: Path) -> str:
    """Return the page as reStructuredText."""
    blocks = [HEAD]
    for name, paper in PAPERS.items():
        losses = paper.method[0], paper.baseline[0]
        head = section(f"{paper.title} (``{name}``)", paper.arxiv, losses)
        theirs = "not known"
        if paper.theirs is not None:
            limit = "at most " if paper.numbers[0] is None else ""
            theirs = f"{limit}{paper.theirs:+.1f} points ({paper.where})"
        blocks.append(f"{head}\n{body(results / f'papers_{name}.json', theirs)}")
    head = section(
        f"{COLLAPSE_TITLE} (``collapse``)", "2311.05139", ("H-SCL, β = 5", "SCL")
    )
    theirs = "+48.0 points (CIFAR-100, ResNet-50, class means, from the authors' notebook)"
    blocks.append(f"{head}\n{body(results / 'papers_collapse.json', theirs)}")
    if (results / "collapse.md").exists():
        blocks.append(
            "Curves from random and from collapsed starts, and the measures of collapse: "
            "``benchmarks/results/collapse.md``.\n"
        )
    blocks.append(of_graphs(results))
    return "\n".join(blocks)


def section(title: str, arxiv: str, losses: tuple[str, str]) -> str:
    """Return the title of a paper, and what is compared."""
    link = f"`arXiv {arxiv} <https://arxiv.org/abs/{arxiv}>`_"
    return f"{title}\n{'-' * len(title)}\n\n{link}: {losses[0]} against {losses[1]}.\n"


def body(path: Path, theirs: str) -> str:
    """Return the numbers of a paper."""
    lines = [f"- Paper: {theirs}."]
    if not path.exists():
        return "\n".join([*lines, "- Ours: not run yet.", ""])
    result = json.loads(path.read_text())
    half = result["half_interval"]
    interval = " (one seed)" if half is None else f" ± {half:.1f}"
    lines.append(f"- Ours: {result['gain']:+.1f}{interval} points.")
    for model, cells in result["scores"].items():
        values = 100 * np.array([cell["linear"] for cell in cells])
        lines.append(f"- {model}: {', '.join(f'{value:.1f}' for value in values)} %.")
    lines.append(f"- {conditions(result)}")
    return "\n".join([*lines, ""])


def conditions(result: dict[str, Any]) -> str:
    """Return how the numbers were made."""
    seeds = ", ".join(map(str, result["seeds"]))
    return (
        f"``{result['command']}``: {result['data']}, {result['epochs']} epochs, seeds "
        f"{seeds}, {result['minutes']:.0f} minutes."
    )


def of_graphs(results: Path) -> str:
    """Return where the table of graphs is."""
    title = "Graphs (``graphs``)"
    where = "not run yet"
    if (results / "graphs.md").exists():
        where = "``benchmarks/results/graphs.md``"
    text = f"Graph classification with the four losses: {where}."
    return f"{title}\n{'-' * len(title)}\n\n{text}\n"


def main() -> None:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = page(RESULTS)
    if not parser.parse_args().check:
        PAGE.write_text(text)
    elif text != PAGE.read_text():
        raise SystemExit(f"{PAGE} is out of date. Run benchmarks/papers/papers_page.py.")


if __name__ == "__main__":
    main()
