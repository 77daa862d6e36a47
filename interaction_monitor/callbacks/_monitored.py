"""The keys that other callbacks of a Lightning run monitor: there at every moment, and never NaN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import lightning.pytorch as pl
import torch

from interaction_monitor.callbacks import loggers
from interaction_monitor.history import History

_WORST = 1e6  # of what has no bounds


class Keys:
    """Puts what is known of each key among the trainer's metrics for callbacks.

    `EarlyStopping` ends a run where its key is missing or not finite, and `ModelCheckpoint` where it is missing. So
    between two measurements, and where one gives no number, as a network of constant output has no mean order, a key
    keeps the last value that was known. A key that a callback monitors before there has been any has the worst that
    its mode allows, so that the first real one is better.

    Args:
        name: prefix of the keys.

    Attributes:
        known: key to the last finite value.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.known: dict[str, float] = {}

    def begin(self, history: History) -> None:
        """Forget all, and take in what a run that goes on has measured before."""
        self.known = {}
        for row in history:
            self.known |= loggers.scalars(History([row]), self.name)
        if len(history):
            self.known |= loggers.scalars(history, self.name)

    def offer(self, trainer: pl.Trainer, device: torch.device, n_players: int, values: Mapping[str, float]) -> None:
        """Take in what a measurement gave, and let other callbacks find all keys. To be called on every process.

        Args:
            trainer: has the callbacks.
            device: where the metrics lie.
            n_players: number of players, the highest order.
            values: key to finite value; empty where nothing was measured.
        """
        self.known |= values
        shown = dict(self.known)
        for key, mode in _monitored(trainer):
            if key not in shown and key in loggers.keys(self.name, n_players):
                shown[key] = worst(key.removeprefix(f"{self.name}/"), mode, n_players)
        # Lightning keeps this dict through the whole run, and hands it to whatever monitors a key.
        trainer.callback_metrics.update({key: torch.tensor(value, device=device) for key, value in shown.items()})


def worst(key: str, mode: str, n_players: int) -> float:
    """Return the worst value of a key: of its range where that has bounds.

    Args:
        key: without prefix.
        mode: "min" or "max", what the callback takes for better.
        n_players: number of players.

    Example:
        >>> worst("mean_order", "min", 10), worst("persisted_share", "max", 10), worst("loss_gap", "min", 10)
        (10.0, 0.0, 1000000.0)
    """
    bound = _WORST
    if key.endswith("_share"):
        bound = 1.0
    elif key.startswith(("mean_order", "order_")):
        bound = float(n_players)
    if mode != "max":
        return bound
    return -_WORST if bound == _WORST else 0.0


def _monitored(trainer: pl.Trainer) -> Iterator[tuple[str, str]]:
    """List what callbacks and schedulers of the learning rate monitor, and in which direction it gets better."""
    watchers: list[tuple[Any, Any]] = [(callback, callback) for callback in trainer.callbacks]  # type: ignore[attr-defined]  # set by a connector
    watchers += [(config, config.scheduler) for config in trainer.lr_scheduler_configs]
    for watcher, has_mode in watchers:
        key = getattr(watcher, "monitor", None)
        if isinstance(key, str):
            yield key, str(getattr(has_mode, "mode", "min"))
