"""How a network is measured: what is explained, how the network is called, and which interactions count."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import nn

from interaction_monitor._checks import describe, is_number
from interaction_monitor.functional.extraction import NOISE, TIE_BREAK, TOL
from interaction_monitor.functional.salient_orders import SALIENCY
from interaction_monitor.outputs import Output

Interactions = Literal["and-or", "and"]
ForwardFunc = Callable[[nn.Module, Any], Any]
ForwardContext = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Thresholds:
    """The four numbers that decide which interactions count, with the papers' values as defaults.

    Attributes:
        saliency: an interaction is salient from this fraction of E_x|v(x) - v(x_∅)| on [P1, section 3.2].
        noise: the outputs may be corrected by this fraction of |v(x) - v(x_∅)| per sample [P1, Appendix C].
        tol: relative duality gap to which the extraction is certified.
        tie_break: what an interaction costs more for each order above one (see `sparsest_and_or`).

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

    Example:
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
    """Return the thresholds, or the papers' values for None."""
    return Thresholds() if thresholds is None else thresholds
