"""Early stopping on held-out or out-of-fold rows."""

import copy
from math import sqrt
from typing import ClassVar, TypedDict, Unpack

import numpy as np
import torch
from skorch.history import History
from torch import Tensor

from sklearn_hscl.encoders.inference import CHUNK_ROWS, embed_tensor
from sklearn_hscl.encoders.linear_path import labelled_indices
from sklearn_hscl.runtime.normalize import l2_normalize
from sklearn_hscl.training.batches.tensors import Batch, LabelledRows, LazyRows, select_rows
from sklearn_hscl.training.loop.callback import StopTraining, TrainingCallback
from sklearn_hscl.training.loop.epoch import DivergenceError
from sklearn_hscl.training.loop.net import ContrastiveNet
from sklearn_hscl.training.loop.step import batch_objective


class StoppingSettings(TypedDict, total=False):
    """Parameters of :class:`BestWeights`."""

    patience: int
    tol: float
    every: int
    min_epochs: int


class BestWeights(TrainingCallback):
    """Score the module after epochs, restore the best weights, stop early.

    The score is ``valid_score`` in the history. Of equal scores, that with the lower
    held-out loss is better, ``valid_loss`` in the history; then the earlier epoch.

    Parameters
    ----------
    patience : int
        Number of scores without an improvement of more than `tol` after which to stop.
    tol : float
        Minimum improvement, of the score or, where it is equal, of the loss.
    every : int
        Number of epochs between two scores. The epochs in between repeat the last score;
        the first and the last epoch are always scored.
    min_epochs : int
        First epoch that can be the best one; until then, no score counts as stale. A fit
        that continues an earlier one has been trained already, and ignores it.
    """

    remembered: ClassVar[tuple[str, ...]] = (
        "best_score_",
        "best_loss_",
        "reference_score_",
        "reference_loss_",
        "n_stale_",
        "best_epoch_",
        "best_weights_",
    )

    def __init__(
        self, *, patience: int, tol: float, every: int = 1, min_epochs: int = 1
    ) -> None:
        self.patience = patience
        self.tol = tol
        self.every = every
        self.min_epochs = min_epochs

    def score(self, net: ContrastiveNet) -> float:
        """Return the score of the module; higher is better."""
        raise NotImplementedError

    def score_name(self, net: ContrastiveNet) -> str:
        """Return the name of the score."""
        raise NotImplementedError

    def loss(self, net: ContrastiveNet) -> float | None:
        """Return the loss that decides between equal scores; None for scores without."""
        return None

    def is_clearly_better(self) -> bool:
        """Return whether a better score is more than chance."""
        return True

    def on_train_begin(
        self, net: ContrastiveNet, X: Tensor | LazyRows, y: Tensor, **kwargs: object
    ) -> None:
        """Keep a reference to the training rows."""
        self.train_ = LabelledRows(X, y)
        self.best_score_ = self.reference_score_ = -np.inf
        self.best_loss_ = self.reference_loss_ = np.inf
        self.n_stale_ = 0

    def on_epoch_end(self, net: ContrastiveNet, **kwargs: object) -> None:
        """Score this epoch; copy its weights if it is the best so far."""
        n_done = len(net.history) - net.first_epoch_
        if n_done > 1 and n_done % self.every and n_done < net.loop.n_epochs:
            # Callbacks of the user may read the score in any epoch.
            _repeat_scores(net.history)
            return
        score, loss = self._scores(net)
        # Until an epoch can be the best one, the last one is, in case no other follows.
        is_first = net.first_epoch_ == 0 and n_done < self.min_epochs + self.every
        is_better = (score, -loss) > (self.best_score_, -self.best_loss_)
        is_best = is_first or (is_better and self.is_clearly_better())
        net.history.record("valid_score_best", is_best and score > -np.inf)
        if is_best and score > -np.inf:
            self._keep(net, score, loss)
        gain, tie = score - self.reference_score_, score == self.reference_score_
        has_gained = gain > self.tol or (tie and self.reference_loss_ - loss > self.tol)
        if is_first or has_gained:
            self.reference_score_, self.reference_loss_ = score, loss
            self.n_stale_ = 0
            return
        self.n_stale_ += 1
        if self.n_stale_ >= self.patience:
            raise StopTraining

    def _scores(self, net: ContrastiveNet) -> tuple[float, float]:
        """Record score and loss of this epoch; the worst value for one that is NaN."""
        score, loss = self.score(net), self.loss(net)
        score = score if np.isfinite(score) else -np.inf
        net.history.record("valid_score", score)
        if loss is None:
            return score, 0.0
        loss = loss if np.isfinite(loss) else np.inf
        net.history.record("valid_loss", loss)
        return score, loss

    def _keep(self, net: ContrastiveNet, score: float, loss: float) -> None:
        self.best_score_, self.best_loss_ = score, loss
        self.best_epoch_ = len(net.history)
        # In a stack the weights are views, whose deep copy would copy the whole stack.
        self.best_weights_ = {
            name: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)
            for name, value in net.module_.state_dict().items()
        }

    def on_train_end(self, net: ContrastiveNet, **kwargs: object) -> None:
        """Restore the best weights, if an epoch was scored."""
        if len(net.history) == net.first_epoch_:
            return
        if not np.isfinite(self.best_score_):
            raise DivergenceError(
                f"Expected a finite held-out score in some epoch, got none. Lower `lr` "
                f"(now {net.lr})."
            )
        net.module_.load_state_dict(self.best_weights_)


def _repeat_scores(history: History) -> None:
    for name in ("valid_score", "valid_loss"):
        if name in history[-2]:
            history.record(name, history[-2, name])
    history.record("valid_score_best", False)


_MANY_HELD_OUT = 80  # that many scores tell small gains from chance


class HeldOutEarlyStopping(BestWeights):
    """Score held-out rows: by k-NN, by a jointly trained head, or by their loss.

    With classes, the score is the fraction of held-out rows whose nearest training rows
    vote for their class. It has few values if few rows are held out, so the loss decides
    ties. With labels or numbers, it is the score of the mean prediction of the head: the
    negative Brier score or R2. With fewer than 80 held-out rows, a later epoch is then
    better only if their errors are lower by more than one standard error of the mean
    difference: the score hardly changes while the embedding of training rows overfits.
    Without a head, the score is the negative loss.

    Parameters
    ----------
    held_out : LabelledRows
        Rows that are not trained on.
    **settings
        As for :class:`BestWeights`.
    """

    remembered: ClassVar[tuple[str, ...]] = (*BestWeights.remembered, "best_errors_")

    def __init__(
        self, held_out: LabelledRows, **settings: Unpack[StoppingSettings]
    ) -> None:
        super().__init__(**settings)
        self.held_out = held_out

    def on_train_begin(
        self, net: ContrastiveNet, X: Tensor | LazyRows, y: Tensor, **kwargs: object
    ) -> None:
        """Keep a reference to the training rows."""
        super().on_train_begin(net, X, y, **kwargs)
        self.errors_: Tensor | None = None
        self.best_errors_: Tensor | None = None

    def is_clearly_better(self) -> bool:
        """Return whether errors decreased; of few rows, beyond their standard error."""
        if self.best_errors_ is None or self.errors_ is None:
            return True
        if not 1 < len(self.errors_) < _MANY_HELD_OUT:
            return True
        gain = self.best_errors_ - self.errors_
        return bool(gain.mean() > gain.std(correction=0) / sqrt(len(gain)))

    def _keep(self, net: ContrastiveNet, score: float, loss: float) -> None:
        super()._keep(net, score, loss)
        self.best_errors_ = self.errors_

    def score_name(self, net: ContrastiveNet) -> str:
        """Return the name of the score."""
        if net.target_kind == "class":
            return "k-NN accuracy"
        if not _has_head(net):
            return "negative loss"
        return _name_of_head_score(net)

    def score(self, net: ContrastiveNet) -> float:
        """Return the fraction of correct votes, the head's score, or the negative loss."""
        if net.target_kind != "class":
            return self._score_of_head(net) if _has_head(net) else self._negative_loss(net)
        module = net.module_
        train, train_labels = _labelled(self.train_)
        held_out, labels = _labelled(self.held_out)
        embedding = embed_tensor(module.encoder, held_out, module.precision)
        if not embedding.isfinite().all():
            return -np.inf
        neighbors = embed_tensor(module.encoder, train, module.precision)
        votes = neighbor_votes(embedding, neighbors, train_labels)
        return int((votes == labels).sum()) / len(labels)

    def _negative_loss(self, net: ContrastiveNet) -> float:
        return -held_out_loss(net, *self.held_out)

    def _score_of_head(self, net: ContrastiveNet) -> float:
        """Return the score of the head's mean over members."""
        net.module_.eval()
        rows, targets = self.held_out
        errors = []
        with torch.inference_mode():
            for first in range(0, len(rows), CHUNK_ROWS):
                chunk = slice(first, first + CHUNK_ROWS)
                outputs = net.module_(rows[chunk])[1]
                outputs = outputs.mean(0) if net.module_.has_members else outputs
                errors.append(squared_errors(outputs, targets[chunk], net.target_kind))
        self.errors_ = torch.cat(errors)
        return _head_score(net, self.errors_)

    def loss(self, net: ContrastiveNet) -> float | None:
        """Return the held-out loss next to an accuracy; 0 for a single row."""
        if net.target_kind != "class":
            return None
        return held_out_loss(net, *self.held_out) if len(self.held_out.rows) > 1 else 0.0


def _labelled(data: LabelledRows) -> LabelledRows:
    labelled = data.targets >= 0
    return LabelledRows(select_rows(data.rows, labelled), data.targets[labelled])


N_NEIGHBORS = 5


def neighbor_votes(queries: Tensor, train: Tensor, labels: Tensor) -> Tensor:
    """Return the majority class of the nearest training rows by cosine similarity.

    Parameters
    ----------
    queries : Tensor of shape (n, D)
    train : Tensor of shape (m, D)
    labels : Tensor of int64, shape (m,)

    Returns
    -------
    Tensor of int64, shape (n,)
        Ties go to the first class.
    """
    queries, train = l2_normalize(queries), l2_normalize(train)
    n_neighbors = min(N_NEIGHBORS, len(train))
    votes = []
    for chunk in queries.split(1024):
        nearest = (chunk @ train.T).topk(n_neighbors).indices  # (chunk, k)
        ballots = torch.nn.functional.one_hot(labels[nearest], int(labels.max()) + 1)
        votes.append(ballots.sum(1).argmax(1))
    return torch.cat(votes)


def held_out_loss(net: ContrastiveNet, rows: Tensor | LazyRows, targets: Tensor) -> float:
    """Compute the mean loss of held-out rows, with the same views every time.

    Rows are compared in batches of the training's size, as larger batches have larger
    losses.

    Parameters
    ----------
    net : ContrastiveNet
        The net in training; module and loss are left in evaluation mode.
    rows : Tensor or LazyRows of shape (n_samples, ...)
        Prepared rows.
    targets : Tensor of shape (n_samples,) or (n_samples, K)
        Targets of `rows`.

    Returns
    -------
    float
    """
    module = net.module_.eval()
    net.criterion_.eval()
    views = net.loop.seeded_views(rows.device)
    n_batches = max(1, len(rows) // net.batch_size)
    total = 0.0
    with torch.inference_mode():
        for first in range(n_batches):  # every n-th row, as rows may be sorted
            batch = net.drop_placeholder_targets(
                Batch(rows[first::n_batches], targets[first::n_batches])
            )
            objective = batch_objective(
                net.criterion_, net.n_views, batch, has_members=module.has_members
            )
            value, _ = objective(*module(views(*batch)))
            total += value.item() * len(batch.rows)
    return total / len(rows)


# Rows that are scored out of fold, as more of them would hardly change the score.
_MAX_SCORED_ROWS = 16_384


class OutOfFoldEarlyStopping(BestWeights):
    """Score training rows by the member of an ensemble that does not see them.

    The score is that of the jointly trained head: the negative Brier score, or R2 of
    numbers. It needs no rows that all members are kept from. Of many rows, evenly spaced
    ones are scored.

    Parameters
    ----------
    folds : Tensor of shape (n_samples,)
        Index of the member that does not see a row.
    **settings
        As for :class:`BestWeights`.
    """

    def __init__(self, folds: Tensor, **settings: Unpack[StoppingSettings]) -> None:
        super().__init__(**settings)
        self.folds = folds

    def on_train_begin(
        self, net: ContrastiveNet, X: Tensor | LazyRows, y: Tensor, **kwargs: object
    ) -> None:
        """Choose the labelled rows that each member scores."""
        super().on_train_begin(net, X, y)
        labelled = labelled_indices(y).to(y.device)
        scored = labelled[:: -(-len(labelled) // _MAX_SCORED_ROWS)]
        folds = self.folds[scored]
        self.scored_ = [scored[folds == member] for member in range(net.n_members)]
        if isinstance(X, LazyRows) and X.donors() is not None:  # each score would read all
            rows, targets = X[scored], y[scored]
            self.train_ = LabelledRows(rows, targets)
            self.scored_ = [
                (folds == member).nonzero()[:, 0] for member in range(net.n_members)
            ]

    def score_name(self, net: ContrastiveNet) -> str:
        """Return the name of the score."""
        return _name_of_head_score(net)

    def score(self, net: ContrastiveNet) -> float:
        """Return the score of the head, by the member that does not see a row."""
        net.module_.eval()
        errors = []
        with torch.inference_mode():
            for member, scored in enumerate(self.scored_):
                for some in scored.split(CHUNK_ROWS):
                    rows, targets = self.train_.rows[some], self.train_.targets[some]
                    _, outputs = net.module_(rows, member)  # (1, B, n_outputs)
                    errors.append(squared_errors(outputs[0], targets, net.target_kind))
        return _head_score(net, torch.cat(errors))


def _name_of_head_score(net: ContrastiveNet) -> str:
    return "R2" if net.target_kind == "continuous" else "negative Brier score"


def _head_score(net: ContrastiveNet, errors: Tensor) -> float:
    """Return R2 of numbers, which are standardised, or the negative Brier score."""
    return (net.target_kind == "continuous") - errors.mean().item()


def _has_head(net: ContrastiveNet) -> bool:
    return net.module_.classifier is not None


def squared_errors(outputs: Tensor, targets: Tensor, kind: str | None) -> Tensor:
    """Return the squared error of what a linear head predicts, for each labelled row.

    Parameters
    ----------
    outputs : Tensor of shape (B, n_outputs)
        Output of the head.
    targets : Tensor of shape (B,) or (B, n_outputs)
        Class codes, label indicators or numbers.
    kind : {"class", "multilabel", "continuous"}
        Their type.

    Returns
    -------
    Tensor of shape (n_labelled,)
        Of probabilities the sum over classes, or the mean over labels; of numbers the
        mean over targets.
    """
    if kind == "continuous":
        return (outputs - targets).square().mean(1)
    if kind == "multilabel":
        return (outputs.sigmoid() - targets).square().mean(1)
    known = targets >= 0
    truth = torch.nn.functional.one_hot(targets[known], outputs.shape[-1])
    return (outputs[known].softmax(-1) - truth).square().sum(1)
