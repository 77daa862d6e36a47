"""The callbacks of the trainers, and what all have in common: their arguments, and how they measure, stop and tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from matplotlib.figure import Figure
from torch import nn

from interaction_monitor import console
from interaction_monitor.callbacks import loggers
from interaction_monitor.callbacks.errors import (
    Faults,
    OnError,
    arguments_of,
    require,
    require_at_least,
    require_reference,
    rule_of,
    schedules_of,
)
from interaction_monitor.distributed import Ranks
from interaction_monitor.history import History
from interaction_monitor.losses import Losses
from interaction_monitor.observer import Observer
from interaction_monitor.outputs import Output
from interaction_monitor.phases import PhaseTracker
from interaction_monitor.players import Players
from interaction_monitor.plots import tensorboard
from interaction_monitor.probe import Probe
from interaction_monitor.record import Progress
from interaction_monitor.record.files import is_record
from interaction_monitor.reference.sources import Given, names_of
from interaction_monitor.schedule import Forecast, Schedule, budget_of, forecast, most_measurements
from interaction_monitor.settings import (
    ForwardFunc,
    Interactions,
    Settings,
    Thresholds,
    or_default,
    plain,
    plain_settings,
)
from interaction_monitor.state import preserved_rng
from interaction_monitor.stopping import StopRule

_WORST = 1e6  # of what has no bounds


class CallbackBase:
    """What the callbacks of all trainers have in common. `InteractionMonitor` says what the arguments are."""

    _refusal: ClassVar[type[Exception]] = ValueError  # what wrong arguments raise
    _every_n_steps: ClassVar[str] = "every_n_train_steps"

    def __init__(
        self,
        players: Players,
        *,
        probe: Probe | None = None,
        n_samples: int = 50,
        n_train_samples: int = 0,
        output: str | Output = "log_odds",
        forward_func: ForwardFunc | None = None,
        interactions: Interactions = "and-or",
        thresholds: Thresholds | None = None,
        every_n_epochs: int | Schedule | None = None,
        every_n_train_steps: int | Schedule | None = None,
        max_overhead: float | None = None,
        tracker: PhaseTracker | None = None,
        reference: Given | None = None,
        stop: StopRule | None = None,
        stop_on_onset: bool = False,
        patience: int | None = None,
        train_loss: str | None = None,
        test_loss: str | None = None,
        name: str = "interactions",
        on_error: OnError = "warn",
        seed: int = 0,
    ) -> None:
        with arguments_of(type(self).__name__, self._refusal):
            require(players=players, probe=probe, max_overhead=max_overhead, interactions=interactions)
            require(on_error=on_error, thresholds=thresholds, tracker=tracker, name=name, seed=seed)
            require(train_loss=train_loss, test_loss=test_loss)
            require_reference(reference)
            require_at_least(1, n_samples=n_samples)
            require_at_least(0, n_train_samples=n_train_samples)
            self.after_epochs, self.after_steps = schedules_of(
                every_n_epochs, every_n_train_steps, steps=self._every_n_steps
            )
            self.stop = rule_of(
                stop=stop,
                stop_on_onset=stop_on_onset,
                patience=patience,
                n_train_samples=n_train_samples,
                reference=reference,
            )
        self.players = players
        self.probe = probe
        self.n_samples = n_samples
        self.n_train_samples = n_train_samples
        self.settings = Settings(output, forward_func, interactions, or_default(thresholds))
        self.tracker = tracker or PhaseTracker()
        self.reference = reference
        self.losses = Losses(train_loss, test_loss)
        self.name = name
        self.faults = Faults(on_error, who=type(self).__name__)
        self.seed = seed
        self.budget = budget_of(max_overhead, every_n_epochs, every_n_train_steps)
        self._forget()

    def plot(self) -> Figure:
        """Draw what was measured so far on one page.

        Raises:
            ValueError: if nothing was measured yet.
        """
        return self._history.plot()

    def _repr_html_(self) -> str:
        return self._history._repr_html_()

    @property
    def _history(self) -> History:
        return History() if self.observer is None else self.observer.history

    def plain_settings(self) -> dict[str, Any]:
        """Return what decides what a measurement means, as plain values."""
        return {
            "players": plain(self.players),
            **plain_settings(self.settings),
            "reference": names_of(self.reference),
            "seed": self.seed,
        }

    def _forget(self) -> None:
        """Be as before any run."""
        self.observer: Observer | None = None
        self.stop_reason: str | None = None
        self._last_known: dict[str, float] = {}  # of each key that has had a value
        self.budget = self.budget.anew()
        self._drawn = 0  # measurements in the last picture
        self._forecast: Forecast | None = None  # until it is known whether measuring takes longer than training

    def _cost_at_start(self, observer: Observer, model: nn.Module, n_epochs: int | None) -> str | None:
        """Say what the measurements of a run of so many epochs will take; None where that is not known."""
        count = None if self.after_steps is not None else most_measurements(self.after_epochs, n_epochs)
        self._forecast = forecast(observer, model, (count, n_epochs) if count and n_epochs else None)
        return None if self._forecast is None else f"{self.name}: {self._forecast.at_start()}"

    def _cost_after_epoch(self) -> str | None:
        """Say once, after the first epoch, if measuring takes longer than training."""
        known, self._forecast = self._forecast, None
        if known is None or not len(self._history) or self.after_steps is not None:
            return None
        measured = self._history[-1].seconds
        text = known.after_epoch(trained=self.budget.trained(), measured=measured, budget=self.budget)
        return None if text is None else f"{self.name}: {text}"

    def _losses_now(
        self, metrics: Mapping[str, Any], ranks: Ranks, *, trained: bool
    ) -> tuple[float | None, float | None]:
        """Return both losses for a measurement, as `Losses.read`; warn once if one will not be known."""
        losses = self.losses.read(metrics, ranks)
        logged = [metric for metric in metrics if not metric.startswith(f"{self.name}/")]
        if missing := self.losses.missing_loss(logged, trained=trained):
            self.faults.warn_once("losses", missing)
        return losses

    def _affordable(self) -> bool:
        """Tell whether one more measurement is within the budget."""
        if self.budget.most is None or self.observer is None:
            return True
        # Each process has its own clock, and they must decide alike.
        return self.observer.ranks.of_first(self.budget.allows_another())

    def _warn_unless_it_can_stop(self, no_test_loss: str | None) -> None:
        """Warn of a rule that needs the validation loss where that can never be known, for the reason that is given."""
        if self.stop is not None and self.stop.needs_losses and no_test_loss is not None:
            self.faults.warn_once(
                "stop",
                f"{self.stop!r} can never stop this run: it needs the validation loss, {no_test_loss}, or give stop= a "
                "rule without losses, HighOrderGrowth() or OnsetPatience(5) say",
            )

    def _reason_to_stop(self) -> str | None:
        """Return the rule's sentence if the run should stop now; None if it should go on, or the rule failed."""
        reason = None
        if self.stop is not None and self.observer is not None:
            with self.faults.guard(f"the stop rule {type(self.stop).__name__}"), self.observer.ranks.together():
                reason = self.stop.sentence(self.observer.history)
        return reason

    def _scalars(self) -> dict[str, float]:
        """Return the latest measurement as it is logged: key to finite value."""
        history = self._history
        if not len(history):
            return {}
        share = {f"{self.name}/{loggers.COST}": self.budget.share()} if history[-1].step > 0 else {}
        return loggers.scalars(history, self.name) | share

    def _recall(self, history: History) -> None:
        """Know again the last value of each key, of a run that goes on."""
        self._last_known = {}
        if len(history):
            for seen in (*(History([row]) for row in history), history):
                self._last_known |= loggers.scalars(seen, self.name)

    def _offered(self, values: Mapping[str, float], monitored: Iterable[tuple[str, str]]) -> dict[str, float]:
        """Take in what a measurement gave, and return a value of each key that other callbacks may monitor, never NaN.

        Early stopping ends a run, or fails, where its key is missing or not finite, and so does what keeps the best
        checkpoint. So a key keeps the last value that was known between two measurements, and where one gives no
        number. A key that is monitored before there has been any has the worst that its mode allows: the first real
        one is better.

        Args:
            values: key to finite value; empty where nothing was measured.
            monitored: each key that is monitored, and in which direction it gets better, "min" or "max".
        """
        self._last_known |= values
        shown, n_players = dict(self._last_known), self.players.n_players
        for key, mode in monitored:
            if key in loggers.keys(self.name, n_players):
                shown.setdefault(key, worst(key.removeprefix(f"{self.name}/"), mode, n_players))
        return shown

    def _written(self) -> str:
        """Write the measurement that was just taken into the record, and return the line that tells of it."""
        assert self.observer is not None
        self.faults.last = None
        with self.faults.guard("writing the record"):
            self.observer.write_record()
        return console.line(self.observer.history, name=self.name, with_step=self.after_steps is not None)

    def _note(self, progress: Progress) -> None:
        """Write down how far the run has come, if there is a record. Only rank zero has it: a failure is only told."""
        if self.observer is not None and self.observer.record is not None:
            try:
                self.observer.record.note(progress)
            except OSError as error:
                self.faults.warn_once("progress", f"noting how far the run has come failed: {error}")

    def _draw_if_due(self, run_loggers: loggers.Loggers, *, step: int) -> None:
        """Draw the run so far where it has doubled since the last time; it counts as no part of the measurement."""
        observer = self.observer
        if observer is None or observer.ranks.rank != 0 or len(observer.history) == self._drawn:
            return
        if tensorboard.picture_due(len(observer.history)):
            self._drawn = len(observer.history)
            with preserved_rng(), self.budget.apart():
                run_loggers.draw(observer.history, ("story",), step=step)

    def _conclusion(self, step: int) -> list[str]:
        """Note that the run has come to its end, and say what it showed and where that is recorded."""
        said = [f"{self.name}: {console.verdict(self._history, failure=self.faults.last)}"]
        record = None if self.observer is None else self.observer.record
        if len(self._history) and record is not None:
            self._note(Progress(checkpoint=step, finished=True))
            gone = "" if is_record(record.folder) else ", but that folder has been removed since"
            said.append(f"{self.name}: recorded in {record.folder}{gone}")
        return said


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
    low, high = -_WORST, _WORST
    if key.endswith("_share"):
        low, high = 0.0, 1.0
    elif key.startswith(("mean_order", "order_")):
        low, high = 0.0, float(n_players)
    return low if mode == "max" else high
