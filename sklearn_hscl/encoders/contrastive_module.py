"""The trained module: encoder, projection head and classifier, partly frozen."""

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sklearn_hscl.encoders.tabular.encoder import TabularEncoder
from sklearn_hscl.runtime.precision import Precision

# Frozen parts --------------------------------------------------------------------------


def freeze_parts(encoder: nn.Module, freeze: Sequence[str]) -> None:
    """Exclude weights of an encoder from training, in place.

    Parameters
    ----------
    encoder : nn.Module
        The encoder.
    freeze : sequence of str
        Names of parts or weights, as torch names them: ``"stem"`` freezes
        ``"stem.0.weight"`` and all other weights that start with ``"stem."``.

    Raises
    ------
    ValueError
        If no weight matches a name, or no weight is left to train.
    """
    for name in freeze:
        found = [w for path, w in encoder.named_parameters() if _is_part(path, name)]
        if not found:
            raise ValueError(
                f"freeze holds {name!r}, but no weight of the encoder has this name or is "
                f"in a part of this name. Choose from {_part_names(encoder)}, or from "
                f"their parts."
            )
        for weight in found:
            weight.requires_grad_(False)
    if freeze and not any(weight.requires_grad for weight in encoder.parameters()):
        raise ValueError(
            f"freeze={list(freeze)} leaves no weight of the encoder to train. Leave some "
            f"of {_part_names(encoder)} out."
        )


def freeze_batch_statistics(encoder: nn.Module, freeze: Sequence[str]) -> None:
    """Put batch normalisation in frozen parts in eval mode, in place.

    These layers then use and keep the running statistics that came with the weights.

    Parameters
    ----------
    encoder : nn.Module
        The encoder.
    freeze : sequence of str
        Names of parts; names of weights have no effect.
    """
    for path, part in encoder.named_modules():
        if isinstance(part, _BatchNorm) and any(_is_part(path, name) for name in freeze):
            part.eval()


def _is_part(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.")


def _part_names(encoder: nn.Module) -> list[str]:
    return list(dict.fromkeys(name.split(".")[0] for name, _ in encoder.named_parameters()))


# The module ----------------------------------------------------------------------------

# Factor of embeddings of norm 1, whose class scores would be too small otherwise.
_LOGIT_SCALE = 10.0


class ContrastiveModule(nn.Module):
    """Encoder followed by a projection head.

    The loss is computed on the projection. The embedding is the output of the encoder,
    and the head, which only serves the contrastive task, is dropped after training.

    Parameters
    ----------
    encoder : nn.Module
        Maps ``(B, *input_shape)`` to ``(B, n_components)``.
    n_components : int
        Width of the embedding.
    projection_dim : int or None
        Width of the projection; None for no head.
    n_outputs : int or None
        Outputs of a jointly trained linear head on the embedding, one for each class or
        column of the targets; None for no such head.
    precision : Precision
        Types of numbers.
    freeze : sequence of str, default=()
        Names of parts or weights of the encoder that are not trained.
    """

    def __init__(
        self,
        encoder: nn.Module,
        n_components: int,
        projection_dim: int | None,
        n_outputs: int | None,
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
        self.classifier = None if n_outputs is None else nn.Linear(n_components, n_outputs)

    @property
    def has_members(self) -> bool:
        """Whether outputs have a leading axis of ensemble members."""
        return isinstance(self.encoder, TabularEncoder)

    def train(self, mode: bool = True) -> Self:
        """Set training or eval mode; frozen batch normalisation stays in eval mode."""
        super().train(mode)
        freeze_batch_statistics(self.encoder, self.frozen)
        return self

    def weights_by_model(self) -> list[list[Tensor]]:
        """Return all weights as one list, since this is a single model."""
        return [list(self.parameters())]

    def forward(
        self, rows: Tensor, member: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Map rows (B, ...) to projections (..., B, P) and linear outputs (..., B, C).

        The outputs of an ensemble have a leading axis of members, of length 1 if one of
        them is given.
        """
        with self.precision.autocast():
            if isinstance(self.encoder, TabularEncoder):
                embedding = self.encoder.members(rows, member)  # (M, B, D), of norm 1
                logits = embedding * _LOGIT_SCALE
            else:
                embedding = logits = self.encoder(rows)  # (B, D)
            scores = None if self.classifier is None else self.classifier(logits)
            projection = self.head(embedding)
        dtype = self.precision.dtype  # the exponentials of the loss need all bits
        return projection.to(dtype), None if scores is None else scores.to(dtype)


def _projection_head(n_components: int, projection_dim: int | None) -> nn.Module:
    if projection_dim is None:
        return nn.Identity()
    return nn.Sequential(
        nn.Linear(n_components, n_components),
        nn.ReLU(),
        nn.Linear(n_components, int(projection_dim)),
    )
