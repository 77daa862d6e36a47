"""The theory over the measurements, as in the command `theory`."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interaction_monitor.history.landmarks import positions, representative_measurements
from interaction_monitor.plots import charts
from interaction_monitor.plots.theory_text import level, match_words
from interaction_monitor.report.plotly_style import GREY, LIGHT_GREY, legend_above, shade, styled
from interaction_monitor.theory.overlay import Overlay


def overlay_bars(overlay: Overlay) -> go.Figure:
    """Draw measured and predicted distributions beside each other, a column per telling measurement."""
    fit, history = overlay.fit, overlay.history
    chosen = representative_measurements(history)
    values, unit = positions(history)
    titles = [
        f"{unit} {values[i]:.0f}<br>σ² = {level(float(fit.sigma2[i]))}<br>{match_words(overlay, i)}" for i in chosen
    ]
    figure = make_subplots(1, len(chosen), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.02)
    orders = np.arange(1, history.n_players + 1)
    for column, index in enumerate(chosen, start=1):
        two = bool(overlay.in_phase_two[index])
        for name, strength, fill, edge, pattern in (
            ("measured", fit.real[index], charts.TRAIN if two else LIGHT_GREY, "white", ""),
            ("predicted", fit.theory[index], "white", charts.TEST if two else GREY, "/"),
        ):
            figure.add_bar(
                x=orders,
                y=(strength / strength.sum()).nan_to_num(0).numpy(),
                marker={"color": fill if not pattern else edge, "line": {"color": edge, "width": 1}}
                | ({"pattern": {"shape": pattern, "fgcolor": edge, "bgcolor": "white", "size": 5}} if pattern else {}),
                name=f"{name}, phase {'two' if two else 'one (no claim)'}",
                legendgroup=f"{name}{two}",
                showlegend=not any(bool(overlay.in_phase_two[i]) == two for i in chosen[: column - 1]),
                hovertemplate=f"{name}, order %{{x}}: %{{y:.1%}}<extra></extra>",
                row=1,
                col=column,
            )
        figure.update_xaxes(title="order k", row=1, col=column)
    figure.update_yaxes(title="share of the strength", tickformat=".0%", row=1, col=1)
    figure.update_annotations(font_size=12)
    figure = styled(figure, height=420, barmode="group", bargap=0.1, bargroupgap=0, margin_t=90)
    return figure.update_layout(legend={"orientation": "h", "yanchor": "top", "y": -0.3, "x": 0}, margin_b=110)


def noise_level(overlay: Overlay) -> go.Figure:
    """Draw σ̂² with its interval over the run, and the mean order that the theory gives there."""
    fit, history = overlay.fit, overlay.history
    values, unit = positions(history)
    sigma2, low, high = (x.numpy() for x in (fit.sigma2, fit.low, fit.high))
    zero = float(fit.grid[1]) / 10  # a logarithmic axis has no place for no noise
    centre, bottom, top = (np.maximum(x, zero) for x in (sigma2, low, high))
    figure = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.6, 0.4], vertical_spacing=0.07)
    two = overlay.in_phase_two
    for part, colour, name in ((two, charts.TRAIN, f"σ² in {overlay.stage}"), (~two, GREY, "in phase one: no claim")):
        if not part.any():
            continue
        figure.add_scatter(
            x=values[part],
            y=centre[part],
            error_y={
                "array": (top - centre)[part],
                "arrayminus": (centre - bottom)[part],
                "width": 0,
                "thickness": 4,
                "color": colour if colour == GREY else "rgba(0,114,178,0.45)",
            },
            mode="lines+markers" if part is two else "markers",
            line={"color": colour, "width": 1},
            marker={"size": 8, "color": colour},
            name=name,
            customdata=[level(float(x)) for x in sigma2[part]],
            hovertemplate="σ² = %{customdata}<extra></extra>",
            row=1,
            col=1,
        )
    figure.add_scatter(
        x=values,
        y=overlay.measured_order,
        mode="markers",
        marker={"color": "#1B1B1B"},
        name="⟨k⟩ measured",
        row=2,
        col=1,
    )
    figure.add_scatter(
        x=values[two],
        y=overlay.predicted_order[two],
        mode="lines",
        line={"color": charts.TEST},
        name="⟨k⟩ predicted",
        row=2,
        col=1,
    )
    exponents = range(int(np.ceil(np.log10(zero * 9))), int(np.floor(np.log10(np.nanmax(top) * 2))) + 1)
    ticks = list(exponents[:: -max(1, -(-len(exponents) // 8))])
    figure.update_yaxes(
        type="log",
        title="noise level σ²",
        tickvals=[zero, *(10.0**x for x in ticks)],
        ticktext=["none", *(f"10<sup>{x}</sup>" for x in ticks)],
        row=1,
        col=1,
    )
    figure.update_yaxes(title="mean order ⟨k⟩", row=2, col=1)
    figure.update_xaxes(title=unit, row=2, col=1)
    turn = values[overlay.turn]
    shade(figure, values, turn)
    return styled(figure, height=520, showlegend=True).update_layout(legend=legend_above())
