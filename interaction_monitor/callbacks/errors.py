"""What is refused before a run begins, and what fails inside a measurement and must not end somebody's training."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from lightning_utilities.core.rank_zero import rank_zero_warn

from interaction_monitor.measurement import NoValidSamplesError

OnError = Literal["warn", "raise"]


class RefusedError(ValueError):
    """An argument is no use; the message is its name and value, and what to give instead."""

    def __init__(self, name: str, value: Any, instead: str) -> None:
        shown = repr(value)
        if len(shown) > 100 or "\n" in shown:
            shown = f"<{type(value).__name__}>"
        super().__init__(f"({name}={shown}): give {instead}")


@contextmanager
def arguments_of(who: str, kind: type[Exception]) -> Iterator[None]:
    """Raise what is refused in the body by the class of the callback, as the kind of error that its trainer knows."""
    try:
        yield
    except RefusedError as refused:
        raise kind(f"{who}{refused}") from None


class Faults:
    """What happens when something inside the monitor fails: one warning for each kind, or the exception itself.

    Args:
        on_error: "warn" or "raise".
        who: the class that the user knows, which begins each warning.

    Attributes:
        last: what failed last, as text; None if nothing has.

    Examples:
        >>> import warnings
        >>> faults = Faults("warn")
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     for _ in range(2):
        ...         with faults.guard("the measurement"):
        ...             raise OSError("disk full")
        >>> len(caught)
        1
    """

    def __init__(self, on_error: OnError, *, who: str = "InteractionMonitor") -> None:
        self.on_error = on_error
        self.who = who
        self.last: str | None = None
        self._warned: set[str] = set()

    @contextmanager
    def guard(self, what: str, *, through: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Run the body; if it fails, warn and go on behind it, unless failures are to be raised.

        Samples that are all invalid are only ever warned about. `KeyboardInterrupt` and the like pass through.

        Args:
            what: the body in a word or two, for the message.
            through: failures that are raised all the same.
        """
        try:
            yield
        except NoValidSamplesError as error:
            self.last = str(error)
            self.warn_once("no valid samples", f"{what} is skipped: {error}")
        except Exception as error:
            if self.on_error == "raise" or isinstance(error, through):
                raise
            self.last = f"{what} failed: {type(error).__name__}: {error}"
            place = traceback.extract_tb(error.__traceback__)[-1]
            self.warn_once(
                f"{type(error).__name__} at {place.filename}:{place.lineno}",
                f"{what} failed and training goes on: {type(error).__name__}: {error} "
                f"({place.filename}:{place.lineno}); on_error='raise' would stop here",
            )

    def warn_once(self, kind: str, message: str) -> None:
        """Warn, unless a warning of this kind has been given before."""
        if kind not in self._warned:
            self._warned.add(kind)
            rank_zero_warn(f"{self.who}: {message}")
