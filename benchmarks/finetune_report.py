"""The report of a benchmark of fine-tuning."""

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

SCORES = ("lr1", "lr10", "means", "map")
NAMES = {"lr1": "LR, C = 1", "lr10": "LR, C = 10", "means": "class means", "map": "MAP@R"}
INTRODUCTION = """\
# {title}

`{command}`, one thread. Scores in percent:
logistic regression with C of 1 and 10, nearest class mean, and MAP@R of test {samples} \
among
training {samples}, means over seeds. Seconds are those of the CPU until the encoder is
trained, beside other work; memory is the peak of the process.
"""


@dataclass(frozen=True)
class Page:
    """Words of a report."""

    title: str
    command: str
    samples: str
    """What is embedded, in the plural."""


def report(cells: list[dict[str, Any]], page: Page) -> str:
    """Return a page with a table for each set and number of samples."""
    groups: dict[tuple[str, int], dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        groups[cell["set"], cell["shots"]][cell["method"]].append(cell)
    parts = [INTRODUCTION.format(**vars(page))]
    for (name, shots), methods in sorted(groups.items()):
        parts.append(_table(name, shots, methods, page.samples))
    return "\n".join(parts)


def _table(
    name: str, shots: int, methods: dict[str, list[dict[str, Any]]], samples: str
) -> str:
    some = next(cell for found in methods.values() for cell in found if "scores" in cell)
    drawn = f"{shots} {samples} a class" if shots else f"all {samples}"
    lines = [
        f"## {name}, {drawn} ({some['n_train']} {samples}, {some['n_classes']} classes)\n",
        "| method | " + " | ".join(NAMES.values()) + " | seeds | s | MB |",
        "|---|" + "---|" * (len(NAMES) + 3),
    ]
    for method, found in methods.items():
        done = [cell for cell in found if "scores" in cell]
        if not done:
            lines.append(f"| {method} | {found[0]['error'][:80]} |" + " |" * 6)
            continue
        means = [statistics.mean(c["scores"][score] for c in done) for score in SCORES]
        seconds = statistics.mean(cell["seconds"] for cell in done)
        peak = max(cell["peak_mb"] for cell in done)
        shown = " | ".join(f"{mean:.1f}" for mean in means)
        lines.append(f"| {method} | {shown} | {len(done)} | {seconds:.0f} | {peak} |")
    return "\n".join(lines) + "\n"
