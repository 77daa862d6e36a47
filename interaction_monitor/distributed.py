"""Measuring with several processes: each takes a part of the samples, whether it holds the network or a part of it.

Every collective of the package is here, and there is only one pattern: each process says what it has or that
it failed, all hear all, and either all go on or all raise. So none ever waits for one that gave up.

Each forward of a network in parts, as `fully_shard` or stage 3 of DeepSpeed's ZeRO makes them, exchanges weights, so
all processes must run the same forwards in the same order. They may do so on different samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")

# Where DeepSpeed has what splits a sample's forward: stages, experts, tensors, sequences.
_SHARING_SAMPLES = tuple(f"deepspeed.{part}" for part in ("pipe", "runtime.pipe", "moe", "module_inject", "sequence"))

# What wrong arguments raise, in contrast to what happens to a run that was set up well.
MISFITS = (TypeError, ValueError, NotImplementedError)


class OtherRankError(RuntimeError):
    """Another process failed at what this one did without a failure."""


class OtherRankMisfitError(OtherRankError, ValueError):
    """The same, where the other process found that the arguments do not fit the run."""


@dataclass(frozen=True, kw_only=True)
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

    size: int = 1
    rank: int = 0

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

    def from_first(self, compute: Callable[[], T]) -> T:
        """Return what rank zero computes, where no other process does; all raise if that fails.

        Examples:
            >>> Ranks().from_first(lambda: "computed")
            'computed'
        """
        computed: list[T] = []
        with self.together():
            if self.rank == 0:
                computed.append(compute())
        return self.of_first(computed)[0]

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


def is_split(model: nn.Module) -> bool:
    """Tell whether processes hold parts of the model only, which they exchange when it runs.

    Examples:
        >>> is_split(nn.Linear(2, 2))
        False
    """
    return bool(_parts(model) or _shards(model) or _partitioned(model))


def require_shared_by_samples(model: nn.Module) -> None:
    """Raise unless each process can run other samples through a split model.

    Raises:
        NotImplementedError: if processes need each other's activations too, as with tensor parallelism, or if there
            are processes that hold no part.
    """
    if (how := _unfit_split(model)) is not None:
        raise NotImplementedError(
            f"{type(model).__name__} is split {how}; split it by fully_shard or ZeRO over all processes alone, or save "
            "checkpoints and measure them afterwards on one device with interaction_monitor.Observer"
        )


def _unfit_split(model: nn.Module) -> str | None:
    sharing = "so that processes share every sample and cannot measure one each"
    for module in model.modules():
        if any(base.__module__.startswith(_SHARING_SAMPLES) for base in type(module).__mro__):
            return f"by DeepSpeed's {type(module).__name__}, {sharing}"
    parts = _parts(model)
    if parts and not _shards(model):
        return f"by tensor parallelism, {sharing}"
    if any(sum(not place.is_replicate() for place in parameter.placements) > 1 for parameter in parts):
        return f"in two ways at once, {sharing}"
    groups = [parameter.device_mesh.size() for parameter in parts]
    groups += [dist.get_world_size(parameter.ds_process_group) for parameter in _partitioned(model)]
    few = next((size for size in groups if size != dist.get_world_size()), None)
    return None if few is None else f"over {few} of {dist.get_world_size()} processes"


@contextmanager
def as_split_as_before(model: nn.Module) -> Iterator[None]:
    """Let the processes drop on leaving what they have gathered of each other's parts inside the block."""
    partitioned = [parameter for parameter in _partitioned(model) if not _is_gathered(parameter)]
    # DeepSpeed's engine says so before each forward. Only then a weight that another module uses is gathered.
    told = [module._parameters for module in model.modules() if hasattr(module._parameters, "_in_forward")]
    before = [own._in_forward for own in told]
    try:
        for own in told:
            own._in_forward = True
        yield
    finally:
        for own, was in zip(told, before, strict=True):
            own._in_forward = was
        for parameter in partitioned:
            # What stays gathered over an optimizer's step would stay as it was before the step.
            if _is_gathered(parameter) and not parameter.ds_persist:
                parameter.ds_active_sub_modules.clear()  # those of a forward that failed
                parameter.partition()
        for module in _shards(model):
            if hasattr(module, "reshard"):
                module.reshard()


def _parts(model: nn.Module) -> list[Any]:
    return [parameter for parameter in model.parameters() if type(parameter.data).__name__ == "DTensor"]


def _partitioned(model: nn.Module) -> list[Any]:
    """Return the parameters that stage 3 of DeepSpeed's ZeRO has split."""
    return [parameter for parameter in model.parameters() if hasattr(parameter, "ds_status")]


def _is_gathered(parameter: Any) -> bool:
    return bool(parameter.ds_status.name == "AVAILABLE")


def _shards(model: nn.Module) -> list[Any]:
    names = ("FullyShardedDataParallel", "FSDPModule")
    return [module for module in model.modules() if any(base.__name__ in names for base in type(module).__mro__)]
