"""Networks of which each process holds a part only, as `fully_shard` makes them: what they need to be measured.

Each forward of such a network exchanges weights, so all processes must run the same forwards in the same order. They
may do so on different samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import nn


def is_split(model: nn.Module) -> bool:
    """Tell whether processes hold parts of the model only, which they exchange when it runs.

    Examples:
        >>> is_split(nn.Linear(2, 2))
        False
    """
    return len(_parts(model)) + len(_shards(model)) > 0


def require_shared_by_samples(model: nn.Module) -> None:
    """Raise unless each process can run other samples through a split model.

    Raises:
        NotImplementedError: if processes need each other's activations too, as with tensor parallelism, or if there
            are processes that hold no part.
    """
    fix = (
        "split it by fully_shard over all processes alone, or save checkpoints and measure them afterwards on one "
        "device with interaction_monitor.Observer"
    )
    parts = _parts(model)
    if parts and not _shards(model):
        raise NotImplementedError(
            f"{type(model).__name__} is split by tensor parallelism, so that processes share every sample and cannot "
            f"measure one each; {fix}"
        )
    for parameter in parts:
        if sum(not place.is_replicate() for place in parameter.placements) > 1:
            raise NotImplementedError(
                f"{type(model).__name__} is split in two ways at once, so that processes share every sample and cannot "
                f"measure one each; {fix}"
            )
        few, all_ = parameter.device_mesh.size(), dist.get_world_size()
        if few != all_:
            raise NotImplementedError(f"{type(model).__name__} is split over {few} of {all_} processes; {fix}")


@contextmanager
def as_split_as_before(model: nn.Module) -> Iterator[None]:
    """Let the processes drop on leaving what they have gathered of each other's parts inside the block."""
    try:
        yield
    finally:
        for module in _shards(model):
            if hasattr(module, "reshard"):
                module.reshard()


def _parts(model: nn.Module) -> list[Any]:
    return [parameter for parameter in model.parameters() if type(parameter.data).__name__ == "DTensor"]


def _shards(model: nn.Module) -> list[Any]:
    names = ("FullyShardedDataParallel", "FSDPModule")
    return [module for module in model.modules() if any(base.__name__ in names for base in type(module).__mro__)]
