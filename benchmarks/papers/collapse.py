"""Neural and dimensional collapse along training, after arXiv 2311.05139.

    python benchmarks/papers/collapse.py                # CPU size, at most 30 minutes
    python benchmarks/papers/collapse.py --full         # the paper's size, on a GPU
    python benchmarks/papers/collapse.py --report       # table and figure once more

Jiang, Nguyen, Ishwar and Aeron train SCL and H-SCL on CIFAR-100 and follow the class means:
does each class become a point (neural collapse), and do the points span all C - 1
dimensions, or few of them (dimensional collapse)? Their recipe, which their public code has
and this script follows: output of width C - 1 in the unit ball, T = 1, Q = 1, each sample a
positive of itself, negatives drawn with replacement for each positive, one view without
augmentation, Adam with a rate of 1e-3 and batches of 512.

Training starts from random weights or from a collapsed network: one that was first trained
to map each class to a corner of a simplex, where all these losses have their minimum.

The CPU size has 20 images of each class at 16 x 16 pixels, a perceptron with batch
normalisation in place of a ResNet-50, and 64 draws in place of 256. Runs are written to
results/collapse.json, and those already there are skipped.
"""

import argparse
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from collapse_report import report
from image_data import Images, load
from torch import Tensor, nn

from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.metrics import (
    equal_inner_product_error,
    nearest_class_mean_accuracy,
    singular_value_decay,
    unit_norm_error,
    within_class_spread,
    zero_sum_error,
)
from sklearn_hscl.runtime.normalize import into_unit_ball
from sklearn_hscl.runtime.random_state import fit_generator

RESULTS = Path(__file__).parent.parent / "results"
N_CLASSES = 100
BETAS = {"SCL": 0.0, "H-SCL, β = 2": 2.0, "H-SCL, β = 5": 5.0}
STARTS = ("random", "collapsed")
ERRORS = {
    "zero_sum": zero_sum_error,
    "unit_norm": unit_norm_error,
    "equal_inner_product": equal_inner_product_error,
    "within_class": within_class_spread,
}


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    n_train: int | None
    n_test: int | None
    pixels: int
    epochs: int
    every: int
    n_sampled: int
    seeds: tuple[int, ...]


CPU = Size(2_000, 2_000, 16, 100, 5, 64, (0, 1))
FULL = Size(None, None, 32, 400, 10, 256, (0,))


def loss_of(beta: float, n_sampled: int) -> ContrastiveLoss:
    """Return the loss of the paper's code; `beta` acts on cosines, as T = 1."""
    return ContrastiveLoss(
        "hscl",
        beta=beta,
        temperature=1.0,
        negative_mass=1.0,
        reduction="pairs",
        include_self=True,
        n_sampled=n_sampled,
        normalize="ball",
    )


def network(size: Size) -> nn.Module:
    """Return an encoder of images (n, 3, H, W) with outputs of width C - 1."""
    if size is FULL:
        from torchvision.models import resnet50

        net = resnet50(num_classes=N_CLASSES - 1)
        net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        net.maxpool = nn.Identity()
        head = nn.Sequential(
            nn.Linear(2048, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU(),
            nn.Linear(512, N_CLASSES - 1),
        )  # fmt: skip
        net.fc = head
        return net
    widths = [3 * size.pixels**2, 512, 512]
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in itertools.pairwise(widths):
        layers += [nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], N_CLASSES - 1))


def simplex(n_classes: int) -> Tensor:
    """Return the C corners of a simplex in C - 1 dimensions, unit rows with sum 0."""
    centred = torch.eye(n_classes) - 1 / n_classes
    corners = torch.linalg.eigh(centred).eigenvectors[:, 1:]
    return nn.functional.normalize(corners, dim=1)


def batches(n_rows: int) -> list[Tensor]:
    """Return the indices of the batches of an epoch, all of one size."""
    order = torch.randperm(n_rows)
    height = min(512, n_rows)
    return list(order[: n_rows // height * height].split(height))


def collapse(net: nn.Module, X: Tensor, y: Tensor, epochs: int) -> None:
    """Train a network to map each class to a corner of a simplex.

    The cross-entropy separates the classes, and the squared error collapses them.
    """
    corners = simplex(N_CLASSES).to(X.device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    net.train()
    for _ in range(epochs):
        for batch in batches(len(X)):
            z, target = into_unit_ball(net(X[batch])), y[batch]
            error = nn.functional.cross_entropy(20 * z @ corners.T, target)
            error = error + 10 * (z - corners[target]).square().sum(1).mean()
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
        scheduler.step()


@torch.no_grad()
def embed(net: nn.Module, X: Tensor) -> np.ndarray:
    """Return outputs in the unit ball."""
    net.eval()
    return torch.cat([into_unit_ball(net(part)) for part in X.split(1024)]).cpu().numpy()


def measure(
    net: nn.Module, tensors: tuple[Tensor, ...], labels: tuple[np.ndarray, ...]
) -> dict[str, Any]:
    """Return the measures of one epoch."""
    train, test = (embed(net, X) for X in tensors[::2])
    y, y_test = labels
    means = np.stack([train[y == c].mean(0) for c in range(N_CLASSES)])
    decay = singular_value_decay(train, y, normalize=False)
    return {
        **{name: error(train, y, normalize=False) for name, error in ERRORS.items()},
        "singular_values": np.maximum(decay, -30).round(3).tolist(),
        # As in the paper's code: the mean with the largest inner product.
        "train_accuracy": float(((train @ means.T).argmax(1) == y).mean()),
        "accuracy": float(((test @ means.T).argmax(1) == y_test).mean()),
        "nearest_mean_accuracy": nearest_class_mean_accuracy(train, y, test, y_test),
    }


def train(
    net: nn.Module, loss: ContrastiveLoss, data: Images, size: Size
) -> list[dict[str, Any]]:
    """Train with a loss; return the measures along training."""
    tensors, labels = to_tensors(data, size), (data.y_train, data.y_test)
    X, y = tensors[:2]
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    curve = [{"epoch": 0} | measure(net, tensors, labels)]
    for epoch in range(1, size.epochs + 1):
        net.train()
        values = []
        for batch in batches(len(X)):
            value = loss(net(X[batch]), y[batch])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            values.append(value.detach())
        if epoch % size.every == 0:
            mean = float(torch.stack(values).mean())
            curve.append({"epoch": epoch, "loss": mean} | measure(net, tensors, labels))
    return curve


def to_tensors(data: Images, size: Size) -> tuple[Tensor, ...]:
    """Return images of the wanted size, standardised, and labels, for both splits."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = [
        torch.from_numpy(X).permute(0, 3, 1, 2).float().div(255)
        for X in (data.X_train, data.X_test)
    ]
    images = [nn.functional.adaptive_avg_pool2d(X, size.pixels) for X in images]
    mean, std = (f(images[0], (0, 2, 3), keepdim=True) for f in (torch.mean, torch.std))
    labels = (torch.from_numpy(y).long() for y in (data.y_train, data.y_test))
    pairs = zip(images, labels, strict=True)
    return tuple(t.to(device) for X, y in pairs for t in ((X - mean) / std, y))


def run(size: Size, path: Path) -> None:
    """Run what is missing, and write it after each run."""
    data = load("cifar100_webp", size.n_train, size.n_test)
    done = json.loads(path.read_text()) if path.exists() else []
    for seed in size.seeds:
        for start in STARTS:
            for name, beta in BETAS.items():
                setting = {
                    "loss": name, "start": start, "seed": seed, "epochs": size.epochs,
                    "n_train": len(data.y_train), "n_sampled": size.n_sampled,
                }  # fmt: skip
                if any(setting.items() <= old.items() for old in done):
                    continue
                begin = time.perf_counter()
                curve = one_run(size, data, beta, setting)
                seconds = time.perf_counter() - begin
                done.append(setting | {"seconds": round(seconds, 1), "curve": curve})
                path.write_text(json.dumps(done) + "\n")
                short = {k: v for k, v in curve[-1].items() if k != "singular_values"}
                print(setting, f"{seconds:.0f} s", short, flush=True)


def one_run(
    size: Size, data: Images, beta: float, setting: dict[str, Any]
) -> list[dict[str, Any]]:
    """Train one network from one start."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with fit_generator(setting["seed"], device, uses_torch=True):
        net = network(size).to(device)
        if setting["start"] == "collapsed":
            X, y, *_ = to_tensors(data, size)
            collapse(net, X, y, size.epochs)
        return train(net, loss_of(beta, size.n_sampled), data, size)


def main(argv: list[str] | None = None) -> None:
    """Run the experiment, and report on it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--out", type=Path, help="folder of the results", default=RESULTS)
    options = parser.parse_args(argv)
    path = options.out / f"collapse{'_full' if options.full else ''}.json"
    if not options.report:
        run(FULL if options.full else CPU, path)
    text = report(json.loads(path.read_text()), path.with_suffix(".png"))
    path.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
