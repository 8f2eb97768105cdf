"""Fine-tuning by cross-entropy, which the benchmarks compare with contrastive losses."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sklearn_hscl.training.config import PRETRAINED

_HEAD_RATE = 1e-2
STEP_SIZE = PRETRAINED.batch_size  # samples of a step, as of ours


def n_steps(n_samples: int) -> int:
    """Return the number of our steps by default."""
    n_batches = -(-n_samples // STEP_SIZE)
    return n_batches * PRETRAINED.epochs(n_samples, n_batches)


def train_classifier(
    encoder: nn.Module,
    embed: Callable[[np.ndarray], Tensor],
    y: np.ndarray,
    rate: float,
    seed: int,
) -> None:
    """Train encoder and linear classifier by cross-entropy, in our number of steps.

    Parameters
    ----------
    encoder : nn.Module
        Trained in place, and left in eval mode.
    embed : callable
        Maps indices (B,) of samples to embeddings (B, D), by which classes are scored.
    y : ndarray of shape (n,)
        Labels.
    rate : float
        Learning rate of the encoder.
    seed : int
        Seed of batches and classifier.
    """
    codes = torch.from_numpy(np.unique(y, return_inverse=True)[1])
    encoder.train()
    with torch.no_grad():
        width = embed(np.arange(2)).shape[1]
    torch.manual_seed(seed)
    head = nn.Linear(width, int(codes.max()) + 1)
    rates, steps = [rate, _HEAD_RATE], n_steps(len(y))
    groups = [
        {"params": part.parameters(), "lr": lr}
        for part, lr in zip((encoder, head), rates, strict=True)
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=steps, pct_start=0.05
    )
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(y)) for _ in range(steps)])
    size = min(STEP_SIZE, len(y))
    for step in range(steps):
        batch = order[step * size : (step + 1) * size]
        optimizer.zero_grad()
        cross_entropy(head(embed(batch)), codes[batch]).backward()
        optimizer.step()
        schedule.step()
    encoder.eval()
