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


def missing(metrics: Iterable[str]) -> str:
    """Say that the losses were not found, and what to do."""
    return (
        f"found no training and fresh validation loss among the logged metrics {sorted(metrics)}, so the loss "
        "gap is not known; log them as train_loss and val_loss, or give their names as train_loss= and test_loss="
    )
