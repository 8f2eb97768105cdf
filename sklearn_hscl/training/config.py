"""What is chosen for the user: the encoder, and the settings that suit it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import Any

from scipy.sparse import issparse
from skorch.callbacks import LRScheduler

from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.training.batches.batch_sampler import rows_in_epoch
from sklearn_hscl.training.batches.tensors import TrainingData


@dataclass(frozen=True)
class EncoderDefaults:
    """Settings of a kind of encoder, for parameters that are left open.

    The figures behind them are in the project's ``benchmarks/results``.
    """

    parameters: dict[str, Any]
    """Values of parameters of the embedder."""
    epochs: Callable[[int, int], int]
    """From the numbers of rows and of batches in an epoch to the number of epochs."""
    ce_weight: float | None = None
    """Share of the cross-entropy; None: as the loss has it."""
    label_smoothing: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    without_decay: tuple[str, ...] = ()
    """Patterns of names of weights that do not decay."""
    averaging: float | None = None
    """Decay of the moving average of the weights."""
    n_scores: int = 0
    """Scores for early stopping in a training run; 0 for one in every epoch."""


# Where a recipe says nothing better; the authors advise at least so many.
BATCH_SIZE = 256
# Fewer rows are too few to keep a part of them from a member, unless asked for.
FEWEST_ROWS = 40


def _convolution_epochs(n_rows: int, n_batches: int) -> int:
    n_steps = min(max(30 * n_batches, 400), 8000)
    return max(8, round(n_steps / n_batches))


def _tabular_epochs(n_rows: int, n_batches: int) -> int:
    n_steps = max(150 * n_rows // 256, 400)
    if n_steps > 1500:  # rows then bring ever less that is new
        n_steps = min(round(sqrt(1500 * n_steps)), 6000)
    if n_rows < FEWEST_ROWS:
        n_steps = 100  # as nothing stops them earlier
    return max(1, round(n_steps / n_batches))


PLAIN = EncoderDefaults(
    parameters={
        "batch_size": BATCH_SIZE,
        "n_members": 1,
        "dropout": 0.0,
        "projection_dim": 64,
        "lr": 2e-3,
        "weight_decay": 1e-4,
        "lr_schedule": "cosine",
        "early_stopping": False,
        "n_iter_no_change": 10,
    },
    epochs=lambda n_rows, n_batches: 20,
)
# Without labels a step teaches less, and a cosine ends too early at the same rate.
UNLABELLED = replace(PLAIN, parameters=PLAIN.parameters | {"lr": 4e-3})
# Words of a text separate its classes almost linearly: a second layer overfits.
SPARSE = replace(PLAIN, parameters=PLAIN.parameters | {"hidden_layer_sizes": (256,)})
# Convolutions cost so much a row that steps have to be small to be many.
CONVOLUTION = replace(
    PLAIN,
    parameters=PLAIN.parameters | {"batch_size": 32, "projection_dim": None, "lr": 4e-3},
    epochs=_convolution_epochs,
    ce_weight=0.5,
)
TABULAR = EncoderDefaults(
    parameters={
        "batch_size": BATCH_SIZE,
        "n_members": 4,
        "dropout": 0.15,
        "projection_dim": None,
        "lr": 2e-3,
        "weight_decay": 0.03,
        "lr_schedule": "warm_up",
        "n_iter_no_change": 5,
    },
    epochs=_tabular_epochs,
    ce_weight=0.5,
    label_smoothing=0.1,
    betas=(0.9, 0.95),
    without_decay=("*.bias", "*encoder.weights"),
    averaging=0.95,
    n_scores=30,
)


_BY_DIMENSIONS = {2: "tabular", 4: "conv"}


def choose_encoder(encoder: Any, data: TrainingData) -> Any:
    """Settle the encoder: what suits dense tables, or images, with classes.

    Without classes and for sparse rows ``"auto"`` is ``"mlp"``: the others are not made for
    sparse rows, were not measured on tables without classes, and hardly gain on images
    without them (3,000 of Fashion-MNIST, one seed: a linear readout of 75.5 against 74.9 %,
    in 50 times the time).
    """
    if encoder != "auto":
        return encoder
    rows = data.train.rows
    if data.target_kind != "class" or issparse(rows):
        return "mlp"
    return _BY_DIMENSIONS.get(rows.ndim, "mlp")


def choose_recipe(encoder: Any, data: TrainingData) -> EncoderDefaults:
    """Settle the recipe, by the encoder and by what there is to learn from."""
    if encoder == "tabular":
        return TABULAR
    if data.target_kind is None:
        return UNLABELLED
    if encoder == "conv" and data.target_kind == "class":
        return CONVOLUTION
    is_text_like = issparse(data.train.rows) and data.target_kind == "class"
    return SPARSE if is_text_like else PLAIN


def resolve_defaults(
    params: dict[str, Any], data: TrainingData, loss: ContrastiveLoss
) -> tuple[dict[str, Any], EncoderDefaults]:
    """Fill in the parameters that are left open, by the recipe of the encoder.

    Parameters
    ----------
    params : dict
        Parameters of the embedder; None or ``"auto"`` where they are left open.
    data : TrainingData
        All data that `fit` got.
    loss : ContrastiveLoss
        The loss. It gets a share of cross-entropy where the recipe says so and the user
        nothing else.

    Returns
    -------
    params : dict
        With all values settled.
    recipe : Recipe
    """
    encoder = choose_encoder(params["encoder"], data)
    params = params | {"encoder": encoder}
    if params["cross_fit"] is not None and params["n_members"] is None:
        params["n_members"] = params["cross_fit"]
    recipe = choose_recipe(encoder, data)
    if params["lr_schedule"] == "auto" and _has_scheduler(params["net_callbacks"]):
        params["lr_schedule"] = None
    if params["early_stopping"] == "auto" and data.held_out is not None:
        params["early_stopping"] = True
    for name, value in recipe.parameters.items():
        if _is_left_open(name, params[name]):
            params[name] = value
    if params["max_epochs"] is None:
        n_rows = data.train.rows.shape[0]
        n_in_epoch = rows_in_epoch(data.train.targets, n_rows, params["sampler"])
        n_batches = ceil(n_in_epoch / params["batch_size"])
        params["max_epochs"] = recipe.epochs(n_rows, n_batches)
    if params["cross_fit"] is not None:
        _check_cross_fit(params, data)
    by_name = isinstance(params["loss"], str) and params["preset"] is None
    open_share = params["ce_weight"] is None and not loss.options.ce_weight
    if by_name and open_share and recipe.ce_weight and data.target_kind == "class":
        loss.options = replace(loss.options, ce_weight=recipe.ce_weight)
    if by_name:
        loss.label_smoothing = recipe.label_smoothing
    if params["cross_fit"] is not None:
        _warn_of_long_training(params, data, loss)
    return params, recipe


def _check_cross_fit(params: dict[str, Any], data: TrainingData) -> None:
    """Raise where rows cannot be embedded by members that have not seen them."""
    n_folds = params["cross_fit"]
    if params["encoder"] != "tabular" or data.target_kind != "class":
        raise ValueError(
            f"cross_fit={n_folds} needs class labels and encoder='tabular', whose members "
            f"can be kept from rows; got encoder={params['encoder']!r}. Pass a dense "
            f"table and y with classes, or cross_fit=None."
        )
    if params["n_members"] != n_folds:
        raise ValueError(
            f"cross_fit={n_folds} makes one member for each fold, but n_members="
            f"{params['n_members']}: leave n_members=None."
        )
    if params["early_stopping"] is True and data.held_out is None:
        raise ValueError(
            f"cross_fit={n_folds} embeds all rows, but early_stopping=True would hold some "
            f"out: use early_stopping='auto', which scores the folds, or pass X_val."
        )


def _warn_of_long_training(
    params: dict[str, Any], data: TrainingData, loss: ContrastiveLoss
) -> None:
    """Warn where nothing stops members, which share weights, before they know all rows."""
    scored = data.held_out is not None or loss.options.ce_weight
    if params["early_stopping"] and scored:
        return
    warnings.warn(
        f"cross_fit={params['cross_fit']} without early stopping: the members share "
        f"weights, so after long training rows out of fold look like rows that were "
        f"trained on. Leave early_stopping='auto' and ce_weight above 0.",
        UserWarning,
        stacklevel=2,
    )


# Parameters for which None is a value.
_AUTOMATIC = ("projection_dim", "lr_schedule", "early_stopping")


def _is_left_open(name: str, value: Any) -> bool:
    return (
        isinstance(value, str) and value == "auto" if name in _AUTOMATIC else value is None
    )


def _has_scheduler(net_callbacks: Any) -> bool:
    """Whether the user brings a scheduler of the learning rate."""
    return any(
        isinstance(part, LRScheduler) or part is LRScheduler
        for entry in net_callbacks or []
        for part in (entry if isinstance(entry, tuple | list) else [entry])
    )


def epochs_between_scores(recipe: EncoderDefaults, n_epochs: int) -> int:
    """Return how many epochs lie between two scores."""
    return max(1, ceil(n_epochs / recipe.n_scores)) if recipe.n_scores else 1
