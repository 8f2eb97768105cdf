"""Builds a training run from parameters, data and loss."""

import copy
from dataclasses import dataclass, replace

from torch import nn

from sklearn_hscl.encoders.registry import encoder_name
from sklearn_hscl.encoders.text.transformer import open_text_encoder
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.runtime.device import resolve_device
from sklearn_hscl.runtime.precision import resolve_precision
from sklearn_hscl.runtime.random_state import Seeds
from sklearn_hscl.runtime.threads import choose_threads, has_small_steps
from sklearn_hscl.training.build_callbacks import (
    checkpoint_callbacks,
    choose_scored_rows,
    member_folds,
    monitoring_callbacks,
)
from sklearn_hscl.training.build_net import build_net
from sklearn_hscl.training.callbacks.checkpoint import Checkpoint
from sklearn_hscl.training.config import (
    FitConfig,
    FitContext,
    GivenConfig,
    choose_path,
    has_forests,
    resolve_defaults,
    resolve_loss,
)
from sklearn_hscl.training.loop.net import ContrastiveNet, load_warm_start
from sklearn_hscl.training.missing_labels import (
    complete_by_embedding,
    completes_labels,
    labelled_alone,
    learns_labels,
)
from sklearn_hscl.training.prepared_data import Placement, PreparedData, PreparedSplit
from sklearn_hscl.training.run import TrainingRun, WarmStart


@dataclass(frozen=True)
class FitStart:
    """The start of a fit: seeds, an earlier fit, a checkpoint."""

    seeds: Seeds
    previous: WarmStart | None = None
    """The fit to continue."""
    checkpoint: Checkpoint | None = None
    """The checkpoint that keeps the state of training."""
    is_chunk: bool = False
    """Whether the rows are a chunk of the data."""


def build_run(
    given: GivenConfig, data: PreparedData, loss: ContrastiveLoss, start: FitStart
) -> TrainingRun:
    """Build everything that training needs.

    Parameters
    ----------
    given : GivenConfig
        Parameters of the embedder.
    data : PreparedData
        Validated data, shared by all runs on them.
    loss : ContrastiveLoss
        The loss of this run alone; it is completed in place.
    start : FitStart
        Seeds, the fit to continue and the checkpoint.

    Returns
    -------
    TrainingRun
    """
    seeds, previous = start.seeds, start.previous
    fitted = None if previous is None else previous.net.plain_module.encoder
    given = replace(given, encoder=open_text_encoder(given.encoder, fitted))
    if fitted is not None and given.encoder == "auto":
        given = replace(given, encoder=encoder_name(fitted))
    if previous is not None and given.encoder == "mlp" and given.n_components is None:
        # The default width may have been another one.
        given = replace(given, n_components=previous.net.plain_module.n_components)
    config = resolve_defaults(given, data.data)
    resolve_loss(loss, config, data.data)
    config = choose_scored_rows(config, data.data, loss, is_new=previous is None)
    if previous is not None or start.is_chunk:  # each of whose calls would go back
        config = replace(config, defaults=replace(config.defaults, interpolation=None))
    split = data.split(config, seeds)
    path: nn.Module | bool = choose_path(given, config, split.data, is_chunk=start.is_chunk)
    if previous is not None:
        path = previous.path or False  # the width stays
    holds_out = data.data.held_out is None
    context = _context(config, split, loss, start, path, holds_out=holds_out)
    if learns_labels(config, context, is_chunk=start.is_chunk):
        first = previous.net if previous else _first_net(given, split, loss, seeds)
        context = replace(context, train=complete_by_embedding(context.known, first))
    net = build_net(config, context)
    if previous is not None:
        load_warm_start(net, previous.net)
    elif config.encoder == "tabular" and context.data.target_kind == "class":
        seen = context.train, context.folds, config.n_members, seeds
        if (importance := split.importance(*seen)) is not None:
            net.scale_by_importance(importance)
        if has_forests(given, config, split.data, is_chunk=start.is_chunk):
            context = replace(context, forests=split.scores(*seen))
    monitors = monitoring_callbacks(config, context)
    n_threads = _n_threads(config, context, net)
    keepers = checkpoint_callbacks(config, start.checkpoint)
    return TrainingRun(net, context, monitors, keepers, n_threads)


def _first_net(
    given: GivenConfig, split: PreparedSplit, loss: ContrastiveLoss, seeds: Seeds
) -> ContrastiveNet:
    """Train a net on the samples with a label, which users do not see."""
    silent = replace(given, net_callbacks=None, verbose=0)
    labelled = PreparedData(labelled_alone(split.data))
    own = copy.deepcopy(loss)  # training may change its scales
    run = build_run(silent, labelled, own, FitStart(seeds))
    run.train_with()
    return run.net


def _n_threads(config: FitConfig, context: FitContext, net: ContrastiveNet) -> int:
    n_rows, n_axes = net.n_views * net.batch_size, context.train.rows.ndim
    return choose_threads(config.n_threads, small_steps=has_small_steps(n_rows, n_axes))


def _context(
    config: FitConfig,
    split: PreparedSplit,
    loss: ContrastiveLoss,
    start: FitStart,
    path: nn.Module | bool,
    *,
    holds_out: bool,
) -> FitContext:
    """Prepare the data of a split for the encoder, the device and the precision."""
    seeds, previous = start.seeds, start.previous
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device, split.data.train.rows.ndim)
    place, folds = Placement(device, precision.dtype), None
    if previous is not None and split.data.schema.shape:  # all but texts
        prepare = previous.prepare
    else:
        prepare = split.preprocessing(config.encoder)
    if previous is None:
        # Members of an earlier fit have seen all samples: none would be out of fold.
        folds = member_folds(config, split.data, loss, seeds)
    known = train = split.train(prepare, place)
    if completes_labels(config, split.data, is_chunk=start.is_chunk):
        train = split.completed(known, prepare)
    return FitContext(
        data=split.data,
        prepare=prepare,
        train=train,
        known=known,
        held_out=split.held_out(prepare, place),
        folds=None if folds is None else folds.to(device),
        loss=loss,
        seeds=seeds,
        precision=precision,
        holds_out=holds_out,
        path=path,
    )
