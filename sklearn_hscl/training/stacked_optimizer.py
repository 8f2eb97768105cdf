"""One optimizer for several models, each with settings of its own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sklearn_hscl.training.stacked_module import StackedModule

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
