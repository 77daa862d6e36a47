"""Saying what a run's measurements will take, before the first, and what helps where that is more than training."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from interaction_monitor.cost import Cost, cost_of
from interaction_monitor.distributed import is_split
from interaction_monitor.functional.extraction import MAX_PLAYERS
from interaction_monitor.observer import Observer
from interaction_monitor.schedule import Budget

log = logging.getLogger(__name__)

# Fewer forwards take no longer than to time them.
_WORTHWHILE = 1024
_BRIEF = 5.0  # seconds of all measurements of a run that nobody minds
_CHEAPER = 0.5  # of the present cost; two players less should make it a quarter, and timings are noisy


@dataclass(frozen=True)
class Forecast:
    """What the measurements of a run will take, and how to say so."""

    cost: Cost
    with_fewer: Cost | None  # with two players less; None where there are too few to do without
    planned: tuple[int, int] | None = None  # measurements at most, in so many epochs; None where that is not known

    def at_start(self) -> str:
        """Say it before the first measurement."""
        count = 0 if self.planned is None else self.planned[0]
        number = f", {count} of them at most {duration(count * self.cost.seconds)}" if count else ""
        return (
            f"a measurement takes about {duration(self.cost.seconds)}{number} ({self.cost.forwards:,} masked forwards "
            f"{duration(self.cost.forward_seconds)}, extraction {duration(self.cost.extraction_seconds)})"
        )

    def after_epoch(self, *, trained: float, measured: float, budget: Budget) -> str | None:
        """Say what helps where the run will be measured for longer than trained; None where it will not, or is short.

        Args:
            trained: seconds of the first epoch.
            measured: seconds of a measurement.
            budget: what puts measurements off.
        """
        count, epochs = self.planned or (1, 1)
        if trained <= 0 or count * measured <= max(epochs * trained, _BRIEF if self.planned else 0.1):
            return None
        text = f"an epoch of training takes {duration(trained)}, a measurement {duration(measured)}"
        if self.planned is not None:
            unit = "epoch" if epochs == 1 else "epochs"
            text += f"; {count} of these {duration(count * measured)}, {epochs} {unit} {duration(epochs * trained)}"
        if self.with_fewer is not None and self.with_fewer.seconds <= _CHEAPER * self.cost.seconds:
            fewer = measured * self.with_fewer.seconds / self.cost.seconds
            text += f"; n_players={self.with_fewer.n_players} makes a measurement about {duration(fewer)}"
        if budget.most is not None and (self.planned is None or count > budget.spared):
            first = f"after the first {budget.spared} they" if budget.spared else "they"
            text += f"; {first} are put off to keep max_overhead={budget.most:g}"
        return text


def forecast(observer: Observer, model: nn.Module, planned: tuple[int, int] | None = None) -> Forecast | None:
    """Estimate what a measurement takes, from a few forwards and a small extraction.

    Args:
        observer: what is to be measured, and how.
        model: the module.
        planned: measurements at most, in so many epochs.

    Returns:
        The estimate; None for a network in parts, where there is so little to measure that it would take as long,
        or where it fails as the measurement itself will.
    """
    n, n_samples = observer.players.n_players, len(observer.probe)
    if observer.train is not None:
        n_samples += len(observer.train[0])
    if n_samples << n < _WORTHWHILE or is_split(model):  # one process alone cannot run a model in parts
        return None
    try:
        # What there is to warn of, the measurement itself warns of.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            costs = cost_of(
                model,
                observer.probe,
                observer.players,
                observer.settings,
                n_players=(n, n - 2) if n >= 6 else (n,),
                n_samples=n_samples,
                n_processes=observer.ranks.size,
            )
    except Exception as error:
        log.info("what a measurement takes is not known: %s: %s", type(error).__name__, error)
        return None
    return Forecast(costs[0], costs[1] if len(costs) > 1 else None, planned)


def cost_table(costs: Sequence[Cost], heading: str, *, n_players: int, epoch_seconds: float | None = None) -> str:
    """Lay out what a measurement takes for each number of players.

    Args:
        costs: A line for each.
        heading: What was timed.
        n_players: The players that the network has; their line is marked.
        epoch_seconds: What an epoch of training takes, to lay a measurement beside it; None leaves that out.
    """
    lines = [
        f"{heading}, {torch.get_num_threads()} threads",
        "",
        f"{'players':>8}{'forwards':>13}{'they take':>11}{'extraction':>12}{'memory':>11}{'in all':>10}"
        + ("   epochs of training" if epoch_seconds else ""),
    ]
    for cost in costs:
        mark = "<" if cost.n_players == n_players else " "
        extraction, total = duration(cost.extraction_seconds), duration(cost.seconds)
        if math.isnan(cost.extraction_seconds):
            extraction, total = "-", "-"
        elif cost.estimated:
            extraction, total = f"~{extraction}", f"~{total}"
        line = (
            f"{cost.n_players:>7}{mark}{cost.forwards:>13,}{duration(cost.forward_seconds):>11}"
            f"{extraction:>12}{_bytes(cost.memory_bytes) if cost.memory_bytes else '-':>11}{total:>10}"
        )
        if epoch_seconds:
            line += "" if math.isnan(cost.seconds) else f"{cost.seconds / epoch_seconds:>12.1f}"
        lines.append(line)
    notes = [f"< the players of the factory: n_players={n_players}"]
    if any(cost.estimated for cost in costs):
        notes.append("~ estimated from fewer players, each taking as many times longer as the last did; see --limit")
    if any(math.isnan(cost.extraction_seconds) for cost in costs):
        notes.append(f"- the extraction takes {MAX_PLAYERS} players at most; --interactions and takes more")
    return "\n".join([*lines, "", *notes])


def _bytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def duration(seconds: float) -> str:
    """Write a time with two digits and a unit.

    Examples:
        >>> duration(0.0312), duration(4.23), duration(75.0), duration(5400.0)
        ('31 ms', '4.2 s', '75 s', '90 min')
    """
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms" if seconds < 0.0995 else f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
