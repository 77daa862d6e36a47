"""What is logged of a run, to whatever loggers a trainer has, and what a resume takes back from TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from html import escape
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning_utilities.core.rank_zero import rank_zero_warn
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

from interaction_monitor import console
from interaction_monitor._checks import is_a
from interaction_monitor.history import PHASES, History
from interaction_monitor.history.landmarks import told_phases
from interaction_monitor.plots import tensorboard, to_image

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from torch.utils.tensorboard import SummaryWriter

KEYS = (
    *("epoch", "mean_order", "mean_order_low", "mean_order_high", "high_order_share", "phase", "onset_epoch"),
    *("onset_step", "loss_gap", "n_salient", "seconds", "solver_gap", "persisted_share", "high_order_effect"),
    *("evaluated_gap", "evaluated_train_loss", "evaluated_test_loss", "unseen_loss"),
    *("high_order_gap", "generalizing_share", "generalizing_low", "generalizing_high", "overfitting_epoch"),
)
_BY_ORDER = "generalizing_share_order_"
COST = "measuring_per_training"
_LATE = 2**62  # a step that is later than any
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
    values |= {f"{_BY_ORDER}{order}": share for order, share in row.generalizing_by_order.items()}
    return {
        f"{name}/{key}": float(value) for key, value in values.items() if value is not None and math.isfinite(value)
    }


def keys(name: str, n_players: int) -> list[str]:
    """List every key that `scalars` may give."""
    by_order = [f"{prefix}{order}" for prefix in ("order_", _BY_ORDER) for order in range(1, n_players + 1)]
    return [f"{name}/{key}" for key in (*KEYS, *by_order)]


class Loggers:
    """The loggers of a run: each gets what it can show, and one that fails stops no other.

    Args:
        loggers: as the trainer has them.
        name: prefix of the keys and tags.
        guard: makes the context in which each logger is called.
        losses: what the keys of the losses are called after the prefix, where the monitor logs them itself.
    """

    def __init__(self, loggers: Sequence[Any], *, name: str, guard: Guard, losses: Sequence[str] = ()) -> None:
        self._loggers = loggers
        self._name = name
        self._guard = guard
        self._losses = losses

    def introduce(self) -> None:
        """Warn of loggers that show no pictures, and lay the monitor's numbers over epochs where the logger can."""
        for logger in self._loggers:
            kind = type(logger).__name__
            if shows_of(logger) is None:
                rank_zero_warn(f"InteractionMonitor: {kind} gets the numbers, but no pictures and no verdict")
            if is_a(logger, "WandbLogger"):
                with self._guard(f"setting up {kind}"):
                    logger.experiment.define_metric(f"{self._name}/epoch")
                    logger.experiment.define_metric(f"{self._name}/*", step_metric=f"{self._name}/epoch")

    def take_back(self, history: History, *, step: int) -> None:
        """Have TensorBoard drop what the interrupted run showed in this folder from a step on, after the history."""
        keyed = (*keys("", history.n_players), f"/{COST}", *(f"/{loss}" for loss in self._losses))
        text, ridges = f"{tensorboard.HOW_TO_READ}/text_summary", tensorboard.RIDGES
        own_steps = {f"{self._name}/{text}": 0, f"{self._name}/{ridges}": tensorboard.n_ridges(len(history))}
        for logger in self._boards():
            prefix = f"{logger._prefix}{logger.LOGGER_JOIN_CHAR}" if logger._prefix else ""
            own_steps[f"{prefix}{self._name}/phase"] = tensorboard.first_undecided(history, step=step)
            tags = {f"{prefix}{self._name}{key}": "scalars" for key in keyed} | tensorboard.tags(self._name)
            with self._guard(f"setting up {type(logger).__name__}"):
                _rewind(logger.experiment, tags, steps=own_steps, step=step)

    def publish(self, history: History, values: Mapping[str, float], *, step: int) -> None:
        """Write the latest measurement and its numbers to every logger; TensorBoard also gets its histogram."""
        for logger in self._loggers:
            with self._guard(f"writing to {type(logger).__name__}"):
                board = is_a(logger, "TensorBoardLogger")
                logger.log_metrics(tensorboard.charted(values, self._name) if board else dict(values), step=step)
                if (shows := shows_of(logger)) is not None and not board:
                    self._tell(shows, history, step)
        losses = [f"{self._name}/{key}" for key in self._losses]
        for logger in self._boards():
            with self._guard(f"writing to {type(logger).__name__}"):
                for at, phase in tensorboard.decided_phases(history, step=step):
                    logger.log_metrics({f"{self._name}/phase": phase}, step=at)
                tensorboard.write_measurement(logger.experiment, history, name=self._name, step=step, losses=losses)

    def _tell(self, shows: Shows, history: History, step: int) -> None:
        """Show what is no number: the distribution, how to read it, and what has been found."""
        if len(history) == 1:
            shows.guide(f"{self._name}/{tensorboard.HOW_TO_READ}", console.guide())
        if tensorboard.tells_more(history):
            self._conclude(shows, history, step)
        if shows.distribution is not None and sum(distribution := history[-1].distribution) > 0:
            shows.distribution(f"{self._name}/{tensorboard.ORDERS}", np.asarray(distribution), step)

    def _conclude(self, shows: Shows, history: History, step: int) -> None:
        shows.verdict(f"{self._name}/{tensorboard.VERDICT}", console.as_sentence(console.verdict(history)), step)

    def draw(self, history: History, pictures: Sequence[str] | None = None, *, step: int) -> None:
        """Draw pictures of the run once, and give them to every logger that shows pictures.

        Of `tensorboard.PICTURES` those that are named, or at the end of the run all, and the verdict on it.
        """
        showing = [(logger, shows) for logger in self._loggers if (shows := shows_of(logger)) is not None]
        for picture in (pictures or tensorboard.PICTURES) if showing else ():
            with self._guard("drawing the pictures"):
                figure = tensorboard.PICTURES[picture](history)
                for logger, shows in showing:
                    with self._guard(f"giving a picture to {type(logger).__name__}"):
                        shows.figure(f"{self._name}/{picture}", figure, step)
        for logger, shows in showing if pictures is None and not tensorboard.tells_more(history) else ():
            with self._guard(f"writing to {type(logger).__name__}"):
                self._conclude(shows, history, step)
        for logger in self._boards():
            with self._guard(f"writing to {type(logger).__name__}"):
                logger.experiment.flush()

    def _boards(self) -> list[Any]:
        return [logger for logger in self._loggers if is_a(logger, "TensorBoardLogger")]


def folder_of(trainer: pl.Trainer) -> Path:
    """Return the run's folder: the first logger's, as for checkpoints. To be called on every process."""
    logger: Any = trainer.loggers[0] if trainer.loggers else None
    if logger is None or is_a(logger, "TensorBoardLogger", "CSVLogger"):
        folder = trainer.log_dir
    else:
        parts = [logger.save_dir or trainer.default_root_dir, logger.name, logger.version]
        folder = str(Path(*(str(part) for part in parts if part is not None)))
    return Path(trainer.strategy.broadcast(folder or trainer.default_root_dir))


@dataclass(frozen=True)
class Shows:
    """How a logger shows what is no number, each under a tag; no server is asked before one of these is called."""

    figure: Callable[[str, Figure, int], Any]
    guide: Callable[[str, str], Any]
    verdict: Callable[[str, str, int], Any]
    distribution: Callable[[str, NDArray[np.float64], int], Any] | None = None  # (n,) over orders; None has no place


def shows_of(logger: Any) -> Shows | None:
    """Return how a logger shows what is no number; None where it shows numbers alone."""
    kinds: Mapping[str, Callable[[Any], Shows]] = {
        "TensorBoardLogger": _in_tensorboard,
        "WandbLogger": _in_wandb,
        "MLFlowLogger": _in_mlflow,
        "CometLogger": _in_comet,
        "AimLogger": _in_aim,
    }
    return next((shows(logger) for kind, shows in kinds.items() if is_a(logger, kind)), None)


def _in_tensorboard(logger: Any) -> Shows:
    # The rest is written by `tensorboard.write_measurement`.
    return Shows(
        figure=lambda tag, figure, step: logger.experiment.add_image(tag, to_image(figure), step, dataformats="HWC"),
        guide=lambda tag, text: logger.experiment.add_text(tag, text),
        verdict=lambda tag, text, step: logger.experiment.add_text(tag, text, step),
    )


def _in_wandb(logger: Any) -> Shows:
    import wandb

    def distribution(tag: str, shares: NDArray[np.float64], step: int) -> None:
        logger.log_metrics({tag: wandb.Histogram(np_histogram=(shares, _edges(shares)))}, step=step)

    return Shows(
        figure=lambda tag, figure, step: logger.log_image(tag, [to_image(figure)], step=step),
        guide=lambda tag, text: logger.log_metrics({tag: wandb.Html(_as_html(text))}),
        verdict=lambda tag, text, _: logger.experiment.summary.update({tag: text}),
        distribution=distribution,
    )


def _in_mlflow(logger: Any) -> Shows:
    return Shows(
        figure=lambda tag, figure, step: logger.experiment.log_figure(
            logger.run_id, figure, f"{tag}_step_{step:08d}.png"
        ),
        guide=lambda tag, text: logger.experiment.log_text(logger.run_id, text, f"{tag}.md"),
        verdict=lambda tag, text, _: logger.experiment.set_tag(logger.run_id, tag, text),
    )


def _in_comet(logger: Any) -> Shows:
    def distribution(tag: str, shares: NDArray[np.float64], step: int) -> None:
        # It takes values, not counts: a thousand of them show each share to a thousandth.
        counts = np.round(1000 * shares / shares.sum()).astype(int)
        logger.experiment.log_histogram_3d(np.repeat(np.arange(1, len(shares) + 1), counts), name=tag, step=step)

    return Shows(
        figure=lambda tag, figure, step: logger.experiment.log_figure(figure_name=tag, figure=figure, step=step),
        guide=lambda _, text: logger.experiment.log_html(_as_html(text)),
        verdict=lambda tag, text, _: logger.experiment.log_other(tag, text),
        distribution=distribution,
    )


def _in_aim(logger: Any) -> Shows:
    aim = import_module("aim")

    def distribution(tag: str, shares: NDArray[np.float64], step: int) -> None:
        bins = _edges(shares)
        logger.experiment.track(aim.Distribution(hist=shares, bin_range=(bins[0], bins[-1])), name=tag, step=step)

    return Shows(
        figure=lambda tag, figure, step: logger.experiment.track(aim.Image(to_image(figure)), name=tag, step=step),
        guide=lambda tag, text: logger.experiment.track(aim.Text(text), name=tag, step=0),
        verdict=lambda tag, text, step: logger.experiment.track(aim.Text(text), name=tag, step=step),
        distribution=distribution,
    )


def _edges(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the edges of bins that each have an order in their middle."""
    return np.arange(len(shares) + 1, dtype=np.float64) + 0.5


def _as_html(text: str) -> str:
    return f'<pre style="white-space: pre-wrap">{escape(text)}</pre>'


def _rewind(writer: SummaryWriter, tags: Mapping[str, str], *, steps: Mapping[str, int], step: int) -> None:
    """Have readers of a resumed run's folder drop what was written before under some tags, from a step on.

    Event files only grow. Their readers drop what a restart made obsolete, but by TensorBoard's present rule that is
    everything from one step on, other people's curves too. By its older rule, for files of version 1, an event with a
    lower step than the one before it drops the later ones of its own tags. So a few lines in that version, which hold
    tags but no values, take back just these: every tag, by the name of the plugin that shows it, from its own first
    step or that of all others.
    """
    file = writer._get_file_writer()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    file.add_event(Event(file_version="brain.Event:1"), step=0)
    file.add_event(Event(summary=Summary()), step=_LATE)
    for first in sorted({step, *steps.values()}, reverse=True):  # each lower than the one before it
        # Without its plugin, a reader would not know how to show what comes under the tag later.
        values = [
            Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin)))
            for tag, plugin in tags.items()
            if steps.get(tag, step) == first
        ]
        file.add_event(Event(summary=Summary(value=values)), step=first)
    file.add_event(Event(file_version="brain.Event:2"), step=0)
