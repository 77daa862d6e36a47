"""How many rows run at once: from the bytes that a row takes, by a rule that gives the same answer each time.

A timing would find the fastest size a little better. But kernels round differently for different batch sizes, so that
a run that is resumed, or repeated, would then differ in the last bits, by chance. Bytes are the same every time.
"""

from __future__ import annotations

import logging
import weakref
from typing import Any

import torch
from torch import nn

from interaction_monitor.forward.chunk import Chunk, largest_power_of_two
from interaction_monitor.forward.memory import LiveBytes
from interaction_monitor.forward.model import eager_if_compiled, find_layer
from interaction_monitor.forward.runner import Runner

log = logging.getLogger(__name__)

# Beyond some megabytes a CPU gains nothing from larger batches, and loses what its caches hold.
CPU_BYTES = 12 * 2**20
CPU_ROWS = 1024
# A GPU needs large batches to be busy. Its memory is mostly the training's.
GPU_FRACTION = 32
GPU_ROWS = 8192
# Where bytes cannot be counted.
DEFAULT_ROWS = 128


class Sizes:
    """What is known of the chunk sizes of models that are still alive: a size is found once and only ever halved."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[nn.Module, dict[Any, int]] = weakref.WeakKeyDictionary()

    def of(self, runner: Runner, key: Any) -> int:
        """Return the size for a model and what it is run on, finding it at first use.

        Args:
            runner: tried out.
            key: what besides the model decides the memory that a row takes.
        """
        known = self._known.setdefault(runner.model, {})
        if key not in known:
            known[key] = fitting_rows(runner)
        return known[key]

    def halve(self, model: nn.Module, key: Any, size: int) -> None:
        """Remember that only `size` rows fit."""
        self._known.setdefault(model, {})[key] = size


def most_rows(device: torch.device) -> int:
    """Return the most rows of a chunk on a device, however few bytes they take."""
    return CPU_ROWS if device.type == "cpu" else GPU_ROWS


def fitting_rows(runner: Runner) -> int:
    """Return the number of rows, a power of two, whose activations fit the budget of the device.

    Runs two and four rows of the first sample and counts their bytes.

    Args:
        runner: tried out.
    """
    device = runner.players.labels.device
    try:
        bytes_per_row = _bytes_per_row(runner)
    except Exception as error:
        log.info("chunks of %d rows, because their bytes could not be counted: %s", DEFAULT_ROWS, error)
        return DEFAULT_ROWS
    if device.type == "cpu":
        budget = CPU_BYTES
    elif device.type == "cuda":
        budget = torch.cuda.get_device_properties(device).total_memory // GPU_FRACTION
    else:
        budget = 2**30
    return min(most_rows(device), largest_power_of_two(max(1, budget // max(1, bytes_per_row))))


def _bytes_per_row(runner: Runner) -> int:
    # The difference of two sizes leaves out what does not grow with the rows, such as weights in another precision.
    few, more = (2, 4) if runner.n_coalitions > 2 else (1, 2)
    # Other batch sizes would be compiled for, and dispatch modes are not.
    with eager_if_compiled(runner.model):
        return (_peak(runner, more) - _peak(runner, few)) // (more - few)


def _peak(runner: Runner, n_rows: int) -> int:
    """Return the most bytes that are alive at once while rows of the first sample run."""
    layer = runner.players.layer
    counted = LiveBytes()
    with counted:
        # The layers before the masked one run one row, and may take more for it than the rest for a few.
        handle = find_layer(runner.model, layer).register_forward_hook(lambda *_: counted.restart()) if layer else None
        try:
            runner.logits(Chunk(range(1), range(n_rows)))
        finally:
            if handle:
                handle.remove()
    return counted.peak
