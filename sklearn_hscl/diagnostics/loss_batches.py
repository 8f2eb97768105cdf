"""Batches as the loss sees them: views, projections, and who is positive of whom."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hscl.data.out_of_core import take_rows
from sklearn_hscl.data.training_data import LabelledArrays
from sklearn_hscl.diagnostics.sample import Subject
from sklearn_hscl.losses.dispatch import choose_kernel, compute
from sklearn_hscl.losses.equation import anchor_losses, tilt_weights
from sklearn_hscl.losses.pair_sets import BatchPairs, PairWeights
from sklearn_hscl.losses.presets import LossOptions
from sklearn_hscl.runtime.normalize import l2_normalize
from sklearn_hscl.runtime.threads import choose_threads, has_small_steps, torch_threads
from sklearn_hscl.training.batches.views import Views, fitted_augment
from sklearn_hscl.training.prepared_data import to_tensors
from sklearn_hscl.training.run import constant_embedding_batches

# Numbers that a block of anchors may hold, each with the rows of its batch: 64 MB.
_BLOCK_NUMBERS = 1 << 24


@dataclass(frozen=True)
class LossBatch:
    """Unit projections of one batch, on which the equation works.

    Parameters
    ----------
    z : Tensor of shape (B, P)
        Unit rows.
    who : BatchPairs
        Positives and negatives of each anchor.
    options : LossOptions
        The loss configuration.
    """

    z: Tensor
    who: BatchPairs
    options: LossOptions

    @property
    def n_anchors(self) -> int:
        """How many anchors to look at pair by pair: all, unless the batch is huge."""
        return min(len(self.z), max(1, _BLOCK_NUMBERS // self.z.numel()))

    @property
    def pairs(self) -> PairWeights:
        """Who is positive and negative of these anchors, (A, B)."""
        return self.who.block(0, self.n_anchors, self.z.dtype)

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
        """Return the loss if classes were points of equal distance; None without classes.

        Under neural collapse the rows of one class (or the views of one row) are one
        corner of a simplex. For balanced classes and enough dimensions no embedding has
        a lower loss (Jiang, Nguyen, Ishwar, Aeron, TMLR 2025).
        """
        if self.who.identity is None:
            return None
        _, corner = torch.unique(self.who.identity, return_inverse=True)
        n_corners = int(corner.max()) + 1
        if n_corners < 2:
            return None
        corners = torch.eye(n_corners, dtype=self.z.dtype, device=self.z.device)
        return self._loss_of(l2_normalize(corners - 1 / n_corners)[corner])

    def _loss_of(self, z: Tensor) -> float:
        kernel = choose_kernel(z, self.who, self.options)
        value, _ = compute(kernel, z, self.who, self.options, effective_negatives=False)
        return value.item()

    def tilt(self) -> Tensor:
        """Return how much each row counts as a negative of these anchors.

        Of shape (A, B), and columns of synthetic negatives after those of the rows; the
        weights of an anchor sum to 1.
        """
        anchors = self.z[: self.n_anchors]
        return tilt_weights(anchors, self.z, self.pairs, self.options)

    def pair_gradients(self) -> Tensor:
        """Return the size of the derivative of an anchor's loss by each cosine, (A, B).

        Each anchor gets its own copy of the rows: the derivative by one of those is that
        by the cosine, times the anchor, which has length 1.
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


def loss_batches(subject: Subject, max_rows: int | None, seed: int) -> list[LossBatch]:
    """Make batches of the size and the composition that `fit` uses.

    Rows of a batch are in random order. Projections are those of the network in eval
    mode; in an ensemble each row is embedded by one member, as in a round of training.
    With a schedule, beta is that of the last epoch.

    Parameters
    ----------
    subject : Subject
        Who and what.
    max_rows : int or None
        How many rows to use, whole batches of them and at least one; None for all.
    seed : int
        For the batches and the views.

    Returns
    -------
    list of LossBatch
    """
    net = subject.embedder.net_
    every = subject.targets
    targets = torch.zeros(len(subject), dtype=torch.long)
    targets = targets if every is None else torch.from_numpy(every)
    batches = constant_embedding_batches(net, targets, seed=seed)
    n_batches = len(batches)
    if max_rows is not None:
        n_batches = min(n_batches, max(1, max_rows // net.batch_size))
    rng = np.random.default_rng(seed)
    with closing(iter(batches)) as remaining:  # type: ignore[type-var]
        chosen = [batch.rows[:, 0].numpy() for batch in islice(remaining, n_batches)]
    small = has_small_steps(net.n_views * net.batch_size, subject.rows.ndim)
    with torch_threads(choose_threads(subject.embedder.n_threads, small_steps=small)):
        return [_loss_batch(subject, rng.permutation(each), seed) for each in chosen]


def _loss_batch(subject: Subject, places: NDArray[Any], seed: int) -> LossBatch:
    embedder = subject.embedder
    net, module = embedder.net_, embedder.net_.module_
    dtype, device = module.precision.dtype, embedder.device_
    targets = None if subject.targets is None else subject.targets[places]
    chosen = LabelledArrays(take_rows(subject.rows, places), targets)
    rows, on_device = to_tensors(chosen, embedder._prepare, device, dtype)
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
    who, options = net.criterion_.resolve(z, y, view_ids)
    return LossBatch(l2_normalize(z), who, options)
