"""One training run: from parameters and validated data to a trained net."""

import copy
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklearn_hscl.data.categorical import TableColumns
from sklearn_hscl.data.targets import TargetEncoder
from sklearn_hscl.encoders.inference import CHUNK_ROWS, embed_tensor
from sklearn_hscl.encoders.preprocessing import Preparation
from sklearn_hscl.encoders.tabular.encoder import TabularEncoder
from sklearn_hscl.encoders.tabular.feature_importance import feature_importance
from sklearn_hscl.losses import BetaSchedule, ContrastiveLoss
from sklearn_hscl.runtime.device import resolve_device
from sklearn_hscl.runtime.precision import resolve_precision
from sklearn_hscl.runtime.random_state import Seeds, scoped_torch_seed
from sklearn_hscl.runtime.threads import choose_threads, has_small_steps, torch_threads
from sklearn_hscl.training.batches.batch_sampler import EpochBatches
from sklearn_hscl.training.batches.tensors import (
    LabelledRows,
    TrainingData,
    data_attributes,
    fit_preparation,
    split_held_out,
    to_tensors,
)
from sklearn_hscl.training.build_callbacks import (
    checkpoint_callbacks,
    member_folds,
    monitoring_callbacks,
)
from sklearn_hscl.training.build_net import build_net
from sklearn_hscl.training.callbacks.checkpoint import (
    Checkpoint,
    fingerprint_of_fit,
    surroundings_of_fit,
)
from sklearn_hscl.training.callbacks.early_stopping import BestWeights
from sklearn_hscl.training.config import resolve_defaults
from sklearn_hscl.training.loop.callback import TrainingCallback
from sklearn_hscl.training.loop.epoch import DivergenceError
from sklearn_hscl.training.loop.net import ContrastiveNet
from sklearn_hscl.training.loop.step import Batch, batch_objective


@dataclass
class TrainingRun:
    """What a fit is made of, before, during and after training."""

    net: ContrastiveNet
    train: LabelledRows
    folds: Tensor | None
    monitors: list[TrainingCallback]
    keepers: list[TrainingCallback]
    prepare: Preparation
    data: TrainingData
    seeds: Seeds
    device: torch.device
    n_threads: int

    def train_with(self, report: TrainingCallback) -> None:
        """Train to the end, or to where a callback stops; `report` sees every epoch."""
        with scoped_torch_seed(self.seeds.weights), torch_threads(self.n_threads):
            self.net.train_with(self.monitors, report, *self.train, self.keepers)
            self.check_embedding()

    def end_early(self) -> None:
        """Make do with the epochs that were completed before an interruption."""
        self.net.drop_unfinished_epoch()
        for monitor in self.monitors:
            monitor.on_train_end(self.net)
        self.check_embedding()

    def check_embedding(self) -> None:
        """Raise where training has ruined the weights in its last step."""
        module = self.net.module_
        rows = self.train.rows[:CHUNK_ROWS]
        embedding = embed_tensor(module.encoder, rows, module.precision)
        if not embedding.isfinite().all():
            raise DivergenceError(
                f"Training ended with infinite embeddings: lower `lr` (now {self.net.lr})."
            )

    @cached_property
    def chance_loss(self) -> float:
        """The loss of a batch if all its rows had one embedding."""
        with torch_threads(self.n_threads):
            batches = constant_embedding_batches(self.net, self.train.targets, self.folds)
            return chance_loss(self.net, next(iter(batches)))

    def fitted_attributes(self) -> dict[str, Any]:
        """Return the attributes of an embedder that was trained so far."""
        history = self.net.history
        best = len(history)
        beta, loss = self.net.beta, self.net.criterion_.settings()
        attributes: dict[str, Any] = {}
        for monitor in self.monitors:
            best = getattr(monitor, "best_epoch_", best)
            if isinstance(monitor, BestWeights):
                attributes["valid_score_name_"] = monitor.score_name(self.net)
        attributes |= {
            "module_": self.net.module_.encoder.eval(),
            "net_": self.net,
            "history_": [_for_users(epoch) for epoch in history],
            "loss_curve_": history[:, "train_loss"],
            "n_iter_": len(history),
            "best_epoch_": best,
            "chance_loss_": self.chance_loss,
            "input_shape_": self.data.train.rows.shape[1:],
            "device_": self.device,
            "n_threads_": self.n_threads,
            "_precision": self.net.module_.precision,
            "beta_": beta if isinstance(beta, BetaSchedule) else loss["beta"],
            "temperature_": loss["temperature"],
            "_n_anchors": self.net.n_anchors_,
            "_seeds": self.seeds,
            "_prepare": self.prepare,
            "_n_features_out": self.net.module_.n_components,
        }
        return attributes | data_attributes(self.data.encode, self.data.columns)

    def snapshot(self) -> dict[str, Any]:
        """Return the same for a callback to keep: training on does not change it."""
        attributes = self.fitted_attributes()
        del attributes["net_"]
        return attributes | {"module_": copy.deepcopy(attributes["module_"])}


def _for_users(epoch: dict[str, Any]) -> dict[str, Any]:
    """Drop what only skorch's callbacks want to know of an epoch."""
    return {
        name: value
        for name, value in epoch.items()
        if name != "batches" and not name.endswith("_best")
    }


class WarmStart(NamedTuple):
    """What a fit that goes on from an earlier one takes over."""

    net: ContrastiveNet
    prepare: Preparation
    encode: TargetEncoder | None
    columns: TableColumns | None
    input_shape: tuple[int, ...]
    seeds: Seeds


def prepare_run(
    params: dict[str, Any],
    data: TrainingData,
    loss: ContrastiveLoss,
    seeds: Seeds,
    previous: WarmStart | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainingRun:
    """Build all that training needs.

    Parameters
    ----------
    params : dict
        Parameters of the embedder.
    data : TrainingData
        Validated rows and codes.
    loss : ContrastiveLoss
        The loss.
    seeds : Seeds
        Seeds of this fit.
    previous : Previous or None
        The fit to go on from.
    checkpoint : Checkpoint or None
        Where to keep the state of training.

    Returns
    -------
    TrainingRun
    """
    given, all_data = params, data
    params, recipe = resolve_defaults(params, data, loss)
    data = _with_held_out(params, data, seeds)
    device = resolve_device(params["device"])
    ndim = data.train.rows.ndim
    precision = resolve_precision(params["precision"], device, ndim)
    built_in = isinstance(params["encoder"], str)
    prepare = (
        fit_preparation(data.train.rows, built_in, data.is_categorical)
        if previous is None
        else previous.prepare
    )
    train = to_tensors(data.train, prepare, device, precision.dtype)
    # Members of an earlier fit have seen all rows: nothing would be out of fold.
    folds = member_folds(params, data, loss, seeds, device) if previous is None else None
    net = build_net(params, recipe, train, folds, prepare, data, loss, seeds, precision)
    if previous is not None:
        net.load_warm_start(previous.net)
    elif params["encoder"] == "tabular" and data.target_kind == "class":
        _weigh_columns(net.module_.encoder, train, folds, seeds)
    monitors = monitoring_callbacks(params, recipe, loss, folds, prepare, data, train)
    small = has_small_steps(net.n_views * net.batch_size, ndim)
    n_threads = choose_threads(params["n_threads"], small_steps=small)
    keepers = checkpoint_callbacks(params, checkpoint)
    if checkpoint is not None:
        fingerprint = fingerprint_of_fit(given, all_data, seeds, net)
        checkpoint.belongs_to(fingerprint, surroundings_of_fit(n_threads), seeds)
    return TrainingRun(
        net, train, folds, monitors, keepers, prepare, data, seeds, device, n_threads
    )


def _weigh_columns(
    encoder: TabularEncoder, train: LabelledRows, folds: Tensor | None, seeds: Seeds
) -> None:
    """Let each column start at what it counts for telling the classes apart."""
    rows, codes = train
    relevance = feature_importance(rows, codes, folds, encoder.n_members, seeds.weights)
    if relevance is not None:
        encoder.scale_by_importance(relevance)


def _with_held_out(
    params: dict[str, Any], data: TrainingData, seeds: Seeds
) -> TrainingData:
    if data.held_out is not None and not params["early_stopping"]:
        raise ValueError(
            "X_val was passed, but early_stopping=False: set early_stopping=True to "
            "stop on it, or leave it out."
        )
    if data.held_out is not None or params["early_stopping"] is not True:
        return data
    train, held_out = split_held_out(data.train, params["validation_fraction"], seeds.split)
    return data._replace(train=train, held_out=held_out)


def constant_embedding_batches(
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
    targets = net.drop_placeholder_targets(batch)
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
