"""What twins take from the run: settings of its optimizers, modes of its parts, and which of these are frozen."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer


def take_over(optimizers: Iterable[Optimizer], like: Iterable[Optimizer]) -> None:
    """Give optimizers the learning rates and other settings that others have now, group by group.

    Examples:
        >>> mine, theirs = (torch.optim.SGD([torch.zeros(1)], lr=lr) for lr in (0.1, 0.5))
        >>> take_over([mine], [theirs])
        >>> mine.param_groups[0]["lr"]
        0.5
    """
    for optimizer, other in zip(optimizers, like, strict=False):
        for group, theirs in zip(optimizer.param_groups, other.param_groups, strict=False):
            for name, value in theirs.items():
                if name != "params" and name in group:
                    group[name] = value.clone() if isinstance(value, torch.Tensor) else value


def follow(optimizers: Iterable[Optimizer], like: Iterable[Optimizer], network: nn.Module, model: nn.Module) -> None:
    """Add the groups that the optimizers of a model have got since, as where frozen parts thaw, to those of a network.

    Examples:
        >>> model, network = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> theirs, mine = (torch.optim.SGD([each.bias], lr=0.1) for each in (model, network))
        >>> theirs.add_param_group({"params": [model.weight], "lr": 0.01})
        >>> follow([mine], [theirs], network, model)
        >>> mine.param_groups[1]["params"][0] is network.weight, mine.param_groups[1]["lr"]
        (True, 0.01)
    """
    for optimizer, other in zip(optimizers, like, strict=False):
        if added := other.param_groups[len(optimizer.param_groups) :]:
            held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            own = {name: parameter for name, parameter in network.named_parameters() if id(parameter) not in held}
            names = {id(parameter): name for name, parameter in model.named_parameters() if name in own}
            for group in added:
                found = [own[names[id(parameter)]] for parameter in group["params"] if id(parameter) in names]
                optimizer.add_param_group({**group, "params": found})


def mirror(network: nn.Module, model: nn.Module) -> None:
    """Put each part of a network into the mode of the same part of the model, and freeze what is frozen there."""
    theirs = dict(model.named_modules())
    for name, module in network.named_modules():
        module.training = theirs[name].training if name in theirs else model.training
    parameters = dict(model.named_parameters())
    for name, parameter in network.named_parameters():
        if name in parameters and not nn.parameter.is_lazy(parameter):
            parameter.requires_grad_(parameters[name].requires_grad)


def optimizer_like(optimizer: Optimizer, model: nn.Module, network: nn.Module) -> Optimizer:
    """Make an optimizer of the same kind for a network of the same kind, with the same parameters in the same groups.

    Examples:
        >>> model, network = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> groups = [{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias], "weight_decay": 0.0}]
        >>> made = optimizer_like(torch.optim.AdamW(groups, lr=0.5), model, network)
        >>> made.param_groups[0]["params"][0] is network.weight, made.param_groups[0]["weight_decay"]
        (True, 0.1)
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    if any(id(parameter) not in names for group in optimizer.param_groups for parameter in group["params"]):
        raise ValueError("the run's optimizer holds other parameters than the model, as DeepSpeed's does")
    mine = dict(network.named_parameters())
    groups = [
        {
            **{key: value for key, value in group.items() if key in optimizer.defaults},
            "params": [mine[names[id(parameter)]] for parameter in group["params"]],
        }
        for group in optimizer.param_groups
    ]
    return type(optimizer)(groups)  # type: ignore[call-arg]  # each kind has its own arguments
