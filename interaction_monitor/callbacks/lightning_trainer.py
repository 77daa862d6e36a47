"""What a Lightning trainer gives a monitor: steps, losses, a folder, a place to print, and who monitors what."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from interaction_monitor._checks import describe
from interaction_monitor.callbacks.loggers import is_a
from interaction_monitor.losses import Losses
from interaction_monitor.progress_bar import Bar, OpenBar, terminal_bar
from interaction_monitor.state import silent

_TERMINAL = ("TQDMProgressBar", "RichProgressBar")  # the latter while it shows nothing yet
_OURS = "interaction_monitor"


def measured_module(trainer: pl.Trainer, pl_module: pl.LightningModule) -> nn.Module:
    """Return what is called to run the network: the module, or what FSDP has put around it to gather its weights."""
    wrapped = trainer.strategy.model
    return wrapped if wrapped is not None and is_a(wrapped, "FullyShardedDataParallel") else pl_module


def folder_of(trainer: pl.Trainer) -> Path:
    """Return the run's folder: the first logger's, as for checkpoints. To be called on every process."""
    logger: Any = trainer.loggers[0] if trainer.loggers else None
    if logger is None or is_a(logger, "TensorBoardLogger", "CSVLogger"):
        folder = trainer.log_dir
    else:
        parts = [logger.save_dir or trainer.default_root_dir, logger.name, logger.version]
        folder = str(Path(*(str(part) for part in parts if part is not None)))
    return Path(trainer.strategy.broadcast(folder or trainer.default_root_dir))


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


def no_test_loss(trainer: pl.Trainer, losses: Losses) -> str | None:
    """Say why the validation loss can never be known, and what to do; None where it may come to be."""
    instead = "or give stop= a rule without losses, HighOrderGrowth() or OnsetPatience(5) say"
    if not trainer.enable_validation:
        return (
            f"and this run has no validation; give a validation loader and log val_loss in validation_step, {instead}"
        )
    if losses.tried is not None and not losses.knows_test_loss(losses.tried):
        names = " or ".join(losses.test_names[:2])
        return (
            f"and the sanity check of the validation logged {sorted(losses.tried) or 'nothing'}, but no {names}; log "
            f"it in validation_step, give its name as test_loss=, {instead}"
        )
    return None


def finished_batches(trainer: pl.Trainer) -> int:
    """Count the batches of the whole run, the one that just ends included, also in a checkpoint written within it."""
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return int(total.processed)


def say(trainer: pl.Trainer, *texts: str | None) -> None:
    """Print lines, on rank zero only, without tearing the progress bar apart; None is nothing to say."""
    if not trainer.is_global_zero:
        return
    bar = trainer.progress_bar_callback
    for text in texts:
        if text is not None and is_a(bar, "TQDMProgressBar"):
            tqdm.write(text)  # the callback's own method drops what comes while none of its bars is shown
        elif text is not None and bar is not None:
            bar.print(text)
        elif text is not None:
            print(text)


def bars_of(trainer: pl.Trainer, name: str) -> OpenBar:
    """Return what shows how far a measurement has come beside the trainer's own bars, or nowhere where it has none."""

    def open_bar(what: str, total: int) -> Bar | None:
        bar: Any = trainer.progress_bar_callback
        if bar is None or not getattr(bar, "is_enabled", False):
            return None
        display = getattr(bar, "progress", None)
        if is_a(bar, "RichProgressBar") and display is not None and display.live.is_started:
            return RichBar(bar, f"{name}: {what}", total)
        return terminal_bar(f"{name}: {what}", total, file=sys.stdout) if is_a(bar, *_TERMINAL) else None

    return open_bar


class RichBar:
    """A line of its own in the display of Lightning's bar for Rich, which nothing else may write to."""

    def __init__(self, bar: Any, what: str, total: int) -> None:
        self._bar = bar
        # Lightning finds its lines by their place, so none is ever taken away: the last one is shown again.
        ours = [task.id for task in bar.progress.tasks if task.fields.get(_OURS)]
        if ours:
            self._line = ours[-1]
            bar.progress.reset(self._line, description=what, total=total, visible=True)
        else:
            self._line = bar.progress.add_task(what, total=total, **{_OURS: True})

    def update(self, n: int) -> None:
        """So much more is done."""
        self._bar.progress.update(self._line, advance=n)
        self._bar.refresh()

    def close(self) -> None:
        """Hide the line."""
        self._bar.progress.update(self._line, visible=False)
        self._bar.refresh()


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
        """See, behind a batch or an epoch, whether the trainer's count stands still although the network is trained."""
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
