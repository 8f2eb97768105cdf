"""The state of training on disk, and which fit it belongs to."""

import os
import platform
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse

from sklearn_hscl.data.out_of_core import OutOfCoreRows
from sklearn_hscl.data.training_data import LabelledArrays, TrainingData
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.runtime import matmul as gemm
from sklearn_hscl.runtime.atomic_write import UNFINISHED, atomic_write
from sklearn_hscl.runtime.random_state import Seeds
from sklearn_hscl.training.callbacks.lr_backoff import restore_training, training_state
from sklearn_hscl.training.loop.callback import StopTraining, TrainingCallback

# Parameters that do not change the result, or that are looked at as what came of them.
EXCLUDED_PARAMS = (
    "checkpoint_dir",
    "resume",
    "verbose",
    "n_threads",
    "device",
    "random_state",
)
# Of rows that lie in files, or have to be decoded, so many are read.
_SAMPLED_ROWS = 1024
_CHUNK_ROWS = 65_536
_PACKAGES = ("sklearn-hscl", "torch", "numpy", "scipy", "scikit-learn", "skorch")

Fingerprint = dict[str, str]


def fingerprint_of_fit(
    params: dict[str, Any], data: TrainingData, seeds: Seeds, net: Any
) -> Fingerprint:
    """Describe all that decides the result of a fit.

    Parameters
    ----------
    params : dict
        Parameters of the embedder, as given.
    data : TrainingData
        All that `fit` got.
    seeds : Seeds
        Of the fit.
    net : ContrastiveNet
        Before the first step.

    Returns
    -------
    dict of str
        One entry for each thing that an error may name.
    """
    described = {
        name: _description(value)
        for name, value in params.items()
        if name not in EXCLUDED_PARAMS
    }
    if isinstance(params["loss"], ContrastiveLoss):  # whose description leaves much out
        settings = params["loss"].settings().items()
        described |= {f"{name} of loss": _description(value) for name, value in settings}
    return {
        **_of_arrays(data.train, ("X", "y", "groups")),
        **_of_arrays(data.held_out, ("X_val", "y_val", "groups_val")),
        **described,
        "device": torch.device(net.device).type,
        "random_state": ", ".join(map(str, seeds)),
        "weights that training starts from": _hash(*net.plain_module.state_dict().values()),
    }


def surroundings_of_fit(n_threads: int) -> Fingerprint:
    """Describe what may change the last bits of a result."""
    installed = {name: _version(name) for name in _PACKAGES}
    return {
        "n_threads_": str(n_threads),
        "products of matrices": gemm.chosen_products(),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "Python": platform.python_version(),
        **installed,
    }


def differences(before: Fingerprint, now: Fingerprint) -> list[str]:
    """Name the entries that differ."""
    return [name for name in now | before if now.get(name) != before.get(name)]


def _of_arrays(arrays: LabelledArrays | None, names: tuple[str, str, str]) -> Fingerprint:
    if arrays is None:
        return dict.fromkeys(names, "None")
    return {
        name: "None" if part is None else _hash(part)
        for name, part in zip(names, vars(arrays).values(), strict=True)
    }


def _hash(*parts: Any) -> str:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
        for values in _chunks(part):
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _chunks(part: Any) -> Any:
    """Yield arrays of bytes or numbers that stand for an array of any kind."""
    if isinstance(part, torch.Tensor):
        if part.numel():
            yield part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    elif issparse(part):
        yield from (part.data, part.indices, part.indptr)
    elif isinstance(part, OutOfCoreRows):
        n_rows = min(len(part), _SAMPLED_ROWS)
        yield part[np.linspace(0, len(part) - 1, n_rows).astype(np.int64)]
    else:
        for start in range(0, len(part), _CHUNK_ROWS):
            yield part[start : start + _CHUNK_ROWS]


def _description(value: Any) -> str:
    """Describe a value of a parameter, the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # imported from a directory, not installed
        return "unknown"


FILE_NAME = "checkpoint.pt"
FORMAT = 1  # of the file
# Writing takes at most this share of the time; only the last epoch is always written.
LARGEST_SHARE = 0.05
_ENTRIES = ("format", "fingerprint", "surroundings", "seeds", "training")


class Checkpoint(TrainingCallback):
    """Write the state of training to a file, and take it up from there.

    The file is replaced as a whole: at any moment it holds one complete state, with the
    weights of the last epoch written and those of the best one so far. It is read
    without executing anything that it holds.

    Parameters
    ----------
    directory : str or path-like
        Where the file lies; it is made if it is not there.
    resume : bool
        Whether to go on from the file, if there is one.

    Raises
    ------
    ValueError
        If the directory cannot be made, or a file to go on from not be read.
    """

    def __init__(self, directory: str | os.PathLike[str], *, resume: bool) -> None:
        self.directory = Path(directory)
        self.path = self.directory / FILE_NAME
        with self._explained("made"):
            self.directory.mkdir(parents=True, exist_ok=True)
        self.saved = self._read() if resume and self.path.exists() else None

    @property
    def seeds(self) -> Seeds | None:
        """The seeds of the fit to go on with; None where there is none."""
        return None if self.saved is None else Seeds(*self.saved["seeds"])

    def belongs_to(
        self, fingerprint: Fingerprint, surroundings: Fingerprint, seeds: Seeds
    ) -> None:
        """Take note of the fit; compare it with the one to go on with.

        Raises
        ------
        ValueError
            If that was another fit.

        Warns
        -----
        UserWarning
            If it ran in surroundings that may give other bits.
        """
        self.header = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "surroundings": surroundings,
            "seeds": list(seeds),
        }
        if self.saved is None:
            return
        others = differences(self.saved["fingerprint"], fingerprint)
        if others:
            raise ValueError(
                f"checkpoint_dir={str(self.directory)!r} holds another fit, which differs "
                f"in {_told(others, self.saved['fingerprint'], fingerprint)}: pass what it "
                f"was started with, another directory, or resume=False to start anew."
            )
        before = self.saved["surroundings"]
        others = differences(before, surroundings)
        if others:
            warnings.warn(
                f"The fit in checkpoint_dir={str(self.directory)!r} goes on under other "
                f"conditions, so that its last bits may differ from those of a fit in one "
                f"go: {_told(others, before, surroundings)}.",
                UserWarning,
                stacklevel=2,
            )

    def on_epochs_begin(self, net: Any, **kwargs: Any) -> None:
        """Go on from the file, or write the state from which training starts."""
        self.next_, self.gave_up_ = 0.0, False
        if self.saved is None:
            self._remove_leftovers()
            with self._explained("written"):
                self._write(net)
            self._read()  # what cannot be read is of no use
            return
        state, self.saved = self.saved["training"], None
        restore_training(net, state)
        if state["stops"]:
            raise StopTraining

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Write the state, unless it was written a moment ago."""
        is_last = net.stops_ or net.n_completed == net.n_epochs_
        if self.gave_up_ or (not is_last and time.perf_counter() < self.next_):
            return
        try:
            self._write(net)
        except (OSError, RuntimeError) as error:
            self.gave_up_ = True
            warnings.warn(
                f"No checkpoint could be written to {str(self.path)!r} after epoch "
                f"{len(net.history)} ({error}): training goes on without, and the file "
                f"keeps an earlier epoch.",
                UserWarning,
                stacklevel=2,
            )

    def _write(self, net: Any) -> None:
        begin = time.perf_counter()
        content = {**self.header, "training": training_state(net)}
        with atomic_write(self.path) as part:
            torch.save(content, part)
        end = time.perf_counter()
        self.next_ = end + (end - begin) * (1 / LARGEST_SHARE - 1)

    def _read(self) -> dict[str, Any]:
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            missing = [name for name in _ENTRIES if name not in content]
            if missing or content["format"] != FORMAT:
                raise ValueError(f"it lacks {missing}, or is of another format")
        except Exception as error:
            raise ValueError(
                f"checkpoint_dir={str(self.directory)!r} holds {FILE_NAME}, which cannot "
                f"be read ({type(error).__name__}: {error}): remove it, or pass "
                f"resume=False to start anew."
            ) from error
        return content

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"checkpoint_dir={str(self.directory)!r} cannot be {what} ({error}): pass "
                f"a directory that can be written to, with enough space, or None."
            ) from error

    def _remove_leftovers(self) -> None:
        """Remove what a killed process had not finished writing."""
        for path in self.directory.glob(f"{FILE_NAME}.*{UNFINISHED}"):
            path.unlink(missing_ok=True)


def open_checkpoint(estimator: Any) -> Checkpoint | None:
    """Open the checkpoint of a fit, where its parameters ask for one.

    Raises
    ------
    ValueError
        If they do not go together.
    """
    if estimator.checkpoint_dir is None:
        if estimator.resume:
            raise ValueError(
                "resume=True goes on from a checkpoint, but checkpoint_dir=None: pass the "
                "directory, or resume=False."
            )
        return None
    if estimator.net_callbacks is not None and len(estimator.net_callbacks):
        refuse_checkpoint(estimator, "net_callbacks have a memory that cannot be kept")
    return Checkpoint(estimator.checkpoint_dir, resume=estimator.resume)


def refuse_checkpoint(estimator: Any, why: str) -> None:
    """Raise a ValueError where a checkpoint is asked for, which cannot be."""
    if estimator.checkpoint_dir is not None:
        raise ValueError(
            f"checkpoint_dir={str(estimator.checkpoint_dir)!r} keeps the state of one fit "
            f"of one model, but {why}: set checkpoint_dir=None."
        )


def _told(names: list[str], before: Fingerprint, now: Fingerprint) -> str:
    """Say what differs, and how."""
    return "; ".join(
        f"{name} (then {before.get(name)}, now {now.get(name)})" for name in names
    )
