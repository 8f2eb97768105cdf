"""Answers of a device that are compared with those of the CPU, for `gpu.py`.

Nothing here draws random numbers on the device, whose generator is another one: no
dropout, one view, no augmentation. In float64, both devices compute the same up to
1e-6 of the largest value. In lower precision, gradient descent replaces AdamW, which
divides gradients near 0 by their own size and thereby enlarges their errors.
"""

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn
from torch.nn.functional import normalize

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.losses.presets import LOSSES
from sklearn_hscl.model_selection import BatchedGridSearchCV

# "auto" is TF32 for tables and bf16 for images on an NVIDIA GPU, with 10 or 7 bits. On a
# CPU, bf16 changes tables by 5e-3, "conv" by 1e-2, "resnet18" by 7e-2 and "resnet50",
# whose batches normalise themselves, by 0.12; another loss changes "conv" by 0.5.
TOLERANCES = {"float64": 1e-6, "float32": 1e-3, "auto": 2e-2}
AUTO_IMAGES = 0.3
# Kernels of a GPU, with their tolerances; Triton's products have 10 bits.
KERNELS = {"auto": 1e-2, "dense": 1e-4, "tiled": 1e-4}
NOT_FINITE = "values that are not finite, or other shapes"
CLOSED_FORM = ("ucl", "hucl", "scl", "hscl")  # which the Triton kernel computes
QUIET = {"augment": None, "n_views": 1, "dropout": 0.0}
FIT = {"max_epochs": 2, "batch_size": 32, "random_state": 0, "early_stopping": False}


class Check(NamedTuple):
    """One answer, and what it should be: functions that return arrays."""

    section: str
    case: str
    tolerance: float
    expected: Callable[[], Any]
    found: Callable[[], Any]

    def run(self) -> dict[str, Any]:
        """Return the difference, relative to the largest value."""
        result = {"section": self.section, "case": self.case, "tolerance": self.tolerance}
        try:
            found = difference(self.expected(), self.found())
        except Exception as error:  # one error does not hide the other answers
            reason = f"{type(error).__name__}: {error}"
            return result | {"difference": None, "agrees": False, "error": reason}
        if not np.isfinite(found):
            return result | {"difference": None, "agrees": False, "error": NOT_FINITE}
        return result | {"difference": found, "agrees": found <= self.tolerance}


def against_cpu(
    section: str, case: str, tolerance: float, compute: Callable[[str], Any], device: str
) -> Check:
    """Return a check of what `compute(device)` returns."""
    return Check(
        section, case, tolerance, partial(compute, "cpu"), partial(compute, device)
    )


def difference(expected: Any, found: Any) -> float:
    """Return the largest difference of arrays, relative to the largest value of each."""
    largest = 0.0
    for one, other in zip(expected, found, strict=True):
        one, other = (np.asarray(part, dtype=np.float64) for part in (one, other))
        if one.shape != other.shape or not np.isfinite([*one.flat, *other.flat]).all():
            return float("inf")
        size = max(np.abs(one).max(), 1e-30)
        largest = max(largest, float(np.abs(one - other).max() / size))
    return largest


def checks(device: str, tiny: bool) -> Iterator[Check]:
    """Yield all checks of a device, those that matter most first."""
    yield from loss_checks(device, tiny)
    yield from fit_checks(device, tiny)
    yield from stored_checks(device)
    yield from search_checks(device)
    if not tiny:
        yield from compile_checks(device)


# Losses --------------------------------------------------------------------------------


def loss_checks(device: str, tiny: bool) -> Iterator[Check]:
    """Yield value and gradient of each loss by each kernel, against "dense" on the CPU."""
    n_samples = 60 if tiny else 2100  # of which "tiled" makes two tiles
    for loss in LOSSES:
        if ContrastiveLoss(loss).options.n_synthetic:
            continue  # draws its negatives
        expected = partial(value_and_gradient, loss, "dense", n_samples, "cpu")
        for kernel, tolerance in kernels(device).items():
            if loss in CLOSED_FORM or kernel not in ("streaming", "triton"):
                found = partial(value_and_gradient, loss, kernel, n_samples, device)
                yield Check("loss", f"{loss}, {kernel}", tolerance, expected, found)


def kernels(device: str) -> dict[str, float]:
    """Return the kernels of a device with their tolerances."""
    kind = torch.device(device).type
    if kind == "cuda" and importlib.util.find_spec("triton"):
        return KERNELS | {"triton": KERNELS["auto"]}
    return KERNELS | ({"streaming": 1e-4} if kind == "cpu" else {})


def value_and_gradient(
    loss: str, kernel: str, n_samples: int, device: str
) -> list[np.ndarray]:
    """Return the value of a loss and its gradient."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(n_samples, 32, generator=generator)
    logits = torch.randn(n_samples, 4, generator=generator).to(device)
    z = normalize(rows).to(device).requires_grad_()
    y = (torch.arange(n_samples) % 4).to(device)
    ids = torch.arange(n_samples // 2).repeat(2).to(device)
    criterion = ContrastiveLoss(loss, kernel=kernel)
    given = {"logits": logits} if criterion.options.ce_weight else {}
    value = criterion(z, y, view_ids=ids, **given)
    value.backward()
    return [value.detach().cpu().numpy(), z.grad.cpu().numpy()]


# Fits ----------------------------------------------------------------------------------


def own_module() -> nn.Module:
    """Return a module as users write them."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 8))


TABLES = {
    "tabular": {"encoder": "tabular"},
    "mlp": {"encoder": "mlp", "hidden_layer_sizes": (32,)},
    "custom module": {"encoder": own_module()},
    "mlp, in chunks": {"encoder": "mlp", "device_batch_size": 8},
    "tabular, cross_fit": {"encoder": "tabular", "cross_fit": 2, "early_stopping": "auto"},
}
IMAGES = {name: {"encoder": name} for name in ("conv", "resnet18", "resnet50")}
SMALL_IMAGES = ("conv",)  # of a tiny run


def fit_checks(device: str, tiny: bool) -> Iterator[Check]:
    """Yield the embeddings of small fits of every encoder."""
    images = {name: IMAGES[name] for name in SMALL_IMAGES} if tiny else IMAGES
    precisions = ["float32"] if tiny else list(TOLERANCES)
    if torch.device(device).type == "mps" and not tiny:
        precisions.remove("float64")
    for name, parameters in (TABLES | images).items():
        for precision in precisions:
            is_image = name in IMAGES
            rounds = precision == "auto" and is_image
            compute = partial(embedding, is_image, {"precision": precision} | parameters)
            yield against_cpu(
                "fit and transform",
                f"{name}, {precision}",
                AUTO_IMAGES if rounds else TOLERANCES[precision],
                compute,
                device,
            )


def data(is_image: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return digits as images, or the iris table."""
    if not is_image:
        return load_iris(return_X_y=True)
    digits = load_digits()
    return digits.images[:64].astype(np.float32) / 16, digits.target[:64]


def embedder(device: str, **parameters: Any) -> HSCLEmbedder:
    """Return an embedder that draws nothing on its device."""
    is_module = isinstance(parameters.get("encoder"), nn.Module)
    quiet = {k: v for k, v in QUIET.items() if not (is_module and k == "dropout")}
    return HSCLEmbedder(device=device, **FIT | quiet | parameters)


def embedding(is_image: bool, parameters: dict[str, Any], device: str) -> list[np.ndarray]:
    """Fit and embed."""
    X, y = data(is_image)
    if parameters["precision"] != "float64":
        settings = parameters.get("net_params", {}) | {"optimizer": torch.optim.SGD}
        parameters = parameters | {"net_params": settings, "lr": 0.02}
    model = embedder(device, **parameters)
    return [model.fit_transform(X, y), model.transform(X)]


COMPILED = {name: TABLES[name] for name in ("tabular", "mlp", "custom module")}
COMPILED |= {"conv": IMAGES["conv"]}


def compile_checks(device: str) -> Iterator[Check]:
    """Yield compiled fits, against those that are not; on NVIDIA GPUs also as graphs."""
    is_cuda = torch.device(device).type == "cuda"
    for mode in ("default", "reduce-overhead")[: 1 + is_cuda]:
        for name, parameters in COMPILED.items():
            plain = {"precision": "float32"} | parameters
            compiled = plain | {"compile": True, "net_params": {"compile__mode": mode}}
            expected, found = (
                partial(embedding, name in IMAGES, given, device)
                for given in (plain, compiled)
            )
            yield Check("compile", f"{name}, {mode}", 1e-3, expected, found)


# Files and searches --------------------------------------------------------------------


def stored_checks(device: str) -> Iterator[Check]:
    """Yield embeddings by models that were saved on one device and loaded on another."""
    for name in ("tabular", "mlp", "conv"):
        for way in ("from the CPU", "to the CPU"):
            yield against_cpu(
                "save and load",
                f"{name}, {way}",
                TOLERANCES["float32"],
                partial(moved, name, way == "from the CPU"),
                device,
            )


def moved(encoder: str, from_cpu: bool, device: str) -> list[np.ndarray]:
    """Save on the CPU and load on the device, or the other way round."""
    X, y = data(encoder == "conv")
    parameters = {"encoder": encoder, "precision": "float32"}
    parameters |= {"net_params": {"optimizer": torch.optim.SGD}, "lr": 0.02}
    source, target = ("cpu", device) if from_cpu else (device, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        embedder(source, **parameters).fit(X, y).save(path)
        return [HSCLEmbedder.load(path, device=target).transform(X)]


def search_checks(device: str) -> Iterator[Check]:
    """Yield the results of searches."""
    precision = "float32" if torch.device(device).type == "mps" else "float64"
    tolerance = 10 * TOLERANCES[precision]  # of probabilities behind a second model
    for encoder in ("mlp", "tabular"):
        compute = partial(searched, encoder, precision)
        yield against_cpu("search", f"{encoder}, 2 beta", tolerance, compute, device)


def searched(encoder: str, precision: str, device: str) -> list[np.ndarray]:
    """Return the scores of a search in stacks, and the probabilities of the best."""
    X, y = load_iris(return_X_y=True)
    model = embedder(device, encoder=encoder, precision=precision, max_epochs=1)
    pipe = make_pipeline(model, LogisticRegression())
    grid = {"hsclembedder__beta": [0.0, 2.0]}
    search = BatchedGridSearchCV(pipe, grid, cv=2, scoring="neg_log_loss").fit(X, y)
    return [search.cv_results_["mean_test_score"], search.predict_proba(X)]
