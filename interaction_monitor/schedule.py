"""When to measure: after which epochs or steps, how much of the training time it may take, and what it will take."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from interaction_monitor.cost import Cost, cost_of, duration
from interaction_monitor.distributed import is_split
from interaction_monitor.observer import Observer

log = logging.getLogger(__name__)

Schedule = Callable[[int], bool]


@dataclass(frozen=True)
class Every:
    """Measure after each so many epochs or steps.

    Args:
        interval: how many.

    Examples:
        >>> [n for n in range(1, 10) if Every(3)(n)]
        [3, 6, 9]
    """

    interval: int

    def __call__(self, count: int) -> bool:
        """Tell whether to measure after `count` epochs or steps."""
        return count % self.interval == 0


@dataclass(frozen=True)
class LogSpaced:
    """Measure often at first, when most happens, and ever less often: evenly on a logarithmic axis.

    Args:
        per_doubling: measurements while the number of epochs (or steps) doubles. With 4, a run of 1,000
            epochs has 32 measurements.

    Raises:
        ValueError: if it is less than one.

    Examples:
        >>> [n for n in range(1, 50) if LogSpaced(2)(n)]
        [1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45]
    """

    per_doubling: int = 4

    def __post_init__(self) -> None:
        if self.per_doubling < 1:
            raise ValueError(f"per_doubling={self.per_doubling} must be at least 1")

    def __call__(self, count: int) -> bool:
        """Tell whether to measure after `count` epochs or steps."""
        nearest = round(self.per_doubling * math.log2(count))
        return round(2 ** (nearest / self.per_doubling)) == count


# With half of the measurements these find every onset of the stored runs that measuring each epoch finds; every second
# epoch, as many, loses a third of them (see the page on the gallery in the documentation).
DEFAULT = LogSpaced()
DEFAULT_SHARE = 1.0
DEFAULT_SPARED = 20


class Budget:
    """Keeps account of the time spent on measuring, as a share of the time spent on training.

    Args:
        most: the largest share that is allowed, for example 0.05; None allows any.
        spared: how many measurements are never put off, whatever they take.
        clock: gives the time in seconds.

    Attributes:
        spent: seconds of finished measurements.

    Examples:
        >>> now = iter([0.0, 0.0, 2.0, 30.0, 60.0])  # a measurement of 2 s at the start, a look at 30 and at 60 s
        >>> budget = Budget(0.1, clock=lambda: next(now))
        >>> budget.start()
        >>> with budget.measuring():
        ...     pass
        >>> budget.allows_another(), budget.allows_another()
        (False, True)
    """

    def __init__(self, most: float | None, *, spared: int = 0, clock: Callable[[], float] = time.perf_counter) -> None:
        self.most = most
        self.spared = spared
        self.spent = 0.0
        self._taken = 0
        self._clock = clock
        self._started: float | None = None
        self._earlier = 0.0  # seconds before the run was resumed, measuring included
        self._measuring_since: float | None = None
        self._last = 0.0

    def anew(self) -> Budget:
        """Return an empty account with the same limits."""
        return Budget(self.most, spared=self.spared, clock=self._clock)

    def start(self) -> None:
        """Begin to count, where training begins."""
        self._started = self._clock()

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Count the body as measuring, also if it fails."""
        self._measuring_since = self._clock()
        try:
            yield
        finally:
            self._last = self._clock() - self._measuring_since
            self._measuring_since = None
            self.spent += self._last
            self._taken += 1

    def trained(self) -> float:
        """Return the seconds since the start that were not spent on measuring."""
        return self._elapsed(self._clock()) - self.spent

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Count the body's time as measuring, but not as a measurement."""
        began = self._clock()
        try:
            yield
        finally:
            self.spent += self._clock() - began

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Count the body's time, in which pictures are drawn say, neither as measuring nor as training."""
        began = self._clock()
        try:
            yield
        finally:
            if self._started is not None:
                self._started += self._clock() - began

    def share(self) -> float:
        """Return the time of all measurements, the present one included, per time of training."""
        now = self._clock()
        spent = self.spent + (0.0 if self._measuring_since is None else now - self._measuring_since)
        trained = self._elapsed(now) - spent
        return spent / trained if trained > 0 else 0.0

    def allows_another(self) -> bool:
        """Tell whether one more measurement, as long as the last, would keep the share below the limit."""
        if self.most is None or self._taken < self.spared:
            return True
        return self.spent + self._last <= self.most * self.trained()

    def state_dict(self) -> dict[str, float]:
        """Return the account as plain numbers."""
        return {"elapsed": self._elapsed(self._clock()), "spent": self.spent, "last": self._last, "taken": self._taken}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on with the account of an interrupted run; time in between does not count."""
        self._earlier, self.spent, self._last = state["elapsed"], state["spent"], state["last"]
        self._taken = int(state.get("taken", 0))  # earlier versions did not count them

    def _elapsed(self, now: float) -> float:
        return self._earlier + (0.0 if self._started is None else now - self._started)


def budget_of(max_overhead: float | None, *given: int | Schedule | None) -> Budget:
    """Return the account of a run, by what its user said of schedule and budget.

    Args:
        max_overhead: the limit that was given, if any.
        given: the schedules that were given, if any.

    Returns:
        The limit that was given; where a schedule alone was given, no limit; where nothing was, measuring takes as long
        as training at most, of which the first measurements, where most happens, are spared.

    Examples:
        >>> budget_of(0.05, None).most, budget_of(None, 5).most, budget_of(None, None).most
        (0.05, None, 1.0)
    """
    if max_overhead is not None or any(schedule is not None for schedule in given):
        return Budget(max_overhead)
    return Budget(DEFAULT_SHARE, spared=DEFAULT_SPARED)


def most_measurements(schedule: Schedule, n_epochs: int | None) -> int | None:
    """Count the measurements of a run, its start and its end included.

    Args:
        schedule: of epochs. A function of the user's is not called for this.
        n_epochs: of the run; None where it is not known.

    Returns:
        How many; None where that is not known.

    Examples:
        >>> most_measurements(Every(3), 10), most_measurements(LogSpaced(4), 60)
        (5, 21)
    """
    if n_epochs is None or n_epochs < 1 or not isinstance(schedule, (Every, LogSpaced)):
        return None
    return len({0, n_epochs} | {epoch for epoch in range(1, n_epochs + 1) if schedule(epoch)})


# Fewer forwards take no longer than to time them.
_WORTHWHILE = 1024
_BRIEF = 5.0  # seconds of all measurements of a run that nobody minds
_CHEAPER = 0.5  # of the present cost; two players less should make it a quarter, and timings are noisy


@dataclass(frozen=True)
class Forecast:
    """What the measurements of a run will take, and how to say so."""

    cost: Cost
    with_fewer: Cost | None  # with two players less; None where there are too few to do without
    planned: tuple[int, int] | None = None  # measurements at most, in so many epochs; None where that is not known

    def at_start(self) -> str:
        """Say it before the first measurement."""
        count = 0 if self.planned is None else self.planned[0]
        number = f", {count} of them at most {duration(count * self.cost.seconds)}" if count else ""
        return (
            f"a measurement takes about {duration(self.cost.seconds)}{number} ({self.cost.forwards:,} masked forwards "
            f"{duration(self.cost.forward_seconds)}, extraction {duration(self.cost.extraction_seconds)})"
        )

    def after_epoch(self, *, trained: float, measured: float, budget: Budget) -> str | None:
        """Say what helps where the run will be measured for longer than trained; None where it will not, or is short.

        Args:
            trained: seconds of the first epoch.
            measured: seconds of a measurement.
            budget: what puts measurements off.
        """
        count, epochs = self.planned or (1, 1)
        if trained <= 0 or count * measured <= max(epochs * trained, _BRIEF if self.planned else 0.1):
            return None
        text = f"an epoch of training takes {duration(trained)}, a measurement {duration(measured)}"
        if self.planned is not None:
            unit = "epoch" if epochs == 1 else "epochs"
            text += f"; {count} of these {duration(count * measured)}, {epochs} {unit} {duration(epochs * trained)}"
        if self.with_fewer is not None and self.with_fewer.seconds <= _CHEAPER * self.cost.seconds:
            fewer = measured * self.with_fewer.seconds / self.cost.seconds
            text += f"; n_players={self.with_fewer.n_players} makes a measurement about {duration(fewer)}"
        if budget.most is not None and (self.planned is None or count > budget.spared):
            first = f"after the first {budget.spared} they" if budget.spared else "they"
            text += f"; {first} are put off to keep max_overhead={budget.most:g}"
        return text


def forecast(observer: Observer, model: nn.Module, planned: tuple[int, int] | None = None) -> Forecast | None:
    """Estimate what a measurement takes, from a few forwards and a small extraction.

    Args:
        observer: what is to be measured, and how.
        model: the module.
        planned: measurements at most, in so many epochs.

    Returns:
        The estimate; None for a network in parts, where there is too little to measure, or where the trial fails.
    """
    n, n_samples = observer.players.n_players, len(observer.probe)
    if observer.train is not None:
        n_samples += len(observer.train[0])
    if n_samples << n < _WORTHWHILE or is_split(model):  # one process alone cannot run a model in parts
        return None
    try:
        # What there is to warn of, the measurement itself warns of.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            costs = cost_of(
                model,
                observer.probe,
                observer.players,
                observer.settings,
                n_players=(n, n - 2) if n >= 6 else (n,),
                n_samples=n_samples,
                n_processes=observer.ranks.size,
            )
    except Exception as error:
        log.info("what a measurement takes is not known: %s: %s", type(error).__name__, error)
        return None
    return Forecast(costs[0], costs[1] if len(costs) > 1 else None, planned)
