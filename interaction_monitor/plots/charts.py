"""The single charts that the monitor's pictures are made of.

Each is drawn into axes that the caller owns, `ax`, and where it is of a run takes its `history` so far, of at least one
measurement, and nothing that is not in one: a live run, a record on disk and a report draw the same pictures. Nothing
here touches pyplot or its state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap, Normalize, PowerNorm
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from interaction_monitor.history import History, landmarks
from interaction_monitor.plots import GAP, ONSET, bare, edges_of, marker_of, plot_known, run_axis, write_inside

# Okabe and Ito's colours, which stay apart for every kind of colour vision.
TRAIN = "#0072B2"
TEST = "#D55E00"
MEAN_ORDER = "#1B1B1B"
GENERALIZING = "#56B4E9"
PERSISTED, APPEARED, VANISHED = "#0072B2", "#E69F00", "#C8C8C8"


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
        write_inside(ax, "nothing\nsalient")
    if labels is not None:
        ax.legend(frameon=False)
    ax.set_xlim(0.3, len(shares) + 0.7)
    step = 1 if len(shares) <= 6 else 2 if len(shares) <= 12 else 3
    ax.set_xticks(orders[::step])
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    bare(ax)


def bar_row(axes: Sequence[Axes], history: History) -> None:
    """Draw the bars of measurements that stand for all into a row of axes, with the onset marked.

    Args:
        axes: One per column; those left over are hidden.
        history: The run so far, at least one measurement.
    """
    chosen = landmarks.representative_measurements(history, len(axes))
    onset, named = landmarks.onset_index(history), landmarks.places(history)
    highest = max(_shares(history.distribution[index]).max() for index in chosen)
    for ax, index in zip(axes, chosen, strict=False):
        row = history[index]
        order_bars(ax, row.distribution)
        ax.set_ylim(0, 1.08 * highest if highest else 1)
        stage = _stage(index, onset, history)
        title = ax.set_title(f"{named[index]}\n{stage}", fontsize=10)
        if not np.isnan(row.mean_order):
            ax.text(0.97, 0.95, f"⟨k⟩ = {row.mean_order:.2f}", transform=ax.transAxes, ha="right", va="top")
        if index == onset:
            title.set(color=ONSET, fontweight="bold")
            ax.spines[:].set(visible=True, color=ONSET, linewidth=2)
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
    shades = ListedColormap(["white", *colormaps["magma_r"](np.linspace(0.02, 0.92, 255))])
    # The square root keeps the few per cent visible with which high orders come back.
    return _heat(ax, history, shares, shades, PowerNorm(0.5, vmin=0.0, vmax=max(float(shares.max()), 0.01)))


def _heat(ax: Axes, history: History, shares: NDArray[np.float64], shades: ListedColormap, norm: Normalize) -> QuadMesh:
    values, _ = landmarks.positions(history)
    edges = np.arange(history.n_players + 1) + 0.5
    mesh = ax.pcolormesh(edges_of(values), edges, np.ma.masked_invalid(shares.T), cmap=shades, norm=norm)
    ax.set_yticks(range(1, history.n_players + 1, 1 if history.n_players <= 12 else 2))
    ax.set_ylabel("order k")
    run_axis(ax, history)
    return mesh


def mean_order_curve(ax: Axes, history: History) -> None:
    """Draw the mean order with its 95% band over probe samples.

    Args:
        ax: Where to draw.
        history: The run so far, at least one measurement.
    """
    values, _ = landmarks.positions(history)
    low, high = history.column("mean_order_low"), history.column("mean_order_high")
    orders = history.column("mean_order")
    ax.plot(values, orders, color=MEAN_ORDER, marker=marker_of(history), label="mean order ⟨k⟩")
    ax.fill_between(values, low, high, color=MEAN_ORDER, alpha=0.15, linewidth=0, label="its 95% band")
    ax.set_ylabel("mean order ⟨k⟩")
    run_axis(ax, history)


def loss_gap_curve(ax: Axes, history: History) -> None:
    """Draw the loss gap, test loss minus train loss, of the losses that `loss_curves` draws.

    Where the first would flatten all others, the axis ends beside these, and it stands there as a number.

    Args:
        ax: Where to draw.
        history: The run so far, at least one measurement.
    """
    losses = landmarks.shown_losses(history)
    label = f"loss gap{losses.of} (test − train)"
    plot_known(ax, history, losses.gap, color=GAP, label=label, linestyle="-.")
    ax.axhline(0, color=GAP, linewidth=0.8, alpha=0.5)
    low, high = landmarks.ends_of_gap(history)
    if low is not None:
        ax.set_ylim(low, high)
        first = int(np.flatnonzero(np.isfinite(losses.gap))[0])
        _write_beyond(ax, landmarks.positions(history)[0][first], losses.gap[first], color=GAP, top=0.72)
    ax.set_ylabel("loss gap", color=GAP)
    ax.tick_params(axis="y", colors=GAP)
    run_axis(ax, history)


def loss_curves(ax: Axes, history: History) -> None:
    """Draw train and test loss, shaded between them where the test loss is the higher one.

    Where a loss before training would flatten all others, the axis ends above these, and it stands there as a number.

    Args:
        ax: Where to draw.
        history: The run so far, at least one measurement.
    """
    values, _ = landmarks.positions(history)
    losses = landmarks.shown_losses(history)
    train, test, both = losses.train, losses.test, np.isfinite(losses.gap)
    above = test[both] > train[both]
    plot_known(ax, history, train, color=TRAIN, label=f"train loss{losses.of}", linestyle="-")
    plot_known(ax, history, test, color=TEST, label=f"test loss{losses.of}", linestyle="--")
    ax.fill_between(
        values[both], train[both], test[both], where=above, interpolate=True, color=GAP, alpha=0.18, linewidth=0,
        label="test above train" if above.any() else None,
    )  # fmt: skip
    top = landmarks.top_of_losses(history)
    ax.set_ylim(bottom=0 if np.nanmin(np.append(train, test), initial=0) >= 0 else None, top=top)
    if top is not None:
        _write_beyond(ax, values[0], np.fmax(train[0], test[0]))
    ax.set_ylabel("loss")
    run_axis(ax, history)


def _write_beyond(ax: Axes, x: float, value: float, *, color: str = "black", top: float = 1.0) -> None:
    """Write a number where its curve leaves the axes; `top` is a height in them that is free of legends."""
    down = value < ax.get_ylim()[0]
    ax.annotate(
        f"{'↓' if down else '↑'} {value:.3g}".replace("-", "−"), (x, 0 if down else top), (18, 4 if down else -4),
        xycoords=("data", "axes fraction"), textcoords="offset points", va="bottom" if down else "top", color=color,
        fontsize=8, bbox={"fc": "white", "ec": "none", "pad": 1},
    )  # fmt: skip


def _shares(strength: NDArray[np.float64]) -> NDArray[np.float64]:
    total = strength.sum()
    return strength / total if total > 0 else np.zeros_like(strength)


def _stage(index: int, onset: int | None, history: History) -> str:
    if index in (0, onset):
        return "onset" if index else "start"
    phase = landmarks.told_phases(history)[index]
    return f"phase {phase}" if phase else "not decided yet"


def turnover(ax: Axes, history: History) -> None:
    """Draw what persisted, appeared and vanished as parts of the whole, over the run.

    Args:
        ax: Where to draw.
        history: The run so far, at least one measurement.
    """
    values, _ = landmarks.positions(history)
    shares = history.turnover_shares()
    known = ~np.isnan(shares).any(1)
    names, colours = ("persisted", "appeared", "vanished"), (PERSISTED, APPEARED, VANISHED)
    ax.stackplot(values[known], shares[known].T, colors=colours, labels=names, alpha=0.9)
    ax.set_ylim(0, 1)
    ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.set_ylabel("share")
    if not known.any():
        write_inside(ax, "one measurement has nothing to be compared with")
    run_axis(ax, history)


def order_shares(ax: Axes, history: History, shares: NDArray[np.float64]) -> QuadMesh:
    """Draw shares of each order over the run; white is none, grey not known.

    Args:
        ax: Where to draw.
        history: The run so far.
        shares: (E, n) in 0..1, NaN where there is none.

    Returns:
        The mesh, for a colour bar.
    """
    ax.set_facecolor("#EFEFEF")
    shades = ListedColormap(colormaps["Blues"](np.linspace(0.0, 1.0, 256)))
    return _heat(ax, history, shares, shades, Normalize(0.0, 1.0))


def order_effects(ax: Axes, history: History) -> None:
    """Draw what low and high orders add to the output, on training samples too where these are measured.

    Args:
        ax: Where to draw.
        history: The run so far, at least one measurement.
    """
    for part in history.effect_parts():
        dash, colour = "-" if part.trained else "--", TEST if part.high else TRAIN
        plot_known(ax, history, part.effect, linestyle=dash, color=colour, ms=3)
        ax.plot([], [], dash, color=colour, label=part.name)
    ax.axhline(0, color=GAP, lw=0.8, alpha=0.5)
    ax.set_ylabel("effect")
    if not ax.get_legend_handles_labels()[0]:
        write_inside(ax, "not measured")
    run_axis(ax, history)


def generalizing_curve(ax: Axes, history: History) -> None:
    """Draw which part of the strength references have too, with its 95% band, and from where it sinks.

    Args:
        ax: Where to draw.
        history: The run so far, beside references.
    """
    values, _ = landmarks.positions(history)
    share, low, high = (history.column(f"generalizing_{name}") for name in ("share", "low", "high"))
    known = ~np.isnan(share)
    ax.fill_between(values[known], low[known], high[known], color=GENERALIZING, alpha=0.18, linewidth=0)
    plot_known(ax, history, share, color=GENERALIZING, label="generalizing share of the strength")
    began = landmarks.find_overfitting(history)
    if began is not None and began.index is not None:
        ax.axvline(values[began.index], ymax=0.8, color=TEST, linewidth=2, label=f"over-fitting begins ({began.place})")
    ax.set_ylim(0, 1)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda part, _: f"{part:.0%}"))
    ax.set_ylabel("generalizes")
    ax.legend(loc="upper center", ncols=2, frameon=False)
    run_axis(ax, history)
