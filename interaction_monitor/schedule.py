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

    Example:
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

    Example:
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


class Budget:
    """Keeps account of the time spent on measuring, as a share of the time spent on training.

    Args:
        most: the largest share that is allowed, for example 0.05; None allows any.
        clock: gives the time in seconds.

    Attributes:
        spent: seconds of finished measurements.

    Example:
        >>> now = iter([0.0, 0.0, 2.0, 30.0, 60.0])  # a measurement of 2 s at the start, a look at 30 and at 60 s
        >>> budget = Budget(0.1, clock=lambda: next(now))
        >>> budget.start()
        >>> with budget.measuring():
        ...     pass
        >>> budget.allows_another(), budget.allows_another()
        (False, True)
    """

    def __init__(self, most: float | None, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.most = most
        self.spent = 0.0
        self._clock = clock
        self._started: float | None = None
        self._earlier = 0.0  # seconds before the run was resumed, measuring included
        self._measuring_since: float | None = None
        self._last = 0.0

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

    def share(self) -> float:
        """Return the time of all measurements, the present one included, per time of training."""
        now = self._clock()
        spent = self.spent + (0.0 if self._measuring_since is None else now - self._measuring_since)
        trained = self._elapsed(now) - spent
        return spent / trained if trained > 0 else 0.0

    def allows_another(self) -> bool:
        """Tell whether one more measurement, as long as the last, would keep the share below the limit."""
        if self.most is None:
            return True
        return self.spent + self._last <= self.most * (self._elapsed(self._clock()) - self.spent)

    def state_dict(self) -> dict[str, float]:
        """Return the account as plain numbers."""
        return {"elapsed": self._elapsed(self._clock()), "spent": self.spent, "last": self._last}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on with the account of an interrupted run; time in between does not count."""
        self._earlier, self.spent, self._last = state["elapsed"], state["spent"], state["last"]

    def _elapsed(self, now: float) -> float:
        return self._earlier + (0.0 if self._started is None else now - self._started)
