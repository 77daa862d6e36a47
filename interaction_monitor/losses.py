"""Finding the training and the test loss among the metrics that somebody's module logs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

TRAIN_NAMES = (
    "train_loss_epoch",
    "train_loss",
    "train/loss_epoch",
    "train/loss",
    "training_loss",
    "loss_epoch",
    "loss",
)
TEST_NAMES = (
    *("val_loss_epoch", "val_loss", "val/loss_epoch", "val/loss", "valid_loss", "valid/loss"),
    *("validation_loss", "validation/loss", "test_loss", "test/loss"),
)


def find_loss(metrics: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    """Return the value of the first of the names that is logged.

    Args:
        metrics: what the trainer calls `callback_metrics`.
        names: the names to look for, in order of preference; letter case does not matter.

    Returns:
        The loss, or None where none of the names is logged as a finite number.

    Example:
        >>> find_loss({"Val_Loss": 0.5, "train_loss": 0.4}, TEST_NAMES)
        0.5
    """
    logged = {name.lower(): name for name in metrics}
    for name in names:
        if name.lower() in logged:
            value = float(metrics[logged[name.lower()]])
            if math.isfinite(value):
                return value
    return None


class Losses:
    """Reads the training and the validation loss of a run whose validation may be rarer than its measurements.

    Args:
        train_loss: name of the logged training loss; None looks for the common names.
        test_loss: name of the logged validation loss; None looks for the common names.

    Example:
        >>> losses = Losses(test_loss="val/objective")
        >>> losses.read({"train_loss": 0.4, "val/objective": 0.5})
        (0.4, None)
        >>> losses.validated()
        >>> losses.read({"train_loss": 0.3, "val/objective": 0.5})
        (0.3, 0.5)
    """

    def __init__(self, train_loss: str | None = None, test_loss: str | None = None) -> None:
        self.train_names = TRAIN_NAMES if train_loss is None else (train_loss,)
        self.test_names = TEST_NAMES if test_loss is None else (test_loss,)
        self._fresh = False
        self._ever_validated = False

    def validated(self) -> None:
        """Note that the validation loss is a new one."""
        self._fresh = self._ever_validated = True

    def read(self, metrics: Mapping[str, Any]) -> tuple[float | None, float | None]:
        """Return the training loss, and the validation loss if it is newer than the last time; None if not known."""
        test = find_loss(metrics, self.test_names) if self._fresh else None
        self._fresh = False
        return find_loss(metrics, self.train_names), test

    def complaint(self, metrics: Iterable[str], *, trained: bool) -> str | None:
        """Say which loss is not logged at all although its loop has run, and what to do.

        Args:
            metrics: the names that are logged.
            trained: whether a whole epoch of training has been.

        Returns:
            The sentence, or None if there is nothing to complain of.

        Example:
            >>> Losses(train_loss="train/los").complaint(["train/loss"], trained=True)
            "train_loss='train/los' is not among the logged metrics ['train/loss'], so the loss gap is not known"
        """
        logged = sorted(metrics)
        known = {metric.lower() for metric in logged}
        looked_for = {"train_loss": self.train_names if trained else (), "test_loss": self.test_names}
        if not self._ever_validated:
            del looked_for["test_loss"]
        lost = {
            argument: names for argument, names in looked_for.items() if names and not known & {*map(str.lower, names)}
        }
        if not lost or not logged:
            return None
        end = f"among the logged metrics {logged}, so the loss gap is not known"
        misspelt = [f"{argument}={names[0]!r}" for argument, names in lost.items() if len(names) == 1]
        if misspelt:
            return f"{' and '.join(misspelt)} is not {end}"
        kinds = {"train_loss": "training loss", "test_loss": "validation loss"}
        return (
            f"found no {' and no '.join(kinds[argument] for argument in lost)} {end}; log train_loss and val_loss, or "
            f"give the names as {' and '.join(f'{argument}=' for argument in lost)}"
        )
