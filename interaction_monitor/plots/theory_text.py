"""The overlay in words and numbers."""

from __future__ import annotations

import math

from interaction_monitor.theory.overlay import Overlay

WHY_GREY = (
    "In phase one the network is still on its way to the optimum. The theory is about that optimum under noise, so it "
    "makes no claim there (Ren et al. 2024, section 3.3.3), and the fit is a number without a meaning."
)

HOW_TO_READ = """\
### What the theory predicts for this run

From the interactions of the **last** network the theory of Ren et al. 2024 (Theorem 3) predicts those of every noise
level σ². For each measurement the level is taken at which the predicted distribution over orders comes closest.

- **Images**, `{name}/theory/bars`: measured and predicted side by side, one picture for each of up to ten measurements;
  move the slider. `{name}/theory/overview` has six in one picture, `{name}/theory/noise_level` the level over the run.
- **Histograms**, `{name}/theory/orders`: the prediction, to lay beside `{name}/orders`.
- **Scalars**: `{name}/theory/sigma2` with the ends of its interval, `cosine`, `divergence`, and `mean_order`, all of
  phase two only. The axis of σ² is best made logarithmic.

{findings}

{why}
"""


def table(overlay: Overlay) -> str:
    """Lay out every measurement with the noise level that matches it best.

    Args:
        overlay: The run.

    Returns:
        The table, a line per measurement; phase one in brackets.
    """
    unit = overlay.places[0].split()[0]
    lines = [f"{unit:>7}  phase        σ²  95% interval        cosine  divergence  ⟨k⟩ measured  predicted"]
    for cells in rows(overlay):
        place, phase, level, interval, cosine, divergence, measured, predicted = cells
        lines.append(
            f"{place:>7}  {phase:<5}  {level:>8}  {interval:<18}  {cosine:>6}  {divergence:>10}  {measured:>12}  "
            f"{predicted:>9}"
        )
    return "\n".join(lines)


def rows(overlay: Overlay) -> list[tuple[str, ...]]:
    """List the cells: epoch or step, phase, σ̂², its interval, cosine, divergence, ⟨k⟩ measured and predicted."""
    fit = overlay.fit
    return [
        (
            overlay.places[i].split()[1],
            ("two" if overlay.onset_known else "two?") if overlay.in_phase_two[i] else "(one)",
            level(float(fit.sigma2[i])),
            f"{level(float(fit.low[i]))} to {level(float(fit.high[i]))}",
            _fixed(float(fit.cosine[i]), 4),
            _fixed(float(fit.divergence[i]), 4),
            _fixed(overlay.measured_order[i], 2),
            _fixed(overlay.predicted_order[i], 2),
        )
        for i in range(len(overlay.history))
    ]


def level(sigma2: float) -> str:
    """Write a noise level.

    Examples:
        >>> level(0.0), level(0.0163), level(float("nan"))
        ('0', '0.016', '-')
    """
    return "-" if math.isnan(sigma2) else f"{sigma2:.2g}"


def match_words(overlay: Overlay, index: int) -> str:
    """Say how well the theory matches a measurement; of the last, from which it is made, that it must."""
    if index == len(overlay.history) - 1:
        return "its own prediction"
    return f"cosine {float(overlay.fit.cosine[index]):.3f}"


def findings(overlay: Overlay) -> list[str]:
    """Say what the overlay shows: where phase two is, how well it is matched at worst, and whether σ̂² decreases.

    Args:
        overlay: The run.

    Returns:
        Sentences.
    """
    sentences = [_where(overlay)]
    if overlay.left_out:
        sentences.append(f"Left out, because no sample had finite outputs: {', '.join(overlay.left_out)}.")
    if overlay.turn == len(overlay.history) - 1:
        sentences.append(
            f"Only the last measurement is in {overlay.stage}, and the prediction is made from it: there is nothing to "
            "compare."
        )
        return sentences
    worst = overlay.worst
    sentences.append(
        f"Worst match in {overlay.stage}: cosine {float(overlay.fit.cosine[worst]):.4f}, at "
        f"{overlay.places[worst]} (Jensen-Shannon divergence {float(overlay.fit.divergence[worst]):.4f} bit)."
    )
    sentences.append(_trend(overlay))
    return sentences


def _where(overlay: Overlay) -> str:
    place = overlay.places[overlay.turn]
    if overlay.onset_known:
        return f"Phase two is from its onset on, {place}."
    return (
        f"The run has not found an onset, so everything from the lowest mean order on, {place}, is taken for "
        "phase two here."
    )


def _trend(overlay: Overlay) -> str:
    trend, fit = overlay.trend, overlay.fit

    def at(index: int | None) -> str:
        assert index is not None
        return (
            f"{level(float(fit.sigma2[index]))} at {overlay.places[index]} "
            f"({level(float(fit.low[index]))} to {level(float(fit.high[index]))})"
        )

    if trend.direction == "rises":
        return (
            f"The noise level σ² does NOT decrease throughout {overlay.stage}, as the theory says it should: it is "
            f"{at(trend.earlier)} and then {at(trend.later)}, and these intervals do not overlap."
        )
    if trend.direction == "falls":
        return (
            f"The noise level σ² decreases over {overlay.stage}, as the theory says: from {at(trend.earlier)} to "
            f"{at(trend.later)}, and no later interval lies above an earlier one."
        )
    return (
        f"Whether the noise level σ² decreases over {overlay.stage} cannot be told: the intervals before the last "
        "measurement overlap."
    )


def _fixed(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
