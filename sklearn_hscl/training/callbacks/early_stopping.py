"""Early stopping on held-out or out-of-fold rows."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_hscl.encoders.inference import CHUNK_ROWS, embed_tensor
from sklearn_hscl.runtime.normalize import l2_normalize
from sklearn_hscl.training.batches.tensors import LabelledRows, select_rows
from sklearn_hscl.training.loop.callback import StopTraining, TrainingCallback
from sklearn_hscl.training.loop.epoch import DivergenceError
from sklearn_hscl.training.loop.step import Batch, batch_objective


def held_out_loss(net: Any, rows: Tensor, targets: Tensor) -> float:
    """Mean loss of rows that are not trained on, with the same views every time.

    Rows are compared in batches of the training's size, as the loss of a larger batch
    is larger.

    Parameters
    ----------
    net : ContrastiveNet
        In training; module and loss are left in evaluation mode.
    rows : Tensor of shape (n_samples, ...)
        Prepared.
    targets : Tensor of shape (n_samples,) or (n_samples, K)
        Theirs.

    Returns
    -------
    float
    """
    module = net.module_.eval()
    net.criterion_.eval()
    views = net.seeded_views(rows.device)
    n_batches = max(1, len(rows) // net.batch_size)
    total = 0.0
    with torch.inference_mode():
        for first in range(n_batches):  # every n-th row, whatever their order
            batch = net.drop_placeholder_targets(
                Batch(rows[first::n_batches], targets[first::n_batches])
            )
            objective = batch_objective(
                net.criterion_, net.n_views, batch, has_members=module.has_members
            )
            value, _ = objective(*module(views(*batch)))
            total += value.item() * len(batch.rows)
    return total / len(rows)


N_NEIGHBORS = 5


class BestWeights(TrainingCallback):
    """Score the module after epochs, keep the best weights, stop early.

    The score is ``valid_score`` in the history. Ties keep the earlier epoch.

    Parameters
    ----------
    patience : int
        Scores without an improvement of more than `tol` after which to stop.
    tol : float
        Smallest improvement that counts.
    every : int
        Epochs from one score to the next, which epochs in between repeat; the first and
        the last epoch have one anyway.
    """

    remembered = (
        "best_score_",
        "reference_score_",
        "n_stale_",
        "best_epoch_",
        "best_weights_",
    )

    def __init__(self, *, patience: int, tol: float, every: int = 1) -> None:
        self.patience = patience
        self.tol = tol
        self.every = every

    def score(self, net: Any) -> float:
        """Return how good the module is; higher is better."""
        raise NotImplementedError

    def score_name(self, net: Any) -> str:
        """Return what the score is."""
        raise NotImplementedError

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kw: Any) -> None:
        """Remember the training rows."""
        self.train_ = LabelledRows(X, y)
        self.best_score_ = self.reference_score_ = -np.inf
        self.n_stale_ = 0

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Score this epoch; keep its weights if it is the best so far."""
        n_done = len(net.history) - net.first_epoch_
        if n_done > 1 and n_done % self.every and n_done < net.n_epochs_:
            # Callbacks of the user may look at it in any epoch.
            net.history.record("valid_score", net.history[-2, "valid_score"])
            net.history.record("valid_score_best", False)
            return
        score = self.score(net)
        score = score if np.isfinite(score) else -np.inf
        net.history.record("valid_score", score)
        net.history.record("valid_score_best", score > self.best_score_)
        if score > self.best_score_:
            self.best_score_ = score
            self.best_epoch_ = len(net.history)
            weights = net.module_.state_dict()
            # A deep copy of a view, as in stacks, would be one of all that it views.
            self.best_weights_ = {name: weights[name].clone() for name in weights}
        if score > self.reference_score_ + self.tol:
            self.reference_score_ = score
            self.n_stale_ = 0
            return
        self.n_stale_ += 1
        if self.n_stale_ >= self.patience:
            raise StopTraining

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Go back to the best weights, if training came to a score."""
        if len(net.history) == net.first_epoch_:
            return
        if not np.isfinite(self.best_score_):
            raise DivergenceError(
                f"No epoch gave a finite held-out score: lower `lr` (now {net.lr})."
            )
        net.module_.load_state_dict(self.best_weights_)


class HeldOutEarlyStopping(BestWeights):
    """Score by held-out rows.

    It is the share of held-out rows whose nearest training rows vote for their class
    (losses by label), or the negative held-out loss (losses without labels).

    Parameters
    ----------
    held_out : LabelledRows
        Rows that are not trained on.
    **settings
        As for :class:`BestWeights`.
    """

    def __init__(self, held_out: LabelledRows, **settings: Any) -> None:
        super().__init__(**settings)
        self.held_out = held_out

    def score_name(self, net: Any) -> str:
        """Return what the score is."""
        return "k-NN accuracy" if net.target_kind == "class" else "negative loss"

    def score(self, net: Any) -> float:
        """Return the share of correct votes, or the negative loss."""
        if net.target_kind != "class":
            return -held_out_loss(net, *self.held_out)
        module = net.module_
        train, train_labels = _labelled(self.train_)
        held_out, labels = _labelled(self.held_out)
        embedding = embed_tensor(module.encoder, held_out, module.precision)
        if not embedding.isfinite().all():
            return -np.inf
        neighbors = embed_tensor(module.encoder, train, module.precision)
        votes = neighbor_votes(embedding, neighbors, train_labels)
        return (votes == labels).double().mean().item()


class OutOfFoldEarlyStopping(BestWeights):
    """Score training rows by the member of an ensemble that does not see them.

    It is minus the Brier score of that member's class probabilities: no row has to be
    kept from training as a whole.

    Parameters
    ----------
    folds : Tensor of shape (n_samples,)
        The member that does not see a row.
    **settings
        As for :class:`BestWeights`.
    """

    def __init__(self, folds: Tensor, **settings: Any) -> None:
        super().__init__(**settings)
        self.folds = folds

    def score_name(self, net: Any) -> str:
        """Return what the score is."""
        return "negative Brier score"

    def score(self, net: Any) -> float:
        """Return minus the mean squared distance from probabilities to the truth."""
        net.module_.eval()
        total, n_labelled, first = 0.0, 0, 0
        with torch.inference_mode():
            for rows in self.train_.rows.split(CHUNK_ROWS):
                chunk = slice(first, first + len(rows))
                first += len(rows)
                _, scores = net.module_(rows)  # (M, B, n_classes)
                row = torch.arange(len(rows), device=scores.device)
                own = scores[self.folds[chunk], row].softmax(-1)
                labels = self.train_.targets[chunk]
                known = labels >= 0
                truth = torch.nn.functional.one_hot(labels[known], own.shape[-1])
                total += (own[known] - truth).square().sum().item()
                n_labelled += len(truth)
        return -total / n_labelled


def _labelled(data: LabelledRows) -> LabelledRows:
    labelled = data.targets >= 0
    return LabelledRows(select_rows(data.rows, labelled), data.targets[labelled])


def neighbor_votes(queries: Tensor, train: Tensor, labels: Tensor) -> Tensor:
    """Majority class of the nearest training rows by cosine; ties to the first class.

    Parameters
    ----------
    queries : Tensor of shape (n, D)
    train : Tensor of shape (m, D)
    labels : Tensor of int64, shape (m,)

    Returns
    -------
    Tensor of int64, shape (n,)
    """
    queries, train = l2_normalize(queries), l2_normalize(train)
    n_neighbors = min(N_NEIGHBORS, len(train))
    votes = []
    for chunk in queries.split(1024):
        nearest = (chunk @ train.T).topk(n_neighbors).indices  # (chunk, k)
        ballots = torch.nn.functional.one_hot(labels[nearest], int(labels.max()) + 1)
        votes.append(ballots.sum(1).argmax(1))
    return torch.cat(votes)
