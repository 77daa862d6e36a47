"""What the report's figures have in common: one look, and the phases behind every chart over the run."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from interaction_monitor.history import History
from interaction_monitor.history.landmarks import find_gap_opening, find_onset, positions
from interaction_monitor.plots import charts

GREY, LIGHT_GREY = "#9A9A9A", "#D5D5D5"
_AXIS = {
    "gridcolor": "#E8E8E8",
    "zeroline": False,
    "linecolor": "#888",
    "ticks": "outside",
    "tickcolor": "#888",
    "automargin": True,
    "title_standoff": 12,
}


def styled(figure: go.Figure, *, height: int, **layout: Any) -> go.Figure:
    """Give a figure the report's look."""
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 70, "r": 70, "t": 50, "b": 55},
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#222"},
        paper_bgcolor="white",
        plot_bgcolor="white",
        hoverlabel={"font": {"family": "system-ui, sans-serif"}},
    )
    figure.update_xaxes(**_AXIS)
    figure.update_yaxes(**_AXIS)
    figure.update_layout(**layout)
    return figure


def legend_above(*, y: float = 1.02) -> dict[str, Any]:
    """Place a legend in a row above the axes, where it covers nothing."""
    return {"orientation": "h", "yanchor": "bottom", "y": y, "xanchor": "left", "x": 0, "traceorder": "normal"}


def shade(figure: go.Figure, values: NDArray[np.float64], turn: float | None, *, two: bool = True) -> None:
    """Shade the phases behind a figure whose every x axis is the run, and give these axes the same ends.

    Args:
        figure: The figure.
        values: (E,) where the measurements lie, increasing.
        turn: Where phase one ends; None: at the end of the run.
        two: Whether phase two has begun there.
    """
    pad = 0.02 * (values[-1] - values[0])
    left, right = values[0] - pad, values[-1] + pad
    end = right if turn is None else turn
    figure.add_vrect(x0=left, x1=end, fillcolor=charts.PHASE_ONE, line_width=0, layer="below")
    if two and turn is not None:
        figure.add_vrect(x0=turn, x1=right, fillcolor=charts.PHASE_TWO, line_width=0, layer="below")
    figure.update_xaxes(range=[left, right])


def mark_level(figure: go.Figure, y: float, name: str, *, logarithmic: bool = False, left: bool = False) -> None:
    """Draw a named level across a figure.

    Args:
        figure: The figure.
        y: The level.
        name: What to write above it.
        logarithmic: Whether the y axis is; plotly wants the place of a text there as an exponent.
        left: Whether to write it at the left and below, where the curves fall to the right.
    """
    figure.add_hline(y=y, line={"color": charts.GAP, "dash": "dash", "width": 1.5})
    figure.add_annotation(
        x=0.01 if left else 1,
        xref="paper",
        xanchor="left" if left else "right",
        y=np.log10(y) if logarithmic else y,
        yanchor="top" if left else "bottom",
        text=name,
        font={"color": charts.GAP, "size": 12},
        showarrow=False,
    )


def mark_run(figure: go.Figure, history: History) -> None:
    """Shade the phases behind a figure over the run, and draw the onset and the opening of the loss gap.

    Args:
        figure: Every x axis in it is the run; the lines are named in its legend.
        history: The run.
    """
    values, _ = positions(history)
    turn, decided = charts.phase_turn(history)
    if turn is not None:
        shade(figure, values, turn, two=decided)
    for found, colour, dash, name in (
        (find_onset(history), charts.ONSET, "solid", "onset of phase two"),
        (find_gap_opening(history), charts.GAP, "dot", charts.gap_name(history)),
    ):
        if found is not None and found.index is not None:
            line = {"color": colour, "width": 2, "dash": dash}
            figure.add_vline(x=values[found.index], line=line)
            # Beside the lines their names would run into each other; a trace without points is a legend entry.
            name = f"{name} ({found.place})"
            figure.add_scatter(x=[None], y=[None], mode="lines", line=line, name=name)
