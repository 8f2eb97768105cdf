"""One training run: what a fit consists of before, during and after training."""

import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from sklearn_hscl.data.training_data import FittedInput, TrainingData
from sklearn_hscl.encoders.preprocessing import Preparation
from sklearn_hscl.losses.beta_schedules import BetaSchedule
from sklearn_hscl.runtime.random_state import Seeds, fit_generator
from sklearn_hscl.runtime.threads import torch_threads
from sklearn_hscl.training.batches.tensors import LabelledRows
from sklearn_hscl.training.callbacks.early_stopping import BestWeights
from sklearn_hscl.training.chance_level import chance_loss, constant_embedding_batches
from sklearn_hscl.training.config import FitContext
from sklearn_hscl.training.fitted_state import EpochRecord, FittedState
from sklearn_hscl.training.floor import Finish, FinishedEncoder, paths_of
from sklearn_hscl.training.loop.callback import TrainingCallback
from sklearn_hscl.training.loop.epoch import check_embedding
from sklearn_hscl.training.loop.net import ContrastiveNet, draws_from_torch


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

    def train_with(self, report: TrainingCallback | None = None) -> None:
        """Train to the end, or to where a callback stops; `report` sees every epoch."""
        report = report or TrainingCallback()
        with self.generator(), torch_threads(self.n_threads):
            self.net.train_with(self.monitors, report, *self.train, self.keepers)
            self.check_embedding()

    def generator(self) -> AbstractContextManager[None]:
        """Return the context in which this run draws, from a generator of its own."""
        uses_torch = draws_from_torch(self.net)
        return fit_generator(self.seeds.weights, self.device, uses_torch=uses_torch)

    def end_early(self) -> None:
        """Make do with the epochs that were completed before an interruption."""
        self.net.drop_unfinished_epoch()
        for monitor in self.monitors:
            monitor.on_train_end(self.net)
        self.check_embedding()

    def check_embedding(self) -> None:
        """Raise where training has ruined the weights in its last step."""
        check_embedding(self.net, self.train.rows)

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
        finished = self._finish()
        return FittedState(
            feature_names_in_=schema.feature_names,
            pixel_scale=schema.pixel_scale,
            columns=schema.columns,
            prepare=self.context.prepare,
            encode_targets=self.data.encode,
            module_=finished.encoder,
            net_=net,
            n_features_out=net.module_.n_components + finished.path_width,
            history_=[_public_record(epoch) for epoch in net.history],
            best_epoch_=best_epoch,
            chance_loss_=self.chance_loss,
            valid_score_name_=score_name,
            n_anchors=net.n_anchors_,
            input_shape_=self.data.train.rows.shape[1:],
            n_threads_=self.n_threads,
            held_out_readout_=finished.readout,
            precision=net.module_.precision,
            device_=self.device,
            beta_=net.beta if isinstance(net.beta, BetaSchedule) else loss["beta"],
            temperature_=loss["temperature"],
            seeds=self.seeds,
        )

    def _finish(self) -> FinishedEncoder:
        """Return the encoder as it is now, with its linear path."""
        context = self.context
        finish = Finish(
            train=self.train,
            known=context.known,
            held_out=context.held_out,
            holds_out=context.holds_out,
            passed=context.data.train.rows,
            was_sparse=context.data.was_sparse,
            prepare=context.prepare,
            precision=self.net.module_.precision,
            target_kind=self.data.target_kind,
            path=context.path,
            forests=context.forests,
            folds=context.folds,
        )
        return finish(self.net.module_.encoder.eval())

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
    path: nn.Module | None
    """Its encoder, if that has paths."""

    @classmethod
    def of(cls, estimator: BaseEstimator) -> Self | None:
        """Return what a further fit of an embedder can continue; None before the first."""
        if not hasattr(estimator, "net_"):
            return None
        fitted = FittedInput(
            estimator._encode_targets, estimator._columns, estimator.input_shape_
        )
        path = paths_of(estimator.module_)
        return cls(estimator.net_, estimator._prepare, fitted, estimator._seeds, path)
