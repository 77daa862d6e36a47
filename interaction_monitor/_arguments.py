"""Refusing arguments of the callback that are out of their range, by name and with what to give instead."""

from __future__ import annotations

from lightning.fabric.utilities.exceptions import MisconfigurationException

from interaction_monitor.schedule import Every, Schedule


def schedule_of(**argument: int | Schedule) -> Schedule:
    """Return the schedule that one argument gives: itself, or every so many."""
    (name, value), *_ = argument.items()
    if callable(value):
        return value
    require_at_least(1, **{name: value})
    return Every(value)


def require_at_least(least: int, **arguments: int) -> None:
    """Raise unless each argument is at least so large."""
    for name, value in arguments.items():
        if value < least:
            raise MisconfigurationException(f"InteractionMonitor({name}={value}): give at least {least}")


def require_above_zero(**arguments: float | None) -> None:
    """Raise unless each argument is None or above zero."""
    for name, value in arguments.items():
        if value is not None and not value > 0:
            raise MisconfigurationException(f"InteractionMonitor({name}={value}): give more than 0, or None")


def require_one_of(choices: tuple[str, ...], **arguments: str) -> None:
    """Raise unless each argument is among the choices."""
    for name, value in arguments.items():
        if value not in choices:
            raise MisconfigurationException(f"InteractionMonitor({name}={value!r}): give one of {choices}")
