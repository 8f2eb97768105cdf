"""An optimizer of stacked weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sklearn_hscl.training.loop.learning_rate import ParamGroup
from sklearn_hscl.training.stacked.module import StackedModule

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
                _add(groups, whole, by_model[0])
                continue
            views = list(whole.detach().unbind())
            self.separate.append((whole, views))
            for view, one in zip(views, by_model, strict=True):
                _add(groups, view, one)
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
                name: _part(value, whole, index if views is None else None)
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


def _add(groups: list[ParamGroup], weight: Tensor, settings: ParamGroup) -> None:
    """Add a weight to the group that has its settings."""
    for group in groups:
        if all(group[name] == value for name, value in settings.items()):
            group["params"].append(weight)
            return
    groups.append({**settings, "params": [weight]})


def _part(value: object, whole: Tensor, index: int | None) -> object:
    """Return one model's part of an entry of an optimizer's state."""
    if not isinstance(value, Tensor):
        return value
    is_stacked = index is not None and value.ndim == whole.ndim
    return (value[index] if is_stacked else value).clone()
