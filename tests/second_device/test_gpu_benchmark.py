"""The comparisons of benchmarks/gpu.py hold on a device with a generator of its own."""

import sys
import warnings
from pathlib import Path

import pytest

from second_device import backend

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu_agreement

CHECKS = list(gpu_agreement.checks(backend.NAME, tiny=True))


@pytest.mark.parametrize(
    "check", CHECKS, ids=lambda check: f"{check.section}, {check.case}"
)
def test_answers(monkeypatch, check):
    seeded = backend.SecondGenerator.manual_seed

    def other_numbers(self, seed):
        return seeded(self, seed + (self.home == backend.NAME))

    monkeypatch.setattr(backend.SecondGenerator, "manual_seed", other_numbers)
    monkeypatch.setattr(
        backend._Backend,
        "manual_seed",
        lambda self, seed: backend._rng.manual_seed(seed + 1),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = check.run()
    assert result["agrees"], result
