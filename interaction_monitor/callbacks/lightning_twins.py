"""Twins of a Lightning module: trained by its own steps and optimizers, without a trace in the run's own training."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.optim import Optimizer

from interaction_monitor._checks import describe
from interaction_monitor._sharded import is_split
from interaction_monitor.callbacks.lightning_trainer import say
from interaction_monitor.callbacks.loggers import is_a
from interaction_monitor.observer import Observer
from interaction_monitor.reference.twins import COSTS, TwinTraining, mirror
from interaction_monitor.state import preserved_rng, silent


def begin(observer: Observer, trainer: pl.Trainer, pl_module: pl.LightningModule, *, name: str) -> None:
    """Make the twins that were asked for, if any, and say what they cost.

    Raises:
        ValueError: if they cannot be trained as the module is.
    """
    references = observer.references
    if references is None or (asked := references.asked_twins) is None:
        return
    if asked.loss is None and not pl_module.automatic_optimization:
        raise ValueError(
            "Twins are trained by training_step and configure_optimizers alone, but this module optimizes by itself "
            "(automatic_optimization=False); give Twins(loss=..., optimizer=...), or another reference"
        )
    if is_split(pl_module):
        raise ValueError("Twins are trained on one device each, but this network is split over processes")
    networks = asked.networks()
    for network in networks:
        _place(network, trainer, pl_module)
    with preserved_rng(asked.seed):
        optimizers = [optimizers_of(network) if asked.optimizer is None else [asked.optimizer(network)]
                      for network in networks]  # fmt: skip
    training = TwinTraining(networks, optimizers, asked.loss or _Step(trainer), seed=asked.seed, ranks=observer.ranks)
    references.begin(training)
    say(trainer, f"{name}: {COSTS}")


def step(observer: Observer | None, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
    """Train the twins on the batch on which the run is about to be trained, if there are any."""
    twins = None if observer is None or observer.references is None else observer.references.twins
    if twins is None or twins.failure is not None:
        return
    for network in twins.networks:
        mirror(network, pl_module)
    accumulate = trainer.accumulate_grad_batches
    last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    with trainer.precision_plugin.train_step_context():
        twins.step(
            batch,
            like=trainer.optimizers,
            accumulate=accumulate,
            update=last or (index + 1) % accumulate == 0,
            clip=_clip_of(trainer),
        )


class _Step:
    """The loss that a module's own `training_step` gives; unlike a closure it can be pickled."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self.trainer = trainer

    def __call__(self, network: nn.Module, batch: Any) -> Tensor | None:
        # Modules collect outputs in lists, which they empty at the end of an epoch; nobody does so for twins.
        lists = [(own, len(own)) for part in network.modules() for own in vars(part).values() if type(own) is list]
        with silent(network):
            training_step: Any = network.training_step
            takes = inspect.signature(training_step).parameters
            found = training_step(*(batch, self.trainer.fit_loop.batch_idx)[: len(takes)])
        for own, length in lists:
            del own[length:]
        loss = found.get("loss") if isinstance(found, dict) else found
        if not (loss is None or isinstance(loss, Tensor)):
            raise TypeError(f"training_step must return a loss for twins, but returned {describe(found)}")
        return loss


def optimizers_of(network: Any) -> list[Optimizer]:
    """Return the optimizers that a module configures; their learning rates follow the run's, so schedulers are left.

    Raises:
        ValueError: if it configures none.
    """
    with silent(network):
        found = network.configure_optimizers()
    if isinstance(found, dict):
        found = found["optimizer"]
    elif isinstance(found, (list, tuple)):
        first = found[0] if found else None
        found = first if isinstance(first, (list, tuple)) else found
    listed = list(found) if isinstance(found, (list, tuple)) else [found]
    listed = [each["optimizer"] if isinstance(each, dict) else each for each in listed]
    if not listed or not all(isinstance(each, Optimizer) for each in listed):
        raise ValueError(f"configure_optimizers must return optimizers for twins, but returned {describe(found)}")
    return listed


def _place(network: Any, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """Put a twin where the run's module is, and set it up in the order in which the trainer does."""
    if is_a(network, "LightningModule"):
        network.trainer = trainer
        with silent(network):
            network.setup(stage="fit")
            network.configure_model()
    trainer.precision_plugin.convert_module(network)
    network.to(pl_module.device)


def _clip_of(trainer: pl.Trainer) -> Callable[[nn.Module], None] | None:
    value = trainer.gradient_clip_val
    if not value:
        return None
    by_value = str(getattr(trainer.gradient_clip_algorithm, "value", trainer.gradient_clip_algorithm)) == "value"

    def clip(network: nn.Module) -> None:
        if by_value:
            nn.utils.clip_grad_value_(network.parameters(), float(value))
        else:
            nn.utils.clip_grad_norm_(network.parameters(), float(value))

    return clip
