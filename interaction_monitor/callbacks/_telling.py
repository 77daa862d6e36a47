"""Where a measurement of a Lightning run goes: the record, the terminal and the loggers; on rank zero only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning.pytorch as pl

from interaction_monitor.callbacks import loggers, resume
from interaction_monitor.callbacks._lightning_trainer import batches_of, say
from interaction_monitor.forecast import forecast
from interaction_monitor.history import History
from interaction_monitor.observer import Observer
from interaction_monitor.plots import run_text
from interaction_monitor.record import Progress
from interaction_monitor.schedule import most_measurements

if TYPE_CHECKING:
    from interaction_monitor.callbacks.lightning import InteractionMonitor


def scalars(monitor: InteractionMonitor, history: History) -> dict[str, float]:
    """Return what is logged of the last measurement, by key."""
    return loggers.scalars(history, monitor.name) | loggers.cost(history, monitor.budget, monitor.name)


def tell(monitor: InteractionMonitor, trainer: pl.Trainer, observer: Observer, *, step: int) -> None:
    """Write down and show the measurement that was just taken.

    Args:
        monitor: whose name, account and faults count.
        trainer: has the loggers.
        observer: holds the measurement.
        step: the loggers' step.
    """
    with monitor.faults.guard("writing the record"):
        observer.keep()
    say(trainer, run_text.line(observer.history, name=monitor.name, with_step=monitor.after_steps is not None))
    values, guard = scalars(monitor, observer.history), monitor.faults.guard
    loggers.publish(trainer.loggers, observer.history, values, name=monitor.name, step=step, guard=guard)


def conclude(monitor: InteractionMonitor, trainer: pl.Trainer, observer: Observer) -> None:
    """Draw the whole run, say what it showed, and note that it has come to its end."""
    history, record = observer.history, observer.record
    if len(history):
        step, guard = max(0, batches_of(trainer) - 1), monitor.faults.guard
        loggers.conclude(trainer.loggers, history, name=monitor.name, step=step, guard=guard)
    say(trainer, f"{monitor.name}: {run_text.verdict(history, failure=monitor.faults.last)}")
    if len(history) and record is not None:
        resume.note(observer, Progress(checkpoint=monitor.steps.now(trainer), finished=True), monitor.faults)
        say(trainer, f"{monitor.name}: recorded in {record.folder}")


def announce(
    monitor: InteractionMonitor, trainer: pl.Trainer, pl_module: pl.LightningModule, observer: Observer
) -> None:
    """Say what a measurement will take."""
    count = None
    if monitor.after_steps is None:
        count = most_measurements(monitor.after_epochs, trainer.max_epochs)
    monitor.forecast = forecast(observer, pl_module)
    if monitor.forecast is not None:
        say(trainer, f"{monitor.name}: {monitor.forecast.at_start(count)}")


def compare_costs(monitor: InteractionMonitor, trainer: pl.Trainer) -> None:
    """Say once, after the first epoch, if measuring takes longer than training."""
    known, monitor.forecast = monitor.forecast, None
    if known is None or monitor.observer is None or not len(monitor.observer.history):
        return
    text = known.after_epoch(
        trained=monitor.budget.trained(),
        measured=monitor.observer.history[-1].seconds,
        budgeted=monitor.budget.most is not None,
    )
    if text is not None and monitor.after_steps is None:
        say(trainer, f"{monitor.name}: {text}")
