"""Modules and optimizers with a leading model axis."""

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


Settings = dict[str, Any]
# These update each number by itself, so that stacked weights are updated as single ones.
ELEMENTWISE = (
    torch.optim.Adadelta,
    torch.optim.Adagrad,
    torch.optim.Adam,
    torch.optim.Adamax,
    torch.optim.AdamW,
    torch.optim.ASGD,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Rprop,
    torch.optim.SGD,
)


class StackedOptimizer:
    """Update stacked weights as the optimizers of the models would.

    Weights for which all models have the same settings are updated as a whole, the
    others model by model.

    Parameters
    ----------
    module : StackedModule
        The models.
    optimizers : sequence of S torch.optim.Optimizer
        Of the models apart, of one class that is in ``ELEMENTWISE``. They lend their
        settings and are not used.
    """

    def __init__(
        self, module: StackedModule, optimizers: Sequence[torch.optim.Optimizer]
    ) -> None:
        self.module = module
        self.apart: list[tuple[Tensor, list[Tensor]]] = []  # stacked weights, and each
        modules = module.modules_apart[0]
        pairs = zip(modules, optimizers, strict=True)
        settings = [_settings_by_weight(model, optimizer) for model, optimizer in pairs]
        groups: list[Settings] = []
        for whole, *each in zip(module.parameters(), *settings, strict=True):
            if all(one == each[0] for one in each):
                _add(groups, whole, each[0])
                continue
            views = list(whole.detach().unbind())
            self.apart.append((whole, views))
            for view, one in zip(views, each, strict=True):
                _add(groups, view, one)
        self.optimizer = type(optimizers[0])(groups)  # type: ignore[call-arg]

    @property
    def param_groups(self) -> list[Settings]:
        """Weights with the same settings, as in torch."""
        return self.optimizer.param_groups

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.module.zero_grad()

    def step(self) -> None:
        """Update the weights."""
        for whole, views in self.apart:
            gradient = whole.grad  # None where no output depends on the weight
            for k, view in enumerate(views):
                view.grad = None if gradient is None else gradient[k]
        self.optimizer.step()

    def hand_over(self, place: int, optimizer: torch.optim.Optimizer) -> None:
        """Give the memory of one model to its own optimizer, for a fit that goes on."""
        apart = {id(whole): views for whole, views in self.apart}
        own = self.module.modules_apart[0][place].parameters()
        for whole, weight in zip(self.module.parameters(), own, strict=True):
            views = apart.get(id(whole))
            memory = self.optimizer.state.get(whole if views is None else views[place], {})
            optimizer.state[weight] = {
                name: _part(value, whole, place if views is None else None)
                for name, value in memory.items()
            }

    def keep(self, index: Sequence[int]) -> None:
        """Go on with some of the models, after the module has gone on with them."""
        for k, (whole, views) in enumerate(self.apart):
            kept = [views[m] for m in index]
            for view in set(views) - set(kept):
                self._drop(view)
            for view, now in zip(kept, whole.detach().unbind(), strict=True):
                view.data = now
            self.apart[k] = whole, kept
        taken_apart = {id(whole) for whole, _ in self.apart}
        for whole in self.module.parameters():
            if id(whole) in taken_apart:
                continue
            memory = self.optimizer.state[whole]
            for name, value in memory.items():
                if isinstance(value, Tensor) and value.ndim == whole.ndim:
                    memory[name] = value[list(index)]

    def _drop(self, view: Tensor) -> None:
        self.optimizer.state.pop(view, None)
        for group in self.param_groups:
            group["params"] = [weight for weight in group["params"] if weight is not view]


def _settings_by_weight(
    module: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> list[Settings]:
    """Return the settings of each weight, in the order of the module's."""
    found = {
        id(weight): {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    return [found[id(weight)] for weight in module.parameters()]


def _add(groups: list[Settings], weight: Tensor, settings: Settings) -> None:
    """Add a weight to the group that has its settings."""
    for group in groups:
        if all(group[name] == value for name, value in settings.items()):
            group["params"].append(weight)
            return
    groups.append({**settings, "params": [weight]})


def _part(value: Any, whole: Tensor, place: int | None) -> Any:
    """Return what one model has of a value that an optimizer remembers."""
    if not isinstance(value, Tensor):
        return value
    is_stacked = place is not None and value.ndim == whole.ndim
    return (value[place] if is_stacked else value).clone()
