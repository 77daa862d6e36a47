"""Taking samples out of batches, and putting them together, whatever the batches are made of."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class DifferentShapesError(ValueError):
    """Samples that have different shapes cannot be put into one batch."""


def size_of(batch: Any) -> int:
    """Return how many samples a batch has, by its first tensor with a batch axis; 0 if it has none.

    Example:
        >>> size_of({"text": ["a", "b"], "ids": torch.zeros(2, 5)})
        2
    """
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 0
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else ()
    return next((size for size in map(size_of, parts) if size), 0)


def rows_of(batch: Any, rows: Sequence[int]) -> Any:
    """Return a batch of some samples of a batch, in memory of its own.

    What has no batch axis is kept as it is.

    Example:
        >>> rows_of((torch.arange(3), ["a", "b", "c"], 7), [2, 0])
        (tensor([2, 0]), ['c', 'a'], 7)
    """
    size = size_of(batch)

    def take(part: Any) -> Any:
        if isinstance(part, Tensor):
            if part.ndim and len(part) == size:
                return part.detach()[torch.as_tensor(rows, device=part.device)]
            return part.detach().clone()
        if _is_column(part) and len(part) == size:
            return [part[row] for row in rows]
        return part

    return _map(take, batch)


def join(batches: Sequence[Any]) -> Any:
    """Return one batch of the samples of several of one kind.

    Raises:
        DifferentShapesError: if tensors have different shapes.

    Example:
        >>> join([(torch.zeros(1, 2), ["a"]), (torch.ones(2, 2), ["b", "c"])])[1]
        ['a', 'b', 'c']
    """
    sizes = [size_of(batch) for batch in batches]

    def put_together(*parts: Any) -> Any:
        if all(isinstance(part, Tensor) and part.ndim for part in parts):
            if any(len(part) != size for part, size in zip(parts, sizes, strict=True)):
                return parts[0]
            shapes = {tuple(part.shape[1:]) for part in parts}
            if len(shapes) > 1:
                raise DifferentShapesError(
                    f"the samples of the loader have different shapes, {sorted(shapes)[:3]}, and cannot be "
                    "joined to one probe; pad them alike, or make the probe yourself: Probe(inputs, targets)"
                )
            return torch.cat(parts)
        if all(map(_is_column, parts)):
            if any(len(part) != size for part, size in zip(parts, sizes, strict=True)):
                return parts[0]
            return [entry for part in parts for entry in part]
        return parts[0]

    return _map(put_together, *batches)


def _is_column(part: Any) -> bool:
    """Tell whether this is a list of one entry a sample, and not a list of columns."""
    return isinstance(part, list) and not any(isinstance(entry, (Tensor, list, tuple, Mapping)) for entry in part)


def _map(change: Callable[..., Any], first: Any, *others: Any) -> Any:
    if isinstance(first, Mapping):
        mapped = {key: _map(change, first[key], *(other[key] for other in others)) for key in first}
        if type(first) is dict:
            return mapped
        same_kind = copy.copy(first)
        try:
            for key, value in mapped.items():
                same_kind[key] = value  # type: ignore[index]  # where it cannot be set, a dict will do
        except TypeError:
            return mapped
        return same_kind
    if isinstance(first, (tuple, list)) and not _is_column(first):
        mapped_parts = [_map(change, *parts) for parts in zip(first, *others, strict=True)]
        return type(first)(*mapped_parts) if hasattr(first, "_fields") else type(first)(mapped_parts)
    return change(first, *others)
