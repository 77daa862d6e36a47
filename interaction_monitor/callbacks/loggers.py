"""Sending a measurement to whatever loggers a trainer has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from matplotlib.figure import Figure

from interaction_monitor.callbacks._lightning_trainer import is_a
from interaction_monitor.callbacks._rewind import rewind
from interaction_monitor.history import PHASES, History
from interaction_monitor.history.landmarks import told_phases
from interaction_monitor.plots import run_figures, tensorboard
from interaction_monitor.schedule import Budget

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

KEYS = (
    *("epoch", "mean_order", "mean_order_low", "mean_order_high", "high_order_share", "phase", "onset_epoch"),
    *("onset_step", "loss_gap", "n_salient", "seconds", "solver_gap", "persisted_share", "high_order_effect"),
    *("evaluated_gap", "evaluated_train_loss", "evaluated_test_loss"),
    *("high_order_gap", "generalizing_share", "generalizing_low", "generalizing_high", "overfitting_epoch"),
)
BY_ORDER = "generalizing_share_order_"
COST = "measuring_per_training"
Guard = Callable[[str], AbstractContextManager[None]]


def scalars(history: History, name: str) -> dict[str, float]:
    """List the last measurement's numbers under the keys by which loggers, checkpoints and stopping rules know them.

    Args:
        history: all measurements so far, at least one.
        name: prefix of the keys.

    Returns:
        Key to finite value; `phase` is 1 or 2. What is not known (yet) or came out undefined is left out.
    """
    row, phase = history[-1], told_phases(history)[-1]
    values: dict[str, float | None] = {key: getattr(row, key) for key in KEYS if key != "phase"}
    values["phase"] = None if phase is None else PHASES.index(phase)
    values |= {f"order_{order}": value for order, value in enumerate(row.distribution, start=1)}
    values |= {f"{BY_ORDER}{order}": share for order, share in row.generalizing_by_order.items()}
    return {
        f"{name}/{key}": float(value) for key, value in values.items() if value is not None and math.isfinite(value)
    }


def cost(history: History, budget: Budget, name: str) -> dict[str, float]:
    """Give the time of all measurements per time of training; nothing before the first step of training."""
    return {f"{name}/{COST}": budget.share()} if history[-1].step > 0 else {}


def keys(name: str, n_players: int) -> list[str]:
    """List every key that `scalars` may give."""
    orders = range(1, n_players + 1)
    by_order = [f"{prefix}{order}" for prefix in ("order_", BY_ORDER) for order in orders]
    return [f"{name}/{key}" for key in (*KEYS, *by_order)]


def introduce(loggers: Sequence[Any], *, name: str, guard: Guard) -> None:
    """Warn of loggers that show no pictures, and lay the monitor's numbers over epochs where the logger can.

    Args:
        loggers: the trainer's loggers.
        name: prefix of the keys.
        guard: makes the context in which each logger is called, so that one that fails stops no other.
    """
    for logger in loggers:
        if shower(logger) is None:
            kind = type(logger).__name__
            rank_zero_warn(f"InteractionMonitor: {kind} gets the scalars, but no pictures and histograms")
        if is_a(logger, "WandbLogger"):
            with guard(f"setting up {type(logger).__name__}"):
                logger.experiment.define_metric(f"{name}/epoch")
                logger.experiment.define_metric(f"{name}/*", step_metric=f"{name}/epoch")


def take_back(loggers: Sequence[Any], history: History, *, name: str, step: int, guard: Guard) -> None:
    """Have TensorBoard drop what the interrupted run showed after the checkpoint, where it wrote to the same folder.

    Args:
        loggers: the trainer's loggers.
        history: what was measured up to the checkpoint.
        name: prefix of the keys.
        step: the first of the loggers' steps that comes after it.
        guard: as in `introduce`.
    """
    for logger in loggers:
        if not is_a(logger, "TensorBoardLogger"):
            continue
        prefix = f"{logger._prefix}{logger.LOGGER_JOIN_CHAR}" if logger._prefix else ""
        with guard(f"setting up {type(logger).__name__}"):
            take_back_from(logger.experiment, history, name=name, step=step, prefix=prefix)


def take_back_from(
    writer: SummaryWriter, history: History, *, name: str, step: int, prefix: str = "", more: Sequence[str] = ()
) -> None:
    """Do as `take_back` for what writes to TensorBoard.

    Args:
        writer: the resumed run's, at its beginning.
        history: what was measured up to the checkpoint.
        name: prefix of the keys.
        step: the first of the writer's steps that comes after it.
        prefix: stands before the keys of scalars.
        more: scalars beside those of every monitor, without `name`.
    """
    shown = (*keys(name, history.n_players), f"{name}/{COST}", *(f"{name}/{key}" for key in more))
    text, ridges = f"{name}/how_to_read/text_summary", f"{name}/{tensorboard.RIDGES}"
    tags = {f"{prefix}{key}": "scalars" for key in shown} | {text: "text", f"{name}/verdict/text_summary": "text"}
    tags |= {f"{name}/orders": "histograms", ridges: "histograms"}
    tags |= {f"{name}/{picture}": "images" for picture in tensorboard.PICTURES}
    own_steps = {text: 0, ridges: tensorboard.n_ridges(len(history))}
    own_steps[f"{prefix}{name}/phase"] = tensorboard.first_undecided(history, step=step)
    rewind(writer, tags, steps=own_steps, step=step)


def publish(
    loggers: Sequence[Any], history: History, values: Mapping[str, float], *, name: str, step: int, guard: Guard
) -> None:
    """Write the latest measurement to every logger; TensorBoard also gets its histogram, and now and then a picture.

    Args:
        loggers: the trainer's loggers.
        history: all measurements so far.
        values: the latest one's numbers, see `scalars`.
        name: prefix of the keys.
        step: the loggers' step.
        guard: as in `introduce`.
    """
    for logger in loggers:
        with guard(f"writing to {type(logger).__name__}"):
            if is_a(logger, "TensorBoardLogger"):
                logger.log_metrics(tensorboard.charted(values, name), step=step)
                for at, phase in tensorboard.decided_phases(history, step=step):
                    logger.log_metrics({f"{name}/phase": phase}, step=at)
                tensorboard.write_measurement(logger.experiment, history, name=name, step=step)
            else:
                logger.log_metrics(dict(values), step=step)
    if tensorboard.picture_due(len(history)):
        draw(loggers, history, ("story",), name=name, step=step, guard=guard)


def conclude(loggers: Sequence[Any], history: History, *, name: str, step: int, guard: Guard) -> None:
    """Write every picture of the whole run to the loggers that show pictures.

    Args:
        loggers: the trainer's loggers.
        history: all measurements of the run.
        name: prefix of the tags.
        step: the loggers' step.
        guard: as in `introduce`.
    """
    draw(loggers, history, tuple(tensorboard.PICTURES), name=name, step=step, guard=guard)
    for logger in loggers:
        if is_a(logger, "TensorBoardLogger"):
            with guard(f"writing to {type(logger).__name__}"):
                logger.experiment.flush()


def draw(
    loggers: Sequence[Any], history: History, pictures: Sequence[str], *, name: str, step: int, guard: Guard
) -> None:
    """Draw pictures of the run once, and give them to every logger that shows pictures."""
    showing = [(logger, show) for logger in loggers if (show := shower(logger)) is not None]
    for picture in pictures if showing else ():
        with guard("drawing the pictures"):
            figure = tensorboard.PICTURES[picture](history)
            for logger, show in showing:
                with guard(f"giving a picture to {type(logger).__name__}"):
                    show(f"{name}/{picture}", figure, step)


def shower(logger: Any) -> Callable[[str, Figure, int], None] | None:
    """Return what shows a figure, given its tag and step, in this logger; None where it shows no pictures."""
    if is_a(logger, "TensorBoardLogger"):
        return lambda tag, figure, step: logger.experiment.add_image(
            tag, run_figures.to_image(figure), step, dataformats="HWC"
        )
    if is_a(logger, "WandbLogger"):
        return lambda tag, figure, step: logger.log_image(tag, [run_figures.to_image(figure)], step=step)
    if is_a(logger, "MLFlowLogger"):
        return lambda tag, figure, step: logger.experiment.log_figure(
            logger.run_id, figure, f"{tag}_step_{step:08d}.png"
        )
    return None
