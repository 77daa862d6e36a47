"""What is refused or warned of before a run begins, and what fails inside a measurement and must not end a training."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from lightning_utilities.core.rank_zero import rank_zero_warn

from interaction_monitor._checks import is_number, is_whole
from interaction_monitor.losses import Losses
from interaction_monitor.measurement import NoValidSamplesError
from interaction_monitor.players import Players
from interaction_monitor.probe import Probe
from interaction_monitor.reference.sources import Given, listed, refusal
from interaction_monitor.schedule import DEFAULT, Every, Schedule
from interaction_monitor.settings import Thresholds
from interaction_monitor.stopping import HighOrdersAndGap, OnsetPatience, StopRule

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from transformers import TrainerState, TrainingArguments

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


def _is_folder(value: Any) -> bool:
    """Tell whether a name is that of one folder, which lies within another."""
    return isinstance(value, str) and value.strip() not in ("", ".") and not any(p in value for p in ("/", "\\", ".."))


_METRIC = (lambda value: isinstance(value, str) and bool(value), "the name of a logged metric, such as 'loss', or None")
# Which values an argument takes, and what to give instead of others.
_FITTING: dict[str, tuple[Callable[[Any], bool], str]] = {
    "players": (
        lambda value: isinstance(value, Players),
        'a kind of players, such as FeaturePatches(layer="features.1")',
    ),
    "probe": (lambda value: isinstance(value, Probe), "Probe(inputs, targets) or Probe.from_loader(loader)"),
    "interactions": (lambda value: value in ("and-or", "and"), "one of ('and-or', 'and')"),
    "thresholds": (lambda value: isinstance(value, Thresholds), "Thresholds(...) of interaction_monitor, or None"),
    "max_overhead": (
        lambda value: is_number(value) and 0 < value <= 1,
        "a share above 0 and up to 1, such as 0.05, or None",
    ),
    "tracker": (
        lambda value: not isinstance(value, type) and callable(getattr(value, "update", None)),
        "PhaseTracker(...) of interaction_monitor.phases, or None",
    ),
    "train_loss": _METRIC,
    "test_loss": _METRIC,
    "name": (_is_folder, "a plain name without '/', '\\' and '..', such as 'interactions'"),
    "on_error": (lambda value: value in ("warn", "raise"), "one of ('warn', 'raise')"),
    "seed": (is_whole, "a whole number"),
}
_MAY_BE_NONE = ("probe", "thresholds", "max_overhead", "tracker", "train_loss", "test_loss")


def require(**arguments: Any) -> None:
    """Raise unless each argument, which all callbacks take under this name, is of use.

    Examples:
        >>> require(name="interactions", seed="3")
        Traceback (most recent call last):
        ...
        interaction_monitor.callbacks.errors.RefusedError: (seed='3'): give a whole number
    """
    for name, value in arguments.items():
        fits, instead = _FITTING[name]
        if not (fits(value) or (value is None and name in _MAY_BE_NONE)):
            raise RefusedError(name, value, instead)


def require_reference(reference: Given | None) -> None:
    """Raise unless this is one source of a reference or several, or None."""
    given = () if reference is None else listed(reference)
    if reference is not None and not given:
        raise RefusedError("reference", reference, "at least one, or None")
    for source in given:
        if (instead := refusal(source, alone=len(given) == 1)) is not None:
            raise RefusedError("reference", source, instead)


def require_at_least(least: int, **arguments: int) -> None:
    """Raise unless each argument is a whole number and at least so large."""
    for name, value in arguments.items():
        if not is_whole(value):
            raise RefusedError(name, value, "a whole number")
        if value < least:
            raise RefusedError(name, value, f"at least {least}")


def schedules_of(
    every_n_epochs: int | Schedule | None, every_n_steps: int | Schedule | None, *, steps: str
) -> tuple[Schedule, Schedule | None]:
    """Return the schedule over epochs, and the one over steps, which a callback calls `steps`, where that counts."""
    if every_n_steps is None:
        return _schedule_of("every_n_epochs", DEFAULT if every_n_epochs is None else every_n_epochs), None
    if every_n_epochs is not None:
        raise RefusedError("every_n_epochs", every_n_epochs, f"either every_n_epochs= or {steps}=, not both")
    return Every(1), _schedule_of(steps, every_n_steps)


def _schedule_of(name: str, value: int | Schedule) -> Schedule:
    if isinstance(value, type):
        raise RefusedError(name, value, f"a schedule, {value.__name__}() say, and not its class")
    if callable(value):
        return value
    require_at_least(1, **{name: value})
    return Every(value)


def rule_of(
    *,
    stop: StopRule | None,
    stop_on_onset: bool,
    patience: int | None,
    n_train_samples: int = 0,
    reference: object = None,
) -> StopRule | None:
    """Return the stop rule that a callback's arguments ask for, if any; raise where it is unclear, or can never stop.

    Examples:
        >>> rule_of(stop=None, stop_on_onset=True, patience=None)
        HighOrdersAndGap(regained=0.1, gap=0.05, measurements=2, patience=2)
        >>> rule_of(stop=None, stop_on_onset=True, patience=5)
        OnsetPatience(measurements=5)
    """
    if stop is not None and not isinstance(stop, StopRule):
        raise RefusedError("stop", stop, "a rule of interaction_monitor.stopping, HighOrdersAndGap() say")
    if not isinstance(stop_on_onset, bool):
        raise RefusedError("stop_on_onset", stop_on_onset, "True or False")
    if patience is not None:
        require_at_least(0, patience=patience)
    if stop is not None and stop.needs_train_samples and not n_train_samples:
        raise RefusedError("stop", stop, "n_train_samples=50 too, say; this rule needs n_train_samples=")
    if stop is not None and stop.needs_reference and reference is None:
        raise RefusedError("stop", stop, "reference= too; this rule looks at what references have too")
    if stop is not None and (stop_on_onset or patience is not None):
        raise RefusedError("stop", stop, "neither stop_on_onset nor patience beside it; it is a rule by itself")
    if patience is not None and not stop_on_onset:
        raise RefusedError("patience", patience, "stop_on_onset=True too; without it patience does nothing")
    if not stop_on_onset:
        return stop
    return HighOrdersAndGap() if patience is None else OnsetPatience(patience)


def no_validation_loss(trainer: pl.Trainer, losses: Losses) -> str | None:
    """Say why the validation loss can never be known, and what to do; None where it may come to be."""
    if not trainer.enable_validation:
        return "and this run has no validation; give a validation loader and log val_loss in validation_step"
    if losses.tried is not None and not losses.knows_test_loss(losses.tried):
        names = " or ".join(losses.test_names[:2])
        return (
            f"and the sanity check of the validation logged {sorted(losses.tried) or 'nothing'}, but no {names}; log "
            "it in validation_step, give its name as test_loss="
        )
    return None


def no_evaluation_loss(args: TrainingArguments, state: TrainerState) -> str | None:
    """Say why the loss of an evaluation can never be known, and what to do; None where it may come to be."""
    by_steps = args.eval_strategy == "steps" and args.eval_steps is not None and args.eval_steps > state.max_steps > 0
    if args.eval_strategy != "no" and not by_steps:
        return None
    why = f"eval_steps={args.eval_steps} is more than the run has" if by_steps else "eval_strategy is 'no'"
    return f"and this run has no evaluation ({why}); give eval_dataset= and eval_strategy='epoch'"


class Faults:
    """What happens when something inside the monitor fails: one warning for each kind, or the exception itself.

    Args:
        on_error: "warn" or "raise".
        who: the class that the user knows, which begins each warning.

    Attributes:
        last: what failed last, as text; None if nothing has since the last measurement.

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
        """Run the body; if it fails, warn and go on after it, unless failures are to be raised.

        Samples that are all invalid are only ever warned about. `KeyboardInterrupt` and the like pass through, and so
        do the failures that are named.
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
