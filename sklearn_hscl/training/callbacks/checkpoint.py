"""The state of training, kept in memory by LRBackoff and on disk by Checkpoint.

A checkpoint belongs to one fit, which a fingerprint of its data and parameters identifies.
"""

import ast
import os
import platform
import re
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict, cast

import numpy as np
import torch
from scipy.sparse import csr_array, issparse
from skorch.history import History
from torch import Tensor

from sklearn_hscl.augment.graph_rows import Graphs
from sklearn_hscl.data.out_of_core import OutOfCoreRows
from sklearn_hscl.data.training_data import LabelledArrays, TrainingData
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.runtime.atomic_write import atomic_write
from sklearn_hscl.runtime.matmul import chosen_products
from sklearn_hscl.runtime.processes import is_first
from sklearn_hscl.runtime.random_state import (
    Seeds,
    set_torch_random_state,
    torch_random_state,
)
from sklearn_hscl.training.loop.callback import (
    CallbackState,
    StopTraining,
    TrainingCallback,
)
from sklearn_hscl.training.loop.epoch import DivergenceError
from sklearn_hscl.training.loop.net import ContrastiveNet

# State of training -------------------------------------------------------------------


Tree = Any  # nested dicts, lists and tuples of tensors, numbers and strings


class TrainingState(TypedDict):
    """All that training depends on between two epochs; its keys are those of the file."""

    history: list[dict[str, object]]
    first_epoch: int
    n_anchors: int
    stops: bool
    module: dict[str, Tensor]
    criterion: dict[str, Tensor]
    optimizer: dict[str, Tree]
    step: int
    rate_factor: float
    chunk_rows: int
    torch: tuple[Tensor | None, ...]
    views: Tensor
    batches: dict[str, Tree]
    callbacks: list[CallbackState]


def training_state(net: ContrastiveNet) -> TrainingState:
    """Collect weights, optimizer, random generators and the state of callbacks.

    The tensors are those of the training itself, which changes them: write them to disk,
    or take a :func:`snapshot`.

    Parameters
    ----------
    net : ContrastiveNet
        The net between two epochs.

    Returns
    -------
    dict
        Holds tensors, numbers, strings, lists, tuples and dicts only.
    """
    loop = net.loop
    rate, generator = loop.learning_rate, loop.views.generator
    return {
        "history": list(net.history),
        "first_epoch": net.first_epoch_,
        "n_anchors": net.n_anchors_,
        "stops": net.stops_,
        "module": net.plain_module.state_dict(),
        "criterion": net.criterion_.state_dict(),
        "optimizer": net.optimizer_.state_dict(),
        "step": 0 if rate is None else rate.step,
        "rate_factor": 1.0 if rate is None else rate.factor,
        "chunk_rows": loop.gradient_cache.chunk_rows,
        "torch": tuple(torch_random_state(generator.device)),
        "views": generator.get_state(),
        "batches": net.iterator_train__rng.bit_generator.state,
        "callbacks": [callback.state() for callback in net.training_callbacks],
    }


def snapshot(net: ContrastiveNet) -> TrainingState:
    """Return a copy of the state of a net, which further training does not change."""
    state = training_state(net)
    history = state["history"]  # records of completed epochs do not change
    copied: TrainingState = _map_tensors({**state, "history": []}, Tensor.clone)
    return {**copied, "history": history}


def restore_training(net: ContrastiveNet, state: TrainingState) -> None:
    """Bring a net that is about to train to a state of the same training.

    Parameters
    ----------
    net : ContrastiveNet
        The net in its loop, between two epochs.
    state : dict
        From :func:`training_state`; its tensors may be used, and changed.
    """
    loop = net.loop
    net.history_ = History(state["history"])
    net.first_epoch_ = state["first_epoch"]
    net.n_anchors_ = state["n_anchors"]
    net.plain_module.load_state_dict(state["module"])
    net.criterion_.load_state_dict(state["criterion"])
    _restore_optimizer(net, state)
    loop.gradient_cache.chunk_rows = state["chunk_rows"]
    generator = loop.views.generator
    set_torch_random_state(generator.device, state["torch"])
    generator.set_state(state["views"])
    net.iterator_train__rng.bit_generator.state = state["batches"]
    for callback, remembered in zip(
        net.training_callbacks, state["callbacks"], strict=True
    ):
        callback.restore(
            _map_tensors(remembered, lambda tensor: tensor.to(generator.device))
        )


def _restore_optimizer(net: ContrastiveNet, state: TrainingState) -> None:
    """Restore the optimizer, but keep the base rates if our schedule sets the rates."""
    rate, optimizer = net.loop.learning_rate, net.optimizer_
    if rate is None:
        optimizer.load_state_dict(state["optimizer"])
        return
    rate.restore()
    base_rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state["optimizer"])
    for group, base_rate in zip(optimizer.param_groups, base_rates, strict=True):
        group["lr"] = base_rate
    rate.step, rate.factor = state["step"], state["rate_factor"]


def _map_tensors(tree: Tree, function: Callable[[Tensor], Tensor]) -> Tree:
    """Apply a function to the tensors in nested dicts, lists and tuples."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: _map_tensors(value, function) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_map_tensors(value, function) for value in tree)
    return tree


# In memory ---------------------------------------------------------------------------


class LRBackoff(TrainingCallback):
    """Restart training once from an earlier epoch, at a lower rate, if it diverges.

    It keeps the states at the end of the last two epochs.

    Parameters
    ----------
    factor : float in (0, 1)
        Multiplier of the learning rate after the restart.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def on_epochs_begin(self, net: ContrastiveNet, **kwargs: object) -> None:
        """Keep the state from which training starts."""
        self.states_ = deque([snapshot(net)], maxlen=2)

    def on_epoch_end(self, net: ContrastiveNet, **kwargs: object) -> None:
        """Keep the state after this epoch, whose weights are finite."""
        self.states_.append(snapshot(net))

    def on_divergence(self, net: ContrastiveNet, error: DivergenceError) -> bool:
        """Restore the last good epoch at the lower rate, unless that was done before."""
        rate = net.loop.learning_rate
        assert rate is not None, "build_callbacks refuses lr_backoff without lr_schedule"
        if rate.factor < 1:
            return False
        # A failure in the first batch is due to the weights at the end of the epoch
        # before, although these are finite.
        restore_training(net, self.states_[0 if error.batch == 1 else -1])
        rate.factor = self.factor
        warnings.warn(
            f"{error} Continuing from the end of epoch {len(net.history)} at "
            f"{self.factor} of the learning rate.",
            UserWarning,
            stacklevel=2,
        )
        return True


# On disk -----------------------------------------------------------------------------


_FILE_NAME = "checkpoint.pt"
_FORMAT = 2  # version of the file's format; files of format 1 have no checksum
# Maximum fraction of the time that is spent on writing. The last epoch is always written.
_MAX_TIME_FRACTION = 0.05
Fingerprint = dict[str, str]


class _Header(TypedDict):
    """Identity of the fit; the keys are those of the file."""

    format: int
    fingerprint: Fingerprint
    surroundings: Fingerprint
    seeds: list[int]


class _Content(_Header):
    """Content of the file."""

    training: TrainingState
    checksum: NotRequired[str]


class Checkpoint(TrainingCallback):
    """Write the state of training to a file, and resume training from it.

    The file is replaced as a whole: at any moment it holds one complete state, with the
    weights of the last epoch written and those of the best one so far. Its checksum
    detects damage. Reading it executes no code.

    Parameters
    ----------
    directory : str or path-like
        Directory of the file; it is created if it does not exist.
    resume : bool
        Whether to resume from the file, if there is one.

    Raises
    ------
    ValueError
        If the directory cannot be created, or the file cannot be read or is damaged.
    """

    def __init__(self, directory: str | os.PathLike[str], *, resume: bool) -> None:
        self.directory = Path(directory)
        self.path = self.directory / _FILE_NAME
        with self._explain_errors("created"):
            self.directory.mkdir(parents=True, exist_ok=True)
        self.saved = self._read() if resume and self.path.exists() else None

    @property
    def seeds(self) -> Seeds | None:
        """The seeds of the fit to resume; None if there is none."""
        return None if self.saved is None else Seeds(*self.saved["seeds"])

    @property
    def key(self) -> str:
        """Equal for equal files."""
        return "none" if self.saved is None else self.saved.get("checksum", "")

    def start_fit(
        self, fingerprint: Fingerprint, environment: Fingerprint, seeds: Seeds
    ) -> None:
        """Set the identity of the fit; compare it with that of the fit to resume.

        Raises
        ------
        ValueError
            If the file belongs to another fit.

        Warns
        -----
        UserWarning
            If that fit ran in an environment that may give other bits.
        """
        self.header = _Header(
            format=_FORMAT,
            fingerprint=fingerprint,
            surroundings=environment,
            seeds=list(seeds),
        )
        if self.saved is None:
            return
        changes = _describe_changes(self.saved["fingerprint"], fingerprint)
        if changes:
            raise ValueError(
                f"checkpoint_dir={str(self.directory)!r} holds another fit, which differs "
                f"in {changes}. Pass the same data and parameters, another directory, or "
                f"resume=False to start anew."
            )
        changes = _describe_changes(self.saved["surroundings"], environment)
        if changes:
            warnings.warn(
                f"The fit in checkpoint_dir={str(self.directory)!r} resumes in another "
                f"environment, so that its last bits may differ from those of an "
                f"uninterrupted fit: {changes}.",
                UserWarning,
                stacklevel=2,
            )

    def on_epochs_begin(self, net: ContrastiveNet, **kwargs: object) -> None:
        """Resume from the file, or write the state from which training starts."""
        self.next_, self.gave_up_ = 0.0, False
        if self.saved is None:
            if not is_first():
                return
            with self._explain_errors("written"):
                self._write(net)
            self._read()  # fail now, rather than when it is needed
            return
        state, self.saved = self.saved["training"], None
        restore_training(net, state)
        if state["stops"]:
            raise StopTraining

    def on_epoch_end(self, net: ContrastiveNet, **kwargs: object) -> None:
        """Write the state, unless it was written a moment ago."""
        is_last = net.stops_ or net.n_completed == net.loop.n_epochs
        is_early = not is_last and time.perf_counter() < self.next_
        if self.gave_up_ or is_early or not is_first():
            return
        try:
            self._write(net)
        except (OSError, RuntimeError) as error:
            self.gave_up_ = True
            warnings.warn(
                f"No checkpoint could be written to {str(self.path)!r} after epoch "
                f"{len(net.history)} ({error}). Training continues without; the file "
                f"keeps an earlier epoch.",
                UserWarning,
                stacklevel=2,
            )

    def _write(self, net: ContrastiveNet) -> None:
        begin = time.perf_counter()
        content = {**self.header, "training": training_state(net)}
        with atomic_write(self.path) as file:
            torch.save({**content, "checksum": _checksum(content)}, file)
        end = time.perf_counter()
        self.next_ = end + (end - begin) * (1 / _MAX_TIME_FRACTION - 1)

    def _read(self) -> _Content:
        try:
            content = torch.load(self.path, "cpu", weights_only=True)
            _check_content(content)
        except Exception as error:
            raise ValueError(
                f"checkpoint_dir={str(self.directory)!r} holds {_FILE_NAME}, which cannot "
                f"be read ({type(error).__name__}: {error}). Remove it, or pass "
                f"resume=False to start anew."
            ) from error
        return cast(_Content, content)

    @contextmanager
    def _explain_errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"checkpoint_dir={str(self.directory)!r} cannot be {action} ({error}). "
                f"Pass a writable directory with enough space, or None."
            ) from error


def _check_content(content: Mapping[str, Tree]) -> None:
    """Raise an error unless a file has the entries of its format, undamaged."""
    content, file_format = dict(content), content["format"]
    if file_format not in (1, _FORMAT):
        raise ValueError(f"it has the unknown format {file_format!r:.20}")
    checksum = content.pop("checksum", None)
    differ = sorted(map(str, content.keys() ^ _Content.__required_keys__))
    if differ:
        raise ValueError(f"it lacks entries or has unknown ones: {differ}")
    if file_format != 1 and checksum != _checksum(content):
        raise ValueError("it is damaged: its checksum differs")


def _checksum(tree: Tree) -> str:
    """Return a checksum of nested dicts, lists and tuples of tensors and plain values."""
    digest = blake2b(digest_size=16)
    for part in _serialized(tree):
        digest.update(part)
    return digest.hexdigest()


def _serialized(tree: Tree) -> Iterator[bytes | memoryview]:
    """Yield bytes that are equal for equal trees only."""
    if isinstance(tree, Tensor):
        yield f"{tree.dtype} {tuple(tree.shape)}".encode()
        yield from (np.ascontiguousarray(values).data for values in _chunks(tree))
    elif isinstance(tree, dict):
        yield from _serialized(list(tree.items()))
    elif isinstance(tree, list | tuple):
        yield f"sequence {len(tree)} ".encode()
        for value in tree:
            yield from _serialized(value)
    else:
        text = repr(tree).encode()
        yield f"{type(tree).__name__} {len(text)} ".encode()
        yield text


class CheckpointParams(Protocol):
    """Parameters of an embedder that decide on its checkpoint."""

    checkpoint_dir: str | os.PathLike[str] | None
    resume: bool
    net_callbacks: Sequence[object] | None


def open_checkpoint(estimator: CheckpointParams) -> Checkpoint | None:
    """Open the checkpoint of a fit, if its parameters ask for one.

    Raises
    ------
    ValueError
        If the parameters contradict each other.
    """
    if estimator.checkpoint_dir is None:
        if estimator.resume:
            raise ValueError(
                "resume=True resumes from a checkpoint, but checkpoint_dir=None. Pass the "
                "directory, or resume=False."
            )
        return None
    if estimator.net_callbacks is not None and len(estimator.net_callbacks):
        refuse_checkpoint(estimator, "net_callbacks have a state that cannot be stored")
    return Checkpoint(estimator.checkpoint_dir, resume=estimator.resume)


def refuse_checkpoint(estimator: CheckpointParams, reason: str) -> None:
    """Raise a ValueError if the parameters ask for a checkpoint, which is not possible."""
    if estimator.checkpoint_dir is not None:
        raise ValueError(
            f"checkpoint_dir={str(estimator.checkpoint_dir)!r} stores the state of one fit "
            f"of one model, but {reason}. Set checkpoint_dir=None."
        )


# Identity of a fit -------------------------------------------------------------------


# Parameters that do not change the result, or whose effect is part of the fingerprint.
_EXCLUDED_PARAMS = (
    "checkpoint_dir",
    "resume",
    "verbose",
    "n_threads",
    "device",
    "random_state",
)
_PACKAGES = ("sklearn-hscl", "torch", "numpy", "scipy", "scikit-learn", "skorch")
_MAX_STORED_ROWS = 1024  # rows that are read from files for the fingerprint
_CHUNK_ROWS = 65_536  # rows that are hashed at a time


def fingerprint_of_fit(
    params: Mapping[str, object], data: TrainingData, seeds: Seeds, net: ContrastiveNet
) -> Fingerprint:
    """Describe all that determines the result of a fit.

    Parameters
    ----------
    params : mapping
        Parameters of the embedder, as given.
    data : TrainingData
        Data passed to `fit`.
    seeds : Seeds
        Seeds of the fit.
    net : ContrastiveNet
        The net before the first step.

    Returns
    -------
    dict of str
        One entry for each thing that an error may name.
    """
    described = {
        name: _description(value)
        for name, value in params.items()
        if name not in _EXCLUDED_PARAMS
    }
    if isinstance(loss := params["loss"], ContrastiveLoss):  # its repr is incomplete
        settings = loss.settings().items()
        described |= {f"{name} of loss": _description(value) for name, value in settings}
    return {
        **_hash_arrays(data.train, ("X", "y", "groups")),
        **_hash_arrays(data.held_out, ("X_val", "y_val", "groups_val")),
        **described,
        "device": torch.device(net.device).type,
        "random_state": ", ".join(map(str, seeds)),
        "weights that training starts from": _hash(net.plain_module.state_dict().values()),
    }


def hashes_of_result(net: ContrastiveNet) -> Fingerprint:
    """Describe what training has changed."""
    return {
        "weights": _hash(weight.data for weight in net.plain_module.parameters()),
        "buffers": _hash(net.plain_module.buffers()),
        "settings of the loss": _hash(net.criterion_.state_dict().values()),
    }


def environment_of_fit(n_threads: int) -> Fingerprint:
    """Describe what may change the last bits of a result."""
    installed = {name: _version(name) for name in _PACKAGES}
    return {
        "n_threads_": str(n_threads),
        "products of matrices": chosen_products(),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "Python": platform.python_version(),
        **installed,
    }


def _describe_changes(before: Fingerprint, now: Fingerprint) -> str:
    """Return the entries that differ, with both values."""
    return "; ".join(
        f"{name} (then {before.get(name)}, now {now.get(name)})"
        for name in now | before
        if _comparable(now.get(name)) != _comparable(before.get(name))
    )


def _comparable(description: str | None) -> str | None:
    """Return a text that is the same for descriptions of equal values."""
    try:
        tree = ast.parse(description or "", mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return description  # of an object whose repr is not Python
    return ast.dump(_EqualValues().visit(tree))


class _EqualValues(ast.NodeTransformer):
    """Write 1.0 as 1, tuples and arrays as lists, numbers of numpy as Python's."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        is_whole = isinstance(node.value, float) and node.value.is_integer()
        return ast.Constant(int(cast(float, node.value))) if is_whole else node

    def visit_Tuple(self, node: ast.Tuple) -> ast.expr:
        return ast.List([self.visit(item) for item in node.elts], ast.Load())

    def visit_Dict(self, node: ast.Dict) -> ast.expr:
        node = cast(ast.Dict, self.generic_visit(node))
        items = sorted(
            zip(node.keys, node.values, strict=True),
            key=lambda item: "" if item[0] is None else ast.dump(item[0]),
        )
        return ast.Dict([key for key, _ in items], [value for _, value in items])

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return ast.Constant(node.attr == "True_") if _is_of_numpy(node) else node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if _is_of_numpy(node.func) and node.args:
            return cast(ast.expr, self.visit(node.args[0]))
        return cast(ast.expr, self.generic_visit(node))


def _is_of_numpy(node: ast.expr) -> bool:
    """Return whether an expression is ``np.float64``, ``np.True_``, ``array``, ..."""
    return ast.unparse(node).startswith("np.") or ast.unparse(node) == "array"


def _hash_arrays(arrays: LabelledArrays | None, names: Sequence[str]) -> Fingerprint:
    if arrays is None:
        return dict.fromkeys(names, "None")
    return {
        name: "None" if part is None else _hash([part])
        for name, part in zip(names, vars(arrays).values(), strict=True)
    }


class _Array(Sized, Protocol):
    """An array of any library: dense, sparse, a tensor, or rows in files."""

    @property
    def dtype(self) -> object:
        """Type of the values."""

    @property
    def shape(self) -> Sequence[int]:
        """Lengths of the axes."""


def _hash(arrays: Iterable[_Array]) -> str:
    digest = blake2b(digest_size=16)
    for array in arrays:
        if not hasattr(array, "dtype"):  # the extra state of a module
            digest.update(_checksum(array).encode())
            continue
        digest.update(f"{array.dtype} {tuple(array.shape)}".encode())
        for values in _chunks(array):
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _chunks(array: _Array) -> Iterator[np.ndarray]:
    """Yield the values of an array in chunks; only a sample of rows in files."""
    if isinstance(array, torch.Tensor):
        if array.numel():
            yield array.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    elif issparse(array):
        matrix = cast(csr_array, array)
        yield from (matrix.data, matrix.indices, matrix.indptr)
    elif isinstance(array, OutOfCoreRows):
        n_rows = min(len(array), _MAX_STORED_ROWS)
        yield array[np.linspace(0, len(array) - 1, n_rows).astype(np.int64)]
    elif isinstance(array, np.ndarray):
        for start in range(0, len(array), _CHUNK_ROWS):
            yield array[start : start + _CHUNK_ROWS]
    elif isinstance(array, Graphs):
        for part in (array.nodes, array.edges, array.node_counts, array.edge_counts):
            yield from _chunks(part)
    else:
        raise TypeError(f"Expected an array, got {type(array).__name__}.")


def _description(value: object) -> str:
    """Return the repr of a value without addresses, so that it is the same everywhere."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # imported from a directory, not installed
        return "unknown"
