"""Configuration of a fit, what its defaults resolve to, and the context it runs in."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import ceil, prod
from typing import Any, Self

import numpy as np
import torch
from scipy.sparse import csr_array, issparse
from skorch.callbacks import LRScheduler
from torch import Tensor, nn

from sklearn_hscl.data.targets import UNLABELED
from sklearn_hscl.data.texts import encoder_label
from sklearn_hscl.data.training_data import LabelledArrays, TrainingData
from sklearn_hscl.encoders.linear_path import has_rare_classes
from sklearn_hscl.encoders.preprocessing import Preparation
from sklearn_hscl.encoders.registry import is_pretrained
from sklearn_hscl.encoders.tabular.forest_scores import ForestScores
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.losses.beta_schedules import BetaSchedule
from sklearn_hscl.runtime.precision import Precision
from sklearn_hscl.runtime.random_state import Seeds
from sklearn_hscl.training.batches.batch_sampler import rows_in_epoch
from sklearn_hscl.training.batches.tensors import LabelledRows
from sklearn_hscl.training.batches.views import AugmentParameter
from sklearn_hscl.training.loop.learning_rate import Schedule

__all__ = [
    "AugmentParameter",
    "EncoderDefaults",
    "FitConfig",
    "FitContext",
    "GivenConfig",
    "Schedule",
    "plain_value",
    "resolve_defaults",
    "resolve_loss",
    "steps_in_epoch",
]


def plain_value(value: Any) -> Any:
    """Return a parameter with the numbers, strings and arrays of numpy as Python's.

    They compare with ``is``, and pass into optimizers and files, as users expect of equal
    values. Other objects are returned as they are.
    """
    if isinstance(value, np.generic | np.ndarray):
        return plain_value(value.tolist())
    if type(value) in (list, tuple):
        return type(value)(map(plain_value, value))
    if type(value) is dict:
        return {key: plain_value(item) for key, item in value.items()}
    return value


@dataclass(frozen=True, kw_only=True)
class GivenConfig:
    """Parameters of the embedder that decide about training, as they were given."""

    beta: float | BetaSchedule
    encoder: str | nn.Module | Callable[..., nn.Module]
    hidden_layer_sizes: Sequence[int] | None
    dropout: float | None
    freeze: Sequence[str] | None
    n_components: int | None
    n_members: int | None
    projection_dim: int | str | None
    cross_fit: int | None
    augment: AugmentParameter
    n_views: int | str
    batch_size: int | None
    device_batch_size: int | str
    sampler: str
    max_epochs: int | None
    lr: float | None
    lr_schedule: str | Schedule | None
    lr_backoff: float | None
    weight_decay: float | None
    clip_norm: float | None
    early_stopping: bool | str
    validation_fraction: float
    n_iter_no_change: int | None
    tol: float
    device: str | torch.device
    precision: str
    compile: bool
    n_threads: int | None
    verbose: int | bool
    net_params: dict[str, Any] | None
    net_callbacks: Sequence[Any] | None
    has_plain_loss: bool
    """Whether the loss is given by name, without preset: then the encoder's default
    adds a fraction of cross-entropy, unless `ce_weight` is given."""
    ce_weight: float | None

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Self:
        """Take what is needed from the parameters of an embedder."""
        plain = isinstance(params["loss"], str) and params["preset"] is None
        params = {**params, "has_plain_loss": plain}
        return cls(**{field.name: params[field.name] for field in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class EncoderDefaults:
    """Values of an encoder for parameters that are left open.

    The measurements behind them are in the project's ``benchmarks/results``.
    """

    epochs: Callable[[int, int], int]
    """Maps the numbers of samples and of batches in an epoch to the number of epochs."""
    batch_size: int = 256
    n_members: int = 1
    n_components: int | None = None
    """None: as the encoder has it."""
    hidden_layer_sizes: tuple[int, ...] | None = None
    dropout: float = 0.0
    projection_dim: int | None = 64
    lr: float = 2e-3
    weight_decay: float = 1e-4
    lr_schedule: str = "cosine"
    early_stopping: bool | str = False
    n_iter_no_change: int = 10
    ce_weight: float | None = None
    """Fraction of the cross-entropy; None: as the loss has it."""
    label_smoothing: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    without_decay: tuple[str, ...] = ()
    """Patterns of names of weights that do not decay."""
    averaging: float | None = None
    """Decay of the moving average of the weights."""
    interpolation: float | None = None
    """Fraction of the way from pretrained to trained weights that is retained."""
    n_scores: int = 0
    """Scores for early stopping in a training run; 0 for one in every epoch."""


@dataclass(frozen=True, kw_only=True)
class FitConfig(GivenConfig):
    """The same with every default resolved."""

    n_members: int
    dropout: float
    projection_dim: int | None
    batch_size: int
    max_epochs: int
    lr: float
    lr_schedule: str | Schedule | None
    weight_decay: float
    n_iter_no_change: int
    validation_fraction: float
    defaults: EncoderDefaults

    @property
    def epochs_between_scores(self) -> int:
        """Number of epochs from one score of early stopping to the next."""
        n_scores = self.defaults.n_scores
        return max(1, ceil(self.max_epochs / n_scores)) if n_scores else 1


@dataclass(frozen=True)
class FitContext:
    """What is trained on, where and from which seeds; :class:`FitConfig` says how."""

    data: TrainingData
    """With the held-out samples of the split."""
    prepare: Preparation
    """Maps samples to the encoder's input."""
    train: LabelledRows
    """Of classes, with predictions in place of labels that are missing."""
    known: LabelledRows
    """The same with the labels that were passed."""
    held_out: LabelledRows | None
    folds: Tensor | None
    """The member that does not see a sample (n,); None if all see all."""
    loss: ContrastiveLoss
    seeds: Seeds
    precision: Precision
    holds_out: bool
    """Whether the held-out samples are a part of X, rather than the user's."""
    path: nn.Module | bool
    """Whether to fit a linear map of the rows beside the trained encoder; or the paths
    that an earlier fit has."""
    forests: Sequence[ForestScores] = ()
    """Forests of which one is chosen, whose scores follow the embedding."""

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.train.targets.device


# The authors advise at least so many.
BATCH_SIZE = 256
# Fewer samples are too few to keep a part of them from a member, unless asked for.
MIN_ROWS_OUT_OF_FOLD = 40


def _convolution_epochs(n_rows: int, n_batches: int) -> int:
    n_steps = min(max(30 * n_batches, 400), 8000)
    return max(8, round(n_steps / n_batches))


def _unlabeled_image_epochs(n_rows: int, n_batches: int) -> int:
    n_steps = min(max(40 * n_batches, 800), 4000)
    return max(5, round(n_steps / n_batches))


def _graph_epochs(n_rows: int, n_batches: int) -> int:
    n_steps = min(max(20 * n_batches, 300), 8000)
    return max(5, round(n_steps / n_batches))


def _tabular_epochs(n_rows: int, n_batches: int) -> int:
    n_steps = max(50 * n_rows // 256, 140)
    if n_steps > 500:  # further samples then add less and less
        n_steps = min(round(500 * (n_steps / 500) ** (2 / 3)), 3000)
    if n_rows < MIN_ROWS_OUT_OF_FOLD:
        n_steps = 40  # as early stopping needs more samples
    return max(1, round(n_steps / n_batches))


def _pretrained_epochs(n_rows: int, n_batches: int) -> int:
    n_steps = min(max(8 * n_batches, 40), 500)
    return max(2, round(n_steps / n_batches))


PLAIN = EncoderDefaults(epochs=lambda n_rows, n_batches: 20)
# Without labels a step teaches less, and a cosine ends too early at the same rate.
NO_LABELS = replace(PLAIN, lr=4e-3)
# The views of an image differ in so much that a narrow embedding loses what classes need.
UNLABELED_IMAGES = replace(PLAIN, epochs=_unlabeled_image_epochs, n_components=256)
# Words of a text separate its classes almost linearly: a second layer overfits.
SPARSE = replace(PLAIN, hidden_layer_sizes=(256,))
# Convolutions cost so much per sample that steps have to be small to be many.
CONVOLUTION = replace(
    PLAIN,
    epochs=_convolution_epochs,
    batch_size=32,
    projection_dim=None,
    lr=4e-3,
    ce_weight=0.5,
)
# Batches as in the papers. Small sets need steps for the statistics of the network, too.
GRAPHS = EncoderDefaults(epochs=_graph_epochs, batch_size=128)
# A third of the steps at three times the rate of the others does as much.
TABULAR = EncoderDefaults(
    epochs=_tabular_epochs,
    lr=6e-3,
    n_members=4,
    dropout=0.15,
    projection_dim=None,
    weight_decay=0.03,
    lr_schedule="warm_up",
    early_stopping="auto",
    n_iter_no_change=5,
    ce_weight=0.5,
    label_smoothing=0.1,
    betas=(0.9, 0.95),
    without_decay=("*.bias", "*encoder.weights"),
    averaging=0.95,
    n_scores=30,
)

# Measured in benchmarks/results/finetune.md and finetune_images.md: of texts, smaller steps
# without interpolation lose.
PRETRAINED = EncoderDefaults(
    epochs=_pretrained_epochs,
    batch_size=64,
    projection_dim=None,
    lr=2e-4,
    weight_decay=0.01,
    without_decay=("*.bias", "*[Nn]orm*", "*ln_*"),
    interpolation=0.7,
)

_BY_DIMENSIONS = {2: "tabular", 4: "conv"}
# Sparse rows that "auto" makes dense: at most so large then, in float32, and with at least
# this fraction of values other than 0. Texts, of which a layer of words serves better, have
# fewer; counts of cells, fingerprints of molecules and one-hot columns have more.
_MAX_DENSE_BYTES, _MIN_DENSITY = 32 * 2**20, 0.015


def _choose_encoder(
    encoder: str | nn.Module | Callable[..., nn.Module], data: TrainingData
) -> str | nn.Module | Callable[..., nn.Module]:
    """Return the encoder that suits the data, for ``"auto"``.

    Without targets ``"auto"`` is ``"mlp"``: the others were not measured on tables without
    targets, and hardly gain on images without them (3,000 of Fashion-MNIST, one seed: a
    linear probe of 75.5 against 74.9 %, in 50 times the time). So it is for sparse rows
    that are large or almost empty: ``"tabular"`` makes them dense.
    """
    if not (isinstance(encoder, str) and encoder == "auto"):
        return encoder
    rows, kind = data.train.rows, data.target_kind
    if kind is None or (issparse(rows) and not _suits_tabular(rows, kind)):
        return "mlp"
    return _BY_DIMENSIONS.get(rows.ndim, "mlp")


def _suits_tabular(rows: csr_array, target_kind: str) -> bool:
    """Return whether ``"tabular"`` is better for sparse rows (n, F), and dense ones fit."""
    n_values = prod(rows.shape)
    is_filled = target_kind != "class" or rows.nnz >= _MIN_DENSITY * n_values
    return 4 * n_values <= _MAX_DENSE_BYTES and is_filled


def _choose_defaults(encoder: object, data: TrainingData) -> EncoderDefaults:
    """Return the defaults for an encoder and the kind of data."""
    if encoder == "tabular":
        return TABULAR
    if encoder == "gin":
        return GRAPHS
    if is_pretrained(encoder):
        return PRETRAINED
    if data.target_kind is None:
        is_image = encoder == "mlp" and data.train.rows.ndim == 4
        return UNLABELED_IMAGES if is_image else NO_LABELS
    if encoder == "conv":
        return CONVOLUTION
    is_text_like = issparse(data.train.rows) and data.target_kind == "class"
    return SPARSE if is_text_like else PLAIN


def resolve_defaults(given: GivenConfig, data: TrainingData) -> FitConfig:
    """Fill in the parameters that are left open, by the defaults of the encoder.

    Parameters
    ----------
    given : GivenConfig
        Parameters; None or ``"auto"`` where they are left open.
    data : TrainingData
        All data that `fit` got.

    Returns
    -------
    FitConfig
    """
    encoder = _choose_encoder(given.encoder, data)
    defaults = _choose_defaults(encoder, data)
    batch_size = _first(given.batch_size, defaults.batch_size)
    config = FitConfig(
        **vars(given)
        | {
            "encoder": encoder,
            "defaults": defaults,
            "n_members": _first(given.n_members, given.cross_fit, defaults.n_members),
            "n_components": _first(given.n_components, defaults.n_components),
            "hidden_layer_sizes": _first(
                given.hidden_layer_sizes, defaults.hidden_layer_sizes
            ),
            "dropout": _first(given.dropout, defaults.dropout),
            "projection_dim": _unless_auto(given.projection_dim, defaults.projection_dim),
            "batch_size": batch_size,
            "max_epochs": _n_epochs(given, batch_size, defaults, data),
            "lr": _first(given.lr, defaults.lr),
            "lr_schedule": _lr_schedule(given, defaults),
            "weight_decay": _first(given.weight_decay, defaults.weight_decay),
            "early_stopping": _early_stopping(given, defaults, data),
            "n_iter_no_change": _first(given.n_iter_no_change, defaults.n_iter_no_change),
        }
    )
    if config.cross_fit is not None:
        _check_cross_fit(config, data)
    return config


def choose_path(
    given: GivenConfig, config: FitConfig, data: TrainingData, *, is_chunk: bool
) -> bool:
    """Return whether to fit a linear map of the rows beside the encoder.

    Built-in encoders of the default width have one, unless all rows have a class: then
    only those of texts, and those of rare classes. A first chunk of the data may be too
    small for it.
    """
    if is_chunk or _fixes_width(given, config):
        return False
    if _has_all_classes(data):
        targets = data.train.targets
        is_text_like = config.encoder == "mlp" and issparse(data.train.rows)
        is_rare = targets is not None and has_rare_classes(targets)
        return is_text_like or (config.encoder == "tabular" and is_rare)
    return config.encoder in ("mlp", "tabular")


def has_forests(
    given: GivenConfig, config: FitConfig, data: TrainingData, *, is_chunk: bool
) -> bool:
    """Return whether scores of random forests follow the embedding.

    They do so for tables of which all rows have a class, and embeddings of the default
    width.
    """
    if is_chunk or _fixes_width(given, config):
        return False
    return config.encoder == "tabular" and _has_all_classes(data)


def _fixes_width(given: GivenConfig, config: FitConfig) -> bool:
    """Return whether parameters leave no room for columns beside the trained ones."""
    return given.n_components is not None or config.cross_fit is not None


def _has_all_classes(data: TrainingData) -> bool:
    targets = data.train.targets
    return data.target_kind == "class" and (targets is None or not (targets < 0).any())


def resolve_loss(loss: ContrastiveLoss, config: FitConfig, data: TrainingData) -> None:
    """Complete the loss of a fit, in place: cross-entropy, smoothing, kind of targets.

    Warns
    -----
    UserWarning
        If `cross_fit` trains without early stopping.
    """
    defaults, encode = config.defaults, data.encode
    if encode is not None:  # the loss gets codes, whatever y holds
        loss.target_type = encode.target_type
        loss.unlabeled_label = None if encode.unlabeled_label is None else UNLABELED
    is_open = config.ce_weight is None and not loss.options.ce_weight
    has_targets = data.target_kind is not None
    if config.has_plain_loss and is_open and defaults.ce_weight and has_targets:
        loss.options = replace(loss.options, ce_weight=defaults.ce_weight)
    if config.has_plain_loss:
        loss.label_smoothing = defaults.label_smoothing
    if config.cross_fit is not None:
        _warn_of_long_training(config, data, loss)


def _first(*values: Any) -> Any:
    """Return the first value that is not None; None if there is none."""
    return next((value for value in values if value is not None), None)


def _unless_auto(value: Any, default: Any) -> Any:
    """Return the value, or the default for ``"auto"``; None is a value."""
    return default if isinstance(value, str) and value == "auto" else value


def _n_epochs(
    given: GivenConfig, batch_size: int, defaults: EncoderDefaults, data: TrainingData
) -> int:
    if given.max_epochs is not None:
        return given.max_epochs
    n_steps = steps_in_epoch(given.sampler, batch_size, data.train)
    return defaults.epochs(data.train.rows.shape[0], n_steps)


def steps_in_epoch(sampler: str, batch_size: int, train: LabelledArrays) -> int:
    """Return the number of batches in an epoch."""
    n_in_epoch = rows_in_epoch(train.targets, train.rows.shape[0], sampler)
    return ceil(n_in_epoch / batch_size)


def _lr_schedule(given: GivenConfig, defaults: EncoderDefaults) -> str | Schedule | None:
    if given.lr_schedule == "auto" and _has_scheduler(given.net_callbacks):
        return None
    return _unless_auto(given.lr_schedule, defaults.lr_schedule)


def _early_stopping(
    given: GivenConfig, defaults: EncoderDefaults, data: TrainingData
) -> bool | str:
    if given.early_stopping == "auto" and data.held_out is not None:
        return True
    return _unless_auto(given.early_stopping, defaults.early_stopping)


def _check_cross_fit(config: FitConfig, data: TrainingData) -> None:
    """Raise if samples cannot be embedded by members that have not seen them."""
    n_folds = config.cross_fit
    if config.encoder != "tabular" or data.target_kind != "class":
        raise ValueError(
            f"cross_fit={n_folds} needs class labels and encoder='tabular', whose members "
            f"can be kept from rows; got encoder={encoder_label(config.encoder)} and "
            f"target type {data.target_kind!r}. Pass a table, encoder='tabular' and y with "
            f"classes, or cross_fit=None."
        )
    if config.n_members != n_folds:
        raise ValueError(
            f"cross_fit={n_folds} makes one member for each fold, but n_members="
            f"{config.n_members}: leave n_members=None."
        )
    if config.early_stopping is True and data.held_out is None:
        raise ValueError(
            f"cross_fit={n_folds} embeds all rows, but early_stopping=True would hold some "
            f"out: use early_stopping='auto', which scores the folds, or pass X_val."
        )


def _warn_of_long_training(
    config: FitConfig, data: TrainingData, loss: ContrastiveLoss
) -> None:
    """Warn if the ensemble may overfit the held-out folds, as early stopping is off."""
    scored = data.held_out is not None or loss.options.ce_weight
    if config.early_stopping and scored:
        return
    warnings.warn(
        f"cross_fit={config.cross_fit} without early stopping: the members share "
        f"weights, so after long training rows out of fold look like rows that were "
        f"trained on. Leave early_stopping='auto' and ce_weight above 0.",
        UserWarning,
        stacklevel=2,
    )


def _has_scheduler(net_callbacks: Sequence[Any] | None) -> bool:
    """Return whether the user passes a learning rate scheduler of skorch."""
    return any(
        isinstance(part, LRScheduler) or part is LRScheduler
        for entry in net_callbacks or []
        for part in (entry if isinstance(entry, tuple | list) else [entry])
    )
