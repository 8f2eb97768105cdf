"""Custom encoders: the user's module, or a factory that makes one."""

import copy
import inspect

from torch import nn

from sklearn_hscl.encoders.options import EncoderFactory

DEFAULT_N_COMPONENTS = 64


def custom_encoder(
    encoder: nn.Module | EncoderFactory,
    input_shape: tuple[int, ...],
    n_components: int | None,
) -> nn.Module:
    """Return a copy of the user's module, or of what the factory returns, in float32."""
    if isinstance(encoder, nn.Module):
        return copy.deepcopy(encoder).float()
    return _call_factory(encoder, input_shape, n_components)


def _call_factory(
    factory: EncoderFactory, input_shape: tuple[int, ...], n_components: int | None
) -> nn.Module:
    offered: dict[str, object] = {
        "input_shape": input_shape,
        "n_features": input_shape[0],
        "n_components": DEFAULT_N_COMPONENTS if n_components is None else n_components,
    }
    built = factory(**_accepted_arguments(factory, offered))
    if not isinstance(built, nn.Module):
        raise ValueError(
            f"encoder={factory!r} must return a torch.nn.Module, got {type(built)}."
        )
    return copy.deepcopy(built).float()  # the factory may keep a reference to its result


def _accepted_arguments(
    factory: EncoderFactory, offered: dict[str, object]
) -> dict[str, object]:
    """Return those of the offered arguments that the factory has as parameters."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError as error:
        raise ValueError(
            f"Expected encoder to be a factory of modules, got {factory!r}: {error}."
        ) from error
    unknown = [
        p.name
        for p in parameters
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and (p.name not in offered or p.kind is p.POSITIONAL_ONLY)
    ]
    if unknown:
        raise ValueError(
            f"encoder={factory!r} needs the arguments {unknown}, but a factory can ask for "
            f"{list(offered)} alone, by name. Bind the others with functools.partial."
        )
    names = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return {k: v for k, v in offered.items() if takes_all or k in names}
