"""Twins of a model that `transformers.Trainer` trains: on the batches that reach it, by an optimizer of its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import Trainer, TrainingArguments

from interaction_monitor._checks import describe
from interaction_monitor.observer import Observer
from interaction_monitor.reference.twins import TwinTraining, mirror
from interaction_monitor.state import preserved_rng


class ModelTwins:
    """Collects what the model is called with, and trains the twins on it.

    Args:
        twins: their training.
        model: the run's.
    """

    def __init__(self, twins: TwinTraining, model: nn.Module) -> None:
        self.twins = twins
        self._model = model
        self._batches: list[dict[str, Any]] = []
        self._handle = model.register_forward_pre_hook(self._take, with_kwargs=True)

    def _take(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        # Evaluations and measurements run without gradients.
        if module.training and torch.is_grad_enabled():
            self._batches.append(dict(kwargs))

    def step(self, args: TrainingArguments, optimizer: Any) -> None:
        """Train them on the batches since the last step, before the run's own optimizer steps."""
        batches, self._batches = self._batches, []
        if self.twins.failure is not None:
            return
        for network in self.twins.networks:
            mirror(network, self._model)
        for number, batch in enumerate(batches, start=1):
            self.twins.step(
                batch,
                like=[_inner(optimizer)],
                accumulate=len(batches),
                update=number == len(batches),
                clip=_Clipping(args.max_grad_norm) if args.max_grad_norm else None,
            )

    def close(self) -> None:
        """Leave the model as it was before."""
        self._handle.remove()

    def save(self, path: Path) -> None:
        """Write them beside a checkpoint.

        Raises:
            OSError: if that cannot be written.
        """
        torch.save(self.twins.state_dict(), path)

    def load(self, path: Path) -> None:
        """Go on with those that `save` wrote.

        Raises:
            OSError: if they are not there.
            ValueError: if they are of another kind.
        """
        self.twins.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))


def begin(observer: Observer, model: nn.Module, optimizer: Any, trainer: Trainer | None) -> ModelTwins | None:
    """Make the twins that were asked for; None where none were.

    Args:
        observer: has the references.
        model: the run's, whose device they share.
        optimizer: the run's, after whose kind theirs are made.
        trainer: whose precision they train in.

    Raises:
        TypeError: if the factory makes no network.
        ValueError: if it makes the same one twice.
    """
    references = observer.references
    if references is None or (asked := references.asked_twins) is None:
        return None
    device = next(model.parameters()).device
    networks = [network.to(device) for network in asked.networks()]
    make = asked.optimizer or (lambda network: optimizer_like(_inner(optimizer), model, network))
    with preserved_rng(asked.seed):
        optimizers = [[make(network)] for network in networks]
    context = nullcontext if trainer is None else trainer.compute_loss_context_manager
    training = TwinTraining(
        networks, optimizers, asked.loss or _ModelLoss(context), seed=asked.seed, ranks=observer.ranks
    )
    references.begin(training)
    return ModelTwins(training, model)


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
    mine = dict(network.named_parameters())
    groups = [
        {
            **{key: value for key, value in group.items() if key in optimizer.defaults},
            "params": [mine[names[id(parameter)]] for parameter in group["params"]],
        }
        for group in optimizer.param_groups
    ]
    return type(optimizer)(groups)  # type: ignore[call-arg]  # each kind has its own arguments


class _ModelLoss:
    """The loss that a model returns where it is given labels."""

    def __init__(self, context: Callable[[], AbstractContextManager[Any]]) -> None:
        self._context = context

    def __call__(self, network: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        with self._context():
            result = network(**batch)
        loss = result.get("loss") if isinstance(result, Mapping) else getattr(result, "loss", None)
        if not isinstance(loss, Tensor):
            instead = "give Twins(loss=lambda network, batch: ...)"
            raise TypeError(f"a twin must return a loss, but returned {describe(result)}; {instead}")
        return loss


class _Clipping:
    def __init__(self, norm: float) -> None:
        self._norm = norm

    def __call__(self, network: nn.Module) -> None:
        nn.utils.clip_grad_norm_(network.parameters(), self._norm)


def _inner(optimizer: Any) -> Optimizer:
    """Return the optimizer within what accelerate makes of it."""
    inner = getattr(optimizer, "optimizer", optimizer)
    assert isinstance(inner, Optimizer)
    return inner
