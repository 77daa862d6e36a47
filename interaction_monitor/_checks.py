"""What a function is given: checks of it, words for what it is instead, and tensors in float64, from files too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def describe(value: Any) -> str:
    """Show what a value is, in a few words, for error messages."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"{type(value).__name__} with {some([str(key) for key in value])}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {len(value)}: {', '.join(describe(part) for part in value[:3])}"
    return f"{type(value).__name__}: {str(value)[:60]}"


def some(names: list[str], limit: int = 8) -> str:
    """List the first names of many."""
    shown = ", ".join(repr(name) for name in names[:limit])
    return (shown or "none") + (f" and {len(names) - limit} more" if len(names) > limit else "")


def is_whole(value: object) -> bool:
    """Tell whether this is a whole number, and no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Tell whether this is a real number, NaN and infinity included, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_a(thing: object, *names: str) -> bool:
    """Tell whether a class of one of these names is among the thing's.

    By name, because `lightning.pytorch` and `pytorch_lightning` have each its own of every class.
    """
    return any(base.__name__ in names for base in type(thing).__mro__)


def float64_device(device: torch.device | str) -> torch.device:
    """Return the device itself if it has float64, or the CPU if it has none, as Apple's GPUs."""
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


def to_float64(x: Tensor | float) -> Tensor:
    """Return a tensor in float64, on its own device or on the CPU; there too a number."""
    if not isinstance(x, Tensor):
        return torch.tensor(x, dtype=torch.float64, device="cpu")
    # Not at once: a device without float64 would convert before it hands over.
    return where_float64_is(x).double()


def read_numbers(path: str | Path) -> Tensor:
    """Read the one array of a .npy file, or the one tensor of a .pth or .pt file, in float64; nothing in it is run."""
    path = Path(path)
    if path.suffix not in (".npy", ".pth", ".pt"):
        raise ValueError(f"path must end in .npy, .pth or .pt, but is {path}")
    path.open("rb").close()  # a file that is not there says so better than what reads it
    try:
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float64, casting="same_kind"))
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each kind of damage has another
        raise ValueError(
            f"{path} cannot be read as an array of numbers ({type(error).__name__}); save it anew by np.save, or "
            "torch.save of a tensor"
        ) from error
    if not isinstance(values, Tensor):
        raise ValueError(f"{path} holds a {type(values).__name__}; give the file of one tensor")
    return values.detach().double()


def require_one_shape(**tensors: Tensor | None) -> None:
    """Raise unless the tensors have one shape; None is left out."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor is not None}
    if len(set(shapes.values())) > 1:
        *first, last = shapes
        listed = ", ".join(f"{name} is {shape}" for name, shape in shapes.items())
        raise ValueError(f"{', '.join(first)} and {last} must have one shape, but {listed}")


def per_sample(interactions: Tensor, **tau: float | Tensor) -> Tensor:
    """Give a threshold, named as the argument it came in, the axes of (..., 2^n) interactions, in float64.

    Examples:
        >>> per_sample(torch.zeros(2, 4), tau=torch.tensor([0.5, 0.25])).tolist()
        [[0.5], [0.25]]
    """
    ((name, value),) = tau.items()
    threshold = to_float64(value).to(float64_device(interactions.device))
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


def require_whole(who: object, **numbers: object) -> None:
    """Raise a TypeError unless each argument of a kind of players is a whole number."""
    for name, number in numbers.items():
        if not is_whole(number):
            raise TypeError(f"{type(who).__name__}({name}={number!r}): give a whole number")


def require_counts(least: int, **counts: int) -> None:
    """Refuse what is no whole number, or too small, by its name."""
    for name, value in counts.items():
        if not is_whole(value):
            raise ValueError(f"{name} must be a whole number, but is {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, but is {value}")


def require_no_less_than_zero(**values: float) -> None:
    """Refuse what is no number, or negative, by its name."""
    for name, value in values.items():
        if not is_number(value):
            raise ValueError(f"{name} must be a number, but is {value!r}")
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, but is {value}")


@contextmanager
def refusing(what: str, fix: str) -> Iterator[None]:
    """Make of any failure inside the block one of the argument that it comes from, so that no run begins with it.

    Examples:
        >>> with refusing("Twins(factory=...)", "give another one"):
        ...     raise RuntimeError("no weights")
        Traceback (most recent call last):
        ...
        ValueError: Twins(factory=...) failed with RuntimeError: no weights; give another one
    """
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what} failed with {type(error).__name__}: {error}; {fix}") from error


def require_between_0_and_1(usual: float, **values: float) -> None:
    """Refuse a coverage or a level of significance outside of 0 to 1, by its name; `usual` is what to give."""
    for name, value in values.items():
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie between 0 and 1, but is {value}; {usual} is usual")
