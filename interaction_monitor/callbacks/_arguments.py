"""Refusing arguments of the callback that are out of their range, by name and with what to give instead."""

from __future__ import annotations

from lightning.fabric.utilities.exceptions import MisconfigurationException

from interaction_monitor.schedule import Every, Schedule
from interaction_monitor.stopping import StopRule, rule_of


def schedule_of(**argument: int | Schedule) -> Schedule:
    """Return the schedule that one argument gives: itself, or every so many."""
    (name, value), *_ = argument.items()
    if callable(value):
        return value
    require_at_least(1, **{name: value})
    return Every(value)


def require_at_least(least: int, **arguments: int) -> None:
    """Raise unless each argument is a whole number and at least so large."""
    for name, value in arguments.items():
        if not isinstance(value, int):
            raise MisconfigurationException(f"InteractionMonitor({name}={value!r}): give a whole number")
        if value < least:
            raise MisconfigurationException(f"InteractionMonitor({name}={value}): give at least {least}")


def require_share(**arguments: float | None) -> None:
    """Raise unless each argument is None or a share, above zero and at most one."""
    for name, value in arguments.items():
        if value is not None and not 0 < value <= 1:
            raise MisconfigurationException(
                f"InteractionMonitor({name}={value}): give a share above 0 and up to 1, such as 0.05, or None"
            )


def require_one_of(choices: tuple[str, ...], **arguments: str) -> None:
    """Raise unless each argument is among the choices."""
    for name, value in arguments.items():
        if value not in choices:
            raise MisconfigurationException(f"InteractionMonitor({name}={value!r}): give one of {choices}")


def require_rule(*, stop: StopRule | None, stop_on_onset: bool, patience: int | None) -> StopRule | None:
    """Return the stop rule that the arguments ask for; raise where there are two, or something else than a rule."""
    if stop is not None and not isinstance(stop, StopRule):
        raise MisconfigurationException(
            f"InteractionMonitor(stop={stop!r}): give a rule of interaction_monitor.stopping, HighOrdersAndGap() say"
        )
    try:
        return rule_of(stop=stop, stop_on_onset=stop_on_onset, patience=patience)
    except ValueError as error:
        raise MisconfigurationException(f"InteractionMonitor: {error}") from error
