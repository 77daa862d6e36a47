"""Watch the AND/OR interactions a neural network learns, order by order, while it trains."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interaction_monitor.callbacks.lightning import InteractionMonitor
    from interaction_monitor.forward import assign_players, masked_outputs
    from interaction_monitor.measurement import Measurement, interpret, measure
    from interaction_monitor.observer import Observer
    from interaction_monitor.phases import PhaseTracker
    from interaction_monitor.probe import Probe
    from interaction_monitor.record import Record
    from interaction_monitor.settings import Thresholds

__version__ = "0.1.0"

__all__ = [
    "InteractionMonitor",
    "Measurement",
    "Observer",
    "PhaseTracker",
    "Probe",
    "Record",
    "Thresholds",
    "assign_players",
    "interpret",
    "masked_outputs",
    "measure",
]

# Importing Lightning takes seconds, and who measures a finished network or reads a record needs none of it.
_MODULES = {
    "InteractionMonitor": "callbacks.lightning",
    "Measurement": "measurement",
    "Observer": "observer",
    "PhaseTracker": "phases",
    "Probe": "probe",
    "Record": "record",
    "Thresholds": "settings",
    "assign_players": "forward",
    "interpret": "measurement",
    "masked_outputs": "forward",
    "measure": "measurement",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
