"""Refusing arguments of the callbacks that are no use, by name and with what to give instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from interaction_monitor.phases import PhaseTracker
from interaction_monitor.players import Players
from interaction_monitor.probe import Probe
from interaction_monitor.reference.sources import refusal
from interaction_monitor.schedule import DEFAULT, Every, Schedule
from interaction_monitor.settings import Thresholds
from interaction_monitor.stopping import HighOrdersAndGap, OnsetPatience, StopRule


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


def schedule_of(**argument: int | Schedule) -> Schedule:
    """Return the schedule that one argument gives: itself, or every so many."""
    (name, value), *_ = argument.items()
    if isinstance(value, type):
        raise RefusedError(name, value, f"a schedule, {value.__name__}() say, and not its class")
    if callable(value):
        return value
    require_at_least(1, **{name: value})
    return Every(value)


def schedules_of(
    every_n_epochs: int | Schedule | None, **steps: int | Schedule | None
) -> tuple[Schedule, Schedule | None]:
    """Return the schedule over epochs, and the one over steps, under its own name, where that counts instead."""
    (name, every_n_steps), *_ = steps.items()
    if every_n_steps is None:
        return schedule_of(every_n_epochs=DEFAULT if every_n_epochs is None else every_n_epochs), None
    if every_n_epochs is not None:
        raise RefusedError("every_n_epochs", every_n_epochs, f"either every_n_epochs= or {name}=, not both")
    return Every(1), schedule_of(**{name: every_n_steps})


def require_at_least(least: int, **arguments: int) -> None:
    """Raise unless each argument is a whole number and at least so large."""
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise RefusedError(name, value, "a whole number")
        if value < least:
            raise RefusedError(name, value, f"at least {least}")


def require_share(**arguments: float | None) -> None:
    """Raise unless each argument is None or a share, above zero and at most one."""
    for name, value in arguments.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise RefusedError(name, value, "a share above 0 and up to 1, such as 0.05, or None")


def require_one_of(choices: tuple[str, ...], **arguments: str) -> None:
    """Raise unless each argument is among the choices."""
    for name, value in arguments.items():
        if value not in choices:
            raise RefusedError(name, value, f"one of {choices}")


def require_players(players: Players) -> None:
    """Raise unless these are a kind of players."""
    if not isinstance(players, Players):
        raise RefusedError("players", players, 'a kind of players, such as FeaturePatches(layer="features.1")')


def require_probe(probe: Probe | None, *, optional: bool = False) -> None:
    """Raise unless this is a probe, or None where it may be left out."""
    if not (isinstance(probe, Probe) or (optional and probe is None)):
        raise RefusedError("probe", probe, "Probe(inputs, targets) or Probe.from_loader(loader)")


def require_thresholds(thresholds: Thresholds | None) -> None:
    """Raise unless these are thresholds or None."""
    if not (thresholds is None or isinstance(thresholds, Thresholds)):
        raise RefusedError("thresholds", thresholds, "Thresholds(...) of interaction_monitor.measurement, or None")


def require_tracker(tracker: PhaseTracker | None) -> None:
    """Raise unless this works as a tracker or is None."""
    if isinstance(tracker, type) or not (tracker is None or callable(getattr(tracker, "update", None))):
        raise RefusedError("tracker", tracker, "PhaseTracker(...) of interaction_monitor.phases, or None")


def require_reference(reference: object) -> None:
    """Raise unless this is one source of a reference or several, or None."""
    given = reference if isinstance(reference, (list, tuple)) else [reference]
    if not len(given):
        raise RefusedError("reference", reference, "at least one, or None")
    for source in given:
        if source is not None and (instead := refusal(source, alone=len(given) == 1)) is not None:
            raise RefusedError("reference", source, instead)


def require_seed(seed: int) -> None:
    """Raise unless this is a whole number."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise RefusedError("seed", seed, "a whole number")


def require_metrics(**names: str | None) -> None:
    """Raise unless each argument is the name of a logged metric, or None."""
    for name, value in names.items():
        if not (value is None or (isinstance(value, str) and value)):
            raise RefusedError(name, value, "the name of a logged metric, such as 'loss', or None")


def require_name(name: str) -> None:
    """Raise unless the name is that of one folder, which lies within another."""
    if not isinstance(name, str) or not name.strip() or name == "." or any(part in name for part in ("/", "\\", "..")):
        raise RefusedError("name", name, "a plain name without '/', '\\' and '..', such as 'interactions'")


def require_shared(
    *,
    players: Players,
    max_overhead: float | None,
    interactions: str,
    on_error: str,
    thresholds: Thresholds | None,
    tracker: PhaseTracker | None,
    train_loss: str | None,
    test_loss: str | None,
    name: str,
    seed: int,
) -> None:
    """Raise unless the arguments that all callbacks take, under the same names, are of use."""
    require_players(players)
    require_share(max_overhead=max_overhead)
    require_one_of(("and-or", "and"), interactions=interactions)
    require_one_of(("warn", "raise"), on_error=on_error)
    require_thresholds(thresholds)
    require_tracker(tracker)
    require_metrics(train_loss=train_loss, test_loss=test_loss)
    require_name(name)
    require_seed(seed)


def rule_of(
    *,
    stop: StopRule | None,
    stop_on_onset: bool,
    patience: int | None,
    n_train_samples: int | None = None,
    reference: object = None,
) -> StopRule | None:
    """Return the stop rule that the arguments ask for; raise where that is unclear, or can never stop a run.

    Args:
        stop: a rule, or None.
        stop_on_onset: whether to stop by the rule that did best, without naming one.
        patience: with `stop_on_onset`, how many measurements to wait after the onset is known instead.
        n_train_samples: how many training samples are measured; None where the callback cannot measure any.
        reference: what the run is laid beside; None where there is nothing.

    Returns:
        The rule; None lets the run go on to its end.

    Example:
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
        if n_train_samples is None:
            raise RefusedError(
                "stop", stop, "another rule; this one needs training samples, which are not measured here"
            )
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
