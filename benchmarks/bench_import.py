"""Import time of the package, compared with that of its dependencies.

CPU time of fresh processes in turns.

Run: python benchmarks/bench_import.py [--turns 15] > benchmarks/results/import_time.md
"""

import argparse
import statistics

from measure import in_fresh_process, print_table, take_turns

STATEMENTS = {
    "torch, scikit-learn, skorch": "import torch, sklearn, skorch",
    "sklearn_hscl": "import sklearn_hscl",
}
MEASURE = "; import time; print(time.process_time())"


def seconds(statement):
    return in_fresh_process("-c", statement + MEASURE)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=15)
    turns = parser.parse_args().turns
    functions = {name: lambda s=s: seconds(s) for name, s in STATEMENTS.items()}
    times = take_turns(functions, turns)
    base, ours = times.values()
    ratio = statistics.median(b / a for a, b in zip(base, ours, strict=True))
    print("# Import time\n")
    print(
        f"`python benchmarks/bench_import.py --turns {turns}`, CPU time of fresh processes "
        f"that take turns. Median of the ratios: {ratio:.3f}; the goal is at most 1.15.\n"
    )
    rows = [
        [name, f"{statistics.median(t):.2f}", f"{min(t):.2f}"] for name, t in times.items()
    ]
    print_table(["import", "median, s", "least, s"], rows)


if __name__ == "__main__":
    main()
