"""The charts of a run as `charts.js` draws them: mean order and losses, orders, what carries over, and the theory.

A figure is described by plain values, so that a report and a TensorBoard tab show the same: a stack of panels on one x
axis, a row of small ones, or frames behind a slider. Colours are names of variables in `style.css`, or hexadecimal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import ArrayLike, NDArray

from interaction_monitor.history import History
from interaction_monitor.history.landmarks import (
    marks,
    onset_index,
    phase_turn,
    positions,
    representative_measurements,
    shown_losses,
    told_phases,
)
from interaction_monitor.plots import charts
from interaction_monitor.plots.theory_text import level, match_words
from interaction_monitor.theory import Overlay

Figure = dict[str, Any]
Series = dict[str, Any]
Panel = dict[str, Any]
_LINES = {
    "onset": {"color": "onset", "dash": ""},
    "gap": {"color": "gap", "dash": "2 4"},
    "over-fitting": {"color": "test", "dash": ""},
}


def numbers(values: ArrayLike) -> list[float | None]:
    """Write numbers with six digits, and None for what is not finite.

    Examples:
        >>> numbers([1.23456789, float("nan")])
        [1.23457, None]
    """
    return [float(f"{x:.6g}") if math.isfinite(x) else None for x in np.asarray(values, dtype=np.float64).tolist()]


def line(name: str, colour: str, x: ArrayLike, y: ArrayLike, **more: Any) -> Series:
    """Describe a curve; `dash`, `points` and `width` as in SVG."""
    return {"kind": "line", "name": name, "color": colour, "x": numbers(x), "y": numbers(y)} | more


def band(name: str, colour: str, x: ArrayLike, low: ArrayLike, high: ArrayLike, **more: Any) -> Series:
    """Describe what lies between two curves."""
    ends = {"low": numbers(low), "high": numbers(high)}
    return {"kind": "band", "name": name, "color": colour, "x": numbers(x)} | ends | more


def bars(name: str, colour: str, y: ArrayLike, **more: Any) -> Series:
    """Describe a bar for each order, from 1 up."""
    heights = numbers(y)
    return {"kind": "bars", "name": name, "color": colour, "x": list(range(1, len(heights) + 1)), "y": heights} | more


def panel(label: str, series: Sequence[Series], **more: Any) -> Panel:
    """Describe one chart; of `more`, `height`, `title`, `faint` and `levels` are the panel's, the rest its y axis's."""
    of_panel = {key: more.pop(key) for key in ("height", "title", "faint", "levels") if key in more}
    return {"y": {"label": label} | more, "series": list(series)} | of_panel


def stack(panels: Sequence[Panel], label: str, **axis: Any) -> Figure:
    """Describe charts under each other on one x axis."""
    return {"kind": "stack", "x": {"label": label} | axis, "panels": list(panels)}


def over_run(panels: Sequence[Panel], history: History) -> Figure:
    """Describe charts over the run, with phases behind them and what happened as lines; they share one zoom."""
    values, unit = positions(history)
    shown = [{"x": float(values[mark.at]), **_LINES[mark.kind], "name": mark.name} for mark in marks(history)]
    figure = stack(panels, unit) | {"run": True, "marks": shown}
    turn, decided = phase_turn(history)
    if turn is not None:
        figure["phases"] = [[None, turn, "one"], *([[turn, None, "two"]] if decided else [])]
    return figure


def run_figures(history: History) -> dict[str, Figure]:
    """Describe every figure that a history knows enough for, by name."""
    figures = {
        "curves": curves(history),
        "moments": moments(history),
        "heat-map": _map(history, _shares(history), shades="magma_r", root=True, row=26),
        "orders": order_frames(history),
    }
    if _beside_references(history):
        by_order = [[row.generalizing_by_order.get(k, np.nan) for k in range(1, row.n_players + 1)] for row in history]
        figures["generalizing"] = over_run([_generalizing_panel(history)], history)
        figures["generalizing-orders"] = _map(history, np.array(by_order))
    if any(row.persisted and row.effect for row in history):  # records of earlier versions know nothing of it
        figures["turnover"] = turnover(history)
        figures["persisted"] = _map(history, history.persisted_shares())
        figures["effects"] = effects(history)
        similarity = history.by_order("similarity")
        if not np.isnan(similarity).all():
            figures["similarity"] = _map(history, similarity)
    return figures


def curves(history: History) -> Figure:
    """Describe the mean order with its band, and the losses and the share that generalizes below it."""
    x, _ = positions(history)
    low, high = history.column("mean_order_low"), history.column("mean_order_high")
    mean = line("mean order ⟨k⟩", "ink", x, history.column("mean_order"), points=len(history) <= 60)
    panels = [panel("mean order ⟨k⟩", [band("95% band of the mean order", "ink", x, low, high), mean], height=170)]
    losses = shown_losses(history)
    train, test = losses.train, losses.test
    both = (("train", train, ""), ("test", test, "6 4"))
    lines = [_known(f"{name} loss{losses.of}", name, x, y, dash=dash) for name, y, dash in both if np.isfinite(y).any()]
    if (test > train).any():
        lines.insert(0, band("test above train", "gap", x, train, np.fmax(train, test), quiet=True))
    if lines:
        panels.append(panel("loss", lines, height=115, zero=True))
    if np.isfinite(losses.gap).any():
        gap = _known(f"loss gap{losses.of} (test − train)", "gap", x, losses.gap, dash="8 3 2 3")
        panels.append(panel("loss gap", [gap], height=85, levels=[{"y": 0, "name": ""}]))
    if _beside_references(history):
        panels.append(_generalizing_panel(history, height=85))
    return over_run(panels, history)


def _beside_references(history: History) -> bool:
    return not np.isnan(history.column("generalizing_share")).all()


def _generalizing_panel(history: History, **more: object) -> Panel:
    x, _ = positions(history)
    share, low, high = (history.column(f"generalizing_{end}") for end in ("share", "low", "high"))
    curve = _known("generalizing share", "generalizing", x, share, points=len(history) <= 60)
    shown = [band("95% band of the share", "generalizing", x, low, high), curve]
    return panel("share", shown, percent=True, min=0, max=1, **more)


def moments(history: History) -> Figure:
    """Describe the bars of the measurements that tell the story, side by side."""
    names, shown = _names(history), _order_bars(history, "")
    return _row(
        [panel("", [shown[i]], title=names[i], percent=True, min=0) for i in representative_measurements(history)]
    )


def _row(panels: Sequence[Panel]) -> Figure:
    return {"kind": "row", "x": {"label": "order k", "whole": True}, "panels": list(panels)}


def order_frames(history: History) -> Figure:
    """Describe the distribution over orders of each measurement, behind a slider."""
    shown, highest = zip(_names(history), _order_bars(history, "share"), strict=True), float(_shares(history).max())
    return {
        "kind": "frames", "unit": positions(history)[1], "x": {"label": "order k", "whole": True},
        "first": onset_index(history) or 0,
        "y": {"label": "share of the strength", "percent": True, "min": 0, "max": 1.05 * highest or 1.0},
        "frames": [{"title": name, "series": [of_orders]} for name, of_orders in shown],
    }  # fmt: skip


def turnover(history: History) -> Figure:
    """Describe what persisted, appeared and vanished as parts of the whole."""
    x, _ = positions(history)
    tops = np.concatenate((np.zeros((len(history), 1)), history.turnover_shares().cumsum(1)), axis=1)
    tops[np.isnan(tops).any(1)] = np.nan
    parts = [
        band(name, colour, x, tops[:, i], tops[:, i + 1], opacity=0.85)
        for i, (name, colour) in enumerate((("persisted", "train"), ("appeared", "and"), ("vanished", "unknown")))
    ]
    return over_run([panel("share of the strength", parts, percent=True, min=0, max=1)], history)


def effects(history: History) -> Figure:
    """Describe what low and high orders add to the output, on training samples too where these are measured."""
    x, _ = positions(history)
    lines = [
        _known(part.name, "test" if part.high else "train", x, part.effect, dash="" if part.trained else "6 4")
        for part in history.effect_parts()
    ]
    return over_run([panel("effect on the output", lines, zero=True)], history)


def _map(
    history: History, shares: NDArray[np.float64], *, shades: str = "Blues", root: bool = False, row: int = 22
) -> Figure:
    """Describe a map of shares, (E, n), with a row for each order; `root` shades by the square root."""
    most = float(np.nanmax(shares)) if np.isfinite(shares).any() else 1.0
    shown = {
        "kind": "heat", "name": "", "x": numbers(positions(history)[0]), "z": [numbers(order) for order in shares.T],
        "max": max(most, 0.01) if root else 1.0, "root": root,
        "stops": [to_hex(colormaps[shades](at)) for at in np.linspace(0.02, 0.92, 9)],
    }  # fmt: skip
    return over_run([panel("order k", [shown], height=row * min(history.n_players, 16))], history)


def _known(name: str, colour: str, x: NDArray[np.float64], y: NDArray[np.float64], **more: object) -> Series:
    """Describe a curve that joins what is known of it."""
    there = np.isfinite(y)
    return line(name, colour, x[there], y[there], **more)


def _shares(history: History) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = np.nan_to_num(history.distribution / history.n_players)
    return shares


def _order_bars(history: History, name: str) -> list[Series]:
    colours = [to_hex(colour) for colour in charts.order_colours(history.n_players)]
    return [bars(name, "train", share, colors=colours) for share in _shares(history)]


def _names(history: History) -> list[str]:
    """Name each measurement: where it was, its stage, and its mean order."""
    values, unit = positions(history)
    onset, phases = onset_index(history), told_phases(history)
    names = []
    for index, row in enumerate(history):
        stage = {"one": ", phase one", "two": ", phase two", None: ""}[phases[index]]
        stage = ", the start" if index == 0 else ", the onset of phase two" if index == onset else stage
        mean = f"⟨k⟩\u00a0=\u00a0{row.mean_order:.2f}" if any(row.distribution) else "nothing is salient"
        names.append(f"{unit} {values[index]:.0f}{stage}: {mean}")
    return names


def theory_figures(overlay: Overlay) -> dict[str, Figure]:
    """Describe the theory laid over the measurements, by name."""
    return {"theory-bars": _overlay_bars(overlay), "noise-level": _noise_level(overlay)}


def _overlay_bars(overlay: Overlay) -> Figure:
    """Describe measured and predicted distributions beside each other, a panel for each of a few measurements."""
    fit, history = overlay.fit, overlay.history
    values, unit = positions(history)
    panels = []
    for i in representative_measurements(history):
        two = bool(overlay.in_phase_two[i])
        phase = "phase two" if two else "phase one (no claim)"
        measured, predicted = ((x / x.sum()).nan_to_num(0).numpy() for x in (fit.real[i], fit.theory[i]))
        shown = [
            bars(f"measured, {phase}", "train" if two else "unknown", measured),
            bars(f"predicted, {phase}", "test" if two else "soft", predicted, open=True),
        ]
        title = f"{unit} {values[i]:.0f}: σ² = {level(float(fit.sigma2[i]))}, {match_words(overlay, i)}"
        panels.append(panel("", shown, title=title, percent=True, min=0, faint=not two))
    return _row(panels)


def _noise_level(overlay: Overlay) -> Figure:
    """Describe σ̂² with its interval over the run, and the mean order that the theory gives there."""
    fit, history = overlay.fit, overlay.history
    x, _ = positions(history)
    zero = float(fit.grid[1]) / 10  # a logarithmic axis has no place for no noise
    centre, low, high = (np.maximum(values.numpy(), zero) for values in (fit.sigma2, fit.low, fit.high))
    levels, two = [], overlay.in_phase_two
    for part, colour, name in ((two, "train", f"σ² in {overlay.stage}"), (~two, "unknown", "in phase one: no claim")):
        if part.any():
            interval = {"kind": "range", "color": colour, "name": "", "x": x[part].tolist()}
            levels.append(interval | {"low": low[part].tolist(), "high": high[part].tolist()})
            levels.append(line(name, colour, x[part], centre[part]) | {"kind": "points"})
    orders = [
        line("⟨k⟩ measured", "ink", x, overlay.measured_order) | {"kind": "points"},
        line("⟨k⟩ predicted", "test", x[two], np.asarray(overlay.predicted_order)[two]),
    ]
    return over_run(
        [panel("noise level σ²", levels, log=True, height=230), panel("mean order ⟨k⟩", orders, height=150)], history
    )
