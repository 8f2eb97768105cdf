"""Data, clocks, turns, memory and tables that the benchmarks share."""

import os
import statistics
import subprocess
import sys
import time

import numpy as np
import torch

# Fractions of the 7 classes of the covertype data.
CLASS_FRACTIONS = np.array([211840, 283301, 35754, 2747, 9493, 17367, 20510]) / 581012


def covertype_like(n_rows, n_features=54):
    """Return float32 samples around 7 centres, in the class proportions of covertype."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(len(CLASS_FRACTIONS), n_features)).astype(np.float32)
    y = rng.choice(len(CLASS_FRACTIONS), n_rows, p=CLASS_FRACTIONS)
    return around_centres(rng, centres, y), y


def around_centres(rng, centres, y):
    """Return Gaussian samples around the centres of their classes, float32."""
    X = rng.standard_normal((len(y), centres.shape[1]), dtype=np.float32)
    for start in range(0, len(y), 4096):  # without a second array of this size
        X[start : start + 4096] += centres[y[start : start + 4096]]
    return X


def now(device="cpu"):
    """Return the CPU time of this process; on a GPU the wall time once it has finished."""
    if torch.device(device).type == "cpu":
        return time.process_time()
    torch.get_device_module(device).synchronize()
    return time.perf_counter()


def take_turns(functions, n_turns):
    """Return the results of each function, turn by turn, without the first turn."""
    results = {name: [] for name in functions}
    for turn in range(n_turns + 1):
        for name, function in functions.items():
            result = function()
            if turn:
                results[name].append(result)
    return results


def medians(results, reference):
    """Return medians, and medians of the ratios to the reference of the same turn."""
    return {
        name: (
            statistics.median(values),
            statistics.median(np.divide(values, results[reference])),
        )
        for name, values in results.items()
    }


def extra_memory(function, device="cpu"):
    """Return the growth of the peak in MB while the function runs."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # reset the peak to the current memory
    function()
    return (resident("VmHWM") - before) / 1e6


def resident(field):
    """Return bytes of this process, by the field of /proc/self/status."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field))
    return int(line.split()[1]) * 1024


def in_fresh_process(*arguments, **environment):
    """Return the numbers that Python prints when called with these arguments.

    `environment` holds variables that the process has besides those of this one.
    """
    command = [sys.executable, *map(str, arguments)]
    variables = os.environ | {name: str(value) for name, value in environment.items()}
    result = subprocess.run(
        command, capture_output=True, text=True, check=True, env=variables
    )
    return [float(number) for number in result.stdout.split()]


def markdown(header, rows):
    """Yield the lines of a table as rows become available."""
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def print_table(header, rows):
    for line in markdown(header, rows):
        print(line, flush=True)
    print()
