"""One training run: from parameters and validated data to a trained net."""

import copy
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_hscl.data.training_data import TrainingData
from sklearn_hscl.data.validation import FittedInput
from sklearn_hscl.encoders.inference import CHUNK_ROWS, embed_tensor
from sklearn_hscl.encoders.preprocessing import Preparation
from sklearn_hscl.encoders.tabular.encoder import TabularEncoder
from sklearn_hscl.losses import BetaSchedule, ContrastiveLoss
from sklearn_hscl.runtime.device import resolve_device
from sklearn_hscl.runtime.precision import resolve_precision
from sklearn_hscl.runtime.random_state import Seeds, scoped_torch_seed
from sklearn_hscl.runtime.threads import choose_threads, has_small_steps, torch_threads
from sklearn_hscl.training.batches.batch_sampler import EpochBatches
from sklearn_hscl.training.batches.tensors import LabelledRows
from sklearn_hscl.training.build_callbacks import (
    checkpoint_callbacks,
    member_folds,
    monitoring_callbacks,
)
from sklearn_hscl.training.build_net import build_net
from sklearn_hscl.training.callbacks.checkpoint import Checkpoint
from sklearn_hscl.training.callbacks.early_stopping import BestWeights
from sklearn_hscl.training.config import (
    FitConfig,
    FitContext,
    GivenConfig,
    resolve_defaults,
    resolve_loss,
)
from sklearn_hscl.training.fitted_state import EpochRecord, FittedState
from sklearn_hscl.training.loop.callback import TrainingCallback
from sklearn_hscl.training.loop.epoch import DivergenceError
from sklearn_hscl.training.loop.net import ContrastiveNet
from sklearn_hscl.training.loop.step import Batch, batch_objective
from sklearn_hscl.training.loop.warm_start import load_warm_start
from sklearn_hscl.training.prepared_data import Placement, PreparedData, PreparedSplit


@dataclass
class TrainingRun:
    """What a fit is made of, before, during and after training."""

    net: ContrastiveNet
    context: FitContext
    monitors: list[TrainingCallback]
    keepers: list[TrainingCallback]
    n_threads: int

    @property
    def data(self) -> TrainingData:
        """Validated data, with the held-out samples of the split."""
        return self.context.data

    @property
    def train(self) -> LabelledRows:
        """Training samples as tensors; runs on the same data share them."""
        return self.context.train

    @property
    def folds(self) -> Tensor | None:
        """The member that does not see a sample (n,); None if all see all."""
        return self.context.folds

    @property
    def seeds(self) -> Seeds:
        """Seeds of the fit."""
        return self.context.seeds

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.context.device

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

    def fitted_state(self) -> FittedState:
        """Return the fitted attributes of an embedder that was trained so far."""
        net, schema = self.net, self.data.schema
        loss = net.criterion_.settings()
        best_epoch, score_name = self._best_epoch()
        return FittedState(
            feature_names_in_=schema.feature_names,
            pixel_scale=schema.pixel_scale,
            columns=schema.columns,
            prepare=self.context.prepare,
            encode_targets=self.data.encode,
            module_=net.module_.encoder.eval(),
            net_=net,
            n_features_out=net.module_.n_components,
            history_=[_public_record(epoch) for epoch in net.history],
            best_epoch_=best_epoch,
            chance_loss_=self.chance_loss,
            valid_score_name_=score_name,
            n_anchors=net.n_anchors_,
            input_shape_=self.data.train.rows.shape[1:],
            n_threads_=self.n_threads,
            precision=net.module_.precision,
            device_=self.device,
            beta_=net.beta if isinstance(net.beta, BetaSchedule) else loss["beta"],
            temperature_=loss["temperature"],
            seeds=self.seeds,
        )

    def _best_epoch(self) -> tuple[int, str | None]:
        """Return the epoch whose weights are used, and the name of the validation score."""
        epoch, score_name = len(self.net.history), None
        for monitor in self.monitors:
            epoch = getattr(monitor, "best_epoch_", epoch)
            if isinstance(monitor, BestWeights):
                score_name = monitor.score_name(self.net)
        return epoch, score_name

    def snapshot(self) -> dict[str, Any]:
        """Return the attributes for a callback; further training does not change them."""
        attributes = self.fitted_state().attributes()
        del attributes["net_"]
        return attributes | {"module_": copy.deepcopy(attributes["module_"])}


def _public_record(epoch: EpochRecord) -> EpochRecord:
    """Return the history entry of an epoch without what only skorch's callbacks use."""
    return {
        name: value
        for name, value in epoch.items()
        if name != "batches" and not name.endswith("_best")
    }


@dataclass(frozen=True)
class WarmStart:
    """What a fit takes over from the one that it continues."""

    net: ContrastiveNet
    prepare: Preparation
    input: FittedInput
    seeds: Seeds


def prepare_run(
    given: GivenConfig,
    data: PreparedData,
    loss: ContrastiveLoss,
    seeds: Seeds,
    previous: WarmStart | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainingRun:
    """Build everything that training needs.

    Parameters
    ----------
    given : GivenConfig
        Parameters of the embedder.
    data : PreparedData
        Validated data, shared by all runs on them.
    loss : ContrastiveLoss
        Of this run alone; completed in place.
    seeds : Seeds
        Seeds of this fit.
    previous : WarmStart or None
        The fit to continue.
    checkpoint : Checkpoint or None
        Where to keep the state of training.

    Returns
    -------
    TrainingRun
    """
    config = resolve_defaults(given, data.data)
    resolve_loss(loss, config, data.data)
    split = data.split(config, seeds)
    context = _context(config, split, loss, seeds, previous)
    net = build_net(config, context)
    if previous is not None:
        load_warm_start(net, previous.net)
    elif config.encoder == "tabular" and context.data.target_kind == "class":
        importance = split.importance(context.train, context.folds, config.n_members, seeds)
        if importance is not None:
            encoder = net.module_.encoder
            assert isinstance(encoder, TabularEncoder)
            encoder.scale_by_importance(importance)
    monitors = monitoring_callbacks(config, context)
    small = has_small_steps(net.n_views * net.batch_size, context.train.rows.ndim)
    n_threads = choose_threads(config.n_threads, small_steps=small)
    keepers = checkpoint_callbacks(config, checkpoint)
    return TrainingRun(net, context, monitors, keepers, n_threads)


def _context(
    config: FitConfig,
    split: PreparedSplit,
    loss: ContrastiveLoss,
    seeds: Seeds,
    previous: WarmStart | None,
) -> FitContext:
    """Prepare the data of a split for the encoder, the device and the precision."""
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device, split.data.train.rows.ndim)
    place, folds = Placement(device, precision.dtype), None
    if previous is not None:
        prepare = previous.prepare
    else:
        prepare = split.preprocessing(built_in=isinstance(config.encoder, str))
        # Members of an earlier fit have seen all samples: none would be out of fold.
        folds = member_folds(config, split.data, loss, seeds)
    return FitContext(
        data=split.data,
        prepare=prepare,
        train=split.train(prepare, place),
        held_out=split.held_out(prepare, place),
        folds=None if folds is None else folds.to(device),
        loss=loss,
        seeds=seeds,
        precision=precision,
    )


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
