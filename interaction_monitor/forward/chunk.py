"""Which masked rows run together: whole samples where they are small, else an aligned part of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """The rows of one forward: the same coalitions of some neighbouring samples, sample by sample."""

    samples: range
    coalitions: range  # 2^m of them, beginning at a multiple of 2^m (in the trial: the first and the last)

    def __len__(self) -> int:
        return len(self.samples) * len(self.coalitions)

    def coalitions_on(self, device: torch.device) -> Tensor:
        """Return the coalitions of the rows of one sample, (2^m,) int64."""
        return torch.arange(self.coalitions.start, self.coalitions.stop, self.coalitions.step, device=device)

    def rows_on(self, device: torch.device) -> Tensor:
        """Return which sample each row belongs to, (len(self),) int64."""
        # Not repeat_interleave, which on some devices waits to learn how long its result is.
        samples = torch.arange(self.samples.start, self.samples.stop, device=device)
        return samples[:, None].expand(-1, len(self.coalitions)).reshape(-1)


def largest_power_of_two(most: int) -> int:
    """Return the largest power of two that is not larger.

    Example:
        >>> largest_power_of_two(1000)
        512
    """
    return 1 << (most.bit_length() - 1)


def next_chunk(start: int, n_samples: int, n_coalitions: int, size: int, *, packed: bool) -> Chunk:
    """Return the chunk that begins at row `start`, rows being counted sample by sample.

    Chunks of a power of two divide the coalitions of a sample evenly, and within a chunk the players of the low bits
    come and go in the same pattern each time. Chunks of several samples are as equal as can be, so that a compiled
    model, which wants them all of one size, has few rows to fill up.

    Args:
        start: the first row: that of the first coalition of a sample, or a multiple of `size` coalitions on.
        n_samples: S.
        n_coalitions: 2^n.
        size: the most rows, a power of two.
        packed: whether a chunk may hold several samples.

    Example:
        >>> next_chunk(64, 3, 32, 16, packed=True)
        Chunk(samples=range(2, 3), coalitions=range(0, 16))
        >>> [len(chunk.samples) for chunk in chunks(50, 16, 256, packed=True)]
        [13, 13, 12, 12]
    """
    sample, coalition = divmod(start, n_coalitions)
    if size < n_coalitions or not packed:
        stop = coalition + min(size, n_coalitions)
        return Chunk(range(sample, sample + 1), range(coalition, stop))
    rest = n_samples - sample
    together = -(-rest // -(-rest // (size // n_coalitions)))
    return Chunk(range(sample, sample + together), range(n_coalitions))


def chunks(n_samples: int, n_coalitions: int, size: int, *, packed: bool) -> Iterator[Chunk]:
    """Give the chunks of all rows in turn, see `next_chunk`."""
    start = 0
    while start < n_samples * n_coalitions:
        chunk = next_chunk(start, n_samples, n_coalitions, size, packed=packed)
        yield chunk
        start += len(chunk)
