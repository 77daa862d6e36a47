"""How a network is measured: what is explained, how it is called, which interactions count; and as plain values."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from interaction_monitor._checks import describe, is_number
from interaction_monitor.functional.extraction import MAX_PLAYERS, NOISE, TIE_BREAK, TOL
from interaction_monitor.functional.saliency import SALIENCY
from interaction_monitor.outputs import Output

_LONG = 100  # a list of more entries, a vocabulary say, is known by a digest

Interactions = Literal["and-or", "and"]
ForwardFunc = Callable[[nn.Module, Any], Any]
ForwardContext = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Thresholds:
    """The four numbers that decide which interactions count: the papers' values, and two of the extraction's own.

    Attributes:
        saliency: an interaction is salient from this fraction of E_x|v(x) - v(x_∅)| on [P1, section 3.2].
        noise: the outputs may be corrected by this fraction of |v(x) - v(x_∅)| per sample [P1, Appendix C].
        tol: relative duality gap to which the extraction is certified; the papers' procedure has no certificate.
        tie_break: what an interaction costs more for each order above one, which the papers do not have (see
            `sparsest_and_or`).

    Raises:
        ValueError: if one is not a number of its range.
    """

    saliency: float = SALIENCY
    noise: float = NOISE
    tol: float = TOL
    tie_break: float = TIE_BREAK

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (is_number(value) and math.isfinite(value)) or value < 0 or (name == "tol" and value == 0):
                raise ValueError(f"Thresholds({name}={value!r}): give {'above' if name == 'tol' else 'at least'} 0")


@dataclass(frozen=True)
class Settings:
    """How a network is measured, in one object that is passed on from the public functions.

    Attributes:
        output: the scalar output, by name or as a function of (logits, targets).
        forward_func: how the model is called, (model, inputs) -> logits; None calls `model(inputs)`.
        interactions: "and-or" or "and".
        thresholds: which interactions count.
        forward_context: makes a context for each forward, for example an autocast.

    Raises:
        TypeError: if the thresholds are of another kind.
        ValueError: if there are no such interactions.

    Examples:
        >>> Settings(output="logit").thresholds.saliency
        0.03
    """

    output: str | Output = "log_odds"
    forward_func: ForwardFunc | None = None
    interactions: Interactions = "and-or"
    thresholds: Thresholds = field(default_factory=Thresholds)
    forward_context: ForwardContext = nullcontext

    def __post_init__(self) -> None:
        if self.interactions not in get_args(Interactions):
            raise ValueError(f'interactions={self.interactions!r}: give "and-or" or "and"')
        if not isinstance(self.thresholds, Thresholds):
            raise TypeError(
                f"thresholds={describe(self.thresholds)}: give Thresholds(saliency={SALIENCY}) of "
                "interaction_monitor, say, or None"
            )


def or_default(thresholds: Thresholds | None) -> Thresholds:
    """Return the thresholds, or the defaults for None."""
    return Thresholds() if thresholds is None else thresholds


def require_few_players(n_players: int, interactions: Interactions) -> None:
    """Raise unless the interactions of so many players can be extracted.

    Raises:
        ValueError: that says what to do.
    """
    if interactions == "and-or" and n_players > MAX_PLAYERS:
        raise ValueError(
            f"n_players={n_players} is more than the {MAX_PLAYERS} that interactions='and-or' takes; "
            "take fewer players, or interactions='and'"
        )


def plain_settings(settings: Settings) -> dict[str, Any]:
    """Return what decides what a measurement means, as plain values."""
    return {
        "output": plain(settings.output),
        "forward_func": plain(settings.forward_func),
        "interactions": settings.interactions,
        "thresholds": vars(settings.thresholds),
    }


def plain(value: Any) -> Any:
    """Describe a value by numbers, strings, lists and dicts that are the same in every process.

    Functions are known by their names, tensors and long lists by a digest.

    Examples:
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

    Examples:
        >>> differences({"seed": 0, "players": {"grid": 4}, "old": 1}, {"seed": 0, "players": {"grid": 8}})
        [('players.grid', 4, 8)]
    """
    found: list[tuple[str, Any, Any]] = []
    for name in sorted(before.keys() & now.keys()):
        old, new = before[name], now[name]
        if isinstance(old, Mapping) and isinstance(new, Mapping) and old.get("kind") == new.get("kind"):
            found += [(f"{name}.{part}", was, will_be) for part, was, will_be in differences(old, new)]
        elif plain(old) != plain(new):
            found.append((name, _kind(old), _kind(new)))
    return found


def _kind(value: Any) -> Any:
    return value.get("kind", value) if isinstance(value, Mapping) else value
