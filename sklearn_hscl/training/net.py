"""A thin skorch net around the training step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import EpochTimer, PrintLog
from torch import Tensor

from sklearn_hscl.augment import Augmentation
from sklearn_hscl.losses import LossStats
from sklearn_hscl.training.callbacks import StopTraining, TrainingCallback
from sklearn_hscl.training.step import contrast, training_step
from sklearn_hscl.training.views import Views


# skorch names that users may set; the rest is the embedder's own.
NET_PARAMS = ("optimizer", "callbacks", "compile", "torch_load_kwargs", "use_caching")


class ContrastiveNet(NeuralNet):
    """skorch net that trains an encoder with a contrastive loss.

    Differs from its base in four points: batches are slices of tensors on the
    device, the history is kept per epoch, Ctrl-C leaves `fit` instead of being
    swallowed, and a batch becomes views before it reaches the module.

    Parameters
    ----------
    module, criterion, **kwargs
        As in skorch; `criterion` is a :class:`~sklearn_hscl.losses.ContrastiveLoss`.
    augment : Augmentation
        Makes the views; it learns from the training rows when training begins.
    n_views : int
        Views of each row in a batch.
    view_seed : int
        Seed of the views.
    """

    def __init__(
        self,
        module: Any,
        criterion: Any,
        *,
        augment: Augmentation,
        n_views: int,
        view_seed: int,
        **kwargs: Any,
    ) -> None:
        self.augment = augment
        self.n_views = n_views
        self.view_seed = view_seed
        super().__init__(module, criterion, **kwargs)

    @property
    def _default_callbacks(self) -> list[tuple[str, Any]]:
        # Losses are recorded per epoch, so skorch's batch averages have no work.
        return [("epoch_timer", EpochTimer()), ("print_log", PrintLog())]

    def train_with(
        self, callbacks: list[TrainingCallback], X: Tensor, y: Tensor
    ) -> "ContrastiveNet":
        """Train from the start with callbacks that live for this training only."""
        self.initialize()
        users = self.callbacks_
        named = [(type(callback).__name__, callback) for callback in callbacks]
        self.callbacks_ = users + named
        try:
            return self.partial_fit(X, y)
        finally:
            self.callbacks_ = users

    def partial_fit(
        self, X: Tensor, y: Tensor, classes: Any = None, **fit_params: Any
    ) -> "ContrastiveNet":
        """Train on; skorch's own method would swallow Ctrl-C."""
        if not self.initialized_:
            self.initialize()
        self.notify("on_train_begin", X=X, y=y)
        self.fit_loop(X, y)
        self.notify("on_train_end", X=X, y=y)
        return self

    def fit_loop(
        self, X: Tensor, y: Tensor, epochs: int | None = None, **fit_params: Any
    ) -> "ContrastiveNet":
        """Run the epochs until the last one, or until a callback stops them."""
        self.augment_ = self.augment.fitted(X)
        self.views_ = self.seeded_views(X.device)
        try:
            super().fit_loop(X, y, epochs=epochs)
        except StopTraining:
            pass
        finally:
            del self.augment_, self.views_  # they may hold training rows
        return self

    def notify(self, method_name: str, **kwargs: Any) -> None:
        """Call all callbacks, then stop if one of them ended the epoch that way."""
        getattr(self, method_name)(self, **kwargs)
        stop = False
        for _, callback in self.callbacks_:
            try:
                getattr(callback, method_name)(self, **kwargs)
            except StopTraining:
                stop = True
            except KeyboardInterrupt:
                # This is how skorch's EarlyStopping stops; from ours it is Ctrl-C.
                ours = isinstance(callback, TrainingCallback)
                if ours or method_name != "on_epoch_end":
                    raise
                stop = True
        if stop:
            raise StopTraining

    def on_batch_begin(
        self, net: NeuralNet, batch: Any = None, training: bool = False, **kwargs: Any
    ) -> None:
        """Open no record of the batch: the history is kept per epoch."""

    def seeded_views(self, device: torch.device) -> Views:
        """Return the maker of views at the start of its random sequence."""
        generator = torch.Generator(device).manual_seed(self.view_seed)
        return Views(self.augment_, self.n_views, generator)

    def train_step(
        self, batch: tuple[Tensor, Tensor], **fit_params: Any
    ) -> tuple[Tensor, LossStats]:
        """Update the module on one batch."""
        self._set_training(True)
        return training_step(
            self.module_,
            self.criterion_,
            self.optimizer_,
            self.views_,
            *batch,
            on_gradient=lambda: self.notify(
                "on_grad_computed",
                named_parameters=self.get_all_learnable_params(),
                batch=batch,
                training=True,
            ),
        )

    def held_out_loss(self, rows: Tensor, labels: Tensor) -> float:
        """Contrastive loss of rows that are not trained on, with the same views."""
        self._set_training(False)
        views = self.seeded_views(rows.device)
        with torch.inference_mode():
            value, _ = contrast(self.module_, self.criterion_, views, rows, labels)
        return value.item()

    def run_single_epoch(
        self, iterator: Any, training: bool, prefix: str, step_fn: Any, **params: Any
    ) -> None:
        """Run all batches and record their means once, without a wait per batch."""
        if iterator is None:
            return
        losses, skipped, counts = [], [], []
        for batch in iterator:
            self.notify("on_batch_begin", batch=batch, training=training)
            loss, stats = step_fn(batch)
            self.notify("on_batch_end", batch=batch, training=training, loss=loss)
            losses.append(loss)
            skipped.append(stats.skipped_anchors)
            counts.append(stats.effective_negatives)
        loss = torch.stack(losses).mean().item()
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"The loss became {loss} in epoch {len(self.history)}: lower `lr` "
                f"(now {self.lr}) or raise `temperature` "
                f"(now {self.criterion_.temperature})."
            )
        self.history.record(f"{prefix}_loss", loss)
        self.history.record("skipped_anchors", int(torch.stack(skipped).sum()))
        self.history.record("effective_negatives", torch.stack(counts).mean().item())


def check_net_params(net_params: dict[str, Any]) -> None:
    """Raise where a skorch parameter is unknown, or is set by the embedder.

    Raises
    ------
    ValueError
        Naming the key.
    """
    for key in net_params:
        prefix, _, rest = key.partition("__")
        if prefix not in NET_PARAMS or (prefix == "callbacks" and not rest):
            raise ValueError(
                f"net_params got {key!r}: it takes the skorch names {list(NET_PARAMS)} "
                f"and what follows them after '__' ('optimizer__betas'). Other "
                f"settings are parameters of HSCLEmbedder, callbacks go to "
                f"net_callbacks."
            )


def user_callbacks(net_callbacks: Sequence[Any] | None) -> list[Any]:
    """Return the user's skorch callbacks as the list that skorch wants."""
    return [] if net_callbacks is None else list(net_callbacks)
