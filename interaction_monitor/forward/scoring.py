"""From logits to outputs: one number per row, computed for many rows at once."""

from __future__ import annotations

import torch
from torch import Tensor

from interaction_monitor._float64 import float64_device
from interaction_monitor.outputs import Output

# Logits are collected up to here. An output is a dozen small operations, which a small network would feel per chunk.
COLLECTED_BYTES = 2**20


class Outputs:
    """Collects the logits of chunk after chunk, and computes the outputs when there are enough.

    Args:
        v: (S * 2^n,) float64, filled in place, sample by sample.
        targets: (S, ...) of the samples, or None.
        score: what is computed from the logits.

    Attributes:
        done: how many outputs are computed.
    """

    def __init__(self, v: Tensor, targets: Tensor | None, n_coalitions: int, score: Output) -> None:
        self.v = v
        self.targets = targets
        self.n_coalitions = n_coalitions
        self.score = score
        self.done = 0
        self._waiting: list[Tensor] = []
        self._bytes = 0

    def add(self, logits: Tensor) -> None:
        """Take the logits of the next rows, (rows, ...)."""
        # They may be a view of memory that the next chunk is written to.
        self._waiting.append(logits if logits.nbytes >= COLLECTED_BYTES else logits.clone())
        self._bytes += logits.nbytes
        if self._bytes >= COLLECTED_BYTES:
            self.finish()

    def finish(self) -> None:
        """Compute the outputs of what is waiting."""
        if not self._waiting:
            return
        logits = self._waiting[0] if len(self._waiting) == 1 else torch.cat(self._waiting)
        self.drop()
        stop = self.done + len(logits)
        rows = torch.arange(self.done, stop, device=logits.device) // self.n_coalitions
        targets = None if self.targets is None else self.targets[rows.to(self.targets.device)]
        self.v[self.done : stop] = score_of(self.score, logits, targets)
        self.done = stop

    def drop(self) -> None:
        """Forget what is waiting."""
        self._waiting = []
        self._bytes = 0


def score_of(score: Output, logits: Tensor, targets: Tensor | None) -> Tensor:
    """Compute the outputs of a batch.

    Raises:
        ValueError: if `score` does not return one number per row.
    """
    if float64_device(logits.device) != logits.device:
        logits, targets = logits.cpu(), None if targets is None else targets.cpu()
    values = score(logits, targets)
    if not isinstance(values, Tensor) or values.shape != logits.shape[:1]:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"output= must return one number per row, shape ({len(logits)},), but returned {shape}")
    return values
