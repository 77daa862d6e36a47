"""Sending measurements to whatever loggers a trainer has, and taking back from TensorBoard what a resume repeats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from matplotlib.figure import Figure
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

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
_WORST = 1e6  # of what has no bounds
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


class Keys:
    """Knows a value of each key that other callbacks may monitor, at every moment, and never NaN.

    Early stopping ends a run, or fails, where its key is missing or not finite, and so does what keeps the best
    checkpoint. So between two measurements, and where one gives no number, as a network of constant output has no mean
    order, a key keeps the last value that was known. A key that is monitored before there has been any has the worst
    that its mode allows, so that the first real one is better.

    Args:
        name: prefix of the keys.
        history: what a run that goes on has measured before.
    """

    def __init__(self, name: str, history: History | None = None) -> None:
        self._name = name
        self._known: dict[str, float] = {}
        for row in history or ():
            self._known |= scalars(History([row]), name)
        if history:
            self._known |= scalars(history, name)

    def updated(
        self, values: Mapping[str, float], monitored: Iterable[tuple[str, str]], n_players: int
    ) -> dict[str, float]:
        """Take in what a measurement gave, and return what is known of all keys.

        Args:
            values: key to finite value; empty where nothing was measured.
            monitored: each key that is monitored, and in which direction it gets better, "min" or "max".
            n_players: number of players, the highest order.
        """
        self._known |= values
        shown = dict(self._known)
        for key, mode in monitored:
            if key in keys(self._name, n_players):
                shown.setdefault(key, worst(key.removeprefix(f"{self._name}/"), mode, n_players))
        return shown


def worst(key: str, mode: str, n_players: int) -> float:
    """Return the worst value of a key: of its range where that has bounds.

    Args:
        key: without prefix.
        mode: "min" or "max", what the callback takes for better.
        n_players: number of players.

    Examples:
        >>> worst("mean_order", "min", 10), worst("persisted_share", "max", 10), worst("loss_gap", "min", 10)
        (10.0, 0.0, 1000000.0)
    """
    bound = _WORST
    if key.endswith("_share"):
        bound = 1.0
    elif key.startswith(("mean_order", "order_")):
        bound = float(n_players)
    if mode != "max":
        return bound
    return -_WORST if bound == _WORST else 0.0


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
            if show_figure(logger) is None:
                rank_zero_warn(f"InteractionMonitor: {kind} gets the scalars, but no pictures and histograms")
            if is_a(logger, "WandbLogger"):
                with self._guard(f"setting up {kind}"):
                    logger.experiment.define_metric(f"{self._name}/epoch")
                    logger.experiment.define_metric(f"{self._name}/*", step_metric=f"{self._name}/epoch")

    def take_back(self, history: History, *, step: int) -> None:
        """Have TensorBoard drop what the interrupted run showed after the checkpoint, if it wrote to the same folder.

        Args:
            history: what was measured up to the checkpoint.
            step: the first of the loggers' steps that comes after it.
        """
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
        """Write the latest measurement to every logger; TensorBoard also gets its histogram.

        Args:
            history: all measurements so far.
            values: the latest one's numbers, see `scalars`.
            step: the loggers' step.
        """
        for logger in self._loggers:
            with self._guard(f"writing to {type(logger).__name__}"):
                board = is_a(logger, "TensorBoardLogger")
                logger.log_metrics(tensorboard.charted(values, self._name) if board else dict(values), step=step)
        losses = [f"{self._name}/{key}" for key in self._losses]
        for logger in self._boards():
            with self._guard(f"writing to {type(logger).__name__}"):
                for at, phase in tensorboard.decided_phases(history, step=step):
                    logger.log_metrics({f"{self._name}/phase": phase}, step=at)
                tensorboard.write_measurement(logger.experiment, history, name=self._name, step=step, losses=losses)

    def draw(self, history: History, pictures: Sequence[str] | None = None, *, step: int) -> None:
        """Draw pictures of the run once, and give them to every logger that shows pictures.

        Args:
            history: all measurements so far.
            pictures: which of `tensorboard.PICTURES`; None draws all.
            step: the loggers' step.
        """
        showing = [(logger, show) for logger in self._loggers if (show := show_figure(logger)) is not None]
        for picture in (pictures or tensorboard.PICTURES) if showing else ():
            with self._guard("drawing the pictures"):
                figure = tensorboard.PICTURES[picture](history)
                for logger, show in showing:
                    with self._guard(f"giving a picture to {type(logger).__name__}"):
                        show(f"{self._name}/{picture}", figure, step)
        for logger in self._boards():
            with self._guard(f"writing to {type(logger).__name__}"):
                logger.experiment.flush()

    def _boards(self) -> list[Any]:
        return [logger for logger in self._loggers if is_a(logger, "TensorBoardLogger")]


def is_a(thing: object, *names: str) -> bool:
    """Tell whether a class of one of these names is among the thing's.

    By name, because `lightning.pytorch` and `pytorch_lightning` have each its own of every class.
    """
    return any(base.__name__ in names for base in type(thing).__mro__)


def show_figure(logger: Any) -> Callable[[str, Figure, int], None] | None:
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


def _rewind(writer: SummaryWriter, tags: Mapping[str, str], *, steps: Mapping[str, int], step: int) -> None:
    """Have readers of the writer's folder drop what was written before under some tags, from a step on.

    Event files only grow. Their readers drop what a restart made obsolete, but by TensorBoard's present rule that is
    everything from one step on, other people's curves too. By its older rule, for files of version 1, an event with a
    lower step than the one before it drops the later ones of its own tags. So a few lines in that version, which hold
    tags but no values, take back just these.

    Args:
        writer: the resumed run's, at its beginning.
        tags: every tag, with the name of the plugin that shows it.
        steps: the first step to drop, for tags with steps of their own.
        step: the first step to drop for all the others.
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
