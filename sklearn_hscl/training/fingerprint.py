"""What makes two fits the same: data, parameters, random numbers, first weights."""

import platform
import re
from hashlib import blake2b
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse

from sklearn_hscl.data.out_of_core import StoredRows
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.runtime import matmul as gemm
from sklearn_hscl.runtime.random_state import Seeds
from sklearn_hscl.training.data import LabelledArrays, TrainingData

# Parameters that do not change the result, or that are looked at as what came of them.
APART = ("checkpoint_dir", "resume", "verbose", "n_threads", "device", "random_state")
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
        name: _description(value) for name, value in params.items() if name not in APART
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
        for name, part in zip(names, arrays, strict=True)
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
    elif isinstance(part, StoredRows):
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
