"""Several modules of one form as one, with the models as leading axis of the weights."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, vmap
from torch.nn import functional

from sklearn_hscl.encoders.contrastive_module import ContrastiveModule
from sklearn_hscl.encoders.mlp import ColumnExpansion, MLPEncoder


class StackedModule(nn.Module):
    """Encoders with heads, as many as are trained together, on the same rows.

    Random numbers (dropout) are drawn once and serve all models: each model does what it
    would do alone, as all start from the same seed.

    Parameters
    ----------
    modules : sequence of S ContrastiveModule
        Of one form. Their weights become views of the stacked ones, so that each of them
        is at any time the model as trained so far.
    """

    stack: ContrastiveModule

    def __init__(self, modules: Sequence[ContrastiveModule]) -> None:
        super().__init__()
        self.modules_apart = [modules]  # in a list, as they are no parts of this one
        self.has_members = modules[0].has_members
        self.stack = copy.deepcopy(modules[0])
        for name, _ in modules[0].named_parameters():
            weights = [module.get_parameter(name).detach() for module in modules]
            is_trained = modules[0].get_parameter(name).requires_grad
            whole = nn.Parameter(torch.stack(weights), requires_grad=is_trained)
            _replace(self.stack, name, whole)
        # Both ways give the same numbers; mapping over weights takes more time.
        self.takes_leading_axis = _is_perceptron(self.stack.encoder)
        if self.takes_leading_axis:
            _take_leading_axis(self.stack)
        self._share()

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map rows (B, ...) to projections (S, ..., B, P) and class scores."""
        if self.takes_leading_axis:
            return self.stack(rows)
        weights: dict[str, Tensor] = dict(self.stack.named_parameters())
        outputs = vmap(self._one, in_dims=(0, None), randomness="same")(weights, rows)
        return outputs[0], outputs[1] if len(outputs) > 1 else None

    def _one(self, weights: dict[str, Tensor], rows: Tensor) -> tuple[Tensor, ...]:
        """Compute one model; :func:`torch.func.vmap` makes that of all."""
        outputs = functional_call(self.stack, weights, (rows,))
        return tuple(output for output in outputs if output is not None)

    def weights_by_model(self) -> Iterator[list[Tensor]]:
        """Yield the weights of one model after the other, with their gradients."""
        stacked = [weight for weight in self.parameters() if weight.grad is not None]
        for k in range(len(self.modules_apart[0])):
            weights = [weight.detach()[k] for weight in stacked]
            for weight, whole in zip(weights, stacked, strict=True):
                weight.grad = whole.grad[k]  # type: ignore[index]
            yield weights

    def keep(self, index: Sequence[int]) -> None:
        """Go on with some of the models; the others get weights of their own."""
        modules = self.modules_apart[0]
        for module in modules:
            for weight in module.parameters():
                weight.data = weight.data.clone()
        self.modules_apart = [[modules[k] for k in index]]
        for weight in self.parameters():
            weight.data = weight.data[list(index)]
        self._share()

    def _share(self) -> None:
        """Make the weights of the models views of the stacked ones."""
        for k, module in enumerate(self.modules_apart[0]):
            for own, whole in zip(module.parameters(), self.parameters(), strict=True):
                own.data = whole.data[k]


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
            product = rows @ self.weight.mT  # in the types that autocast chooses
        else:
            product = _Product.apply(rows, self.weight)
        return product if self.bias is None else product + self.bias.unsqueeze(1)


class SharedDropout(nn.Module):
    """Dropout of the same units in all models.

    Parameters
    ----------
    p : float in [0, 1)
        Share of the units.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, rows: Tensor) -> Tensor:
        """Drop units of rows (S, B, n) in training; scale the others up."""
        if not self.training or not self.p:
            return rows
        return rows * functional.dropout(torch.ones_like(rows[0]), self.p)


class _Product(torch.autograd.Function):
    """Rows times the transposed weights of each model, in few large products."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight)
        if rows.ndim > 2:
            return torch.bmm(rows, weight.mT)
        product = rows @ weight.flatten(0, 1).T  # (B, S * n_out)
        return product.view(len(rows), *weight.shape[:2]).transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, Tensor]:
        rows, weight = ctx.saved_tensors
        if rows.ndim > 2:
            return torch.bmm(outer, weight), torch.bmm(outer.mT, rows)
        flat = outer.transpose(0, 1).flatten(1)  # (B, S * n_out)
        to_rows = flat @ weight.flatten(0, 1) if ctx.needs_input_grad[0] else None
        return to_rows, (flat.T @ rows).view(weight.shape)


def _is_perceptron(encoder: nn.Module) -> bool:
    """Whether all parts but linear maps and dropout take rows (S, B, n) as they are."""
    parts = list(encoder) if type(encoder) is nn.Sequential else [encoder]
    *before, last = map(type, parts)
    return last is MLPEncoder and all(part is ColumnExpansion for part in before)


def _take_leading_axis(module: nn.Module) -> None:
    """Replace the parts that care by those for rows (S, B, n)."""
    for name, part in module.named_children():
        if isinstance(part, nn.Linear):
            setattr(module, name, ModelLinear(part.weight, part.bias))
        elif isinstance(part, nn.Dropout):
            setattr(module, name, SharedDropout(part.p))
        else:
            _take_leading_axis(part)


def _replace(module: nn.Module, name: str, weight: nn.Parameter) -> None:
    owner, _, last = name.rpartition(".")
    setattr(module.get_submodule(owner), last, weight)
