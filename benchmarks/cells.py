"""Cells of a benchmark, one per model, data set and seed, stored as lines of JSON."""

import json
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

RESULTS = Path(__file__).parent / "results"


def attempt(evaluate: Callable[[], dict[str, Any]], limit: int) -> dict[str, Any]:
    """Return scores from one thread; an error or a timeout is a result, too."""
    try:
        with limited(limit), warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")  # convergence, levels that are new in tests
            return evaluate()
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after this CPU time, which does not depend on other load."""
    message = f"more than {seconds} s"
    ended = False

    def stop(*_: object) -> None:
        nonlocal ended
        ended = True
        raise TimeoutError(message)

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    except KeyboardInterrupt as error:
        if not ended:
            raise
        raise TimeoutError(message) from error  # CatBoost takes any signal for Ctrl-C
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def read_cells(path: Path) -> list[dict[str, Any]]:
    """Return the stored cells."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def write_cells(path: Path, cells: list[dict[str, Any]], mode: str) -> None:
    with path.open(mode) as file:
        file.writelines(json.dumps(cell, ensure_ascii=False) + "\n" for cell in cells)
