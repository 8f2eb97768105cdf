"""One command for a GPU: are its answers those of the CPU, and how fast is it?

    python benchmarks/gpu.py                        # on the GPU, at most 25 minutes
    python benchmarks/gpu.py --device cpu --tiny    # every part, on a few rows

Runs the tests that need a GPU, compares the answers of the device with the CPU's
(`gpu_agreement.py`), then times losses, fits, transform, searches and images against eager
torch on the same device (`gpu_speed.py`). Writes `gpu.json` and `gpu.md` into the folder
`--results`. Exits with 1 if an answer differs, a test fails or a part raises an error.
What would begin after the limit is skipped, and listed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gpu_agreement
import gpu_speed
import torch
from measure import markdown

import sklearn_hscl
from sklearn_hscl.runtime.device import resolve_device

ROOT = Path(__file__).parent.parent
TESTS = ("tests/test_losses_kernels_triton.py",)
RESERVE = 0.1  # fraction of the limit for what began before it


class Budget:
    """Time that is left."""

    def __init__(self, minutes: float) -> None:
        self.begin, self.minutes = time.monotonic(), minutes
        self.skipped: list[dict[str, str]] = []

    def seconds_left(self) -> float:
        """Return the seconds in which something may begin."""
        return 60 * self.minutes * (1 - RESERVE) - (time.monotonic() - self.begin)

    def allows(self, section: str, case: str) -> bool:
        """Return whether there is time left; note what is skipped."""
        if self.seconds_left() > 0:
            return True
        self.skip(section, case, f"the limit of {self.minutes:g} minutes was reached")
        return False

    def skip(self, section: str, case: str, reason: str) -> None:
        """Note what is skipped."""
        print(f"skipped: {section}: {case}, {reason}", flush=True)
        self.skipped.append({"section": section, "case": case, "reason": reason})


def run_tests(device: str, budget: Budget) -> dict[str, Any] | None:
    """Run the tests that need a GPU; return their last line, or None if skipped."""
    name = ", ".join(TESTS)
    if torch.device(device).type != "cuda":
        budget.skip("tests", name, "they need an NVIDIA GPU")
    elif budget.allows("tests", name):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
        try:
            limit = budget.seconds_left()
            done = subprocess.run(
                command,
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            budget.skip("tests", name, "they took longer than the limit")
            return None
        print(done.stdout[-2000:], flush=True)
        summary = (done.stdout.strip().splitlines() or [done.stderr[-200:]])[-1]
        return {"command": command[1:], "passed": done.returncode == 0, "summary": summary}
    return None


def run_each(parts: Iterable[Any], budget: Budget) -> list[dict[str, Any]]:
    """Run parts as long as there is time; return and print their results."""
    results = []
    for part in parts:
        if budget.allows(part.section, part.case):
            results.append(part.run())
            print(" | ".join(str(value) for value in results[-1].values()), flush=True)
    return results


def is_good(report: dict[str, Any]) -> bool:
    """Return whether all answers agree and nothing failed."""
    tests = report["tests"]
    return (
        (tests is None or tests["passed"])
        and all(result["agrees"] for result in report["answers"])
        and not any(result.get("error") for result in report["speed"])
    )


def about(device: str) -> dict[str, str]:
    """Describe machine and versions."""
    kind = torch.device(device).type
    name = torch.cuda.get_device_name(device) if kind == "cuda" else kind
    return {
        "device": name,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "sklearn-hscl": sklearn_hscl.__version__,
        "platform": platform.platform(),
        "cores": str(os.cpu_count()),
    }


# Markdown ------------------------------------------------------------------------------


def text_of(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = [f"# {report['about']['device']}", ""]
    lines += [f"{name} {value}" + "  " for name, value in report["about"].items()]
    lines += ["", f"Command: `{report['command']}`, {report['minutes']:.1f} minutes.", ""]
    lines += [*answer_lines(report), "", "## Speed", ""]
    lines += [
        "Seconds, and how many times as long eager torch takes on the same device.",
        "",
    ]
    lines += markdown(["section", "case", "seconds", "eager torch", "ratio"], rows(report))
    if report["skipped"]:
        lines += ["", "## Skipped", ""]
    for part in report["skipped"]:
        lines.append(f"- {part['section']}: {part['case']}, because {part['reason']}.")
    return "\n".join(lines) + "\n"


def answer_lines(report: dict[str, Any]) -> list[str]:
    """Return the results of tests and comparisons as lines."""
    tests, answers = report["tests"], report["answers"]
    lines = ["## Answers", ""]
    lines.append(f"Tests: {tests['summary'] if tests else 'skipped'}.")
    agreeing = sum(result["agrees"] for result in answers)
    lines.append(f"{agreeing} of {len(answers)} answers agree with those of the CPU.")
    for result in answers:
        if not result["agrees"]:
            found = result.get("error") or f"differs by {result['difference']:.1e}"
            allowed = f"{result['tolerance']:.0e} is allowed"
            lines.append(f"- {result['section']}: {result['case']}: {found}; {allowed}.")
    return lines


def rows(report: dict[str, Any]) -> Iterable[list[str]]:
    """Yield the rows of the table of speed."""
    for result in report["speed"]:
        cells = [result["section"], result["case"]]
        if "seconds" not in result:
            reason = result.get("error", result.get("note"))
            yield [*cells, " ".join(reason.replace("|", "/").split()), "-", "-"]
            continue
        numbers = [f"{result['seconds']:.3g}", result.get("note", "-"), "-"]
        if result["ratio"] is not None:
            numbers[1:] = [f"{result['eager']:.3g}", f"**{result['ratio']:.2f}**"]
        yield [*cells, *numbers]


def main() -> None:
    """Run all parts, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="such as cuda, mps, xpu or cpu")
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--tiny", action="store_true", help="few rows, to test the script")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args()
    try:
        device = str(resolve_device(args.device))
    except ValueError as error:
        parser.error(str(error))
    budget = Budget(args.minutes)
    report = {"about": about(device), "command": " ".join(["python", *sys.argv])}
    report["tests"] = run_tests(device, budget)
    report["answers"] = run_each(gpu_agreement.checks(device, args.tiny), budget)
    report["speed"] = run_each(gpu_speed.timings(device, args.tiny), budget)
    report["skipped"] = budget.skipped
    report["minutes"] = (time.monotonic() - budget.begin) / 60
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.results / "gpu.md").write_text(text_of(report))
    sys.exit(0 if is_good(report) else 1)


if __name__ == "__main__":
    main()
