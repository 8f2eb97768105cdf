"""What the benchmarks share: data, clocks, turns, memory, tables."""

import statistics
import subprocess
import sys
import time

import numpy as np
import torch

# Shares of the 7 classes of the covertype data.
SHARES = np.array([211840, 283301, 35754, 2747, 9493, 17367, 20510]) / 581012


def covertype_like(n_rows, n_features=54):
    """Rows around 7 centres, in the proportions of covertype: float32 X and labels y."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(len(SHARES), n_features)).astype(np.float32)
    y = rng.choice(len(SHARES), n_rows, p=SHARES)
    X = rng.standard_normal((n_rows, n_features), dtype=np.float32)
    for start in range(0, n_rows, 4096):  # without a second array of this size
        X[start : start + 4096] += centres[y[start : start + 4096]]
    return X, y


def now(device="cpu"):
    """Seconds of this process's own CPU time; of the wall once the GPU has finished."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def take_turns(functions, n_turns):
    """What each function returns, turn by turn; the first turn is not counted."""
    results = {name: [] for name in functions}
    for turn in range(n_turns + 1):
        for name, function in functions.items():
            result = function()
            if turn:
                results[name].append(result)
    return results


def medians(results, reference):
    """Median, and median of the ratios to the reference of the same turn."""
    return {
        name: (
            statistics.median(values),
            statistics.median(np.divide(values, results[reference])),
        )
        for name, values in results.items()
    }


def extra_memory(function, device="cpu"):
    """Growth of the peak in MB while the function runs."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # set the peak to what is held now
    function()
    return (resident("VmHWM") - before) / 1e6


def resident(field):
    """Bytes of this process, by the field of /proc/self/status."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field))
    return int(line.split()[1]) * 1024


def in_fresh_process(script, *arguments):
    """Numbers that the script prints when it is called with these arguments."""
    command = [sys.executable, script, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(number) for number in result.stdout.split()]


def print_table(header, rows):
    print("|", " | ".join(header), "|")
    print("|" + "---|" * len(header), flush=True)
    for row in rows:
        print("|", " | ".join(str(cell) for cell in row), "|", flush=True)
    print()
