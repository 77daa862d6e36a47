"""What happens before a Lightning run: samples as validation hands them on, a way to call, the record, the loggers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from interaction_monitor.callbacks import CallbackBase, resume, train_twins
from interaction_monitor.callbacks.lightning_trainer import (
    Steps,
    counted_batches_of,
    folder_of,
    measured_module,
    say,
)
from interaction_monitor.callbacks.loggers import Loggers
from interaction_monitor.callbacks.preparation import TrainerSource, way_to_call
from interaction_monitor.loading import UnreadableLoaderError, join, read_samples, rows_of, size_of
from interaction_monitor.observer import Observer
from interaction_monitor.probe import Probe, Suits
from interaction_monitor.settings import ForwardFunc, plain
from interaction_monitor.state import answered, preserved_rng, undisturbed

_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class LightningSetUp(CallbackBase):
    """What the Lightning callback does before the first measurement."""

    def _forget(self) -> None:
        super()._forget()
        self._steps = Steps()
        self._samples: dict[str, Any] | None = None  # a digest of the samples
        self._shown: int | None = None  # the loggers' step of the last measurement

    def _set_up(self, trainer: pl.Trainer, pl_module: pl.LightningModule, state: dict[str, Any] | None) -> Observer:
        """Make what measures, restore what a checkpoint holds, and open the record."""
        run = resume.run_of(state)
        self.losses.load_state_dict(run["loss"])
        self._steps.begin(trainer, pl_module, in_batches=run["in_batches"])
        self._shown = (state or {}).get("shown")
        if state is not None:
            resume.check(state, self.plain_settings())
        observer, found = self._observer_of(source_of(trainer, pl_module), state)
        if found is not None:
            text = "module(x) does not run on the samples, so it is called as its own step calls it:"
            say(trainer, f"{self.name}: {text} {found}")
        train_twins.begin_for_module(observer, trainer, pl_module, name=self.name)
        self._samples = plain(observer.probe)
        if state is not None:
            resume.restore(state, observer, self.budget)
        # A probe of training samples has no loss to lay theirs beside.
        observer.loss_samples.collects = self.probe is not None or trainer.val_dataloaders is not None
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
            target, step = folder_of(trainer) / self.name, self._steps.now(trainer)
            with self.faults.guard("opening the record"):
                resume.open_record(observer, target, self.plain_settings(), state, step=step)
            if len(observer.history) and (self._shown is None or observer.history[-1].step == step):
                self._shown = counted_batches_of(trainer) - 1
            with observer.ranks.together():
                if observer.ranks.rank == 0:
                    self._introduce(trainer, pl_module, observer)
        self._recall(observer.history)
        return observer

    def _introduce(self, trainer: pl.Trainer, pl_module: pl.LightningModule, observer: Observer) -> None:
        """Say what measuring will take, and prepare the loggers for what comes."""
        if not trainer.loggers:
            say(trainer, f"{self.name}: the trainer has no logger, so the run is only recorded")
        say(trainer, self._cost_at_start(observer, pl_module, trainer.max_epochs))
        loggers = self._loggers(trainer)
        loggers.introduce()
        if self._shown is not None:
            loggers.take_back(observer.history, step=self._shown + 1)

    def _loggers(self, trainer: pl.Trainer) -> Loggers:
        return Loggers(trainer.loggers, name=self.name, guard=self.faults.guard)

    def _due_at_start(self, trainer: pl.Trainer, observer: Observer) -> bool:
        """Tell whether to measure before the first batch: at the very start, and where a resumed run would miss it."""
        if len(observer.history) == 0:
            return True
        # Lightning leaves out the end of an epoch whose last batch wrote the checkpoint.
        behind = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        missed = behind and trainer.current_epoch > observer.history[-1].epoch
        return missed and self.after_steps is None and self.after_epochs(trainer.current_epoch)


def source_of(trainer: pl.Trainer, pl_module: pl.LightningModule) -> TrainerSource:
    """Return what a trainer that is about to train gives to be measured."""
    return TrainerSource(
        measured_module(trainer, pl_module),
        partial(validation_samples, trainer, pl_module),
        partial(_draw, trainer, pl_module, trainer.train_dataloader),
        partial(call_of_its_step, trainer, pl_module),
        convert=lambda call: partial(_converted, call, trainer.precision_plugin.convert_input),
        forward_context=trainer.precision_plugin.forward_context,
    )


def validation_samples(
    trainer: pl.Trainer, pl_module: pl.LightningModule, n_samples: int, seed: int, suits: Suits
) -> Probe:
    """Draw samples from the first loader for validation, or from the one for training."""
    loader: Any = trainer.val_dataloaders
    if loader is None:
        rank_zero_warn(
            "InteractionMonitor: there is no validation loader, so it measures on training samples; "
            "give one, or give probe=Probe(inputs, targets)"
        )
        loader = trainer.train_dataloader
    try:
        return _draw(trainer, pl_module, loader, n_samples, seed, suits)
    except UnreadableLoaderError as error:
        raise UnreadableLoaderError(error.told, instead="give probe=Probe(inputs, targets)") from error


def _draw(
    trainer: pl.Trainer, pl_module: pl.LightningModule, loader: Any, n_samples: int, seed: int, suits: Suits
) -> Probe:
    while isinstance(loader, (list, tuple, dict)) and loader:  # of several, the first
        loader = next(iter(loader.values())) if isinstance(loader, dict) else loader[0]
    if not any(_is_overridden(hook, owner) for hook in _HOOKS for owner in (pl_module, _datamodule_of(trainer))):
        return Probe.from_loader(loader, n_samples, seed=seed, suits=suits)

    def targets_of(batch: Any) -> Tensor | None:
        with suppress(TypeError, ValueError):  # the hooks may make a batch of what is none yet
            return Probe.from_batch(batch).targets
        return None

    def suited(batch: Any) -> Sequence[bool]:
        with suppress(TypeError, ValueError):  # as above
            return torch.as_tensor(suits(Probe.from_batch(batch))).tolist()
        return [True] * size_of(batch)

    batch = read_samples(loader, n_samples, seed=seed, targets_of=targets_of, suits=suited)
    size = getattr(loader, "batch_size", None) or size_of(batch) or 1
    parts = [rows_of(batch, range(n_samples)[start : start + size]) for start in range(0, n_samples, size)]
    with preserved_rng(seed), _validating(trainer, pl_module):
        probe = Probe.from_batch(join([_handed_over(trainer, pl_module, part) for part in parts]))
    # A record and other processes hold them on no device, and in no precision of the run's.
    probe = probe.map(Tensor.cpu)
    return probe.map(lambda x: x.float() if x.dtype in (torch.bfloat16, torch.half) else x)


def _handed_over(trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> Any:
    """Do with a batch what the loop for validation does before `validation_step`."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


@contextmanager
def _validating(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """Let hooks see the trainer and the module as they are in validation, and leave no trace of it."""
    datamodule = _datamodule_of(trainer)
    attributes = {} if datamodule is None else vars(datamodule)
    holder = nn.Module()
    object.__setattr__(holder, "datamodule", datamodule)  # its hooks may count and draw, too
    before, stage = dict(attributes), trainer.state.stage
    with undisturbed(pl_module), undisturbed(holder), answered():
        trainer.validating = True
        try:
            yield
        finally:
            trainer.state.stage = stage
            attributes.clear()
            attributes.update(before)


def _datamodule_of(trainer: pl.Trainer) -> Any:
    return getattr(trainer, "datamodule", None)


def _is_overridden(hook: str, owner: Any) -> bool:
    """Tell whether a hook or a step is the user's; `lightning` and `pytorch_lightning` have the others."""
    function = getattr(owner, hook, None)
    return function is not None and function.__module__.split(".")[0] not in ("lightning", "pytorch_lightning")


def _converted(call: ForwardFunc, convert: Callable[[Any], Any], module: nn.Module, inputs: Any) -> Any:
    """Call a network with its inputs in the trainer's precision; unlike a closure, a `partial` can be pickled."""
    return call(module, convert(inputs))


def call_of_its_step(
    trainer: pl.Trainer, pl_module: pl.LightningModule, probe: Probe, forward_func: ForwardFunc | None
) -> ForwardFunc:
    """Return how the network is called on the samples, in the trainer's precision and by its own step."""
    own = _is_overridden("validation_step", type(pl_module))
    step = "validation_step" if own or not pl_module.automatic_optimization else "training_step"
    return way_to_call(
        measured_module(trainer, pl_module),
        Probe(trainer.precision_plugin.convert_input(probe.inputs), probe.targets),
        forward_func,
        step=lambda module, batch: getattr(module, step)(batch, 0),
        name=step,
        context=trainer.precision_plugin.forward_context,
    )
