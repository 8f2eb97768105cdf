"""The loss of an embedding that knows nothing, which a loss curve is to be read against."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_hscl.runtime.random_state import scoped_torch_seed
from sklearn_hscl.training.batching import EpochBatches
from sklearn_hscl.training.step import Batch, batch_objective


def batches_of_places(
    net: Any, targets: Tensor, folds: Tensor | None = None, *, seed: int = 0
) -> EpochBatches:
    """Compose batches as an epoch of training does, but of the places of rows.

    Parameters
    ----------
    net : ContrastiveNet
        Its batch size and sampler are used.
    targets : Tensor of shape (n,) or (n, K)
        Targets of all rows.
    folds : Tensor of shape (n,) or None
        The member of an ensemble that does not see a row.
    seed : int
        For the order.

    Returns
    -------
    EpochBatches
        Yields batches whose rows are places, (B, 1).
    """
    places = torch.arange(len(targets), device=targets.device)[:, None]
    dataset = SimpleNamespace(X=places, y=targets)
    rng = np.random.default_rng(seed)
    return EpochBatches(dataset, net.batch_size, rng, net.iterator_train__sampler, folds)


def chance_loss(net: Any, batch: Batch) -> float:
    """Compute the training loss of a batch if all its rows had one embedding.

    Without cross-entropy and where each negative counts once (Q_i = |N_i|) it is the mean
    of log(1 + |N_i|). Embeddings in random directions come close to it, as does a network
    that has collapsed.

    Parameters
    ----------
    net : ContrastiveNet
        Whose loss, views and classes to take.
    batch : Batch
        Its rows are only counted.

    Returns
    -------
    float
        With the share of a cross-entropy, at which all classes are equally likely.
    """
    module = net.module_
    targets = net.without_dummies(batch)
    objective = batch_objective(
        net.criterion_, net.n_views, targets, has_members=module.has_members
    )
    members = (module.encoder.n_members,) if module.has_members else ()
    shape = (*members, net.n_views * len(batch.rows))
    options = {"dtype": module.precision.dtype, "device": batch.rows.device}
    z = torch.ones(*shape, 1, **options)
    classifier = module.classifier
    logits = None
    if classifier is not None:
        logits = torch.zeros(*shape, classifier.out_features, **options)
    with torch.inference_mode(), scoped_torch_seed(0):  # synthetic negatives are drawn
        value, _ = objective(z, logits)
    return value.item()
