"""Sending a measurement to whatever loggers a trainer has."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from interaction_monitor import panels
from interaction_monitor.history import PHASES, History, Row


def scalars(row: Row, name: str) -> dict[str, float]:
    """List the numbers of a row under the keys by which loggers, checkpoints and stopping rules know them.

    Args:
        row: the measurement.
        name: prefix of the keys.

    Returns:
        Key to value; `phase` is 0, 1 or 2, and what is not known yet is left out.
    """
    values: dict[str, float | None] = {
        "mean_order": row.mean_order,
        "mean_order_low": row.mean_order_low,
        "mean_order_high": row.mean_order_high,
        "high_order_share": row.high_order_share,
        "phase": PHASES.index(row.phase),
        "onset_epoch": row.onset_epoch,
        "loss_gap": row.loss_gap,
        "n_salient": row.n_salient,
        "seconds": row.seconds,
        "solver_gap": row.solver_gap,
    }
    values |= {f"order_{order}": value for order, value in enumerate(row.distribution, start=1)}
    return {f"{name}/{key}": float(value) for key, value in values.items() if value is not None}


def publish(loggers: Sequence[Logger], history: History, *, name: str, step: int) -> None:
    """Write the latest measurement to every logger; TensorBoard also gets its histogram and now and then pictures.

    Args:
        loggers: the trainer's loggers.
        history: all measurements so far.
        name: prefix of the keys.
        step: the loggers' step.
    """
    for logger in loggers:
        logger.log_metrics(scalars(history[-1], name), step=step)
    for writer in writers(loggers):
        panels.write_measurement(writer, history, name=name, step=step)
        if panels.picture_due(len(history)):
            panels.write_figures(writer, history, name=name, step=step, pictures=("story",))


def conclude(loggers: Sequence[Logger], history: History, *, name: str, step: int) -> None:
    """Write every picture of the whole run to the loggers that show pictures.

    Args:
        loggers: the trainer's loggers.
        history: all measurements of the run.
        name: prefix of the tags.
        step: the loggers' step.
    """
    for writer in writers(loggers):
        panels.write_figures(writer, history, name=name, step=step)
        writer.flush()


def writers(loggers: Sequence[Logger]) -> list[SummaryWriter]:
    """Pick the TensorBoard writers among the loggers."""
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]


def without_pictures(loggers: Sequence[Logger]) -> list[str]:
    """Name the loggers that get the scalars but no pictures."""
    return [type(logger).__name__ for logger in loggers if not isinstance(logger, TensorBoardLogger)]
