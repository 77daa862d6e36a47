"""Showing how far something has come that takes longer than a moment, beside whatever bars others show.

What may take long says `with progress("masked forwards", 51200) as at:`, and `at(1024)` when so many are done. After
two seconds there is a bar, in a terminal or a notebook; nothing is written where the output goes into a file. Who has a
display already gives it by `shown_by`: the bars of a trainer, or none where those are off.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any, Protocol, TextIO, TypeVar

from interaction_monitor._checks import is_a
from interaction_monitor.distributed import Ranks

log = logging.getLogger(__name__)

T = TypeVar("T")

DELAY = 2.0  # seconds without a bar
_IN_TERMINAL = ("TQDMProgressBar", "RichProgressBar")  # the latter while it shows nothing yet
_OURS = "interaction_monitor"


class Bar(Protocol):
    """What is shown: tqdm's bars are such, and whatever else can be told how far something has come."""

    def update(self, n: int) -> Any:
        """So much more is done."""

    def close(self) -> Any:
        """It is over, and need not be shown any more."""


OpenBar = Callable[[str, int], Bar | None]  # of what, and of how many; None shows nothing


def terminal_bar(what: str, total: int, *, file: TextIO | None = None) -> Bar | None:
    """Open a bar of tqdm's below those that are open; None where nobody would see it move.

    Args:
        what: what is done.
        total: how many there are to do.
        file: where it is shown; None means the standard error.

    Returns:
        The bar, which goes away when it is closed. `TQDM_DISABLE=1` in the environment shows none.
    """
    file = file or sys.stderr
    in_notebook = hasattr(getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)(), "kernel")
    if not (in_notebook or file.isatty()):
        return None
    if find_spec("ipywidgets") is None:  # without them tqdm's own choice warns
        from tqdm import tqdm
    else:
        from tqdm.auto import tqdm

    class _Bar(tqdm):  # type: ignore[misc]  # tqdm is untyped
        monitor_interval = 0  # no thread of its own beside a training

    bar: Bar = _Bar(desc=what, total=total, leave=False, file=file, dynamic_ncols=True, unit_scale=total >= 10_000)
    return bar


_open: ContextVar[OpenBar] = ContextVar("open", default=terminal_bar)


@contextmanager
def shown_by(open_bar: OpenBar) -> Iterator[None]:
    """Show what is done inside the block by bars of another kind."""
    token = _open.set(open_bar)
    try:
        yield
    finally:
        _open.reset(token)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how far the block has come, if it takes longer than two seconds.

    Args:
        what: what is done, in a word or two.
        total: how many there are to do.

    Yields:
        What takes how many are done by now. It never fails: a bar that cannot be drawn is no reason to stop.

    Examples:
        >>> with progress("squares", 3) as at:
        ...     for number in range(3):
        ...         at(number + 1)
    """
    with closing(_Shown(what, total)) as shown:
        yield shown.at


def counted(what: str, items: Sequence[T]) -> Iterator[T]:
    """Give one thing after the other, and show how many have been, as `progress` does.

    Examples:
        >>> [number**2 for number in counted("squares", range(3))]
        [0, 1, 4]
    """
    with progress(what, len(items)) as at:
        for done, item in enumerate(items, start=1):
            yield item
            at(done)


class _Shown:
    """A bar that is opened when it is first needed, by the first process only; one that fails is given up."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._begun, self._done = time.monotonic(), 0
        self._bar: Bar | None = None
        self._opened = False

    def at(self, done: int) -> None:
        if time.monotonic() - self._begun <= DELAY:
            return
        with self._giving_up():
            if not self._opened:
                self._opened = True
                self._bar = _open.get()(self._what, self._total) if Ranks.of_this_run().rank == 0 else None
            if self._bar is not None:
                self._bar.update(done - self._done)
                self._done = done

    def close(self) -> None:
        with self._giving_up():
            if self._bar is not None:
                self._bar.close()

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            log.info("progress cannot be shown: %s: %s", type(error).__name__, error)
            self._bar = None


def lightning_bars(trainer: Any, name: str) -> OpenBar:
    """Return what shows how far something has come beside a Lightning trainer's own bars, or nowhere without these."""

    def open_bar(what: str, total: int) -> Bar | None:
        bar: Any = trainer.progress_bar_callback
        if bar is None or not getattr(bar, "is_enabled", False):
            return None
        display = getattr(bar, "progress", None)
        if is_a(bar, "RichProgressBar") and display is not None and display.live.is_started:
            return RichBar(bar, f"{name}: {what}", total)
        return terminal_bar(f"{name}: {what}", total, file=sys.stdout) if is_a(bar, *_IN_TERMINAL) else None

    return open_bar


def transformers_bars(args: Any, name: str) -> OpenBar:
    """Return what shows it below the bars of a trainer of `transformers`, or nowhere where those are off."""
    return lambda what, total: None if args.disable_tqdm else terminal_bar(f"{name}: {what}", total)


class RichBar:
    """A line of its own in the display of Lightning's bar for Rich, which nothing else may write to."""

    def __init__(self, bar: Any, what: str, total: int) -> None:
        self._bar = bar
        # Lightning finds its lines by their place, so none is ever taken away: the last one is shown again.
        ours = [task.id for task in bar.progress.tasks if task.fields.get(_OURS)]
        if ours:
            self._line = ours[-1]
            bar.progress.reset(self._line, description=what, total=total, visible=True)
        else:
            self._line = bar.progress.add_task(what, total=total, **{_OURS: True})

    def update(self, n: int) -> None:
        """So much more is done."""
        self._bar.progress.update(self._line, advance=n)
        self._bar.refresh()

    def close(self) -> None:
        """Hide the line."""
        self._bar.progress.update(self._line, visible=False)
        self._bar.refresh()


def say(trainer: Any, *texts: str | None) -> None:
    """Print lines, on rank zero only, without tearing a Lightning trainer's bar apart; None is nothing to say."""
    if not trainer.is_global_zero:
        return
    bar = trainer.progress_bar_callback
    for text in texts:
        if text is not None and is_a(bar, "TQDMProgressBar"):
            from tqdm import tqdm

            show(text, by=tqdm.write)  # the callback's own method drops what comes while none of its bars is shown
        elif text is not None:
            show(text, by=print if bar is None else bar.print)


def show(text: str, *, by: Callable[[str], object] = print) -> None:
    """Print a line; where nobody can read it any more, since a pipe is closed or a disk full, no run ends by that."""
    try:
        by(text)
    except Exception as error:
        log.debug("not shown: %s (%s: %s)", text, type(error).__name__, error)
