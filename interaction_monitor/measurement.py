"""One measurement, by one process or several: from a model and its samples to interactions sorted by order."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from interaction_monitor._checks import describe, to_float64
from interaction_monitor.distributed import Ranks, is_split
from interaction_monitor.forward import outputs_of
from interaction_monitor.forward.model import same_numbers
from interaction_monitor.forward.precision import rounding
from interaction_monitor.functional import (
    and_interactions,
    mean_order,
    members,
    order_distribution,
    order_strength,
    saliency_threshold,
    sparsest_and_or,
)
from interaction_monitor.outputs import Output
from interaction_monitor.players.base import require_drawn
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe
from interaction_monitor.settings import ForwardContext, ForwardFunc, Interactions, Settings, Thresholds, or_default

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from shapiq import InteractionValues


class NoValidSamplesError(RuntimeError):
    """Every probe sample has NaN or infinite outputs, so there is nothing to measure."""


@dataclass(frozen=True)
class Measurement:
    """The interactions of one network on S samples of n players, and how they spread over the orders."""

    v: Tensor  # (S, 2^n) float64, the masked outputs
    and_: Tensor  # (S, 2^n) float64, NaN where the sample is not valid
    or_: Tensor  # (S, 2^n) float64, zero when only AND interactions are measured
    gap: Tensor  # (S,) float64, certified relative duality gap of the extraction
    valid: Tensor  # (S,) bool, False where an output is NaN or infinite
    tau: float  # the saliency threshold
    strength: Tensor  # (S, n) float64, sum of salient |I| for each order, NaN where the sample is not valid
    distribution: Tensor  # (n,) float64, I_real^(k), sums to n
    mean_order: float
    forward_seconds: float
    extraction_seconds: float
    generalizing: Tensor | None = None  # (S, n) float64, the part of `strength` that a reference has too
    held: Tensor | None = None  # (S, 2, 2^n) bool, which AND and which OR interactions a reference has; None as above
    rounding: float = math.nan  # standard deviation of an output by the rounding in the network, NaN where not known

    @property
    def seconds(self) -> float:
        """The time that the whole measurement took."""
        return self.forward_seconds + self.extraction_seconds

    @property
    def output_change(self) -> float:
        """The mean |v(x) - v(x_∅)| over the valid samples."""
        return float((self.v[self.valid, -1] - self.v[self.valid, 0]).abs().mean())

    def plot(
        self, sample: int = 0, *, names: Sequence[str] | None = None, before: tuple[str, Measurement] | None = None
    ) -> Figure:
        """Draw what a sample's output is made of, as `plots.sample_figures.waterfall` does.

        Args:
            sample: which one.
            names: what its players are called, for example `players.names[sample]`; None numbers them.
            before: what to call an earlier measurement, "onset" say, and the measurement, to stand beside this one.

        Returns:
            The figure.

        Raises:
            ValueError: if there is no such sample, or its outputs are not finite.
        """
        from interaction_monitor.plots.sample_figures import waterfall

        return waterfall(self, sample, names=names, before=before)

    def to_shapiq(self, sample: int = 0, *, kind: Literal["AND", "OR"] = "AND") -> InteractionValues:
        """Hand a sample's interactions over to shapiq, which draws networks, UpSet plots, force plots and more of them.

        Args:
            sample: which one.
            kind: "AND" or "OR". Of OR interactions shapiq's pictures show the sizes, though none of its indices is OR.

        Returns:
            Values of the index "Moebius", one for each set of players, the empty one included.

        Raises:
            ValueError: if there is no such kind, or the sample's outputs are not finite.

        Examples:
            >>> float(interpret(torch.tensor([[0.0, 1.0, 1.0, 5.0]]), interactions="and").to_shapiq()[(0, 1)])
            3.0
        """
        from shapiq import InteractionValues

        if kind not in ("AND", "OR"):
            raise ValueError(f"kind must be 'AND' or 'OR', but is {kind!r}")
        if not self.valid[sample]:
            raise ValueError(f"sample={sample} has outputs that are not finite; choose one of `valid`")
        effects, n_players = (self.and_ if kind == "AND" else self.or_)[sample], self.strength.shape[1]
        return InteractionValues(
            values=effects.numpy(), index="Moebius", min_order=0, max_order=n_players, n_players=n_players,
            interaction_lookup={members(coalition): coalition for coalition in range(len(effects))},
            baseline_value=float(effects[0]), estimated=False,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"Measurement({len(self.v)} samples, {len(self.distribution)} players, mean order {self.mean_order:.2f})"

    def _repr_html_(self) -> str:
        from interaction_monitor.plots.run_figures import measurement_html

        return measurement_html(self)


def _require_outputs(v: object) -> None:
    if not isinstance(v, Tensor):
        raise TypeError(f"interpret(v={describe(v)}): give a tensor (samples, 2^n); torch.as_tensor makes one")
    size = v.shape[-1] if v.ndim else 0
    if v.ndim != 2 or size < 2 or size & (size - 1):
        raise ValueError(
            f"interpret(v={describe(v)}): give (samples, 2^n), an output for each coalition of n players"
            + ("; v[None] is a batch of one sample" if v.ndim == 1 else "")
        )


def interpret(v: Tensor, *, interactions: Interactions = "and-or", thresholds: Thresholds | None = None) -> Measurement:
    """Turn masked outputs into interactions and their distribution over orders.

    Samples with a NaN or infinite output are left out: their rows of the result are NaN.

    Args:
        v: masked outputs, (S, 2^n).
        interactions: "and-or" extracts the sparsest AND and OR interactions; "and" takes the Harsanyi
            dividends alone, which costs only the transform.
        thresholds: which interactions count; None means the defaults of `Thresholds`.

    Returns:
        The measurement, on the CPU.

    Raises:
        NoValidSamplesError: if no sample has finite outputs.
        TypeError: if the outputs are no tensor, or the thresholds of another kind.
        ValueError: if the outputs are not those of all coalitions, or there are no such interactions.

    Examples:
        >>> import torch
        >>> v = torch.tensor([[0.0, 1.0, 1.0, 5.0]])  # two players: 1 each, and 3 more together
        >>> result = interpret(v, interactions="and")
        >>> result.and_
        tensor([[0., 1., 1., 3.]], dtype=torch.float64)
        >>> result.mean_order
        1.6
    """
    return interpret_by(v, Settings(interactions=interactions, thresholds=or_default(thresholds)))


def interpret_by(v: Tensor, settings: Settings) -> Measurement:
    """Do as `interpret`."""
    _require_outputs(v)
    thresholds = settings.thresholds
    started = time.perf_counter()
    v = to_float64(v.detach())
    valid = torch.isfinite(v).all(dim=-1)
    finite = v[valid]
    if len(finite) == 0:
        raise NoValidSamplesError(
            f"all {len(v)} probe samples have NaN or infinite outputs; if they have from the start, check output=, the "
            "inputs and the forward, else the model has probably diverged"
        )
    and_ = torch.full_like(v, torch.nan)
    or_ = torch.full_like(v, torch.nan)
    gap = torch.full_like(v[:, 0], torch.nan)
    if settings.interactions == "and":
        and_[valid], or_[valid], gap[valid] = and_interactions(finite), 0.0, 0.0
    else:
        sparsest = sparsest_and_or(finite, noise=thresholds.noise, tol=thresholds.tol, tie_break=thresholds.tie_break)
        and_[valid], or_[valid], gap[valid] = sparsest.and_, sparsest.or_, sparsest.gap
    tau = saliency_threshold(finite, fraction=thresholds.saliency)
    strength = order_strength(and_, or_, tau).cpu()
    return Measurement(
        v=v.cpu(),
        and_=and_.cpu(),
        or_=or_.cpu(),
        gap=gap.cpu(),
        valid=valid.cpu(),
        tau=float(tau),
        strength=strength,
        distribution=order_distribution(strength),
        mean_order=float(mean_order(strength)),
        forward_seconds=0.0,
        extraction_seconds=time.perf_counter() - started,
    )


def measure(
    model: nn.Module,
    probe: Probe,
    players: PlayerMap,
    *,
    output: str | Output = "log_odds",
    forward_func: ForwardFunc | None = None,
    interactions: Interactions = "and-or",
    thresholds: Thresholds | None = None,
    forward_context: ForwardContext = nullcontext,
) -> Measurement:
    """Measure the interactions that a model encodes on the probe samples.

    The model's modes, hooks, buffers and the random state are left as they were.

    Args:
        model: any module; it is run where its parameters are.
        probe: the S samples.
        players: the input variables of these samples, from `assign_players`.
        output: the scalar output, by name or as a function of (logits, targets).
        forward_func: how the model is called, (model, inputs) -> logits; None calls `model(inputs)`.
        interactions: "and-or" or "and", as in `interpret`.
        thresholds: which interactions count; None means the defaults of `Thresholds`.
        forward_context: makes a context for each forward, for example an autocast.

    Returns:
        The measurement, on the CPU.

    Raises:
        NoValidSamplesError: if no sample has finite outputs.
        TypeError: if the probe, the players or the thresholds are of another kind.
        ValueError: if there are no such interactions, or the players are not drawn for these samples.
    """
    require_drawn("measure", probe, players)
    settings = Settings(output, forward_func, interactions, or_default(thresholds), forward_context)
    measurement = measure_jointly(model, probe, players, settings, Ranks())
    return with_rounding(measurement, model, probe, players, settings)


def measure_jointly(
    model: nn.Module, probe: Probe, players: PlayerMap, settings: Settings, ranks: Ranks
) -> Measurement:
    """Measure a model once, each process its share of the samples.

    Args:
        model: the network, the same on all processes, or split over them.
        probe: the S samples.
        players: their players.
        settings: how they are measured.
        ranks: the processes, all of which call this.

    Returns:
        The measurement, the same on all processes; how large the rounding is, is not known yet.

    Raises:
        NoValidSamplesError: if no sample has finite outputs.
        OtherRankError: if it failed on another process.
    """
    started = time.perf_counter()
    # Of a split model the processes run each its share, and join them, where they exchange the model's parts.
    sharing = Ranks() if is_split(model) else ranks
    share = sharing.share_of(len(probe))
    with same_numbers(model, sharing), ranks.together():
        v = torch.empty(0, 1 << players.n_players, dtype=torch.float64)
        if len(share) == len(probe):
            v = outputs_of(model, probe, players, settings)
        elif share:
            v = outputs_of(model, probe.select(share), players.select(share), settings)
    v = sharing.join_samples(v)
    forward_seconds = time.perf_counter() - started
    with ranks.together():
        measurement = interpret_by(v, settings)
    return replace(measurement, forward_seconds=forward_seconds)


def with_rounding(
    measurement: Measurement, model: nn.Module, probe: Probe, players: PlayerMap, settings: Settings
) -> Measurement:
    """Add to a measurement how large the rounding in the model is."""
    started = time.perf_counter()
    sigma = rounding(model, probe, players, measurement.v, settings)
    seconds = measurement.forward_seconds + time.perf_counter() - started
    return replace(measurement, rounding=sigma, forward_seconds=seconds)
