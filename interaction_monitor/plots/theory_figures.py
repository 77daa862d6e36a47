"""The theory beside a run in pictures, in a browser's too: the paper's Figure 4, and the noise level over the run."""

from __future__ import annotations

import glob
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from interaction_monitor.history.landmarks import positions, representative_measurements
from interaction_monitor.plots import NOTE, ONSET, PHASE_ONE, PHASE_TWO, bare, charts, page, styled, to_image
from interaction_monitor.plots import browser_figures as browser
from interaction_monitor.plots.tensorboard import EVENTS, write_histogram
from interaction_monitor.plots.theory_text import HOW_TO_READ, WHY_GREY, findings, level, match_words
from interaction_monitor.theory import Overlay, norm_ratio

_GREY = "#9A9A9A"
_LIGHT_GREY = "#D5D5D5"
_MOST_PICTURES = 10  # TensorBoard keeps so many of a tag, and drops others at random


@styled
def bars(overlay: Overlay, columns: Sequence[int] | None = None) -> Figure:
    """Draw the measured distribution over orders beside the predicted one [Ren et al. 2024, Figure 4].

    Args:
        overlay: The run.
        columns: Which measurements, by their index; None takes up to six that tell the story.

    Returns:
        The figure; what lies in phase one is grey.
    """
    chosen = list(columns) if columns is not None else representative_measurements(overlay.history)
    greys = not overlay.in_phase_two[chosen].all()
    figure = page(max(2.3 * len(chosen), 6.5), 3.9, laid_out=True)
    axes = figure.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
    for ax, index in zip(axes, chosen, strict=True):
        _column(ax, overlay, index)
        if ax is not axes[0]:
            ax.tick_params(labelleft=False)
    axes[0].set_ylabel("share of the\ninteraction strength")
    shades = [(charts.TRAIN, charts.TEST), *([(_LIGHT_GREY, _GREY)] if greys else [])]
    pairs: list[Any] = [
        tuple(Patch(color=filled) for filled, _ in shades),
        tuple(Patch(facecolor="white", edgecolor=edge, hatch="////") for _, edge in shades),
    ]
    figure.legend(
        pairs,
        ["measured, $I_{real}$", "predicted at the best noise level, $I_{theo}$"],
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.3)},
        handlelength=3.2,
        loc="outside upper right",
        ncols=2,
        frameon=False,
    )
    if greys:
        width = 24 * len(chosen)
        figure.supxlabel(textwrap.fill(f"Grey: {WHY_GREY}", max(width, 70)), fontsize=9, color=NOTE)
    return figure


@styled
def noise_level(overlay: Overlay) -> Figure:
    """Draw σ̂² with its interval over the run, and the mean orders measured and predicted below it.

    Args:
        overlay: The run.

    Returns:
        The figure; what lies in phase one is grey.
    """
    figure = page(11, 6.4, laid_out=True)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    values, unit = positions(overlay.history)
    two = overlay.in_phase_two
    _levels(top, overlay, values)
    top.set_title("The noise level at which the theory matches each measurement, with its 95% interval over samples")
    for part, shade in ((~two, _GREY), (two, charts.MEAN_ORDER)):
        bottom.plot(values[part], overlay.measured_order[part], ".", color=shade, markersize=7)
    bottom.plot([], [], ".", color=charts.MEAN_ORDER, label="measured")
    bottom.plot(values[two], overlay.predicted_order[two], "-", color=charts.TEST, label="predicted")
    bottom.set_ylabel("mean order ⟨k⟩")
    bottom.set_xlabel(unit)
    bottom.set_title("The mean order at that noise level")
    bottom.legend(frameon=False, loc="best")
    left, right = values[0] - 0.02 * np.ptp(values), values[-1] + 0.02 * np.ptp(values)
    turn = values[overlay.turn]
    dashes, name = ("-", "onset of phase two") if overlay.onset_known else ("--", "lowest ⟨k⟩; no onset was found")
    for ax in (top, bottom):
        ax.set_xlim(left, right)
        ax.axvspan(left, turn, color=PHASE_ONE, linewidth=0, zorder=0)
        ax.axvspan(turn, right, color=PHASE_TWO, linewidth=0, zorder=0)
        ax.axvline(turn, color=ONSET, linewidth=2, linestyle=dashes)
        bare(ax)
    top.plot([], [], color=ONSET, linewidth=2, linestyle=dashes, label=name)
    top.legend(frameon=False, loc="best")
    if not two.all():
        figure.supxlabel(textwrap.fill(f"Grey: {WHY_GREY}", 150), fontsize=9, color=NOTE)
    return figure


def _column(ax: Axes, overlay: Overlay, index: int) -> None:
    fit, two = overlay.fit, bool(overlay.in_phase_two[index])
    charts.order_bars(ax, fit.real[index], fit.theory[index].nan_to_num(0))
    if not two:
        for i, patch in enumerate(ax.patches):
            filled = i < overlay.history.n_players
            patch.set(facecolor=_LIGHT_GREY if filled else "white", edgecolor=_LIGHT_GREY if filled else _GREY)
    # One height for every picture of a run, so that they can be leafed through; the rest is for the notes.
    both = torch.stack([fit.real, fit.theory.nan_to_num(0)])
    highest = float((both / both.sum(-1, keepdim=True)).nan_to_num(0).max())
    ax.set_ylim(0, min(1.28 * highest, 1.2))
    known = "onset" if index == overlay.turn else "phase two"
    stage = "phase one" if not two else known if overlay.onset_known else "phase two?"
    ax.set_title(f"{overlay.places[index]}\n{stage}", fontsize=10, color="black" if two else _GREY)
    note = f"σ² = {level(float(fit.sigma2[index]))}\n{match_words(overlay, index)}"
    ax.text(0.97, 0.97, note, transform=ax.transAxes, ha="right", va="top", color="black" if two else _GREY, fontsize=9)
    ax.set_xlabel("order k")


def _placed_levels(overlay: Overlay) -> tuple[float, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Place σ̂² and the ends of its interval on a logarithmic axis, which has no zero: where that is, and (E,) each."""
    fit = overlay.fit
    # Zero gets a place of its own, a decade below the least level that was tried.
    zero = float(fit.grid[1]) / 10
    centre, low, high = (np.maximum(values.numpy(), zero) for values in (fit.sigma2, fit.low, fit.high))
    return zero, centre, low, high


def _levels(ax: Axes, overlay: Overlay, values: NDArray[np.float64]) -> None:
    zero, centre, low, high = _placed_levels(overlay)
    two = overlay.in_phase_two
    for part, shade in ((~two, _GREY), (two, charts.TRAIN)):
        ax.vlines(values[part], low[part], high[part], color=shade, alpha=0.45, linewidth=3)
        ax.plot(values[part], centre[part], "o", color=shade, markersize=5)
    ax.plot(values[two], centre[two], "-", color=charts.TRAIN, linewidth=1, alpha=0.6)
    ax.set_yscale("log")
    ceiling = np.nanmax(high[two]) if np.isfinite(high[two]).any() else 1.0
    ax.set_ylim(zero / 3, max(3 * float(np.nanmax(np.append(high, ceiling))), zero * 10))
    exponents = range(int(np.ceil(np.log10(zero * 9))), int(np.floor(np.log10(ax.get_ylim()[1]))) + 1)
    step = max(1, len(exponents) // 6)
    ax.yaxis.set_major_locator(FixedLocator([zero, *(10.0**x for x in exponents[::-step])]))
    ax.yaxis.set_minor_locator(NullLocator())
    names = {zero: "none"} | {10.0**x: f"$10^{{{x}}}$" for x in exponents}
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: names.get(y, "")))
    ax.set_ylabel("noise level σ²")


def for_browser(overlay: Overlay) -> dict[str, browser.Figure]:
    """Describe both pictures as `charts.js` draws them, in the report and the tab.

    Args:
        overlay: The run.

    Returns:
        Name to figure, of plain values.
    """
    return {"theory-bars": _browser_bars(overlay), "noise-level": _browser_noise_level(overlay)}


def _browser_bars(overlay: Overlay) -> browser.Figure:
    fit, history = overlay.fit, overlay.history
    values, unit = positions(history)
    panels = []
    for i in representative_measurements(history):
        two = bool(overlay.in_phase_two[i])
        phase = "phase two" if two else "phase one (no claim)"
        measured, predicted = ((x / x.sum()).nan_to_num(0).numpy() for x in (fit.real[i], fit.theory[i]))
        shown = [
            browser.bars(f"measured, {phase}", "train" if two else "unknown", measured),
            browser.bars(f"predicted, {phase}", "test" if two else "soft", predicted, open=True),
        ]
        title = f"{unit} {values[i]:.0f}: σ² = {level(float(fit.sigma2[i]))}, {match_words(overlay, i)}"
        panels.append(browser.panel("", shown, title=title, percent=True, min=0, faint=not two))
    return browser.row(panels)


def _browser_noise_level(overlay: Overlay) -> browser.Figure:
    history, two = overlay.history, overlay.in_phase_two
    x, _ = positions(history)
    _, centre, low, high = _placed_levels(overlay)
    levels = []
    for part, colour, name in ((two, "train", f"σ² in {overlay.stage}"), (~two, "unknown", "in phase one: no claim")):
        if part.any():
            interval = browser.band("", colour, x[part], low[part], high[part])
            points = browser.line(name, colour, x[part], centre[part])
            levels += [interval | {"kind": "range"}, points | {"kind": "points"}]
    orders = [
        browser.line("⟨k⟩ measured", "ink", x, overlay.measured_order) | {"kind": "points"},
        browser.line("⟨k⟩ predicted", "test", x[two], overlay.predicted_order[two]),
    ]
    panels = [
        browser.panel("noise level σ²", levels, log=True, height=230),
        browser.panel("mean order ⟨k⟩", orders, height=150),
    ]
    return browser.over_run(panels, history)


def norm_ratio_figure(n_players: Sequence[int] = (6, 8, 10), sigma2: Sequence[float] | None = None) -> Figure:
    """Draw r^(k) against σ², one panel for each number of players, one line for each order.

    Figure 3 of Ren et al. 2024: the head start of every order over the next fades with the noise.

    Args:
        n_players: numbers of players, each at least 2, one panel for each.
        sigma2: noise variances, positive; default: 37 levels from 1e-6 to 1e3.

    Returns:
        The figure; save it with `figure.savefig(path)`.

    Raises:
        ValueError: if a number of players is below 2, which leaves no ratio to draw, or a variance is not positive.

    Examples:
        >>> figure = norm_ratio_figure((3, 5))
        >>> [len(panel.lines) for panel in figure.axes]
        [2, 4]
    """
    if not n_players or min(n_players) < 2:
        raise ValueError(f"n_players must be numbers of at least 2, for two orders to compare, but is {n_players}")
    if sigma2 is not None and not all(variance > 0 for variance in sigma2):
        raise ValueError(f"sigma2 is drawn on a logarithmic axis and must be positive, but is {sigma2}")
    levels = torch.logspace(-6, 3, 37, dtype=torch.float64) if sigma2 is None else torch.tensor(sigma2).double()
    figure = page(3.6 * len(n_players), 3.2, laid_out=True)
    panels = figure.subplots(1, len(n_players), sharey=True, squeeze=False)[0]
    for panel, n in zip(panels, n_players, strict=True):
        for k, ratio in enumerate(norm_ratio(n, levels).T, start=1):
            shade = 0.15 + 0.7 * (k - 1) / max(n - 2, 1)
            panel.plot(levels, ratio, color=(shade, 0.35, 1 - shade), label=f"k = {k}", linewidth=1.2)
        panel.set(xscale="log", xlabel="noise variance σ²", title=f"n = {n}")
        if n <= 14:  # more lines than that leave no room for the panel
            panel.legend(fontsize="xx-small", frameon=False)
    panels[0].set_ylabel("r$^{(k)}$, reach of order k over order k + 1")
    return figure


def run_folder(record: Path) -> Path | None:
    """Find the TensorBoard run that a record belongs to: the folder above it, if that holds event files.

    None where the run was not logged to TensorBoard.
    """
    folder = record.resolve().parent
    return folder if any(folder.glob(f"{EVENTS}*")) else None


def write_theory(overlay: Overlay, folder: Path, *, name: str = "interactions") -> None:
    """Write the overlay into a TensorBoard run, in place of what an earlier call wrote there.

    Args:
        overlay: The run.
        folder: The run's folder.
        name: Prefix of the tags, the monitor's name.

    Raises:
        OSError: If the folder cannot be written.
    """
    suffix = f".theory-of-{name}"
    for earlier in folder.glob(f"{EVENTS}*{glob.escape(suffix)}"):
        earlier.unlink()
    history, fit = overlay.history, overlay.fit
    pictured = representative_measurements(history, _MOST_PICTURES)
    scalars: dict[str, Any] = {
        "sigma2": fit.sigma2,
        "sigma2_low": fit.low,
        "sigma2_high": fit.high,
        "cosine": fit.cosine,
        "divergence": fit.divergence,
        "mean_order": overlay.predicted_order,
    }
    with SummaryWriter(str(folder), filename_suffix=suffix) as writer:

        def draw(key: str, figure: Figure, step: int) -> None:
            writer.add_image(f"{name}/theory/{key}", to_image(figure), step, dataformats="HWC")

        for index, row in enumerate(history):
            if index in pictured:
                draw("bars", bars(overlay, [index]), row.step)
            if not overlay.in_phase_two[index] or fit.sigma2[index].isnan():
                continue
            write_histogram(writer, fit.theory[index].tolist(), tag=f"{name}/theory/orders", step=row.step)
            for key, values in scalars.items():
                writer.add_scalar(f"{name}/theory/{key}", float(values[index]), row.step)
        last = history[-1].step
        draw("overview", bars(overlay), last)
        draw("noise_level", noise_level(overlay), last)
        text = HOW_TO_READ.format(name=name, findings="\n\n".join(findings(overlay)), why=WHY_GREY)
        writer.add_text(f"{name}/theory/how_to_read", text, last)
