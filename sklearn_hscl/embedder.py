"""HSCLEmbedder: the scikit-learn face of the library."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.callback import CallbackContext, CallbackSupportMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sklearn_hscl.encoders.inference import embed_array
from sklearn_hscl.inputs import check_row_shape, check_rows, check_training_data
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.losses.contrastive import BY_LABEL
from sklearn_hscl.parameters import CONSTRAINTS
from sklearn_hscl.seeding import draw_seeds
from sklearn_hscl.training.callbacks import FitTasks
from sklearn_hscl.training.run import prepare_run
from sklearn_hscl.training.views import AugmentParameter


class HSCLEmbedder(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, CallbackSupportMixin, BaseEstimator
):
    """DOC
    """

    _parameter_constraints = CONSTRAINTS

    def __init__(
        self,
        loss: str = "auto",
        *,
        hardening: str = "exponential",
        beta: float = 1.0,
        threshold: float = -0.25,
        temperature: float = 0.5,
        encoder: str | nn.Module | Callable[..., nn.Module] = "auto",
        hidden_layer_sizes: Sequence[int] | None = None,
        n_components: int | None = None,
        projection_dim: int | None = None,
        normalize: bool = True,
        channels: str = "auto",
        augment: AugmentParameter = "auto",
        n_views: int | str = "auto",
        batch_size: int = 256,
        max_epochs: int = 50,
        lr: float = 2e-3,
        weight_decay: float = 1e-4,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        device: str | torch.device = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: int | bool = 0,
        net_params: dict[str, Any] | None = None,
        net_callbacks: Sequence[Any] | None = None,
    ) -> None:
        self.loss = loss
        self.hardening = hardening
        self.beta = beta
        self.threshold = threshold
        self.temperature = temperature
        self.encoder = encoder
        self.hidden_layer_sizes = hidden_layer_sizes
        self.n_components = n_components
        self.projection_dim = projection_dim
        self.normalize = normalize
        self.channels = channels
        self.augment = augment
        self.n_views = n_views
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.lr = lr
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.net_params = net_params
        self.net_callbacks = net_callbacks

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
    ) -> Self:
        tasks = self._init_callback_context(max_subtasks=self.max_epochs)
        tasks.call_on_fit_task_begin(estimator=self, X=X, y=y)
        with _keeping_previous_fit(self):
            fitted = self._train(X, y, X_val, y_val, tasks)
        vars(self).update(fitted)
        tasks.call_on_fit_task_end(
            estimator=self, X=X, y=y, reconstruction_attributes=lambda: fitted
        )
        return self

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        check_is_fitted(self)
        rows = check_rows(self, X, reset=False)
        check_row_shape(rows, self.input_shape_, "X")
        kept = rows.dtype in (np.float32, np.float64)
        return embed_array(
            self.module_,
            self._prepare,
            rows,
            device=self.device_,
            normalize=self.normalize,
            dtype=rows.dtype if kept else np.float32,
        )

    def __sklearn_tags__(self) -> Tags:
        """Return the tags; labels are required only by losses that use them."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.loss in BY_LABEL
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.three_d_array = True
        return tags

    def _train(
        self, X: Any, y: Any, X_val: Any, y_val: Any, tasks: CallbackContext
    ) -> dict[str, Any]:
        """Train, and return all fitted attributes."""
        loss = self._contrastive_loss(y)
        data = check_training_data(
            self, X, y, X_val, y_val, loss=loss.loss, by_label=loss.by_label
        )
        params = self.get_params(deep=False)
        run = prepare_run(params, data, loss, draw_seeds(self.random_state))
        names = ("n_features_in_", "feature_names_in_")
        seen = {name: getattr(self, name) for name in names if hasattr(self, name)}
        run.train_with(FitTasks(tasks, self, X, y, lambda net: seen | run.snapshot()))
        return run.fitted_attributes()

    def _contrastive_loss(self, y: Any) -> ContrastiveLoss:
        if self.loss in BY_LABEL and y is None:
            raise ValueError(
                f"This HSCLEmbedder requires y to be passed, but the target y is None: "
                f"loss={self.loss!r} compares labels. Pass y, or use loss='hucl' or 'ucl'."
            )
        loss = self.loss
        if loss == "auto":
            loss = "hucl" if y is None else "hscl"
        return ContrastiveLoss(
            loss,
            beta=self.beta,
            temperature=self.temperature,
            hardening=self.hardening,
            threshold=self.threshold,
        )


@contextmanager
def _keeping_previous_fit(estimator: BaseEstimator) -> Iterator[None]:
    """Give a failed fit the input description of the previous one back."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        for name in ("n_features_in_", "feature_names_in_"):
            vars(estimator).pop(name, None)
            if name in before:
                setattr(estimator, name, before[name])
        raise
