"""What carries over, in pictures: from one measurement to the next, and from training samples to others."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from interaction_monitor.functional import first_high_order
from interaction_monitor.history import History
from interaction_monitor.history.landmarks import onset_index, positions
from interaction_monitor.plots import charts
from interaction_monitor.plots.persistence import APPEARED, PERSISTED, VANISHED, persisted_shares, turnover_shares
from interaction_monitor.report.plotly_style import legend_above, mark_run, styled


def known(history: History) -> dict[str, go.Figure]:
    """Draw what the history knows; records of earlier versions know nothing of it."""
    if not any(row.persisted and row.effect for row in history):
        return {}
    figures = {
        "turnover": turnover(history),
        "persisted": shares_map(history, persisted_shares(history)),
        "effects": effects(history),
    }
    similarity = history.by_order("similarity")
    if not np.isnan(similarity).all():
        figures["similarity"] = shares_map(history, similarity)
    return figures


def turnover(history: History) -> go.Figure:
    """Draw what persisted, appeared and vanished as parts of the whole."""
    values, unit = positions(history)
    shares = turnover_shares(history)
    there = ~np.isnan(shares).any(1)
    figure = go.Figure()
    for column, (name, colour) in enumerate((("persisted", PERSISTED), ("appeared", APPEARED), ("vanished", VANISHED))):
        figure.add_scatter(
            x=values[there], y=shares[there, column], name=name, stackgroup="one", mode="lines",
            line={"color": colour, "width": 0.5}, hovertemplate="%{y:.0%}",
        )  # fmt: skip
    figure.update_xaxes(title=unit, range=[values[0], values[-1]])
    figure.update_yaxes(title="share of the strength", tickformat=".0%", range=[0, 1])
    return _finished(figure, 330)


def shares_map(history: History, shares: NDArray[np.float64]) -> go.Figure:
    """Draw (E, n) shares of each order over the run; what is not known is grey."""
    values, unit = positions(history)
    figure = go.Figure(
        go.Heatmap(
            x=values,
            y=np.arange(1, history.n_players + 1),
            z=shares.T,
            zmin=0,
            zmax=1,
            colorscale=[[share, to_hex(colormaps["Blues"](share))] for share in np.linspace(0, 1, 21)],
            colorbar={"tickformat": ".0%"},
            hovertemplate=f"{unit} %{{x}}<br>order %{{y}}<br>%{{z:.0%}}<extra></extra>",
            hoverongaps=False,
        )
    )
    figure.update_xaxes(title=unit, showgrid=False)
    figure.update_yaxes(title="order k", dtick=1 if history.n_players <= 12 else 2, showgrid=False)
    onset = onset_index(history)
    if onset is not None:
        figure.add_vline(x=values[onset], line={"color": charts.ONSET, "width": 2})
    return styled(figure, height=330).update_layout(plot_bgcolor="#EFEFEF")


def effects(history: History) -> go.Figure:
    """Draw what low and high orders add to the output, on training samples too where these are measured."""
    values, unit = positions(history)
    high = first_high_order(history.n_players) - 1
    figure = go.Figure()
    for field, samples, dash in (("effect", "probe samples", "dash"), ("train_effect", "training samples", "solid")):
        by_order = history.by_order(field)
        for part, orders, colour in (
            (by_order[:, :high], f"orders 1 to {high}" if high > 1 else "order 1", charts.TRAIN),
            (by_order[:, high:], f"orders {high + 1} and above", charts.TEST),
        ):
            y = part.sum(1)
            there = ~np.isnan(y)
            if there.any() and part.shape[1]:
                figure.add_scatter(
                    x=values[there], y=y[there], name=f"{orders}, {samples}", mode="lines",
                    line={"color": colour, "dash": dash}, hovertemplate="%{y:.2f}",
                )  # fmt: skip
    figure.update_xaxes(title=unit)
    figure.update_yaxes(title="effect on the output", zeroline=True, zerolinecolor="#888")
    mark_run(figure, history)
    return _finished(figure, 400)


def _finished(figure: go.Figure, height: int) -> go.Figure:
    figure = styled(figure, height=height, showlegend=True, hovermode="x unified")
    return figure.update_layout(legend=legend_above(), margin_t=80)
