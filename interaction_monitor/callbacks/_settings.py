"""What decides what a measurement means, as plain values: to be recorded, and to be compared when a run is resumed."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interaction_monitor.reference.sources import names_of

if TYPE_CHECKING:
    from interaction_monitor.callbacks.lightning import InteractionMonitor
    from interaction_monitor.callbacks.transformers import InteractionTrainerCallback

_LONG = 100  # a list of more entries, a vocabulary say, is known by a digest


def settings_of(callback: InteractionMonitor | InteractionTrainerCallback) -> dict[str, Any]:
    """Return what decides what a measurement means, as plain values."""
    return {
        "players": plain(callback.players),
        "output": plain(callback.settings.output),
        "forward_func": plain(callback.settings.forward_func),
        "interactions": callback.settings.interactions,
        "thresholds": vars(callback.settings.thresholds),
        "seed": callback.seed,
        "reference": names_of(callback.reference),
    }


def plain(value: Any) -> Any:
    """Describe a value by numbers, strings, lists and dicts that are the same in every process.

    Functions are known by their names, tensors and long lists by a digest.

    Example:
        >>> from interaction_monitor.players import ImagePatches
        >>> plain(ImagePatches(grid=4, n_players=3))["grid"], plain(plain)
        (4, 'plain')
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        stored = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest = hashlib.sha256(stored.numpy().tobytes()).hexdigest()[:16]
        return f"{str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}, digest {digest}"
    if is_dataclass(value) and not isinstance(value, type):
        return {"kind": type(value).__name__} | {
            field.name: plain(getattr(value, field.name)) for field in fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [plain(part) for part in value]
        if len(parts) <= _LONG:
            return parts
        return f"list of {len(parts)}, digest {hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, functools.partial):
        return {"kind": plain(value.func), "args": plain(value.args), "keywords": plain(value.keywords)}
    return getattr(value, "__qualname__", type(value).__qualname__)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """List what both know and what differs: the name, dotted where it is a part of something, and both values.

    Example:
        >>> differences({"seed": 0, "players": {"grid": 4}, "old": 1}, {"seed": 0, "players": {"grid": 8}})
        [('players.grid', 4, 8)]
    """
    return list(_differences(before, now, ""))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any, Any]]:
    for name in sorted(before.keys() & now.keys()):
        old, new = before[name], now[name]
        if isinstance(old, Mapping) and isinstance(new, Mapping) and old.get("kind") == new.get("kind"):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif plain(old) != plain(new):
            yield f"{prefix}{name}", _kind(old), _kind(new)


def _kind(value: Any) -> Any:
    return value.get("kind", value) if isinstance(value, Mapping) else value
