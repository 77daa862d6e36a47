"""Descriptions of figures that `charts.js` draws: plain values, so that a report and a TensorBoard tab show the same.

A figure is a stack of panels on one x axis, a row of small ones, or frames behind a slider. Colours are names of
variables in `style.css`, or hexadecimal.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import ArrayLike

from interaction_monitor.history import History
from interaction_monitor.history.landmarks import (
    find_gap_opening,
    find_onset,
    find_overfitting,
    gap_name,
    phase_turn,
    positions,
)

Figure = dict[str, Any]
Series = dict[str, Any]
Panel = dict[str, Any]


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
    return {
        "kind": "band",
        "name": name,
        "color": colour,
        "x": numbers(x),
        "low": numbers(low),
        "high": numbers(high),
    } | more


def bars(name: str, colour: str, y: ArrayLike, **more: Any) -> Series:
    """Describe a bar for each order, from 1 up."""
    heights = numbers(y)
    return {"kind": "bars", "name": name, "color": colour, "x": list(range(1, len(heights) + 1)), "y": heights} | more


def heat(x: ArrayLike, shares: ArrayLike, *, shades: str, root: bool) -> Series:
    """Describe a map of shares, (E, n), with a column for each x; `root` shades by the square root."""
    z = np.asarray(shares, dtype=np.float64).T
    most = float(np.nanmax(z)) if np.isfinite(z).any() else 1.0
    stops = [to_hex(colormaps[shades](at)) for at in np.linspace(0.02, 0.92, 9)]
    return {
        "kind": "heat", "name": "", "x": numbers(x), "z": [numbers(row) for row in z],
        "max": max(most, 0.01) if root else 1.0, "root": root, "stops": stops,
    }  # fmt: skip


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
    figure = stack(panels, unit) | {"run": True, "marks": _marks(history, values.tolist())}
    turn, decided = phase_turn(history)
    if turn is not None:
        figure["phases"] = [[None, turn, "one"], *([[turn, None, "two"]] if decided else [])]
    return figure


def _marks(history: History, values: Sequence[float]) -> list[dict[str, Any]]:
    marks = []
    for found, colour, dash, name in (
        (find_onset(history), "onset", "", "onset of phase two"),
        (find_gap_opening(history), "gap", "2 4", gap_name(history)),
        (find_overfitting(history), "test", "", "over-fitting begins"),
    ):
        if found is not None and found.index is not None:
            marks.append({"x": values[found.index], "color": colour, "dash": dash, "name": f"{name} ({found.place})"})
    return marks


def as_json(figure: Figure) -> Markup:
    """Write a figure so that it can stand inside a script element."""
    # Inside a script element only "<" could end it early.
    return Markup(json.dumps(figure, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))
