"""The theory over the measurements, as in the command `theory`."""

from __future__ import annotations

import numpy as np

from interaction_monitor.history.landmarks import positions, representative_measurements
from interaction_monitor.plots.theory_text import level, match_words
from interaction_monitor.report.chart_description import Figure, bars, line, over_run, panel
from interaction_monitor.theory.overlay import Overlay


def overlay_bars(overlay: Overlay) -> Figure:
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
    return {"kind": "row", "x": {"label": "order k", "whole": True}, "panels": panels}


def noise_level(overlay: Overlay) -> Figure:
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
