"""Computing in float64 where the tensors are, or on the CPU where their device has none."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def float64_device(device: torch.device | str) -> torch.device:
    """Return the device itself if it has float64, or the CPU if it has none, as Apple's GPUs.

    Examples:
        >>> float64_device("cpu")
        device(type='cpu')
    """
    device = torch.device(device)
    return device if device.type in ("cpu", "cuda", "meta") or _has_float64(device) else torch.device("cpu")


@lru_cache(maxsize=16)
def _has_float64(device: torch.device) -> bool:
    # Some refuse the tensor, others only what is computed with it.
    try:
        (torch.ones(1, dtype=torch.float32, device=device).double() + 1).cpu()
    except (TypeError, RuntimeError):
        return False
    return True


def where_float64_is(x: Tensor) -> Tensor:
    """Return the tensor, of whatever type, on `float64_device` of its own."""
    return x.to(float64_device(x.device))


def to_float64(x: Tensor) -> Tensor:
    """Return the tensor in float64, on its own device or on the CPU.

    Examples:
        >>> to_float64(torch.tensor([0.5, 1.0])).dtype
        torch.float64
    """
    # Not at once: a device without float64 would convert before it hands over.
    return where_float64_is(x).double()


def as_float64(value: float | Tensor, device: torch.device | str) -> Tensor:
    """Return a number or a tensor in float64 beside what `to_float64` makes of tensors on `device`."""
    device = float64_device(device)
    if isinstance(value, Tensor):
        return to_float64(value).to(device)
    return torch.tensor(value, dtype=torch.float64, device=device)
