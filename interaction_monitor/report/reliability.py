"""How far the interactions of a record can be trusted, in numbers and charts.

Ren et al. 2024, Theorem 2 (universal matching) and Lemma 1 (noise); Chen et al. 2024, Appendix M (matching precision).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from torch import Tensor

from interaction_monitor.functional import matching_error, matching_precision_curve, noise_floor, orders, sparsity_curve
from interaction_monitor.history import History
from interaction_monitor.history.landmarks import positions
from interaction_monitor.measurement import Measurement
from interaction_monitor.plots import charts
from interaction_monitor.report.plotly_style import legend_above, mark_level, styled

# Half a unit in the last place, relative to the number: what rounding to nearest can do to it.
PRECISIONS = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
# An order's mean square holds the rounding's own beside that of the network's interactions: of rounding alone it is
# about floor², above it in half of the cases. From 4 floor² on three quarters of it are the network's.
ABOVE = 4.0
_RANKS = 160


@dataclass(frozen=True)
class Checks:
    """What the faithfulness figures show."""

    worst_error: NDArray[np.float64]  # (E,) of all samples, share of |v(x) - v(x_∅)|
    mean_error: NDArray[np.float64]  # (E,)
    mean_gap: NDArray[np.float64]  # (E,) duality gap, mean over samples
    moments: tuple[int, ...]  # the measurements that the curves are of
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
        return [k for k, above in enumerate(self.size**2 > ABOVE * self.floor**2, start=1) if above]


def check(
    measurements: Iterable[Measurement],
    moments: Sequence[int],
    *,
    with_or: bool = True,
    rounding: float | None = None,
) -> Checks:
    """Compute the checks, with one measurement in memory at a time.

    Args:
        measurements: All of a run, each with a finite sample.
        moments: Which of them get curves.
        with_or: Whether OR interactions were measured, and not AND alone.
        rounding: Standard deviation of an output by the rounding in the last network, where that is known.

    Returns:
        The checks.
    """
    worst, mean, gaps, strength, precision = [], [], [], [], []
    ranks = np.zeros(0, dtype=np.int64)
    last = None
    for index, measurement in enumerate(measurements):
        last = _finite(measurement, with_or=with_or)
        v, and_, or_ = last
        change = (v[:, -1] - v[:, 0]).abs()
        # A sample whose output hardly changes would show rounding as a large share of nothing.
        error = matching_error(v, and_, or_) / change.clamp(min=1e-6 * float(change.mean()) + 1e-300)
        worst.append(float(error.max()))
        mean.append(float(error.mean()))
        gaps.append(float(measurement.gap[measurement.valid].mean()))
        if index in moments:
            sizes = sparsity_curve(and_, or_)
            ranks = np.unique(np.geomspace(1, len(sizes), _RANKS).round().astype(np.int64))
            strength.append((sizes[ranks - 1] / measurement.tau).numpy())
            precision.append(matching_precision_curve(v, and_, or_).mean(0)[ranks - 1].numpy())
        tau = measurement.tau
    assert last is not None
    v, and_, or_ = last
    n = int(np.log2(v.shape[-1]))
    output_size = float(v.square().mean().sqrt())
    return Checks(
        worst_error=np.array(worst),
        mean_error=np.array(mean),
        mean_gap=np.array(gaps),
        moments=tuple(moments),
        ranks=ranks,
        strength=np.array(strength),
        precision=np.array(precision),
        size=_size_per_order(and_, or_).numpy(),
        floors={name: noise_floor(n, unit * output_size).numpy() for name, unit in PRECISIONS.items()},
        floor=None if rounding is None else noise_floor(n, rounding).numpy(),
        tau=tau,
    )


def _finite(measurement: Measurement, *, with_or: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    valid = measurement.valid
    return measurement.v[valid], measurement.and_[valid], measurement.or_[valid] if with_or else None


def _size_per_order(and_: Tensor, or_: Tensor | None) -> Tensor:
    n = int(np.log2(and_.shape[-1]))
    of = orders(n)
    pooled = and_.square() if or_ is None else (and_.square() + or_.square()) / 2
    return torch.stack([pooled[:, of == k].mean().sqrt() for k in range(1, n + 1)])


_MOMENT_COLOURS = ("#8C8C8C", charts.ONSET, charts.MEAN_ORDER)
_HEIGHT = 360


def matching_error_chart(history: History, checks: Checks, *, bound: float | None) -> go.Figure:
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


def solver_gap_chart(history: History, checks: Checks, *, tolerance: float | None) -> go.Figure:
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


def sparsity_chart(checks: Checks, names: Sequence[str]) -> go.Figure:
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


def precision_chart(checks: Checks, names: Sequence[str]) -> go.Figure:
    """Draw how well the strongest k interactions alone give the output."""
    figure = go.Figure()
    for name, colour, y in zip(names, _colours(names), checks.precision, strict=True):
        figure.add_scatter(x=checks.ranks, y=y, name=name, line={"color": colour}, hovertemplate="first %{x}: %{y:.1%}")
    figure.update_xaxes(title="how many of the strongest interactions", type="log", dtick=1)
    figure.update_yaxes(
        title="matching precision", tickformat=".0%", range=[min(0.4, float(checks.precision.min())), 1.02]
    )
    return _finished(figure)


def noise_floor_chart(checks: Checks) -> go.Figure:
    """Draw the typical size of an interaction of each order, and what rounding alone would make it.

    What rounding in the network makes was measured at the end, in runs that know it; the thin lines are what rounding
    of the outputs alone would make.
    """
    ks = np.arange(1, len(checks.size) + 1)
    figure = go.Figure()
    figure.add_scatter(
        x=ks,
        y=np.maximum(checks.size, 1e-12),
        name="interactions at the end",
        mode="lines+markers",
        line={"color": charts.MEAN_ORDER},
        hovertemplate="%{y:.2g}",
    )
    if checks.floor is not None:
        figure.add_scatter(
            x=ks, y=np.maximum(checks.floor, 1e-12), name="floor as measured", mode="lines",
            line={"color": charts.TEST, "width": 3}, hovertemplate="%{y:.2g}",
        )  # fmt: skip
    for (name, floor), dash in zip(checks.floors.items(), ("solid", "dash", "dot"), strict=True):
        line = {"color": charts.TEST, "dash": dash, "width": 2 if checks.floor is None else 1}
        figure.add_scatter(x=ks, y=floor, name=f"floor in {name}", mode="lines", line=line, hovertemplate="%{y:.2g}")
    mark_level(figure, checks.tau, "salient from here on up", logarithmic=True)
    figure.update_xaxes(title="order k", dtick=1)
    figure.update_yaxes(title="root mean square of I", type="log", exponentformat="power", dtick=1)
    return _finished(figure)


def _colours(names: Sequence[str]) -> list[str]:
    return list(_MOMENT_COLOURS[-len(names) :]) if len(names) < 3 else list(_MOMENT_COLOURS)


def _finished(figure: go.Figure) -> go.Figure:
    figure = styled(figure, height=_HEIGHT, showlegend=True, hovermode="x unified")
    return figure.update_layout(legend=legend_above())
