"""Modules with a leading model axis."""

import copy
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, vmap
from torch.nn import functional

from sklearn_hscl.encoders.contrastive_module import ContrastiveModule
from sklearn_hscl.encoders.mlp import MLPEncoder, OneHotColumns


class StackedModule(nn.Module):
    """Several encoders with heads that are trained together on the same rows.

    Random numbers (dropout) are drawn once for all models. Each model gets those that it
    would get alone, as all start from the same seed.

    Parameters
    ----------
    modules : sequence of S ContrastiveModule
        Modules of the same architecture. Their weights become views of the stacked ones,
        so that each module always has its trained weights.
    """

    stack: ContrastiveModule

    def __init__(self, modules: Sequence[ContrastiveModule]) -> None:
        super().__init__()
        self.models = list(modules)  # a plain list: its modules are not registered
        self.has_members = modules[0].has_members
        self.stack = copy.deepcopy(modules[0])
        for name, _ in modules[0].named_parameters():
            weights = [module.get_parameter(name).detach() for module in modules]
            is_trained = modules[0].get_parameter(name).requires_grad
            whole = nn.Parameter(torch.stack(weights), requires_grad=is_trained)
            _replace(self.stack, name, whole)
        # Both ways give the same numbers; mapping over weights is slower.
        self.takes_leading_axis = _is_perceptron(self.stack.encoder)
        if self.takes_leading_axis:
            _use_leading_axis(self.stack)
        self._share_weights()

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map rows (B, ...) to projections (S, ..., B, P) and class scores."""
        if self.takes_leading_axis:
            return self.stack(rows)
        weights: dict[str, Tensor] = dict(self.stack.named_parameters())
        outputs = vmap(self._forward_one, in_dims=(0, None), randomness="same")(
            weights, rows
        )
        return outputs[0], outputs[1] if len(outputs) > 1 else None

    def _forward_one(self, weights: dict[str, Tensor], rows: Tensor) -> tuple[Tensor, ...]:
        """Compute one model; :func:`torch.func.vmap` maps this over all of them."""
        outputs = functional_call(self.stack, weights, (rows,))
        return tuple(output for output in outputs if output is not None)

    def weights_by_model(self) -> Iterator[list[Tensor]]:
        """Yield the weights of one model after the other, with their gradients."""
        stacked = [
            (weight, weight.grad) for weight in self.parameters() if weight.grad is not None
        ]
        for k in range(len(self.models)):
            weights = []
            for whole, gradient in stacked:
                weight = whole.detach()[k]
                weight.grad = gradient[k]
                weights.append(weight)
            yield weights

    def retain(self, indices: Sequence[int]) -> None:
        """Continue with some of the models; the weights of the others are copied out."""
        for model in self.models:
            for weight in model.parameters():
                weight.data = weight.data.clone()
        self.models = [self.models[k] for k in indices]
        for weight in self.parameters():
            weight.data = weight.data[list(indices)]
        self._share_weights()

    def _share_weights(self) -> None:
        """Make the weights of the models views of the stacked ones."""
        for k, model in enumerate(self.models):
            for weight, whole in zip(model.parameters(), self.parameters(), strict=True):
                weight.data = whole.data[k]


class ModelLinear(nn.Module):
    """A linear map per model.

    Parameters
    ----------
    weight : Parameter of shape (S, n_out, n_in)
    bias : Parameter of shape (S, n_out), or None
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows (B, n_in), or (S, B, n_in), to (S, B, n_out)."""
        if torch.is_autocast_enabled(rows.device.type):
            product = rows @ self.weight.mT  # in the dtype that autocast chooses
        else:
            product = _Product.apply(rows, self.weight)
        return product if self.bias is None else product + self.bias.unsqueeze(1)


class SharedDropout(nn.Module):
    """Dropout of the same units in all models.

    Parameters
    ----------
    p : float in [0, 1)
        Fraction of the units.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, rows: Tensor) -> Tensor:
        """Drop units of rows (S, B, n) in training; scale the others up."""
        if not self.training or not self.p:
            return rows
        return rows * functional.dropout(torch.ones_like(rows[0]), self.p)


class _Context(Protocol):
    """Attributes of torch's context that :class:`_Product` uses."""

    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Save tensors for the backward pass."""


class _Product(torch.autograd.Function):
    """Rows times the transposed weights of each model, in few large products."""

    @staticmethod
    def forward(ctx: _Context, rows: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight)
        if rows.ndim > 2:
            return torch.bmm(rows, weight.mT)
        product = rows @ weight.flatten(0, 1).T  # (B, S * n_out)
        return product.view(len(rows), *weight.shape[:2]).transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, outer: Tensor) -> tuple[Tensor | None, Tensor]:
        rows, weight = ctx.saved_tensors
        if rows.ndim > 2:
            return torch.bmm(outer, weight), torch.bmm(outer.mT, rows)
        flat = outer.transpose(0, 1).flatten(1)  # (B, S * n_out)
        to_rows = flat @ weight.flatten(0, 1) if ctx.needs_input_grad[0] else None
        return to_rows, (flat.T @ rows).view(weight.shape)


def _is_perceptron(encoder: nn.Module) -> bool:
    """Return whether all parts but linear maps and dropout accept rows (S, B, n)."""
    parts = list(encoder) if type(encoder) is nn.Sequential else [encoder]
    *before, last = map(type, parts)
    return last is MLPEncoder and all(part is OneHotColumns for part in before)


def _use_leading_axis(module: nn.Module) -> None:
    """Replace linear maps and dropout by those for rows (S, B, n)."""
    for name, part in module.named_children():
        if isinstance(part, nn.Linear):
            setattr(module, name, ModelLinear(part.weight, part.bias))
        elif isinstance(part, nn.Dropout):
            setattr(module, name, SharedDropout(part.p))
        else:
            _use_leading_axis(part)


def _replace(module: nn.Module, name: str, weight: nn.Parameter) -> None:
    owner, _, last = name.rpartition(".")
    setattr(module.get_submodule(owner), last, weight)
