"""Measuring with several processes that hold the same network: each takes a part of the samples.

Every collective of the package is here, and there is only one pattern: each process says what it has or that
it failed, all hear all, and either all go on or all raise. So none ever waits for one that gave up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from interaction_monitor.state import undisturbed

T = TypeVar("T")


# What wrong arguments raise, in contrast to what happens to a run that was set up well.
MISFITS = (TypeError, ValueError, NotImplementedError)


class OtherRankError(RuntimeError):
    """Another process failed at what this one did without a failure."""


class OtherRankMisfitError(OtherRankError, ValueError):
    """The same, where the other process found that the arguments do not fit the run."""


class Ranks:
    """The processes that train one network together; without `torch.distributed`, one alone.

    Attributes:
        size: how many there are.
        rank: which one this is, from 0.

    Examples:
        >>> alone = Ranks()
        >>> alone.size, alone.gather("here"), alone.share_of(5)
        (1, ['here'], range(0, 5))
    """

    def __init__(self, *, size: int = 1, rank: int = 0) -> None:
        self.size = size
        self.rank = rank

    @classmethod
    def of_this_run(cls) -> Ranks:
        """Return the processes of torch's default group."""
        if dist.is_available() and dist.is_initialized():
            return cls(size=dist.get_world_size(), rank=dist.get_rank())
        return cls()

    def share_of(self, n_samples: int) -> range:
        """Return which samples are this process's: neighbours, and at most one more than any other's."""
        return range(self.rank * n_samples // self.size, (self.rank + 1) * n_samples // self.size)

    def equal_share_of(self, n_samples: int) -> range:
        """Return this process's samples, as many as every other's: at the end, shares overlap.

        Examples:
            >>> [Ranks(size=3, rank=rank).equal_share_of(5) for rank in range(3)]
            [range(0, 2), range(2, 4), range(3, 5)]
        """
        most = -(-n_samples // self.size)
        start = min(self.rank * most, n_samples - most)
        return range(start, start + most)

    def gather(self, value: T) -> list[T]:
        """Return every process's value, in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def of_first(self, value: T) -> T:
        """Return rank zero's value."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]  # type: ignore[no-any-return]  # what rank zero put there

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run the body, and raise on all processes if it raises on any; the body holds no collective.

        Raises:
            OtherRankError: where the body went well, but not so on another process.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            if self.size == 1:
                raise
            error = caught
        said = None if error is None else (f"{type(error).__name__}: {error}", isinstance(error, MISFITS))
        failures = self.gather(said)
        if error is not None:
            raise error
        for rank, failure in enumerate(failures):
            if failure is not None:
                text, misfit = failure
                raise (OtherRankMisfitError if misfit else OtherRankError)(f"rank {rank} failed with {text}")

    @contextmanager
    def same_buffers(self, model: nn.Module) -> Iterator[None]:
        """Give `model` the buffers of rank zero inside the block.

        Parameters are the same everywhere, but each process goes on with running statistics (of BatchNorm)
        of its own until the next forward in training; those of rank zero are what a checkpoint holds.
        """
        if self.size == 1:
            yield
            return
        buffers = list(model.buffers())
        first = self.of_first([buffer.detach().cpu() for buffer in buffers])
        with undisturbed(model):
            for buffer, value in zip(buffers, first, strict=True):
                buffer.copy_(value)
            yield

    def average(self, gradients: Sequence[Tensor | None], *, like: Sequence[Tensor]) -> None:
        """Put the mean over all processes into each parameter's gradient; a process without one counts as zero.

        Args:
            gradients: of the parameters, None where there is none.
            like: the parameters.
        """
        if self.size == 1:
            return
        for gradient, parameter in zip(gradients, like, strict=True):
            mean = torch.zeros_like(parameter) if gradient is None else gradient
            dist.all_reduce(mean)
            parameter.grad = mean / self.size

    def join_samples(self, part: Tensor) -> Tensor:
        """Put the processes' shares of a tensor (S_rank, ...) together, in the order of samples.

        Returns:
            (S, ...), on the device of `part`, the same bits on every process.
        """
        if self.size == 1:
            return part
        return torch.cat(self.gather(part.cpu())).to(part.device)
