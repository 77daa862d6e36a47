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


def per_sample(interactions: Tensor, **tau: float | Tensor) -> Tensor:
    """Give a threshold, named as the argument it came in, the axes of (..., 2^n) interactions.

    Args:
        interactions: (..., 2^n) what it is for.
        **tau: the one threshold, by its name; a number, or (...,) one per sample.

    Returns:
        float64, of one axis more than was given, on `float64_device` of the interactions.

    Raises:
        ValueError: if it has another shape.

    Examples:
        >>> per_sample(torch.zeros(2, 4), tau=torch.tensor([0.5, 0.25])).tolist()
        [[0.5], [0.25]]
    """
    ((name, value),) = tau.items()
    threshold = as_float64(value, interactions.device)
    given, samples = tuple(threshold.shape), tuple(interactions.shape[:-1])
    fits = len(given) <= len(samples) and all(
        have in (1, want) for have, want in zip(reversed(given), reversed(samples), strict=False)
    )
    if not fits:
        raise ValueError(
            f"{name} must be a number, or one per sample of shape {samples}, but has shape {given}; "
            "squeeze or index it to that shape"
        )
    return threshold[..., None]
