"""Runs what is in tests/second_device: torch takes one such device for each process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent / "second_device"
VERIFIED = ("2.13.0",)  # versions of torch on whose internals the device relies


@pytest.mark.skipif(
    torch.__version__.partition("+")[0] not in VERIFIED,
    reason=f"the second device is verified with torch {VERIFIED}",
)
def test_in_a_process_of_its_own():
    """In one process for all files: each process imports torch anew, for 10 seconds."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p"]
    command += ["no:xdist", "-x", "--no-header", "--tb=short", str(FOLDER)]
    unset = ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST")
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    done = subprocess.run(
        command,
        env=environment | {"SECOND_DEVICE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
