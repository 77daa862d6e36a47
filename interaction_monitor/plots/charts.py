"""The single charts that the monitor's pictures are made of, each drawn into axes that the caller owns.

Every chart takes a `History` and nothing that is not in one, so a live run, a record on disk and a report
draw the same pictures. Nothing here touches pyplot or its state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap, PowerNorm
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from interaction_monitor.history import History
from interaction_monitor.history.landmarks import (
    fair_losses,
    find_gap_opening,
    find_onset,
    gap_name,
    onset_index,
    phase_turn,
    positions,
    representative_measurements,
    told_phases,
)

# Okabe and Ito's colours, which stay apart for every kind of colour vision.
TRAIN = "#0072B2"
TEST = "#D55E00"
GAP = "#B2558A"
MEAN_ORDER = "#1B1B1B"
ONSET = "#009E73"
GENERALIZING = "#56B4E9"
PHASE_ONE = "#E9EEF5"
PHASE_TWO = "#FBF0DD"
_NOTE = "#555555"


def order_colours(n_players: int) -> list[tuple[float, float, float]]:
    """Return one colour per order, from light (order 1, simple) to dark (order n, complex).

    Examples:
        >>> light, _, dark = order_colours(3)
        >>> sum(light) > sum(dark)
        True
    """
    shades = np.linspace(0.35, 1.0, n_players)
    return [tuple(float(x) for x in colormaps["YlGnBu"](shade)[:3]) for shade in shades]  # type: ignore[misc]  # three of three


def order_bars(
    ax: Axes, real: ArrayLike, predicted: ArrayLike | None = None, *, labels: tuple[str, str] | None = None
) -> None:
    """Draw one distribution over orders as bars, and a predicted one beside it.

    Args:
        ax: Where to draw.
        real: (n,) I_real^(k) or any other strengths; their shares are drawn.
        predicted: (n,) the same from theory, drawn as open bars over the filled ones.
        labels: What to call the two in a legend; None draws no legend.
    """
    shares = _shares(np.asarray(real, dtype=np.float64))
    orders = np.arange(1, len(shares) + 1)
    first, second = labels or (None, None)
    if predicted is None:
        ax.bar(orders, shares, width=0.82, color=order_colours(len(shares)), edgecolor="#00000033", label=first)
    else:
        theory = _shares(np.asarray(predicted, dtype=np.float64))
        ax.bar(orders - 0.21, shares, width=0.42, color=TRAIN, label=first)
        ax.bar(orders + 0.21, theory, width=0.42, color="white", edgecolor=TEST, hatch="////", label=second)
    if not shares.any():
        ax.text(0.5, 0.5, "nothing\nsalient", transform=ax.transAxes, ha="center", va="center", color=_NOTE)
    if labels is not None:
        ax.legend(frameon=False)
    ax.set_xlim(0.3, len(shares) + 0.7)
    step = 1 if len(shares) <= 6 else 2 if len(shares) <= 12 else 3
    ax.set_xticks(orders[::step])
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    ax.spines[["top", "right"]].set_visible(False)


def bar_row(axes: Sequence[Axes], history: History) -> None:
    """Draw the bars of measurements that stand for all into a row of axes, with the onset marked.

    Args:
        axes: One per column; those left over are hidden.
        history: The run so far, at least one measurement.
    """
    chosen = representative_measurements(history, len(axes))
    onset = onset_index(history)
    values, unit = positions(history)
    highest = max(_shares(history.distribution[index]).max() for index in chosen)
    for ax, index in zip(axes, chosen, strict=False):
        row = history[index]
        order_bars(ax, row.distribution)
        ax.set_ylim(0, 1.08 * highest if highest else 1)
        stage = _stage(index, onset, history)
        ax.set_title(
            f"{unit} {values[index]:.0f}\n{stage}",
            fontsize=10,
            color=ONSET if index == onset else "black",
            fontweight="bold" if index == onset else "normal",
        )
        if not np.isnan(row.mean_order):
            ax.text(0.97, 0.95, f"⟨k⟩ = {row.mean_order:.2f}", transform=ax.transAxes, ha="right", va="top")
        if index == onset:
            for spine in ax.spines.values():
                spine.set(visible=True, color=ONSET, linewidth=2)
        if ax is not axes[0]:
            ax.tick_params(labelleft=False)
        ax.set_xlabel("order k")
    axes[0].set_ylabel("share of the\ninteraction strength")
    for ax in axes[len(chosen) :]:
        ax.set_visible(False)


def order_heat_map(ax: Axes, history: History) -> QuadMesh:
    """Draw the share of every order at every measurement; light is none, dark is much.

    Args:
        ax: Where to draw.
        history: The run so far, at least one measurement.

    Returns:
        The mesh, for a colour bar.
    """
    shares = np.stack([_shares(distribution) for distribution in history.distribution])
    values, unit = positions(history)
    shades = ListedColormap(["white", *colormaps["magma_r"](np.linspace(0.02, 0.92, 255))])
    # The square root keeps the few per cent visible with which high orders come back.
    mesh = ax.pcolormesh(
        edges_of(values),
        np.arange(history.n_players + 1) + 0.5,
        shares.T,
        cmap=shades,
        norm=PowerNorm(0.5, vmin=0.0, vmax=max(float(shares.max()), 0.01)),
    )
    step = 1 if history.n_players <= 12 else 2
    ax.set_yticks(range(1, history.n_players + 1, step))
    ax.set_ylabel("order k")
    run_axis(ax, history, unit)
    return mesh


def mean_order_curve(ax: Axes, history: History) -> None:
    """Draw the mean order with its 95% band over probe samples.

    Args:
        ax: Where to draw.
        history: The run so far, at least one measurement.
    """
    values, unit = positions(history)
    low, high = history.column("mean_order_low"), history.column("mean_order_high")
    orders = history.column("mean_order")
    ax.plot(values, orders, color=MEAN_ORDER, marker=marker_of(history), label="mean order ⟨k⟩")
    ax.fill_between(values, low, high, color=MEAN_ORDER, alpha=0.15, linewidth=0, label="its 95% band")
    ax.set_ylabel("mean order ⟨k⟩")
    run_axis(ax, history, unit)


def loss_gap_curve(ax: Axes, history: History) -> None:
    """Draw the loss gap, test loss minus train loss, of the very network that was measured where that is known.

    Args:
        ax: Where to draw.
        history: The run so far, at least one measurement.
    """
    values, unit = positions(history)
    train, test = fair_losses(history)
    plot_known(ax, values, test - train, GAP, "loss gap (test − train)", "-.", marker_of(history))
    ax.axhline(0, color=GAP, linewidth=0.8, alpha=0.5)
    ax.set_ylabel("loss gap", color=GAP)
    ax.tick_params(axis="y", colors=GAP)
    run_axis(ax, history, unit)


def loss_curves(ax: Axes, history: History) -> None:
    """Draw train and test loss, shaded between them where the test loss is the higher one.

    Args:
        ax: Where to draw.
        history: The run so far, at least one measurement.
    """
    values, unit = positions(history)
    train, test = history.column("train_loss"), history.column("test_loss")
    both = ~np.isnan(train) & ~np.isnan(test)
    above = test[both] > train[both]
    ax.fill_between(
        values[both], train[both], test[both], where=above, interpolate=True, color=GAP, alpha=0.18, linewidth=0,
        label="test above train" if above.any() else None,
    )  # fmt: skip
    plot_known(ax, values, train, TRAIN, "train loss", "-", marker_of(history))
    plot_known(ax, values, test, TEST, "test loss", "--", marker_of(history))
    ax.set_ylim(bottom=0 if np.nanmin(np.append(train, test), initial=0) >= 0 else None)
    ax.set_ylabel("loss")
    run_axis(ax, history, unit)


def mark_phases(ax: Axes, history: History, *, names_at: float | None = None) -> None:
    """Shade the phases behind a chart over the run, as far as they are decided at its last measurement.

    Args:
        ax: Axes whose x is the run.
        history: The run so far, at least one measurement.
        names_at: At which part of the height to write the phases' names; None leaves them out.
    """
    left, right = ax.get_xlim()
    turn, decided = phase_turn(history)
    if turn is None:
        return
    after = (PHASE_TWO, "phase two") if decided else ("none", "not decided yet")
    for begin, end, colour, name in ((left, turn, PHASE_ONE, "phase one"), (turn, right, *after)):
        if end <= begin:
            continue
        if colour != "none":
            ax.axvspan(begin, end, color=colour, linewidth=0, zorder=0)
        width = (end - begin) / (right - left)
        # A name that is wider than its phase would run into the next one: it is turned, or left out.
        if names_at is not None and width > 0.03:
            place: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "ha": "center", "va": "top"}
            turned = 0 if width > 0.1 else 90
            ax.text((begin + end) / 2, names_at, name, color=_NOTE, rotation=turned, **place)


def mark_onsets(ax: Axes, history: History, *, height: float = 1.0) -> None:
    """Draw where phase two began and from where the loss gap rises, as far as the history knows.

    Args:
        ax: Axes whose x is the run.
        history: The run so far, at least one measurement.
        height: Which part of the height the lines take, from the bottom.
    """
    values, _ = positions(history)
    for found, colour, style, name in (
        (find_onset(history), ONSET, "-", "onset of phase two"),
        (find_gap_opening(history), GAP, ":", gap_name(history)),
    ):
        if found is not None and found.index is not None:
            label = f"{name} ({found.place})"
            ax.axvline(values[found.index], ymax=height, color=colour, linestyle=style, linewidth=2, label=label)


def _shares(strength: NDArray[np.float64]) -> NDArray[np.float64]:
    total = strength.sum()
    return strength / total if total > 0 else np.zeros_like(strength)


def _stage(index: int, onset: int | None, history: History) -> str:
    if index == 0:
        return "start"
    if onset is None:
        return "phase one" if told_phases(history)[index] == "one" else "not decided yet"
    if index == onset:
        return "onset"
    return "phase one" if index < onset else "phase two"


def edges_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where the columns of measurements at `values` begin and end."""
    if len(values) == 1:
        return np.array([values[0] - 0.5, values[0] + 0.5])
    middles = (values[1:] + values[:-1]) / 2
    first, last = values[0] - (middles[0] - values[0]), values[-1] + (values[-1] - middles[-1])
    return np.concatenate([[first], middles, [last]])


def run_axis(ax: Axes, history: History, unit: str) -> None:
    """Let x be the run, from its first measurement to its last."""
    edges = edges_of(positions(history)[0])
    ax.set_xlim(edges[0], edges[-1])
    ax.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    ax.set_xlabel(unit)


def marker_of(history: History) -> str:
    """Return what marks the measurements on a curve: nothing where there are too many."""
    return "o" if len(history) <= 2 else "." if len(history) <= 60 else ""


def plot_known(
    ax: Axes,
    values: NDArray[np.float64],
    column: NDArray[np.float64],
    colour: str,
    label: str,
    style: str,
    marker: str,
) -> None:
    """Draw a curve that joins what is known of it."""
    # Where a loss is logged less often than the run is measured, its points are still joined.
    known = ~np.isnan(column)
    if known.any():
        ax.plot(values[known], column[known], color=colour, label=label, linestyle=style, marker=marker)
