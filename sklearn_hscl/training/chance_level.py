"""Chance level of the loss: its value if all samples had one embedding."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from sklearn_hscl.runtime.random_state import fit_generator
from sklearn_hscl.training.batches.batch_sampler import EpochBatches
from sklearn_hscl.training.batches.tensors import Batch
from sklearn_hscl.training.loop.net import ContrastiveNet, draws_from_torch
from sklearn_hscl.training.loop.step import batch_objective


def constant_embedding_batches(
    net: ContrastiveNet, targets: Tensor, folds: Tensor | None = None, *, seed: int = 0
) -> EpochBatches:
    """Compose batches as an epoch of training does, of the indices of samples.

    Parameters
    ----------
    net : ContrastiveNet
        Its batch size and sampler are used.
    targets : Tensor of shape (n,) or (n, K)
        Targets of all samples.
    folds : Tensor of shape (n,) or None
        Index of the member of an ensemble that does not see a sample.
    seed : int, default=0
        Seed of the order.

    Returns
    -------
    EpochBatches
        Yields batches whose rows are indices, (B, 1).
    """
    indices = torch.arange(len(targets), device=targets.device)[:, None]
    dataset = SimpleNamespace(X=indices, y=targets)
    rng = np.random.default_rng(seed)
    return EpochBatches(dataset, net.batch_size, rng, net.iterator_train__sampler, folds)


def chance_loss(net: ContrastiveNet, batch: Batch) -> float:
    """Compute the training loss of a batch if all its samples had one embedding.

    Without cross-entropy and with each negative counted once (Q_i = |N_i|), it is the mean
    of log(1 + |N_i|). Embeddings in random directions are close to it, as is a collapsed
    network.

    Parameters
    ----------
    net : ContrastiveNet
        Its loss, views and classes are used.
    batch : Batch
        Its rows are only counted.

    Returns
    -------
    float
        Includes the fraction of cross-entropy, for equally likely classes.
    """
    module = net.module_
    targets = net.drop_placeholder_targets(batch)
    objective = batch_objective(
        net.criterion_, net.n_views, targets, has_members=module.has_members
    )
    members = (module.encoder.n_members,) if module.has_members else ()
    shape = (*members, net.n_views * len(batch.rows))
    like = torch.ones(1, dtype=module.precision.dtype, device=batch.rows.device)
    z = like.new_ones(*shape, 1)
    classifier = module.classifier
    logits = None
    if classifier is not None:
        logits = like.new_zeros(*shape, classifier.out_features)
    # Of synthetic negatives, or of parts of users.
    draws = fit_generator(0, like.device, uses_torch=draws_from_torch(net))
    with torch.inference_mode(), draws:
        value, _ = objective(z, logits)
    return value.item()
