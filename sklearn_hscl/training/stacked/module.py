"""Several models as one: their modules, losses and optimizers with a leading model axis."""

import copy
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from inspect import isroutine
from typing import Any, Protocol

import joblib
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from sklearn_hscl.encoders.contrastive_module import ContrastiveModule
from sklearn_hscl.encoders.mlp import MLPEncoder, OneHotColumns
from sklearn_hscl.losses import ContrastiveLoss, LossStats
from sklearn_hscl.losses.presets import LossOptions
from sklearn_hscl.runtime.device import accelerator, to_device
from sklearn_hscl.runtime.normalize import refuse_nested_forward_mode
from sklearn_hscl.runtime.random_state import Dropout, dropout_mask
from sklearn_hscl.training.loop.learning_rate import ParamGroup

# Modules -----------------------------------------------------------------------------


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
            _set_weight(self.stack, name, whole)
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
        elif isinstance(part, Dropout):
            setattr(module, name, SharedDropout(part.p))
        else:
            _use_leading_axis(part)


def _set_weight(module: nn.Module, name: str, weight: nn.Parameter) -> None:
    owner, _, last = name.rpartition(".")
    setattr(module.get_submodule(owner), last, weight)


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


class _Context(Protocol):
    """Attributes of torch's context that :class:`_Product` uses."""

    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Save tensors for the backward pass."""

    def save_for_forward(self, *tensors: Tensor) -> None:
        """Save tensors for derivatives in forward mode."""


class _Product(torch.autograd.Function):
    """Rows times the transposed weights of each model, in few large products."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, weight: Tensor) -> Tensor:
        if rows.ndim > 2:
            return torch.bmm(rows, weight.mT)
        product = rows @ weight.flatten(0, 1).T  # (B, S * n_out)
        return product.view(len(rows), *weight.shape[:2]).transpose(0, 1)

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: _Context, outer: Tensor) -> tuple[Tensor | None, Tensor]:
        rows, weight = ctx.saved_tensors
        if rows.ndim > 2:
            return torch.bmm(outer, weight), torch.bmm(outer.mT, rows)
        flat = outer.transpose(0, 1).flatten(1)  # (B, S * n_out)
        to_rows = flat @ weight.flatten(0, 1) if ctx.needs_input_grad[0] else None
        return to_rows, (flat.T @ rows).view(weight.shape)

    @staticmethod
    def jvp(ctx: _Context, of_rows: Tensor, of_weight: Tensor) -> Tensor:
        refuse_nested_forward_mode()
        rows, weight = ctx.saved_tensors
        return _Product.apply(of_rows, weight) + _Product.apply(rows, of_weight)


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
        return rows * dropout_mask(rows[0], self.p)


# Losses ------------------------------------------------------------------------------


# Options in which losses may differ that are computed by one call, with a value for each.
_NUMERIC_OPTIONS = ("beta", "temperature", "threshold", "ce_weight")


class StackedLoss:
    """Losses of several models, along the first axis of their inputs.

    Losses that differ in numbers only are computed by one call. A loss of another type,
    or with another hardening, takes a further call.

    Parameters
    ----------
    losses : sequence of S ContrastiveLoss
        One for each model.
    device : torch.device
        Device of the projections.
    """

    def __init__(self, losses: Sequence[ContrastiveLoss], device: torch.device) -> None:
        groups: dict[Hashable, list[int]] = {}
        for k, loss in enumerate(losses):
            groups.setdefault(_fixed_options(loss), []).append(k)
        self.parts = [
            (
                to_device(torch.tensor(indices), device),
                _joint([losses[k] for k in indices], device),
            )
            for indices in groups.values()
        ]
        order = torch.cat([indices for indices, _ in self.parts])
        self.order = order.argsort()  # from groups back to models

    def __call__(
        self,
        z: Tensor,
        y: Tensor | None = None,
        *,
        view_ids: Tensor | None = None,
        logits: Tensor | None = None,
        return_stats: bool = True,
    ) -> tuple[Tensor, LossStats]:
        """Compute the losses of a batch.

        Parameters
        ----------
        z : Tensor of shape (S, ..., B, D)
            Projections by each model.
        y, view_ids, return_stats
            As in :class:`~sklearn_hscl.losses.ContrastiveLoss`.
        logits : Tensor of shape (S, ..., B, n_classes) or None
            Class scores by each model.

        Returns
        -------
        value : Tensor of shape (S, ...)
        stats : LossStats
        """
        if len(self.parts) == 1:
            return self._part(0, z, y, view_ids, logits)
        values, stats = zip(
            *(
                self._part(
                    i, z[index], y, view_ids, None if logits is None else logits[index]
                )
                for i, (index, _) in enumerate(self.parts)
            ),
            strict=True,
        )
        fields = (torch.cat(field)[self.order] for field in zip(*stats, strict=True))
        return torch.cat(values)[self.order], LossStats(*fields)

    def _part(
        self,
        i: int,
        z: Tensor,
        y: Tensor | None,
        view_ids: Tensor | None,
        logits: Tensor | None,
    ) -> tuple[Tensor, LossStats]:
        loss = _for_batches(self.parts[i][1], z.shape[:-2])
        return loss(z, y, view_ids=view_ids, logits=logits, return_stats=True)


def _fixed_options(loss: ContrastiveLoss) -> Hashable:
    """Return the options that losses must share to be computed by one call."""
    fixed = tuple(
        (name, comparable(value))
        for name, value in vars(loss.options).items()
        if name not in _NUMERIC_OPTIONS
    )
    attributes = (
        loss.loss, loss.label_smoothing, loss.target_type, loss.bandwidth,
        loss.unlabeled_label, loss.normalize, loss.kernel,
    )  # fmt: skip
    return attributes, fixed


def comparable(value: Hashable) -> Hashable:
    """Return a key of an option: of a callable object by its state, as copies differ."""
    if not callable(value) or isroutine(value):
        return value
    try:
        return type(value), joblib.hash(value)
    except Exception:  # of objects that cannot be pickled, of whatever kind
        return id(value)


def _joint(losses: Sequence[ContrastiveLoss], device: torch.device) -> ContrastiveLoss:
    """Return one loss with a value of each numeric option for each model."""
    options = [loss.options for loss in losses]
    # Options are annotated as floats, and may be tensors in stacks only.
    values: dict[str, Any] = {
        name: _joint_option(options, name, device) for name in _NUMERIC_OPTIONS
    }
    joint = copy.copy(losses[0])
    joint.options = replace(options[0], **values)
    return joint


def _for_batches(loss: ContrastiveLoss, shape: torch.Size) -> ContrastiveLoss:
    """Repeat the numeric options (S,) along further axes of batches, (S, ...)."""
    if len(shape) == 1:
        return loss
    given = {name: getattr(loss.options, name) for name in _NUMERIC_OPTIONS}
    repeated: dict[str, Any] = {
        name: value.view(-1, *[1] * (len(shape) - 1)).expand(shape)
        for name, value in given.items()
        if isinstance(value, Tensor)
    }
    loss = copy.copy(loss)
    loss.options = replace(loss.options, **repeated)
    return loss


def _joint_option(
    options: Sequence[LossOptions], name: str, device: torch.device
) -> float | Tensor:
    """Return the values of an option in all models.

    ``ce_weight`` is a float if it is the same in all.
    """
    values = [getattr(option, name) for option in options]
    if len(Counter(values)) == 1 and name == "ce_weight":
        return values[0]
    on_host = torch.tensor(values, dtype=accelerator(device).widest_float)
    return to_device(on_host, device)


# Optimizers --------------------------------------------------------------------------


# These update each element independently, so that stacked weights are updated as single
# ones.
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

    Weights whose settings are the same in all models are updated as a whole, the others
    model by model.

    Parameters
    ----------
    module : StackedModule
        The models.
    optimizers : sequence of S torch.optim.Optimizer
        Optimizers of the models, of one class in ``ELEMENTWISE``. Their settings are
        used, and they are not stepped.
    """

    def __init__(
        self, module: StackedModule, optimizers: Sequence[torch.optim.Optimizer]
    ) -> None:
        self.module = module
        self.separate: list[tuple[Tensor, list[Tensor]]] = []  # stacked, and per model
        pairs = zip(module.models, optimizers, strict=True)
        settings = [_settings_by_weight(model, optimizer) for model, optimizer in pairs]
        groups: list[ParamGroup] = []
        for whole, *by_model in zip(module.parameters(), *settings, strict=True):
            if all(one == by_model[0] for one in by_model):
                _add_to_group(groups, whole, by_model[0])
                continue
            views = list(whole.detach().unbind())
            self.separate.append((whole, views))
            for view, one in zip(views, by_model, strict=True):
                _add_to_group(groups, view, one)
        self.optimizer = type(optimizers[0])(groups)  # type: ignore[call-arg]

    @property
    def param_groups(self) -> list[ParamGroup]:
        """Weights with the same settings, as in torch."""
        return self.optimizer.param_groups

    def zero_grad(self) -> None:
        """Reset the gradients."""
        self.module.zero_grad()

    def step(self) -> None:
        """Update the weights."""
        for whole, views in self.separate:
            gradient = whole.grad  # None if no output depends on the weight
            for k, view in enumerate(views):
                view.grad = None if gradient is None else gradient[k]
        self.optimizer.step()

    def copy_state(self, index: int, optimizer: torch.optim.Optimizer) -> None:
        """Copy the state of one model to its own optimizer, for later training."""
        separate = {id(whole): views for whole, views in self.separate}
        weights = self.module.models[index].parameters()
        for whole, weight in zip(self.module.parameters(), weights, strict=True):
            views = separate.get(id(whole))
            entries = self.optimizer.state.get(whole if views is None else views[index], {})
            optimizer.state[weight] = {
                name: _state_of_model(value, whole, index if views is None else None)
                for name, value in entries.items()
            }

    def retain(self, indices: Sequence[int]) -> None:
        """Continue with some of the models, after the module has retained them."""
        for k, (whole, views) in enumerate(self.separate):
            retained = [views[m] for m in indices]
            for view in set(views) - set(retained):
                self._drop(view)
            for view, new in zip(retained, whole.detach().unbind(), strict=True):
                view.data = new
            self.separate[k] = whole, retained
        separate = {id(whole) for whole, _ in self.separate}
        for whole in self.module.parameters():
            if id(whole) in separate:
                continue
            entries = self.optimizer.state[whole]
            for name, value in entries.items():
                if isinstance(value, Tensor) and value.ndim == whole.ndim:
                    entries[name] = value[list(indices)]

    def _drop(self, view: Tensor) -> None:
        self.optimizer.state.pop(view, None)
        for group in self.param_groups:
            group["params"] = [weight for weight in group["params"] if weight is not view]


def _settings_by_weight(
    module: nn.Module, optimizer: torch.optim.Optimizer
) -> list[ParamGroup]:
    """Return the settings of each weight, in the module's order."""
    found = {
        id(weight): {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    return [found[id(weight)] for weight in module.parameters()]


def _add_to_group(groups: list[ParamGroup], weight: Tensor, settings: ParamGroup) -> None:
    """Add a weight to the group that has its settings."""
    for group in groups:
        if all(group[name] == value for name, value in settings.items()):
            group["params"].append(weight)
            return
    groups.append({**settings, "params": [weight]})


def _state_of_model(value: object, whole: Tensor, index: int | None) -> object:
    """Return one model's part of an entry of an optimizer's state."""
    if not isinstance(value, Tensor):
        return value
    is_stacked = index is not None and value.ndim == whole.ndim
    return (value[index] if is_stacked else value).clone()
