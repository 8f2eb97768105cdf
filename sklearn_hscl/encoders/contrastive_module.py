"""Encoder, projection head and classifier as one module, parts of it frozen."""

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sklearn_hscl.encoders.tabular.encoder import TabularEncoder
from sklearn_hscl.runtime.precision import Precision


def freeze_parts(encoder: nn.Module, freeze: Sequence[str]) -> None:
    """Keep weights of an encoder from being trained.

    Parameters
    ----------
    encoder : nn.Module
        Its weights are marked in place.
    freeze : sequence of str
        Names of parts or weights, as torch names them: ``"stem"`` stands for
        ``"stem.0.weight"`` and all others that start with ``"stem."``.

    Raises
    ------
    ValueError
        If a name stands for no weight, or no weight is left to train.
    """
    for name in freeze:
        found = [w for own, w in encoder.named_parameters() if _is_part(own, name)]
        if not found:
            raise ValueError(
                f"freeze holds {name!r}, but no weight of the encoder is called that or "
                f"lies in a part of that name: choose from {_part_names(encoder)}, or "
                f"from what they are made of."
            )
        for weight in found:
            weight.requires_grad_(False)
    if freeze and not any(weight.requires_grad for weight in encoder.parameters()):
        raise ValueError(
            f"freeze={list(freeze)} leaves no weight of the encoder to train, so that the "
            f"embedding could not change: leave some of {_part_names(encoder)} out."
        )


def hold_statistics(encoder: nn.Module, freeze: Sequence[str]) -> None:
    """Put batch normalisation in frozen parts in eval mode.

    It then uses the running statistics that came with the weights, and keeps them.

    Parameters
    ----------
    encoder : nn.Module
        Its parts are changed in place.
    freeze : sequence of str
        Names of parts; those of weights change nothing.
    """
    for own, part in encoder.named_modules():
        if isinstance(part, _BatchNorm) and any(_is_part(own, name) for name in freeze):
            part.eval()


def _is_part(own: str, name: str) -> bool:
    return own == name or own.startswith(f"{name}.")


def _part_names(encoder: nn.Module) -> list[str]:
    return list(dict.fromkeys(name.split(".")[0] for name, _ in encoder.named_parameters()))


# Unit rows need larger scores to be sure of a class.
LOGIT_SCALE = 10.0


class ContrastiveModule(nn.Module):
    """Encoder followed by a projection head.

    The loss is computed on the projection; the embedding is what the encoder
    returns. The head takes up what only the contrastive task needs, and is dropped.

    Parameters
    ----------
    encoder : nn.Module
        Maps ``(B, *input_shape)`` to ``(B, n_components)``.
    n_components : int
        Width of the embedding.
    projection_dim : int or None
        Width of the projection; None for no head.
    n_classes : int or None
        Classes of a linear classifier on the embedding, for a jointly trained
        cross-entropy; None for no classifier.
    precision : Precision
        Types of numbers.
    freeze : sequence of str, default=()
        Parts or weights of the encoder that training leaves as they are.
    """

    def __init__(
        self,
        encoder: nn.Module,
        n_components: int,
        projection_dim: int | None,
        n_classes: int | None,
        precision: Precision,
        freeze: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.precision = precision
        self.encoder = encoder
        self.frozen = tuple(freeze)
        freeze_parts(encoder, self.frozen)
        self.n_components = n_components
        self.head = _projection_head(n_components, projection_dim)
        self.classifier = None if n_classes is None else nn.Linear(n_components, n_classes)

    @property
    def has_members(self) -> bool:
        """Whether outputs have the members of an ensemble in front."""
        return isinstance(self.encoder, TabularEncoder)

    def train(self, mode: bool = True) -> Self:
        """Set training or eval mode; frozen batch normalisation stays in the latter."""
        super().train(mode)
        hold_statistics(self.encoder, self.frozen)
        return self

    def weights_by_model(self) -> list[list[Tensor]]:
        """Return all weights, as those of the one model that this is."""
        return [list(self.parameters())]

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map rows (B, ...) to projections (..., B, P) and class scores (..., B, C).

        Encoders with members have them as a leading axis.
        """
        with self.precision.autocast():
            if isinstance(self.encoder, TabularEncoder):
                embedding = self.encoder.members(rows)  # (M, B, D), of unit length
                logits = embedding * LOGIT_SCALE
            else:
                embedding = logits = self.encoder(rows)  # (B, D)
            scores = None if self.classifier is None else self.classifier(logits)
            projection = self.head(embedding)
        dtype = self.precision.dtype  # of the loss: its exponentials need all bits
        return projection.to(dtype), None if scores is None else scores.to(dtype)


def _projection_head(n_components: int, projection_dim: int | None) -> nn.Module:
    if projection_dim is None:
        return nn.Identity()
    return nn.Sequential(
        nn.Linear(n_components, n_components),
        nn.ReLU(),
        nn.Linear(n_components, int(projection_dim)),
    )
