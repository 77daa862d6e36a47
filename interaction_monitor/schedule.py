"""When to measure: after which epochs or steps, and how much of the training time it may take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
        return self.spent + self._last <= self.most * (self._elapsed(self._clock()) - self.spent)

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
