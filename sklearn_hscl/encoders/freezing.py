"""Parts of an encoder that training leaves as they are."""

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


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
