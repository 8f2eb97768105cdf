"""Fits killed by SIGKILL at random moments, and whether they resume to the same bits.

Prints Markdown. Each trial begins a fit with `checkpoint_dir` in a process of its own,
kills that at a random moment of the time that the fit takes, and begins again with
`resume=True`; the digest of weights, embedding and history is compared with that of a fit
in one go, without a checkpoint. Trials whose process has ended before the signal are
repeated, so that all kills counted are kills. The cases are those of
``tests/helpers/killed_fits.py``.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from measure import print_table

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from helpers import killed_fits as kills


def epochs_written(directory):
    """Return the number of epochs in the checkpoint; None if there is none yet."""
    path = directory / "checkpoint.pt"
    if not path.exists():
        return None
    content = torch.load(path, weights_only=True)
    return len(content["training"]["history"])


def trial(case, expected, seconds, rng):
    """Return whether a killed fit resumes bitwise equal, and from which epoch; or None."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if not kills.kill_some(case, directory, [rng.uniform(0, seconds)]):
            return None
        epochs = epochs_written(directory)
        result, _ = kills.in_child(kills.fit, case, directory)
    return result == expected, epochs


def row(case, n_kills, rng):
    expected = kills.fit(case)  # here: the children need no first-time preparations
    with tempfile.TemporaryDirectory() as name:
        _, seconds = kills.in_child(kills.fit, case, Path(name))
    found = []
    while len(found) < n_kills:
        result = trial(case, expected, seconds, rng)
        found += [] if result is None else [result]
    at = Counter(
        "none" if epochs is None else "start" if epochs == 0 else "epochs"
        for _, epochs in found
    )
    same = sum(is_same for is_same, _ in found)
    return [case, f"{seconds:.1f}", len(found), same, at["none"], at["start"], at["epochs"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    n_each = -(-options.kills // len(kills.CASES))
    header = ["case", "fit, s", "kills", "same bits", "no file yet", "start", "in training"]
    print_table(header, (row(case, n_each, rng) for case in kills.CASES))


if __name__ == "__main__":
    main()
