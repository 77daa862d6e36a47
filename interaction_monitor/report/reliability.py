"""How far the interactions of a record can be trusted, in numbers and charts.

Ren et al. 2024, Theorem 2 (universal matching) and Lemma 1 (noise); Chen et al. 2024, Appendix M (matching precision).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interaction_monitor.functional import matching_error, matching_precision_curve, noise_floor, orders, sparsity_curve
from interaction_monitor.history import History
from interaction_monitor.history.landmarks import positions
from interaction_monitor.measurement import Measurement
from interaction_monitor.report.figures import Figure, Series, line, over_run, panel, stack

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
    measurements: Iterable[Measurement], moments: Sequence[int], *, with_or: bool = True, rounding: float | None = None
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
    for index, measurement in enumerate(measurements):
        valid = measurement.valid
        v, and_, or_ = measurement.v[valid], measurement.and_[valid], measurement.or_[valid] if with_or else None
        change = (v[:, -1] - v[:, 0]).abs()
        # A sample whose output hardly changes would show rounding as a large share of nothing.
        error = matching_error(v, and_, or_) / change.clamp(min=1e-6 * float(change.mean()) + 1e-300)
        worst.append(float(error.max()))
        mean.append(float(error.mean()))
        gaps.append(float(measurement.gap[valid].mean()))
        if index in moments:
            sizes = sparsity_curve(and_, or_)
            ranks = np.unique(np.geomspace(1, len(sizes), _RANKS).round().astype(np.int64))
            strength.append((sizes[ranks - 1] / measurement.tau).numpy())
            precision.append(matching_precision_curve(v, and_, or_).mean(0)[ranks - 1].numpy())
    # What is left of the loop is the last measurement.
    n = int(np.log2(v.shape[-1]))
    output_size = float(v.square().mean().sqrt())
    pooled = and_.square() if or_ is None else (and_.square() + or_.square()) / 2
    size = [float(pooled[:, orders(n) == k].mean().sqrt()) for k in range(1, n + 1)]
    return Checks(
        worst_error=np.array(worst),
        mean_error=np.array(mean),
        mean_gap=np.array(gaps),
        ranks=ranks,
        strength=np.array(strength),
        precision=np.array(precision),
        size=np.array(size),
        floors={name: noise_floor(n, unit * output_size).numpy() for name, unit in PRECISIONS.items()},
        floor=None if rounding is None else noise_floor(n, rounding).numpy(),
        tau=measurement.tau,
    )


_MOMENT_COLOURS = ("unknown", "onset", "ink")
_LEAST = 1e-12  # a logarithmic axis has no zero


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
    x, _ = positions(history)
    salient = [{"y": 1.0, "name": "salient from here on up"}]
    bound = [{"y": noise, "name": "what the extraction may correct"}] if noise else []
    tolerance = [{"y": tol, "name": "tolerance"}] if tol else []
    least = min(0.4, float(checks.precision.min()))
    top = max(float(np.nanmax(checks.strength)), 1.0)

    def of_samples(label: str, worst: NDArray[np.float64], mean: NDArray[np.float64], levels: list[Any]) -> Figure:
        curves = [line("worst sample", "train", x, worst), line("mean of samples", "train", x, mean, dash="2 4")]
        return over_run([panel(label, curves, percent=True, levels=levels, min=0)], history)

    def of_moments(curves: NDArray[np.float64]) -> list[Series]:
        colours = _MOMENT_COLOURS[-len(names) :]
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
