"""How far the interactions can be trusted, in pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from interaction_monitor.history import History
from interaction_monitor.history.landmarks import positions
from interaction_monitor.plots import charts
from interaction_monitor.report.plotly_style import legend_above, mark_level, styled
from interaction_monitor.report.reliability import Checks

_MOMENT_COLOURS = ("#8C8C8C", charts.ONSET, charts.MEAN_ORDER)
_HEIGHT = 360


def matching_error(history: History, checks: Checks, *, bound: float | None) -> go.Figure:
    """Draw by how much the interactions miss the outputs they are to explain."""
    values, unit = positions(history)
    figure = go.Figure()
    for name, y, dash in (("worst sample", checks.worst_error, "solid"), ("mean of samples", checks.mean_error, "dot")):
        figure.add_scatter(
            x=values, y=y, name=name, line={"color": charts.TRAIN, "dash": dash}, hovertemplate="%{y:.2%}"
        )
    if bound:
        mark_level(figure, bound, "the correction that the extraction may make")
    figure.update_xaxes(title=unit)
    figure.update_yaxes(
        title="largest error, share of |v(x) − v(x<sub>∅</sub>)|", tickformat=".2~%", rangemode="tozero"
    )
    return _finished(figure)


def solver_gap(history: History, checks: Checks, *, tolerance: float | None) -> go.Figure:
    """Draw how far from the sparsest the extraction may at most be."""
    values, unit = positions(history)
    figure = go.Figure()
    for name, y, dash in (
        ("worst sample", history.column("solver_gap"), "solid"),
        ("mean of samples", checks.mean_gap, "dot"),
    ):
        figure.add_scatter(
            x=values, y=y, name=name, line={"color": charts.TRAIN, "dash": dash}, hovertemplate="%{y:.2%}"
        )
    if tolerance:
        mark_level(figure, tolerance, "tolerance")
    figure.update_xaxes(title=unit)
    figure.update_yaxes(title="certified relative gap", tickformat=".2~%", rangemode="tozero")
    return _finished(figure)


def sparsity(checks: Checks, names: Sequence[str]) -> go.Figure:
    """Draw the strengths of the interactions from the strongest to the weakest."""
    figure = go.Figure()
    for name, colour, y in zip(names, _colours(names), checks.strength, strict=True):
        shown = np.maximum(y, 1e-9)
        figure.add_scatter(
            x=checks.ranks, y=shown, name=name, line={"color": colour}, hovertemplate="no. %{x}: %{y:.2f} τ"
        )
    mark_level(figure, 1.0, "salient from here on up", logarithmic=True, left=True)
    top = float(np.nanmax(checks.strength)) if checks.strength.size else 1.0
    figure.update_xaxes(title="rank of the interaction", type="log", dtick=1)
    figure.update_yaxes(
        title="strength |I| in units of τ", type="log", dtick=1, range=[-3, np.log10(max(top, 1.0)) + 0.2]
    )
    return _finished(figure)


def precision(checks: Checks, names: Sequence[str]) -> go.Figure:
    """Draw how well the strongest k interactions alone give the output."""
    figure = go.Figure()
    for name, colour, y in zip(names, _colours(names), checks.precision, strict=True):
        figure.add_scatter(x=checks.ranks, y=y, name=name, line={"color": colour}, hovertemplate="first %{x}: %{y:.1%}")
    figure.update_xaxes(title="how many of the strongest interactions", type="log", dtick=1)
    figure.update_yaxes(
        title="matching precision", tickformat=".0%", range=[min(0.4, float(checks.precision.min())), 1.02]
    )
    return _finished(figure)


def noise_floor(checks: Checks) -> go.Figure:
    """Draw the typical size of an interaction of each order, and what rounding alone would make it.

    What rounding in the network makes was measured at the end, in runs that know it; the thin lines are what rounding
    of the outputs alone would make.
    """
    orders = np.arange(1, len(checks.size) + 1)
    figure = go.Figure()
    figure.add_scatter(
        x=orders,
        y=np.maximum(checks.size, 1e-12),
        name="interactions at the end",
        mode="lines+markers",
        line={"color": charts.MEAN_ORDER},
        hovertemplate="%{y:.2g}",
    )
    if checks.floor is not None:
        figure.add_scatter(
            x=orders, y=np.maximum(checks.floor, 1e-12), name="floor as measured", mode="lines",
            line={"color": charts.TEST, "width": 3}, hovertemplate="%{y:.2g}",
        )  # fmt: skip
    for (name, floor), dash in zip(checks.floors.items(), ("solid", "dash", "dot"), strict=True):
        line = {"color": charts.TEST, "dash": dash, "width": 2 if checks.floor is None else 1}
        figure.add_scatter(
            x=orders, y=floor, name=f"floor in {name}", mode="lines", line=line, hovertemplate="%{y:.2g}"
        )
    mark_level(figure, checks.tau, "salient from here on up", logarithmic=True)
    figure.update_xaxes(title="order k", dtick=1)
    figure.update_yaxes(title="root mean square of I", type="log", exponentformat="power", dtick=1)
    return _finished(figure)


def _colours(names: Sequence[str]) -> list[str]:
    return list(_MOMENT_COLOURS[-len(names) :]) if len(names) < 3 else list(_MOMENT_COLOURS)


def _finished(figure: go.Figure) -> go.Figure:
    figure = styled(figure, height=_HEIGHT, showlegend=True, hovermode="x unified")
    return figure.update_layout(legend=legend_above())
