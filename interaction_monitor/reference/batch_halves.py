"""Dividing each training batch between two networks, so that a sample always goes to the same one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from interaction_monitor._checks import describe
from interaction_monitor.loading import rows_of

# So many numbers of a sample tell it from others.
_LOOKED_AT = 4096


def halves(batch: Any) -> tuple[Any, Any]:
    """Divide a batch in two by what its samples are, not by where they stand.

    A shuffled loader hands on the same samples in other batches each epoch, and each still goes to the same half. Where
    a dataset transforms its samples at random, a sample may change its half from epoch to epoch.

    Args:
        batch: a tensor, or tuples, lists and dicts of them; all with the samples along axis 0. Numbers, texts and None
            go to both halves, a list with one entry per sample is divided too.

    Returns:
        Two batches of the same kind, copies; one of them may be empty.

    Raises:
        TypeError: if there is no tensor in it, or something of another kind.
        ValueError: if its tensors have other numbers of samples.

    Examples:
        >>> x = torch.arange(12.0).reshape(6, 2)
        >>> first, second = halves((x, torch.arange(6)))
        >>> sorted(first[1].tolist() + second[1].tolist())
        [0, 1, 2, 3, 4, 5]
        >>> again, _ = halves((x.flip(0), torch.arange(6).flip(0)))
        >>> sorted(again[1].tolist()) == sorted(first[1].tolist())
        True
    """
    tensors = [tensor for tensor in _tensors(batch) if tensor.ndim]
    if not tensors:
        raise TypeError(f"a batch that is to be divided between twins must hold tensors, but is {describe(batch)}")
    sizes = {len(tensor) for tensor in tensors}
    if len(sizes) > 1:
        raise ValueError(f"a batch cannot be divided between twins, as its tensors have {sorted(sizes)} samples")
    second = sides(next((tensor for tensor in tensors if tensor.ndim > 1), tensors[0])).tolist()
    first, other = ([row for row, side in enumerate(second) if side == which] for which in (False, True))
    return rows_of(batch, first), rows_of(batch, other)


def sides(samples: Tensor) -> Tensor:
    """Tell for each sample whether it is of the second half, by its content alone.

    Args:
        samples: (B, ...) of any dtype.

    Returns:
        (B,) bool: one for equal samples, in whatever batch, and as good as drawn for others.
    """
    rows = samples.detach().reshape(len(samples), -1)
    rows = rows[:, :: max(1, rows.shape[1] // _LOOKED_AT)]
    if rows.is_floating_point():
        rows = rows.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.element_size()])
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=generator).to(rows.device)
    keys = (rows.long() * weights).sum(1)
    keys = (keys ^ (keys >> 29)) * 0x1CE4E5B9BF58476D
    return (keys >> 40) & 1 == 1


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, (Mapping, list, tuple)):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _tensors(part)
    elif not (batch is None or isinstance(batch, (bool, int, float, str))):
        raise TypeError(f"a batch cannot be divided between twins, as it holds {describe(batch)}")
