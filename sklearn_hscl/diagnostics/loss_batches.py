"""Batches of a fitted embedder as the loss sees them: projections of views, and pairs."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from sklearn_hscl.data.out_of_core import take_rows
from sklearn_hscl.data.training_data import LabelledArrays
from sklearn_hscl.diagnostics.sample import Codes, DiagnosisSample
from sklearn_hscl.losses.dispatch import choose_kernel, compute
from sklearn_hscl.losses.equation import anchor_losses, block_weights, tilt_weights
from sklearn_hscl.losses.pair_sets import BatchPairs, PairWeights
from sklearn_hscl.losses.presets import LossOptions
from sklearn_hscl.runtime.normalize import l2_normalize
from sklearn_hscl.runtime.threads import choose_threads, has_small_steps, torch_threads
from sklearn_hscl.training.batches.views import Views, fitted_augment
from sklearn_hscl.training.chance_level import constant_embedding_batches
from sklearn_hscl.training.prepared_data import to_tensors

# Elements of a block of anchors, each with the rows of its batch: 64 MB.
_MAX_BLOCK_SIZE = 1 << 24


@dataclass(frozen=True)
class LossBatch:
    """Projections of one batch, and what the loss makes pairs of.

    Measures of pairs are limited to the first anchors of a huge batch.

    Parameters
    ----------
    z : Tensor of shape (B, P)
        Projections, scaled as the loss scales them.
    targets : BatchPairs
        Define which rows are positives and negatives of each other.
    options : LossOptions
        The loss configuration.
    """

    z: Tensor
    targets: BatchPairs
    options: LossOptions

    @property
    def n_anchors(self) -> int:
        """Number of anchors whose pairs are measured, A: all, unless the batch is huge."""
        return min(len(self.z), max(1, _MAX_BLOCK_SIZE // self.z.numel()))

    @property
    def pairs(self) -> PairWeights:
        """Positives and negatives of these anchors, (A, B)."""
        anchors = slice(0, self.n_anchors)
        return block_weights(self.targets, anchors, self.z.dtype, self.options)

    def cosines(self) -> Tensor:
        """Return the cosines of these anchors with all rows, (A, B)."""
        return self.z[: self.n_anchors] @ self.z.T

    def loss(self) -> float:
        """Return the contrastive loss."""
        return self._loss_of(self.z)

    def chance_loss(self) -> float:
        """Return the loss if all rows had one embedding."""
        return self._loss_of(torch.ones_like(self.z[:, :1]))

    def perfect_loss(self) -> float | None:
        """Return the loss under neural collapse; None without classes or several views.

        All rows of one class (or the views of one row) then are one corner of a simplex.
        For balanced classes and enough dimensions no embedding has a lower loss (Jiang,
        Nguyen, Ishwar, Aeron, TMLR 2025).
        """
        if self.targets.identity is None:
            return None
        _, corner = torch.unique(self.targets.identity, return_inverse=True)
        n_corners = int(corner.max()) + 1
        if n_corners < 2:
            return None
        corners = torch.eye(n_corners, dtype=self.z.dtype, device=self.z.device)
        return self._loss_of(l2_normalize(corners - 1 / n_corners)[corner])

    def _loss_of(self, z: Tensor) -> float:
        kernel = choose_kernel(z, self.targets, self.options)
        value, _ = compute(kernel, z, self.targets, self.options, effective_negatives=False)
        return value.item()

    def tilt(self) -> Tensor:
        """Return the weights of the negatives of these anchors, (A, B).

        The weights of an anchor sum to 1. Columns of synthetic negatives follow those of
        the rows.
        """
        anchors = self.z[: self.n_anchors]
        return tilt_weights(anchors, self.z, self.pairs, self.options)

    def pair_gradients(self) -> Tensor:
        """Return the absolute derivative of an anchor's loss by each cosine, (A, B).

        Each anchor gets a separate copy of the rows. The gradient by such a row is the
        derivative by the cosine times the anchor, which has norm 1.
        """
        n_anchors = self.n_anchors
        pairs = self.pairs
        rows = self.z.expand(n_anchors, *self.z.shape).clone()  # (A, B, P)
        rows.requires_grad_()
        losses = anchor_losses(
            self.z[:n_anchors, None],  # (A, 1, P)
            rows,
            PairWeights(*(weight[:, None] for weight in pairs)),
            self.options,
        )
        usable = torch.where(losses.usable, losses.loss, 0.0)
        (gradient,) = torch.autograd.grad(usable.sum(), rows)
        return gradient.norm(dim=-1)


def mean_loss(batches: Sequence[LossBatch]) -> float:
    """Average the contrastive loss over batches."""
    return float(np.mean([batch.loss() for batch in batches]))


def loss_batches(
    sample: DiagnosisSample, max_rows: int | None, seed: int
) -> list[LossBatch]:
    """Make batches of the size and the composition that `fit` uses.

    The rows of a batch are in random order. Projections are those of the network in eval
    mode; in an ensemble each row is embedded by one member, as in an epoch of training.
    With a schedule, beta is that of the last epoch.

    Parameters
    ----------
    sample : DiagnosisSample
        The embedder, and all rows with their targets.
    max_rows : int or None
        Maximum number of rows, in whole batches and at least one; None for all.
    seed : int
        Determines the batches and the views.

    Returns
    -------
    list of LossBatch
    """
    net = sample.embedder.net_
    targets = torch.zeros(len(sample), dtype=torch.long)
    if sample.targets is not None:
        targets = torch.from_numpy(sample.targets)
    batches = constant_embedding_batches(net, targets, seed=seed)
    n_batches = len(batches)
    if max_rows is not None:
        n_batches = min(n_batches, max(1, max_rows // net.batch_size))
    rng = np.random.default_rng(seed)
    with closing(iter(batches)) as remaining:  # type: ignore[type-var]
        indices = [batch.rows[:, 0].numpy() for batch in islice(remaining, n_batches)]
    small = has_small_steps(net.n_views * net.batch_size, sample.rows.ndim)
    with torch_threads(choose_threads(sample.embedder.n_threads, small_steps=small)):
        return [_loss_batch(sample, rng.permutation(each), seed) for each in indices]


def _loss_batch(sample: DiagnosisSample, indices: Codes, seed: int) -> LossBatch:
    embedder = sample.embedder
    net, module = embedder.net_, embedder.net_.module_
    dtype, device = module.precision.dtype, embedder.device_
    targets = None if sample.targets is None else sample.targets[indices]
    selected = LabelledArrays(take_rows(sample.rows, indices), targets)
    rows, on_device = to_tensors(selected, embedder._prepare, device, dtype)
    generator = torch.Generator(device).manual_seed(seed)
    augment = fitted_augment(net.augment, rows, on_device)
    views = Views(augment, net.n_views, generator, dtype)
    module.eval()
    with torch.no_grad(), module.precision.products():
        z, _ = module(views(rows[:], on_device))  # (V * B, P) or (M, V * B, P)
    view_ids = torch.arange(len(rows), device=device).repeat(net.n_views)
    if module.has_members:
        z = z[view_ids % len(z), torch.arange(len(view_ids), device=device)]
    y = None if targets is None else torch.cat([on_device] * net.n_views)
    resolved = net.criterion_.resolve(z, y, view_ids)
    return LossBatch(net.criterion_.scaled(z), *resolved)
