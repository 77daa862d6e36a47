"""Twins of the network that a trainer trains: by its own steps and optimizers, without a trace in the run itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from interaction_monitor._checks import describe, is_a, refusing
from interaction_monitor.distributed import Ranks, is_split
from interaction_monitor.observer import Observer
from interaction_monitor.progress_bar import say
from interaction_monitor.reference.sources import Loss, Twins
from interaction_monitor.reference.twins import COSTS, TwinTraining, follow, mirror, optimizer_like
from interaction_monitor.state import preserved_rng, silent

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments


_SPLIT = "Twins are trained on one device each, but this network is split over processes; give another reference"
_LIKE_THE_RUNS = "let Twins(factory=...) make a network like the run's, or give another reference"
_OPTIMIZERS = ("the optimizer of a twin", f"give Twins(optimizer=lambda network: ...), or {_LIKE_THE_RUNS}")


def begin_for_module(observer: Observer, trainer: pl.Trainer, pl_module: pl.LightningModule, *, name: str) -> None:
    """Make the twins that were asked for, if any, and say what they cost.

    Raises:
        ValueError: if they cannot be made, or trained as the module is.
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
        raise ValueError(_SPLIT)
    networks = asked.networks()
    for network in networks:
        _require_steps(network, asked)
        _place(network, trainer, pl_module)
        mirror(network, pl_module)  # what is frozen is mostly left out of the optimizer
    with preserved_rng(asked.seed), refusing(*_OPTIMIZERS):
        optimizers = [_configured(network, asked) for network in networks]
    for network, of_network in zip(networks, optimizers, strict=True):
        follow(of_network, trainer.optimizers, network, pl_module)
    loss = asked.loss or partial(_loss_of_its_step, trainer)  # unlike a closure, this can be pickled
    training = TwinTraining(networks, optimizers, loss, seed=asked.seed, ranks=observer.ranks)
    references.begin(training)
    say(trainer, f"{name}: {COSTS}")


def step_beside(
    observer: Observer | None, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int
) -> None:
    """Train the twins on the batch on which the run is about to be trained, if there are any."""
    twins = None if observer is None or observer.references is None else observer.references.twins
    if twins is None or twins.failure is not None:
        return
    accumulate = trainer.accumulate_grad_batches
    last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    with trainer.precision_plugin.train_step_context():
        twins.step(
            batch,
            beside=pl_module,
            like=trainer.optimizers,
            accumulate=accumulate,
            update=last or (index + 1) % accumulate == 0,
            clip=_clip_of(trainer),
        )


def _loss_of_its_step(trainer: pl.Trainer, network: nn.Module, batch: Any) -> Tensor | None:
    """Return the loss that a module's own `training_step` gives."""
    # Modules collect outputs in lists, which they empty at the end of an epoch; nobody does so for twins.
    lists = [(own, len(own)) for part in network.modules() for own in _lists(part)]
    with silent(network):
        training_step: Any = network.training_step
        takes = inspect.signature(training_step).parameters
        found = training_step(*(batch, trainer.fit_loop.batch_idx)[: len(takes)])
    for own, length in lists:
        del own[length:]
    loss = found.get("loss") if isinstance(found, dict) else found
    if not (loss is None or isinstance(loss, Tensor)):
        raise TypeError(f"training_step must return a loss for twins, but returned {describe(found)}")
    return loss


def _lists(part: nn.Module) -> list[list[Any]]:
    held = list(vars(part).values())
    held += [entry for value in held if isinstance(value, dict) for entry in value.values()]
    return [value for value in held if type(value) is list]


def _configured(network: Any, asked: Twins) -> list[Optimizer]:
    made = _optimizers_of(network) if asked.optimizer is None else [asked.optimizer(network)]
    if is_a(network, "LightningModule"):
        network.trainer.optimizers.extend(made)
    return made


def _optimizers_of(network: Any) -> list[Optimizer]:
    """Return the optimizers that a module configures; their learning rates follow the run's, so schedulers are left."""
    with silent(network):
        found = network.configure_optimizers()
    if isinstance(found, dict):
        found = found["optimizer"]
    elif isinstance(found, (list, tuple)) and found and isinstance(found[0], (list, tuple)):
        found = found[0]  # beside their schedulers
    listed = found if isinstance(found, (list, tuple)) else [found]
    listed = [each["optimizer"] if isinstance(each, dict) else each for each in listed]
    if not listed or not all(isinstance(each, Optimizer) for each in listed):
        raise ValueError(f"configure_optimizers must return optimizers for twins, but returned {describe(found)}")
    return listed


def _require_steps(network: nn.Module, asked: Twins) -> None:
    needed = {"training_step": asked.loss, "configure_optimizers": asked.optimizer}
    if missing := [name for name, given in needed.items() if given is None and not hasattr(network, name)]:
        raise TypeError(
            f"Twins(factory=...) made a {type(network).__name__}, which has no {' and no '.join(missing)}; "
            "let it make a module like the run's, or give Twins(loss=..., optimizer=...)"
        )


def _place(network: Any, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """Put a twin where the run's module is, and set it up in the order in which the trainer does."""
    if is_a(network, "LightningModule"):
        network.trainer = TwinTrainer(trainer, network)
        with silent(network), refusing("setup or configure_model of a twin", _LIKE_THE_RUNS):
            network.setup(stage="fit")
            network.configure_model()
    trainer.precision_plugin.convert_module(network)
    network.to(pl_module.device)


class _View:
    """An object as it is, but for some attributes; what is set is kept here and never reaches the object."""

    def __init__(self, seen: Any, **instead: Any) -> None:
        vars(self).update(instead, _seen=seen)

    def __getattr__(self, name: str) -> Any:
        if name == "_seen":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self._seen, name)


class TwinTrainer(_View):
    """The run's trainer as a twin sees it: the model, the optimizers and the schedulers are the twin's own.

    A module that asks `self.trainer.model` or `self.optimizers()` would train the run itself otherwise.
    """

    optimizers: list[Optimizer]  # the twin's; to be filled once it has configured them

    def __init__(self, trainer: pl.Trainer, network: nn.Module) -> None:
        optimizers: list[Optimizer] = []
        own = {"model": network, "lightning_module": network, "optimizers": optimizers}
        if (datamodule := getattr(trainer, "datamodule", None)) is not None:
            own["datamodule"] = _View(datamodule)
        super().__init__(trainer, **own, strategy=_View(trainer.strategy, **own, _lightning_optimizers=optimizers))

    @property
    def logger(self) -> Any:
        """The first of the loggers, those of the run or what is there instead while a twin's step is silent."""
        return self.loggers[0] if self.loggers else None

    @property
    def lr_scheduler_configs(self) -> list[Any]:
        """Schedulers that stand still, since the twins' learning rates follow the run's."""
        return [
            _View(each, scheduler=_View(each.scheduler, step=lambda *_, **__: None))
            for each in self._seen.lr_scheduler_configs
        ]


def _clip_of(trainer: pl.Trainer) -> Callable[[nn.Module], None] | None:
    value = trainer.gradient_clip_val
    by_value = str(getattr(trainer.gradient_clip_algorithm, "value", trainer.gradient_clip_algorithm)) == "value"
    return partial(_clip, most=float(value), by_value=by_value) if value else None


def _clip(network: nn.Module, *, most: float, by_value: bool = False) -> None:
    clip = nn.utils.clip_grad_value_ if by_value else nn.utils.clip_grad_norm_
    clip(network.parameters(), most)


class ModelTwins:
    """Collects the batches that the run's model learns from, and trains the twins on them.

    A trainer's `compute_loss` is given each batch whole, with labels that the model may never see; without a trainer,
    what the model is called with is taken.
    """

    def __init__(self, twins: TwinTraining, model: nn.Module, trainer: Trainer | None) -> None:
        self.twins = twins
        self._model = model
        self._batches: list[dict[str, Any]] = []
        self._handle: Any = None
        self._open, self._places = True, {} if trainer is None else vars(trainer)
        self._before = self._places.get("compute_loss")
        if trainer is None:
            self._handle = model.register_forward_pre_hook(lambda _, __, given: self._take(given), with_kwargs=True)
            return
        # No hook stays on the model: it could not be pickled, and would outlast a training that is broken off.
        own = trainer.compute_loss

        @wraps(own)
        def compute_loss(model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(inputs, Mapping):
                self._take(inputs)
            return own(model, inputs, *args, **kwargs)

        self._places["compute_loss"] = compute_loss

    def _take(self, batch: Mapping[str, Any]) -> None:
        # Evaluations and measurements run without gradients.
        if self._open and self._model.training and torch.is_grad_enabled():
            # By the items of the whole step a half's loss would be divided by too much.
            self._batches.append({name: part for name, part in batch.items() if name != "num_items_in_batch"})

    def step(self, args: TrainingArguments, optimizer: Any) -> None:
        """Train them on the batches since the last step, or raise if there are none, before the run's own steps."""
        batches, self._batches = self._batches, []
        if not batches and self.twins.failure is None:
            self.twins.failure = "training_step computes no loss by self.compute_loss(model, inputs) of a dict"
            raise ValueError(f"{self.twins.failure}, from which twins learn; let it do so, or give another reference")
        for number, batch in enumerate(batches, start=1):
            self.twins.step(
                batch,
                beside=self._model,
                like=[_inner(optimizer)],
                accumulate=len(batches),
                update=number == len(batches),
                clip=partial(_clip, most=args.max_grad_norm) if args.max_grad_norm else None,
            )

    def close(self) -> None:
        """Leave the model and the trainer as they were before."""
        if self._handle is not None:
            self._handle.remove()
        self._open = False
        self._places.pop("compute_loss", None)  # the class's own is behind it
        if self._before is not None:
            self._places["compute_loss"] = self._before

    def save(self, path: Path) -> None:
        """Write them beside a checkpoint."""
        torch.save(self.twins.state_dict(), path)

    def load(self, path: Path) -> None:
        """Go on with those that `save` wrote, or train them no longer, and raise."""
        try:
            self.twins.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
        except Exception as error:
            self.twins.failure = f"{type(error).__name__}: {error}"
            raise


def twins_of_model(asked: Twins, model: nn.Module, optimizer: Any, loss: Loss, ranks: Ranks) -> TwinTraining:
    """Make the twins that were asked for, with optimizers like the run's.

    Raises:
        TypeError: if the factory makes no network.
        ValueError: if it fails or makes the same one twice, no optimizer can be made for it, or the model is split over
            processes.
    """
    if is_split(model):
        raise ValueError(_SPLIT)
    device = next(model.parameters()).device
    networks = [network.to(device) for network in asked.networks()]
    make = asked.optimizer or (lambda network: optimizer_like(_inner(optimizer), model, network))
    with preserved_rng(asked.seed), refusing(*_OPTIMIZERS):
        optimizers = [[make(network)] for network in networks]
    return TwinTraining(networks, optimizers, loss, seed=asked.seed, ranks=ranks)


def _inner(optimizer: Any) -> Optimizer:
    """Return the optimizer within what accelerate makes of it, and DeepSpeed of that."""
    inner = getattr(optimizer, "optimizer", optimizer)
    while not isinstance(inner, Optimizer):
        inner = inner.optimizer
    return inner
