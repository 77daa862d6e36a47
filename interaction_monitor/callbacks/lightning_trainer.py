"""What a Lightning trainer gives a monitor: samples, a way to call, steps; and what happens before its run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from interaction_monitor._checks import is_a
from interaction_monitor.callbacks import CallbackBase, resume, train_twins
from interaction_monitor.callbacks.loggers import Loggers, folder_of
from interaction_monitor.callbacks.preparation import TrainerSource, observer_of, way_to_call
from interaction_monitor.distributed import Ranks
from interaction_monitor.loading import UnreadableLoaderError, join, read_samples, rows_of, size_of
from interaction_monitor.observer import Observer
from interaction_monitor.probe import Probe, Suits
from interaction_monitor.progress_bar import say
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
        observer, found = observer_of(source_of(trainer, pl_module), self, state, Ranks.of_this_run())
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
        if self.after_steps is not None:  # a checkpoint may have been written before the measurement or within it
            step = self._steps.now(trainer)
            return step > observer.history[-1].step and self.after_steps(step) and self._affordable()
        # Lightning leaves out the end of an epoch whose last batch wrote the checkpoint.
        behind = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        missed = behind and trainer.current_epoch > observer.history[-1].epoch
        return missed and self.after_epochs(trainer.current_epoch)


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
    owners = (pl_module, getattr(trainer, "datamodule", None))
    if not any(_is_overridden(hook, owner) for hook in _HOOKS for owner in owners):
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
    datamodule = getattr(trainer, "datamodule", None)
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


def measured_module(trainer: pl.Trainer, pl_module: pl.LightningModule) -> nn.Module:
    """Return what is called to run the network: the module, or what FSDP has put around it to gather its weights."""
    wrapped = trainer.strategy.model
    return wrapped if wrapped is not None and is_a(wrapped, "FullyShardedDataParallel") else pl_module


def batches_of(trainer: pl.Trainer) -> int:
    """Count the batches that stepped: what the trainer itself gives its loggers as the step."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def counted_batches_of(trainer: pl.Trainer) -> int:
    """Count them where training goes on: a checkpoint that was written within a batch has not counted that one."""
    # With manual optimization each batch counts, whatever steps it makes.
    automatic = trainer.lightning_module.automatic_optimization
    counted = trainer.global_step if automatic else finished_batches(trainer)
    return batches_of(trainer) + (counted > batches_of(trainer))


def ends_after(trainer: pl.Trainer, epoch: int) -> bool:
    """Tell whether training ends after so many completed epochs, as far as the trainer knows at the end of the last."""
    long_enough = epoch >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)
    out_of_steps = 0 <= trainer.max_steps <= trainer.global_step
    return (trainer.should_stop and long_enough) or epoch == trainer.max_epochs or out_of_steps


def loss_of(trainer: pl.Trainer, outputs: Any) -> Tensor | None:
    """Return the loss of a batch as the training step made it; None where it returned none."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not isinstance(loss, Tensor):
        return None
    # Lightning has divided it by the number of batches whose gradients accumulate.
    return loss * trainer.accumulate_grad_batches if trainer.lightning_module.automatic_optimization else loss


def finished_batches(trainer: pl.Trainer) -> int:
    """Count the batches of the whole run, the one that just ends included, also in a checkpoint written within it."""
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return int(total.processed)


class Steps:
    """Counts as the trainer does, unless the network is trained by an optimizer that the trainer does not know of.

    With manual optimization `global_step` counts the steps of Lightning's own wrappers only. An optimizer that was made
    elsewhere, or is called past its wrapper, leaves it at zero for the whole run; then batches are counted.

    Attributes:
        in_batches: whether batches are counted. Once they are, they are to the end of the run.
    """

    def __init__(self) -> None:
        self.in_batches = False
        self._versions = 0

    def begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, in_batches: bool) -> None:
        """Start to look, where training begins, or goes on and batches may have been counted before."""
        self.in_batches = in_batches
        self._versions = _versions_of(pl_module)
        self.notice(trainer, pl_module, epoch_over=trainer.current_epoch > 0)

    def notice(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, epoch_over: bool = False) -> None:
        """See, after a batch or an epoch, whether the trainer's count stands still although the network is trained."""
        if self.in_batches or trainer.global_step > 0 or not finished_batches(trainer):
            return
        unknown = not pl_module.automatic_optimization and (
            all(is_a(optimizer, "_MockOptimizer") for optimizer in trainer.optimizers)
            or _versions_of(pl_module) != self._versions
        )
        # After a whole epoch even accumulated gradients have made a step.
        self.in_batches = epoch_over or unknown

    def now(self, trainer: pl.Trainer) -> int:
        """Return the steps so far, or the batches."""
        return finished_batches(trainer) if self.in_batches else trainer.global_step


def _versions_of(pl_module: pl.LightningModule) -> int:
    # Each change in place adds to a tensor's version, whoever's optimizer makes it.
    return sum(parameter._version for parameter in pl_module.parameters() if parameter.requires_grad)


def monitored(trainer: pl.Trainer) -> Iterator[tuple[str, str]]:
    """List what callbacks and schedulers of the learning rate monitor, and in which direction it gets better."""
    watchers: list[tuple[Any, Any]] = [(callback, callback) for callback in trainer.callbacks]  # type: ignore[attr-defined]  # set by a connector
    watchers += [(config, config.scheduler) for config in trainer.lr_scheduler_configs]
    for watcher, has_mode in watchers:
        key = getattr(watcher, "monitor", None)
        if isinstance(key, str):
            yield key, str(getattr(has_mode, "mode", "min"))
