"""The charts of what carries over: to the next measurement, from training samples to others, to other networks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from interaction_monitor.functional import first_high_order
from interaction_monitor.history import History
from interaction_monitor.history.landmarks import find_overfitting, positions
from interaction_monitor.plots.charts import GAP, GENERALIZING, TEST, TRAIN, edges_of, marker_of, plot_known, run_axis

PERSISTED, APPEARED, VANISHED = "#0072B2", "#E69F00", "#C8C8C8"


def turnover_shares(history: History) -> NDArray[np.float64]:
    """Divide what was salient at a measurement or the one before it.

    Args:
        history: The run so far.

    Returns:
        (E, 3) shares of the strength that persisted, appeared and vanished, which sum to 1; NaN where not known.
    """
    persisted, vanished = (history.by_order(name).sum(1) for name in ("persisted", "vanished"))
    parts = np.stack([persisted, history.strength.sum(1) - persisted, vanished], axis=1).clip(0)
    total = parts.sum(1, keepdims=True)
    shares: NDArray[np.float64] = np.divide(parts, total, out=np.full_like(parts, np.nan), where=total > 0)
    return shares


def persisted_shares(history: History) -> NDArray[np.float64]:
    """Return (E, n) which share of each order's strength was there at the measurement before; NaN where not known."""
    strength = history.strength
    # A millionth of the whole is rounding, and its shares would be as loud as any.
    known = strength > 1e-6 * strength.sum(1, keepdims=True)
    shares: NDArray[np.float64] = np.divide(
        history.by_order("persisted"), strength, out=np.full_like(strength, np.nan), where=known
    )
    return shares


class EffectPart(NamedTuple):
    """What the low orders or the high ones add to the output over the run."""

    name: str
    high: bool
    trained: bool  # on training samples, not on the probe's
    effect: NDArray[np.float64]  # (E,) NaN where not known


def effect_parts(history: History) -> list[EffectPart]:
    """List what low and high orders add to the output, as far as anything is known of it."""
    high = first_high_order(history.n_players) - 1
    parts = []
    for field, samples in (("effect", "probe samples"), ("train_effect", "training samples")):
        effects = history.by_order(field)
        for is_high, orders, part in (
            (False, f"orders 1 to {high}" if high > 1 else "order 1", effects[:, :high]),
            (True, f"orders {high + 1} and above", effects[:, high:]),
        ):
            if part.shape[1] and not np.isnan(part.sum(1)).all():
                parts.append(EffectPart(f"{orders}, {samples}", is_high, field == "train_effect", part.sum(1)))
    return parts


def turnover(ax: Axes, history: History) -> None:
    """Draw what persisted, appeared and vanished as parts of the whole, over the run.

    Args:
        ax: Where to draw.
        history: The run so far, at least one measurement.
    """
    values, unit = positions(history)
    shares = turnover_shares(history)
    known = ~np.isnan(shares).any(1)
    ax.stackplot(
        values[known],
        shares[known].T,
        colors=(PERSISTED, APPEARED, VANISHED),
        labels=("persisted", "appeared", "vanished"),
        alpha=0.9,
    )
    ax.set_ylim(0, 1)
    ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.set_ylabel("share")
    if not known.any():
        _nothing(ax, "one measurement has nothing to be compared with")
    run_axis(ax, history, unit)


def order_shares(ax: Axes, history: History, shares: NDArray[np.float64]) -> QuadMesh:
    """Draw shares of each order over the run; white is none, grey not known.

    Args:
        ax: Where to draw.
        history: The run so far, at least one measurement.
        shares: (E, n) in 0..1, NaN where there is none.

    Returns:
        The mesh, for a colour bar.
    """
    values, unit = positions(history)
    ax.set_facecolor("#EFEFEF")
    shades = ListedColormap(colormaps["Blues"](np.linspace(0.0, 1.0, 256)))
    edges = np.arange(history.n_players + 1) + 0.5
    mesh = ax.pcolormesh(edges_of(values), edges, np.ma.masked_invalid(shares.T), cmap=shades, vmin=0.0, vmax=1.0)
    ax.set_yticks(range(1, history.n_players + 1, 1 if history.n_players <= 12 else 2))
    ax.set_ylabel("order k")
    run_axis(ax, history, unit)
    return mesh


def order_effects(ax: Axes, history: History) -> None:
    """Draw what low and high orders add to the output, on training samples too where these are measured.

    Args:
        ax: Where to draw.
        history: The run so far, at least one measurement.
    """
    values, unit = positions(history)
    for part in effect_parts(history):
        dash, colour = "-" if part.trained else "--", TEST if part.high else TRAIN
        known = ~np.isnan(part.effect)
        ax.plot(values[known], part.effect[known], dash, color=colour, marker=marker_of(history), ms=3)
        ax.plot([], [], dash, color=colour, label=part.name)
    ax.axhline(0, color=GAP, lw=0.8, alpha=0.5)
    ax.set_ylabel("effect")
    if not ax.get_legend_handles_labels()[0]:
        _nothing(ax, "not measured")
    run_axis(ax, history, unit)


def _nothing(ax: Axes, text: str) -> None:
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color="#555555")


def generalizing_curve(ax: Axes, history: History) -> None:
    """Draw which part of the strength references have too, with its 95% band, and from where it sinks.

    Args:
        ax: Where to draw.
        history: The run so far, beside references.
    """
    values, unit = positions(history)
    share, low, high = (history.column(f"generalizing_{name}") for name in ("share", "low", "high"))
    known = ~np.isnan(share)
    ax.fill_between(values[known], low[known], high[known], color=GENERALIZING, alpha=0.18, linewidth=0)
    plot_known(ax, values, share, GENERALIZING, "generalizing share of the strength", "-", marker_of(history))
    began = find_overfitting(history)
    if began is not None and began.index is not None:
        ax.axvline(values[began.index], color=TEST, linewidth=2, label=f"over-fitting begins ({began.place})")
    ax.set_ylim(0, 1)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda part, _: f"{part:.0%}"))
    ax.set_ylabel("generalizes")
    ax.legend(loc="upper center", ncols=2, frameon=False)
    run_axis(ax, history, unit)
