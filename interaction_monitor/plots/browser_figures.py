"""The charts of a run as `charts.js` draws them: mean order and losses, orders, what carries over, can it be trusted.

A figure is described by plain values, so that a report and a TensorBoard tab show the same: a stack of panels on one x
axis, a row of small ones, or frames behind a slider. Colours are names of variables in `style.css`, or hexadecimal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import ArrayLike, NDArray

from interaction_monitor.history import History, landmarks
from interaction_monitor.plots import charts

Figure = dict[str, Any]
Series = dict[str, Any]
Panel = dict[str, Any]
_MOMENTS = ("unknown", "onset", "ink")
_LEAST = 1e-12  # a logarithmic axis has no zero
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


def row(panels: Iterable[Panel]) -> Figure:
    """Describe charts over the orders beside each other."""
    return {"kind": "row", "x": {"label": "order k", "whole": True}, "panels": list(panels)}


def over_run(panels: Sequence[Panel], history: History) -> Figure:
    """Describe charts over the run, with phases behind them and what happened as lines; they share one zoom."""
    values, unit = landmarks.positions(history)
    shown = [{"x": float(values[mark.at]), **_LINES[mark.kind], "name": mark.name} for mark in landmarks.marks(history)]
    figure = stack(panels, unit) | {"run": True, "marks": shown}
    turn, decided = landmarks.phase_turn(history)
    if turn is not None:
        figure["phases"] = [[None, turn, "one"], *([[turn, None, "two"]] if decided else [])]
    return figure


def run_figures(history: History) -> dict[str, Figure]:
    """Describe every figure that a history knows enough for, by name."""
    names, shown = _names(history), _order_bars(history, "")
    figures = {
        "curves": curves(history),
        "moments": row(
            panel("", [shown[i]], title=names[i], percent=True, min=0)
            for i in landmarks.representative_measurements(history)
        ),
        "heat-map": _map(history, _shares(history), shades="magma_r", root=True, row=26),
        "orders": order_frames(history),
    }
    if beside := _generalizing_panels(history):
        by_order = [[row.generalizing_by_order.get(k, np.nan) for k in range(1, row.n_players + 1)] for row in history]
        figures["generalizing"] = over_run(beside, history)
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
    x, _ = landmarks.positions(history)
    low, high = history.column("mean_order_low"), history.column("mean_order_high")
    mean = line("mean order ⟨k⟩", "ink", x, history.column("mean_order"), points=len(history) <= 60)
    panels = [panel("mean order ⟨k⟩", [band("95% band of the mean order", "ink", x, low, high), mean], height=170)]
    shown = landmarks.shown_losses(history)
    both = (("train", shown.train, ""), ("test", shown.test, "6 4"))
    lines = [_known(f"{name} loss{shown.of}", name, x, y, dash=dash) for name, y, dash in both if np.isfinite(y).any()]
    if (shown.gap > 0).any():
        lines.insert(0, band("test above train", "gap", x, shown.train, np.fmax(shown.train, shown.test), quiet=True))
    if lines:
        panels.append(panel("loss", lines, height=115, zero=True, max=landmarks.top_of_losses(history)))
    if np.isfinite(shown.gap).any():
        gap = _known(f"loss gap{shown.of} (test − train)", "gap", x, shown.gap, dash="8 3 2 3")
        least, most = landmarks.ends_of_gap(history)
        panels.append(panel("loss gap", [gap], height=85, levels=[{"y": 0, "name": ""}], min=least, max=most))
    return over_run(panels + _generalizing_panels(history, height=85), history)


def _generalizing_panels(history: History, **more: object) -> list[Panel]:
    """Describe what generalizes, in a panel; in none where the run has no references."""
    x, _ = landmarks.positions(history)
    share, low, high = (history.column(f"generalizing_{end}") for end in ("share", "low", "high"))
    if np.isnan(share).all():
        return []
    curve = _known("generalizing share", "generalizing", x, share, points=len(history) <= 60)
    shown = [band("95% band of the share", "generalizing", x, low, high), curve]
    return [panel("share", shown, percent=True, min=0, max=1, **more)]


def order_frames(history: History) -> Figure:
    """Describe the distribution over orders of each measurement, behind a slider."""
    shown, highest = zip(_names(history), _order_bars(history, "share"), strict=True), float(_shares(history).max())
    return {
        "kind": "frames", "unit": landmarks.positions(history)[1], "x": {"label": "order k", "whole": True},
        "first": landmarks.onset_index(history) or 0,
        "y": {"label": "share of the strength", "percent": True, "min": 0, "max": 1.05 * highest or 1.0},
        "frames": [{"title": name, "series": [of_orders]} for name, of_orders in shown],
    }  # fmt: skip


def turnover(history: History) -> Figure:
    """Describe what persisted, appeared and vanished as parts of the whole."""
    x, _ = landmarks.positions(history)
    tops = np.concatenate((np.zeros((len(history), 1)), history.turnover_shares().cumsum(1)), axis=1)
    tops[np.isnan(tops).any(1)] = np.nan
    parts = [
        band(name, colour, x, tops[:, i], tops[:, i + 1], opacity=0.85)
        for i, (name, colour) in enumerate((("persisted", "train"), ("appeared", "and"), ("vanished", "unknown")))
    ]
    return over_run([panel("share of the strength", parts, percent=True, min=0, max=1)], history)


def effects(history: History) -> Figure:
    """Describe what low and high orders add to the output, on training samples too where these are measured."""
    x, _ = landmarks.positions(history)
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
    x, _ = landmarks.positions(history)
    shown = {
        "kind": "heat", "name": "", "x": numbers(x), "z": [numbers(order) for order in shares.T],
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
    values, unit = landmarks.positions(history)
    onset, phases = landmarks.onset_index(history), landmarks.told_phases(history)
    names = []
    for index, row in enumerate(history):
        stage = {"one": ", phase one", "two": ", phase two", None: ""}[phases[index]]
        stage = ", the start" if index == 0 else ", the onset of phase two" if index == onset else stage
        mean = f"⟨k⟩\u00a0=\u00a0{row.mean_order:.2f}" if any(row.distribution) else "nothing is salient"
        names.append(f"{unit} {values[index]:.0f}{stage}: {mean}")
    return names


@dataclass(frozen=True)
class Checks:
    """What the faithfulness figures show."""

    worst_error: NDArray[np.float64]  # (E,) of all samples, share of |v(x) - v(x_∅)|
    mean_error: NDArray[np.float64]  # (E,)
    mean_gap: NDArray[np.float64]  # (E,) duality gap, mean over samples
    ranks: NDArray[np.int64]  # (R,) 1 = the strongest interaction
    strength: NDArray[np.float64]  # (moments, R) mean |I| of that rank, in units of τ
    precision: NDArray[np.float64]  # (moments, R) of the strongest so many
    size: NDArray[np.float64]  # (n,) root mean square of the last measurement's interactions
    floors: dict[str, NDArray[np.float64]]  # precision -> (n,) what rounding the outputs makes of nothing
    floor: NDArray[np.float64] | None  # (n,) what rounding in the network makes of nothing, as measured at the end
    tau: float  # of the last measurement

    @property
    def above_floor(self) -> list[int]:
        """The orders whose interactions are typically more than the rounding that makes the floor as measured."""
        if self.floor is None:
            return []
        # An order's mean square holds the rounding's own beside that of the network's interactions: of rounding alone
        # it is about floor², above it in half of the cases. From 4 floor² on three quarters of it are the network's.
        return [k for k, above in enumerate(self.size**2 > 4 * self.floor**2, start=1) if above]


def reliability_figures(
    history: History, checks: Checks, names: Sequence[str], *, noise: float | None, tol: float | None
) -> dict[str, Figure]:
    """Describe the figures of the checks, by name.

    Args:
        history: The run.
        checks: Its checks.
        names: What to call the measurements that have curves.
        noise: The correction of the outputs that the extraction may make; None where there was none.
        tol: The tolerance of the extraction, likewise.
    """
    x, _ = landmarks.positions(history)
    salient = [{"y": 1.0, "name": "salient from here on up"}]
    bound = [{"y": noise, "name": "what the extraction may correct"}] if noise else []
    tolerance = [{"y": tol, "name": "tolerance"}] if tol else []
    least = min(0.4, float(checks.precision.min()))
    top = max(float(np.nanmax(checks.strength)), 1.0)

    def of_samples(label: str, worst: NDArray[np.float64], mean: NDArray[np.float64], levels: list[Any]) -> Figure:
        curves = [line("worst sample", "train", x, worst), line("mean of samples", "train", x, mean, dash="2 4")]
        return over_run([panel(label, curves, percent=True, levels=levels, min=0)], history)

    def of_moments(curves: NDArray[np.float64]) -> list[Series]:
        colours = _MOMENTS[-len(names) :]
        return [line(name, colour, checks.ranks, y) for name, colour, y in zip(names, colours, curves, strict=True)]

    return {
        "matching-error": of_samples(
            "largest error, share of |v(x) − v(∅)|", checks.worst_error, checks.mean_error, bound
        ),
        "solver-gap": of_samples("certified relative gap", history.column("solver_gap"), checks.mean_gap, tolerance),
        "sparsity": stack(
            [panel("strength |I| in units of τ", of_moments(np.maximum(checks.strength, 1e-9)), log=True, min=1e-3,
                   max=2 * top, levels=salient)],
            "rank of the interaction, strongest first", log=True,
        ),
        "precision": stack(
            [panel("matching precision", of_moments(checks.precision), percent=True, min=least, max=1.02)],
            "how many of the strongest interactions", log=True,
        ),
        "noise-floor": _noise_floor(checks),
    }  # fmt: skip


def _noise_floor(checks: Checks) -> Figure:
    """Describe the typical size of an interaction of each order, and what rounding alone would make it."""
    ks = np.arange(1, len(checks.size) + 1)
    series = [line("interactions at the end", "ink", ks, np.maximum(checks.size, _LEAST), points=True)]
    if checks.floor is not None:
        series.append(line("floor as measured", "test", ks, np.maximum(checks.floor, _LEAST), width=3))
    for (name, floor), dash in zip(checks.floors.items(), ("", "6 4", "2 4"), strict=True):
        series.append(line(f"floor in {name}", "test", ks, floor, dash=dash, width=1))
    salient = [{"y": checks.tau, "name": "salient from here on up"}]
    return stack([panel("root mean square of I", series, log=True, levels=salient)], "order k", whole=True)
