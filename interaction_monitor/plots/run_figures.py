"""Pictures of a run, made from its history alone: the same in TensorBoard, in a report and in a file.

Each function takes the history of a run so far, raises a ValueError where that is empty, and returns a matplotlib
`Figure` that belongs to the caller: `figure.savefig("run.png")` writes it. They use matplotlib's object interface, so a
program's own pyplot figures, backend and style stay as they are.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Callable
from functools import wraps

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from numpy.typing import NDArray

from interaction_monitor.console import as_sentence, verdict
from interaction_monitor.history import History
from interaction_monitor.history.landmarks import shown_losses
from interaction_monitor.measurement import Measurement
from interaction_monitor.plots import (
    LEFT,
    STYLE,
    WIDTH,
    charts,
    headline,
    mark_onsets,
    mark_phases,
    name_the_lowest,
    page,
    picture_html,
    row,
    stack,
    styled,
    to_image,
)
from interaction_monitor.plots.charts import order_bars

__all__ = ["carry_over", "curves", "heat_map", "order_bars", "order_rows", "story", "to_image"]


def _drawn(make: Callable[[History], Figure]) -> Callable[[History], Figure]:
    drawn = styled(make)

    @wraps(make)
    def checked(history: History) -> Figure:
        if not len(history):
            raise ValueError("history is empty: measure at least once before drawing")
        return drawn(history)

    return checked


@_drawn
def order_rows(history: History) -> Figure:
    """Draw the distribution over orders at up to six moments of the run [Ren et al. 2024, Figure 2].

    The moments are the start, one within phase one, the onset of phase two, and later ones.

    Args:
        history: The run so far.

    Returns:
        The figure.

    Raises:
        ValueError: If the history is empty.
    """
    figure = page(WIDTH, 2.9)
    charts.bar_row(row(figure, top=0.95, height=1.4), history)
    headline(figure, "Which orders carry the interactions, from the start of the run to its end")
    return figure


@_drawn
def heat_map(history: History) -> Figure:
    """Draw the share of every order at every measurement.

    Args:
        history: The run so far.

    Returns:
        The figure.

    Raises:
        ValueError: If the history is empty.
    """
    figure = page(WIDTH, 4.0)
    (ax,) = stack(figure, [3.0], top=0.45)
    _heat_map(ax, history)
    ax.set_title("How the interaction strength spreads over the orders")
    return figure


@_drawn
def curves(history: History) -> Figure:
    """Draw the mean order and the loss gap on one axis, and the two losses below it on the same epochs.

    Args:
        history: The run so far.

    Returns:
        The figure. Without losses in the history it has the mean order alone.

    Raises:
        ValueError: If the history is empty.
    """
    losses = _has_losses(history)
    figure = page(WIDTH, 6.0 if losses else 4.0)
    axes = stack(figure, [3.0, 1.9][: 1 + losses], top=0.45, gap=0.15)
    _curves(axes, history)
    axes[0].set_title("How many inputs an interaction joins on average, beside the gap between test and train loss")
    return figure


@_drawn
def story(history: History) -> Figure:
    """Draw the whole run on one page: bars at six moments, every order over time, mean order and losses.

    Beside references it also has which part of the strength they have too.

    Args:
        history: The run so far.

    Returns:
        The figure.

    Raises:
        ValueError: If the history is empty.

    Examples:
        >>> from interaction_monitor.history import History
        >>> story(History())
        Traceback (most recent call last):
        ...
        ValueError: history is empty: measure at least once before drawing
    """
    losses, beside = _has_losses(history), not np.isnan(history.column("generalizing_share")).all()
    heights = [2.3, 2.5, *[1.7] * (losses + beside)]
    lines = textwrap.wrap(as_sentence(verdict(history)), 100)
    head = 0.35 + 0.24 * len(lines)
    below = head + 2.95  # the bars take that much
    figure = page(WIDTH, below + sum(heights) + 0.45 * len(heights) + 0.3)
    headline(figure, "\n".join(lines), size=10.5, weight="bold")
    first = "1  How the interaction strength spreads over the orders: few inputs (left) or many (right) at once"
    figure.text(LEFT / WIDTH, 1 - head / figure.get_figheight(), first, va="center", fontsize=11)
    charts.bar_row(row(figure, top=head + 0.65, height=1.4), history)
    axes = stack(figure, heights, top=below, gap=0.42)
    _heat_map(axes[0], history)
    _curves(axes[1 : len(axes) - beside], history)
    if beside:
        charts.generalizing_curve(axes[-1], history)
        axes[-1].set_title("4  Which part of it will hold: what the references encode too")
    axes[0].set_title("2  The same over the whole run, one column per measurement")
    axes[1].set_title("3  The mean order falls in phase one; when it rises again, phase two, look out for the loss gap")
    name_the_lowest(axes)
    return figure


@_drawn
def carry_over(history: History) -> Figure:
    """Draw which interactions persist from one measurement to the next, and what the orders do for the output.

    Args:
        history: The run so far.

    Returns:
        The figure. Where training samples are measured too, it has their effects, and if players mean the same in all
        samples, how alike the interactions of training and probe samples are.

    Raises:
        ValueError: If the history is empty.
    """
    alike = history.by_order("similarity")
    with_alike = not np.isnan(alike).all()
    figure = page(WIDTH, 10.2 if with_alike else 7.8)
    axes = stack(figure, [1.9] * (3 + with_alike), top=0.45, gap=0.5)
    charts.turnover(axes[0], history)
    axes[0].set_title("1  What was salient at a measurement or at the one before it")
    _shares_map(axes[1], history, history.persisted_shares())
    axes[1].set_title("2  Share of each order's strength that was there at the measurement before")
    charts.order_effects(axes[2], history)
    axes[2].set_title("3  What low and high orders add to the output; where they cancel it is little")
    if with_alike:
        _shares_map(axes[3], history, alike)
        axes[3].set_title("4  How alike the interactions of training and of probe samples are")
    _leave_room(axes[0], 0.2)
    _leave_room(axes[2], 0.3)
    handles, labels = axes[2].get_legend_handles_labels()  # none where nothing is known
    axes[2].legend(handles, labels, loc="upper center", ncols=2, fontsize=8, frameon=False)
    for ax, height in zip(axes, (0.83, 1.0, 0.76, 1.0), strict=False):  # beneath the legends
        mark_onsets(ax, history, height=height)
    axes[0].legend(loc="upper center", ncols=5, fontsize=8, frameon=False)
    axes[0].set_yticks(np.linspace(0, 1, 6))  # a share has no ticks in the room above it
    name_the_lowest(axes)
    return figure


def to_html(history: History) -> str:
    """Show a run in a notebook: the picture that tells it, which begins with what it showed in words.

    Args:
        history: The run so far; it may be empty.

    Returns:
        HTML that needs nothing else.
    """
    words = html.escape(as_sentence(verdict(history)))
    return picture_html(story(history), alt=words) if len(history) else f"<p><b>{words}</b></p>"


def measurement_html(measurement: Measurement) -> str:
    """Show a measurement in a notebook: its distribution over orders, and what it is of.

    Args:
        measurement: The measurement.
    """
    n_samples, n_players = measurement.strength.shape
    words = f"{n_samples} samples, {n_players} players: mean order {measurement.mean_order:.2f}"
    with style.context(STYLE):
        figure = page(4.5, 2.4)
        ax = figure.add_axes((0.14, 0.2, 0.83, 0.72))
        charts.order_bars(ax, measurement.distribution.numpy())
        ax.set_xlabel("order k")
        return f"<p><b>{words}</b></p>" + picture_html(figure, alt=words)


def _has_losses(history: History) -> bool:
    losses = shown_losses(history)
    return bool(np.isfinite([losses.train, losses.test]).any())


def _heat_map(ax: Axes, history: History) -> None:
    mesh = charts.order_heat_map(ax, history)
    bar = _colour_bar(ax, mesh)
    bar.set_label("share of the strength")
    highest = mesh.get_clim()[1] or 1.0
    ticks = [share for share in (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0) if share <= highest]
    bar.set_ticks(ticks, labels=[f"{share:.0%}" for share in ticks])
    mark_onsets(ax, history)


def _shares_map(ax: Axes, history: History, shares: NDArray[np.float64]) -> None:
    bar = _colour_bar(ax, charts.order_shares(ax, history, shares))
    bar.set_ticks([0, 0.5, 1], labels=["0%", "50%", "100%"])


def _colour_bar(ax: Axes, mesh: QuadMesh) -> Colorbar:
    # Beside the axes and not taken from them, so that charts below keep the same epochs under each other.
    return ax.get_figure().colorbar(mesh, cax=ax.inset_axes((1.012, 0.0, 0.018, 1.0)))  # type: ignore[union-attr]  # these axes have a figure


def _curves(axes: list[Axes], history: History) -> None:
    top = axes[0]
    charts.mean_order_curve(top, history)
    _leave_room(top, 0.38)
    mark_phases(top, history, names_at=0.82)
    mark_onsets(top, history, height=0.82)
    handles, labels = top.get_legend_handles_labels()
    if np.isfinite(shown_losses(history).gap).any():
        right = top.twinx()
        charts.loss_gap_curve(right, history)
        _leave_room(right, 0.38)
        more, names = right.get_legend_handles_labels()
        handles, labels = handles + more, labels + names
    # Two rows where all would not go into one.
    columns = len(labels) if len(labels) < 5 else -(-len(labels) // 2)
    top.legend(handles, labels, loc="upper center", ncols=columns, frameon=False, columnspacing=1.2, fontsize=8)
    for ax in axes[1:]:
        charts.loss_curves(ax, history)
        # Before the onsets, which are named above.
        ax.legend(loc="upper center", ncols=len(ax.get_legend_handles_labels()[1]), frameon=False)
        mark_phases(ax, history)
        mark_onsets(ax, history, height=0.81)
        _leave_room(ax, 0.2)
    name_the_lowest(axes)


def _leave_room(ax: Axes, share: float) -> None:
    """Stretch the axes upwards, so that a legend lies above the curves and not on them."""
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top + share * (top - bottom))
