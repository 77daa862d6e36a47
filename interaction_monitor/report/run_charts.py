"""The run itself: mean order and losses, the heat map of all orders, and the orders of one measurement at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from interaction_monitor.functional import first_high_order
from interaction_monitor.history import History
from interaction_monitor.history.landmarks import find_overfitting, onset_index, positions
from interaction_monitor.plots import charts
from interaction_monitor.plots.persistence import APPEARED, PERSISTED, VANISHED, persisted_shares, turnover_shares
from interaction_monitor.report.plotly_style import legend_above, mark_run, styled


def curves(history: History) -> go.Figure:
    """Draw the mean order with its band, and the losses below it on the same axis."""
    values, unit = positions(history)
    losses = any(row.train_loss is not None or row.test_loss is not None for row in history)
    figure = make_subplots(rows=1 + losses, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    low, high = history.column("mean_order_low"), history.column("mean_order_high")
    shade = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_scatter(x=values, y=low, showlegend=False, **shade)
    figure.add_scatter(
        x=values, y=high, fill="tonexty", fillcolor="rgba(27,27,27,0.15)", name="its 95% band over samples", **shade
    )
    figure.add_scatter(
        x=values,
        y=history.column("mean_order"),
        name="mean order ⟨k⟩",
        mode="lines+markers",
        line={"color": charts.MEAN_ORDER},
        hovertemplate="⟨k⟩ = %{y:.2f}",
    )
    figure.update_yaxes(title="mean order ⟨k⟩", row=1, col=1)
    if losses:
        for name, column, colour, dash in (
            ("train loss", "train_loss", charts.TRAIN, "solid"),
            ("test loss", "test_loss", charts.TEST, "dash"),
            ("loss gap (test − train)", "loss_gap", charts.GAP, "dashdot"),
        ):
            y = history.column(column)
            known = ~np.isnan(y)
            line = {"color": colour, "dash": dash}
            figure.add_scatter(
                x=values[known], y=y[known], name=name, mode="lines", line=line, hovertemplate="%{y:.3f}", row=2, col=1
            )
        figure.update_yaxes(title="loss", row=2, col=1)
    mark_run(figure, history)
    figure.update_xaxes(title=unit, row=1 + losses, col=1)
    figure = styled(figure, height=560 if losses else 380, hovermode="x unified", showlegend=True)
    return figure.update_layout(legend=legend_above(), margin_t=80)


def generalizing(history: History) -> dict[str, go.Figure]:
    """Draw which part of the strength references have too, and of each order; nothing without references."""
    share = history.column("generalizing_share")
    known = ~np.isnan(share)
    if not known.any():
        return {}
    values, unit = positions(history)
    low, high = history.column("generalizing_low")[known], history.column("generalizing_high")[known]
    figure = go.Figure()
    shade = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_scatter(x=values[known], y=low, showlegend=False, **shade)
    figure.add_scatter(
        x=values[known], y=high, fill="tonexty", fillcolor="rgba(86,180,233,0.25)", name="its 95% band", **shade
    )
    figure.add_scatter(
        x=values[known], y=share[known], name="generalizing share", mode="lines+markers",
        line={"color": charts.GENERALIZING}, hovertemplate="%{y:.0%}",
    )  # fmt: skip
    began = find_overfitting(history)
    if began is not None and began.index is not None:
        figure.add_vline(x=values[began.index], line={"color": charts.TEST, "width": 2})
    figure.update_xaxes(title=unit)
    figure.update_yaxes(title="share of the strength", tickformat=".0%", range=[0, 1])
    by_order = [[row.generalizing_by_order.get(k, np.nan) for k in range(1, row.n_players + 1)] for row in history]
    return {"generalizing": _finished(figure, 330), "generalizing-orders": shares_map(history, np.array(by_order))}


def heat_map(history: History) -> go.Figure:
    """Draw the share of every order at every measurement."""
    values, unit = positions(history)
    shares = _shares(history)
    highest = max(float(shares.max()), 0.01)
    figure = go.Figure(
        go.Heatmap(
            x=values,
            y=np.arange(1, history.n_players + 1),
            z=shares.T,
            zmin=0,
            zmax=highest,
            colorscale=_root_scale(),
            colorbar={"title": {"text": "share of the<br>strength"}, "tickformat": ".0%"},
            hovertemplate=f"{unit} %{{x}}<br>order %{{y}}<br>%{{z:.1%}}<extra></extra>",
        )
    )
    figure.update_xaxes(title=unit)
    figure.update_yaxes(title="order k", dtick=1 if history.n_players <= 12 else 2)
    onset = onset_index(history)
    if onset is not None:
        figure.add_vline(x=values[onset], line={"color": charts.ONSET, "width": 2})
    return styled(figure, height=380)


def order_slider(history: History) -> go.Figure:
    """Draw the distribution over orders of one measurement, with a slider over all of them."""
    values, unit = positions(history)
    shares = _shares(history)
    orders = np.arange(1, history.n_players + 1)
    colours = [to_hex(colour) for colour in charts.order_colours(history.n_players)]
    titles = [_title(history, index, unit, value) for index, value in enumerate(values)]

    def bars(index: int) -> go.Bar:
        return go.Bar(
            x=orders,
            y=shares[index],
            marker={"color": colours, "line": {"color": "#666", "width": 1}},
            hovertemplate="order %{x}: %{y:.1%}<extra></extra>",
        )

    frames = [go.Frame(name=str(i), data=[bars(i)], layout={"title": {"text": titles[i]}}) for i in range(len(history))]
    at_once: dict[str, Any] = {
        "mode": "immediate",
        "frame": {"duration": 0, "redraw": True},
        "transition": {"duration": 0},
    }
    steps = [
        {"method": "animate", "label": f"{value:.0f}", "args": [[str(i)], at_once]} for i, value in enumerate(values)
    ]
    playing = {"mode": "immediate", "fromcurrent": True, "frame": {"duration": 350}, "transition": {"duration": 0}}
    buttons = [
        {"method": "animate", "label": "▶ play", "args": [None, playing]},
        {"method": "animate", "label": "❚❚ stop", "args": [[None], at_once]},
    ]
    figure = go.Figure(data=[bars(0)], frames=frames)
    figure.update_xaxes(title="order k", dtick=1)
    highest = float(shares.max())
    figure.update_yaxes(
        title="share of the strength", tickformat=".0%", range=[0, 1.08 * highest or 1], autorange=False
    )
    slider = {
        "active": 0,
        "steps": steps,
        "currentvalue": {"prefix": f"{unit} "},
        "pad": {"t": 45},
        "x": 0.17,
        "len": 0.83,
    }
    menu = {
        "type": "buttons",
        "direction": "left",
        "buttons": buttons,
        "x": 0,
        "xanchor": "left",
        "y": 0,
        "yanchor": "top",
        "pad": {"t": 70},
    }
    return styled(figure, height=470, title={"text": titles[0]}, sliders=[slider], updatemenus=[menu], margin_b=110)


def _title(history: History, index: int, unit: str, value: float) -> str:
    onset = onset_index(history)
    stage = ""
    if index == 0:
        stage = "the start, "
    elif index == onset:
        stage = "the onset of phase two, "
    elif onset is not None:
        stage = "phase one, " if index < onset else "phase two, "
    row = history[index]
    if not any(row.distribution):
        return f"{stage}{unit} {value:.0f}: nothing is salient"
    return f"{stage}{unit} {value:.0f}: ⟨k⟩ = {row.mean_order:.2f}"


def _shares(history: History) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = np.nan_to_num(history.distribution / history.n_players)
    return shares


def _root_scale() -> list[list[Any]]:
    # The square root keeps the few per cent visible with which high orders come back.
    shares = np.linspace(0.0, 1.0, 41)[1:] ** 2
    shades = [to_hex(colormaps["magma_r"](0.02 + 0.9 * np.sqrt(share))) for share in shares]
    return [[0.0, "#ffffff"], *([float(share), shade] for share, shade in zip(shares, shades, strict=True))]


def persistence(history: History) -> dict[str, go.Figure]:
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
