"""Several processes of one launch train one model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import shared_fits as fits
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_hscl.runtime import processes
from sklearn_hscl.runtime.processes import Processes

pytest.importorskip("accelerate")
RANKS = (0, 1)


def launch(job, folder, check=True):
    """Run a job in two processes; return what each one found."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", fits.__file__, job, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0 or not check, done.stderr
    files = [Path(folder, f"{job}-{rank}.json") for rank in RANKS]
    return [json.loads(file.read_text()) if file.exists() else None for file in files]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("launch")


@pytest.fixture(scope="module")
def equal(folder):
    return launch("equal", folder)


@pytest.fixture(scope="module")
def faulty(folder):
    return launch("faulty", folder)


@pytest.mark.parametrize("case", fits.EQUAL | fits.SHARED)
def test_two_processes_train_what_one_trains(equal, case):
    expected = fits.embedding(case)
    for rank in RANKS:
        assert_allclose(equal[rank][case], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", ["unseeded", "dropout of a user", "routed", "partial_fit"])
def test_all_processes_end_with_one_model(equal, case):
    assert_array_equal(equal[0][case], equal[1][case])


def test_chunks_of_the_data_are_shared_too(equal):
    chunks = fits.HSCLEmbedder(**fits.SETTINGS)
    for half in (slice(0, 75), slice(75, None)):
        chunks.partial_fit(fits.X[half], fits.LABELS[half], classes=[0, 1, 2, 3])
    assert_allclose(equal[0]["partial_fit"], chunks.transform(fits.X), atol=1e-10)


def test_a_checkpoint_is_resumed_by_another_number_of_processes(equal, folder):
    resumed = fits.resumed(folder, max_epochs=4)
    assert len(resumed.history_) == 4
    whole = fits.fitted(max_epochs=4, lr_schedule="constant")
    assert_allclose(resumed.transform(fits.X), whole.transform(fits.X), atol=1e-10)


def test_a_callback_that_stops_one_process_stops_all(equal):
    assert [equal[rank]["epochs of a stopped fit"] for rank in RANKS] == [2, 2]


def test_process_0_alone_warns(equal):
    assert any("lr" in message for message in equal[0]["warnings"])
    assert equal[1]["warnings"] == []


def test_children_and_threads_train_alone(equal):
    for rank in RANKS:
        assert equal[rank]["launched"] == [True, False, False, False, False]


DIFFERENT = {
    "a cell": "X",
    "a label": "y",
    "a type": "X",
    "fewer rows": "X",
    "a seed": "random_state",
    "a parameter": "beta",
}


@pytest.mark.parametrize(("case", "name"), DIFFERENT.items())
def test_processes_that_disagree_say_in_what(faulty, case, name):
    for rank in RANKS:
        kind, message = faulty[rank][case]
        assert kind == "ValueError"
        assert f" {name}" in message
        assert "process 1" in message
        assert "Pass the same data and parameters" in message


@pytest.mark.parametrize(
    ("case", "cause"),
    [
        ("infinity", "row 3"),
        ("a bad parameter", "temperature"),
        ("error", "ValueError: of process 1"),
        ("memory", "MemoryError: of process 1"),
    ],
)
def test_an_error_of_one_process_ends_all(faulty, case, cause):
    kind, message = faulty[0][case]
    assert kind == "ProcessError"
    assert message.startswith("Process 1 has ended the fit of all processes")
    assert cause in message
    assert cause.split(": ")[-1] in faulty[1][case][1]
    assert faulty[1][case][0] != "ProcessError"


@pytest.mark.parametrize(
    ("case", "remedy"), [("few rows", "batch_size"), ("batch statistics", "GroupNorm")]
)
def test_what_cannot_be_shared_says_how(faulty, case, remedy):
    for rank in RANKS:
        kind, message = faulty[rank][case]
        assert kind == "ValueError"
        assert remedy in message


def test_a_fit_after_an_error_is_sound(faulty):
    expected = fits.fitted().transform(fits.X)
    for rank in RANKS:
        assert_allclose(faulty[rank]["afterwards"], expected, atol=1e-10)


def test_a_killed_process_ends_the_others(tmp_path):
    survivor, victim = launch("killed", tmp_path, check=False)
    assert victim is None
    if survivor is not None:  # the launcher may have ended it first
        assert survivor[0] == "ProcessError"
        assert "got no answer" in survivor[1]


def test_launching_without_accelerate_says_what_to_install(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r"2 processes.*sklearn-hscl\[distributed\]"):
        fits.fitted()


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("n_rows", [14, 15, 100])
def test_rows_are_cut_as_torch_cuts(n_rows, size):
    rows = torch.arange(n_rows)
    parts = [rows[Processes(rank, size, None).own(n_rows)] for rank in range(size)]
    for part, expected in zip(parts, rows.tensor_split(size), strict=True):
        assert_array_equal(part, expected)


def test_one_process_is_no_launch(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not processes.is_launched()
