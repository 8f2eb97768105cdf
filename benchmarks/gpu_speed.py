"""Times on a device, and those of eager torch on the same device, for `gpu.py`.

Eager torch is what a tutorial writes: the loss of all pairs under autograd, a loop over
indices of rows that lie on the device, forward passes of 2,048 rows. It has the same
encoder, batch size, loss and precision. On a search, scikit-learn's search takes its part.
Both take turns; the first one is not counted.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from bench_fit import EpochClock, seconds_of_fit
from bench_loss import batch, forward_and_backward
from bench_search import pipeline, search, table
from bench_transform import fitted, in_chunks
from competitors import BETA, TEMPERATURE, PlainLoss, competitor
from measure import covertype_like, medians, now, take_turns
from sklearn.model_selection import GridSearchCV

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.model_selection import BatchedGridSearchCV

TURNS, TINY_TURNS = 7, 1
LOSS_BATCHES, FIT_BATCHES = (512, 2048, 8192, 32768), (64, 512, 4096)
KERNELS = ("auto", "dense", "tiled", "triton")
OUT_OF_MEMORY = "out of memory"
Functions = dict[str, Callable[[], float]]


class Timing(NamedTuple):
    """Ours, and eager torch if there is the like: functions that return seconds."""

    section: str
    case: str
    n_turns: int
    prepare: Callable[[], Functions]

    def run(self) -> dict[str, Any]:
        """Return median seconds, and the median ratio of eager torch to ours."""
        result: dict[str, Any] = {"section": self.section, "case": self.case}
        try:
            functions = self.prepare()
            if not has_memory(functions["ours"]):
                return result | {"note": OUT_OF_MEMORY}
            if "eager" in functions and not has_memory(functions["eager"]):
                del functions["eager"]
                result["note"] = f"eager torch: {OUT_OF_MEMORY}"
            found = medians(take_turns(functions, self.n_turns), "ours")
        except Exception as error:  # one error does not hide the other times
            return result | {"error": f"{type(error).__name__}: {error}"}
        eager, ratio = found.get("eager", (None, None))
        ratio = None if ratio is None else float(ratio)
        return result | {"seconds": found["ours"][0], "eager": eager, "ratio": ratio}


def has_memory(function: Callable[[], float]) -> bool:
    """Return whether a function has enough memory."""
    try:
        function()
    except torch.OutOfMemoryError:
        return False
    return True


def timings(device: str, tiny: bool) -> Iterator[Timing]:
    """Yield what is timed, one example of each section before the rest."""
    n_turns = TINY_TURNS if tiny else TURNS
    parts = [
        list(part(device, tiny, n_turns))
        for part in (loss_timings, fit_timings, transform_timings, image_timings)
    ]
    parts.append(list(search_timings(device, tiny)))
    yield from (part[0] for part in parts)
    for part in parts:
        yield from part[1:]


def seconds(function: Callable[[], Any], device: str, calls: int = 1) -> float:
    """Return the mean seconds of consecutive calls."""
    begin = now(device)
    for _ in range(calls):
        function()
    return (now(device) - begin) / calls


# Losses --------------------------------------------------------------------------------


def loss_timings(device: str, tiny: bool, n_turns: int) -> Iterator[Timing]:
    """Yield forward and backward passes of the loss."""
    on_cuda = torch.device(device).type == "cuda"
    for n_rows in (64,) if tiny else LOSS_BATCHES:
        for kernel in KERNELS if on_cuda else KERNELS[:-1]:
            prepare = partial(loss_functions, n_rows, kernel, device, 1 if tiny else 10)
            yield Timing("loss", f"B={n_rows:,}, {kernel}", n_turns, prepare)


def loss_functions(n_rows: int, kernel: str, device: str, calls: int) -> Functions:
    """Return the loss and its plain implementation."""
    z, y = batch(n_rows, 10, device)
    ours = ContrastiveLoss("hscl", beta=BETA, temperature=TEMPERATURE, kernel=kernel)
    return {
        name: partial(seconds, partial(forward_and_backward, loss, z, y), device, calls)
        for name, loss in {"ours": ours, "eager": PlainLoss()}.items()
    }


# Fits ----------------------------------------------------------------------------------


def fit_timings(device: str, tiny: bool, n_turns: int) -> Iterator[Timing]:
    """Yield epochs of a fit on a table."""
    for batch_size in FIT_BATCHES[:1] if tiny else FIT_BATCHES:
        prepare = partial(fit_functions, 256 if tiny else 50_000, batch_size, device)
        yield Timing("fit", f"epoch of a table, B={batch_size:,}", n_turns, prepare)
    if torch.device(device).type == "cuda":
        yield Timing(
            "fit", "waits per epoch, not seconds", 1, partial(wait_functions, device)
        )


def fit_functions(n_rows: int, batch_size: int, device: str) -> Functions:
    """Return an epoch of a fit, and of a plain loop in the same precision."""
    X, y = covertype_like(n_rows)
    plain = competitor("plain", X, y, batch_size, device)
    return {
        "ours": lambda: np.mean(seconds_of_fit(X, y, batch_size, 2, device)[1]),
        "eager": lambda: in_tf32(plain, device),
    }


def in_tf32(function: Callable[[], float], device: str) -> float:
    """Call a function with the products that precision="auto" has on tables."""
    if torch.device(device).type != "cuda":
        return function()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return function()
    finally:
        torch.set_float32_matmul_precision(before)


def wait_functions(device: str) -> Functions:
    """Return the waits of one more epoch, which the driver's interface counts."""
    X, y = covertype_like(5000)
    return {"ours": lambda: (waits(X, y, 12, device) - waits(X, y, 2, device)) / 10}


def waits(X: np.ndarray, y: np.ndarray, max_epochs: int, device: str) -> int:
    """Return how often a fit waits for the GPU."""
    model = HSCLEmbedder(
        encoder="mlp", max_epochs=max_epochs, device=device, random_state=0
    )
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(X, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


# Transform -----------------------------------------------------------------------------


def transform_timings(device: str, tiny: bool, n_turns: int) -> Iterator[Timing]:
    """Yield the embedding of many rows, and of one."""
    for n_rows in (100,) if tiny else (500_000, 1):
        prepare = partial(transform_functions, n_rows, device)
        yield Timing("transform", f"{n_rows:,} rows", n_turns, prepare)


def transform_functions(n_rows: int, device: str) -> Functions:
    """Return transform, and forward passes of batches."""
    model = fitted(device)
    X = covertype_like(n_rows)[0]
    rows = torch.from_numpy(X)
    return {
        "ours": partial(seconds, lambda: model.transform(X), device),
        "eager": partial(
            in_tf32, partial(seconds, lambda: in_chunks(model, rows), device), device
        ),
    }


# Images --------------------------------------------------------------------------------


def image_timings(device: str, tiny: bool, n_turns: int) -> Iterator[Timing]:
    """Yield epochs of a fit on images, and their embedding."""
    n_images, size = (32, 8) if tiny else (10_000, 32)
    for encoder in ("conv",) if tiny else ("conv", "resnet18", "resnet50"):
        prepare = partial(image_functions, encoder, n_images, size, device)
        yield Timing("images", f"epoch of {encoder}", min(n_turns, 3), prepare)


def image_functions(encoder: str, n_images: int, size: int, device: str) -> Functions:
    """Return an epoch of a fit, and of a plain loop with the same network."""
    rng = np.random.default_rng(0)
    X = rng.random((n_images, 3, size, size), dtype=np.float32)
    y = rng.integers(0, 10, n_images)
    model = HSCLEmbedder(
        "hscl",
        encoder=encoder,
        ce_weight=0.0,
        augment=None,
        projection_dim=64,
        batch_size=256,
        max_epochs=2,
        device=device,
        random_state=0,
        net_callbacks=[("clock", EpochClock(device))],
    )

    def ours() -> float:
        model.fit(X, y)
        return np.mean(dict(model.net_.callbacks_)["clock"].seconds)

    ours()
    network = copy.deepcopy(model.net_.plain_module).train()
    return {"ours": ours, "eager": partial(plain_epoch, network, X, y, device)}


def plain_epoch(
    network: torch.nn.Module, X: np.ndarray, y: np.ndarray, device: str
) -> float:
    """Run an epoch of a plain loop; the network enters autocast by itself."""
    rows, labels = (torch.from_numpy(part).to(device) for part in (X, y))
    loss, optimizer = PlainLoss(), torch.optim.AdamW(network.parameters())
    begin = now(device)
    for index in torch.randperm(len(rows), device=device).split(256):
        optimizer.zero_grad()
        loss(network(rows[index])[0], labels[index]).backward()
        optimizer.step()
    return now(device) - begin


# Searches ------------------------------------------------------------------------------


def search_timings(device: str, tiny: bool) -> Iterator[Timing]:
    """Yield searches, against scikit-learn's on the same device."""
    for n_beta in (2,) if tiny else (8, 2):
        prepare = partial(search_functions, n_beta, tiny, device)
        yield Timing("search", f"{n_beta} beta x 2 temperatures", 1, prepare)


def search_functions(n_beta: int, tiny: bool, device: str) -> Functions:
    """Return a search in stacks, and one fit after the other."""
    X, y = table(120 if tiny else 4000)
    epochs = {"max_epochs": 1 if tiny else 10}
    options = {
        "estimator": pipeline(device, encoder="mlp", hidden_layer_sizes=(64, 64), **epochs),
        "param_grid": {
            "hsclembedder__beta": [0.5 * k for k in range(n_beta)],
            "hsclembedder__temperature": [0.3, 0.5],
        },
    }
    clock = "cpu" if torch.device(device).type == "cpu" else "wall"
    return {
        "ours": lambda: search(BatchedGridSearchCV, X, y, **options)[clock],
        "eager": lambda: search(GridSearchCV, X, y, **options)[clock],
    }
