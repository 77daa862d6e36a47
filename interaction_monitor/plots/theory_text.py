"""The theory beside a run in words and numbers: what it predicts, the conditions of sparsity, decay and spindle."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interaction_monitor.functional import and_interactions, faithfulness, salient_counts, salient_outputs
from interaction_monitor.functional.saliency import fit_shapes, order_cancellation, order_strength
from interaction_monitor.functional.sharing import discrimination_power, transfer_curve
from interaction_monitor.history.landmarks import places
from interaction_monitor.measurement import Measurement
from interaction_monitor.record import Record
from interaction_monitor.theory import Overlay

Numbers = Sequence[float] | NDArray[np.float64]

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
    """Lay out every measurement, phase one in brackets, with the noise level that matches it best."""
    unit = overlay.places[0].split()[0]
    lines = [f"{unit:>7}  phase        σ²  95% interval        cosine  divergence  ⟨k⟩ measured  predicted"]
    forms = (">7", "<5", ">8", "<18", ">6", ">10", ">12", ">9")
    lines += ["  ".join(map(format, cells, forms)) for cells in rows(overlay)]
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
            *(_fixed(float(x[i]), 4) for x in (fit.cosine, fit.divergence)),
            *(_fixed(x[i], 2) for x in (overlay.measured_order, overlay.predicted_order)),
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
        return "predicted from itself"
    return f"cosine {float(overlay.fit.cosine[index]):.3f}"


def findings(overlay: Overlay) -> list[str]:
    """Say what the overlay shows: where phase two is, how well it is matched at worst, and whether σ̂² decreases."""
    place = overlay.places[overlay.turn]
    sentences = [
        f"Phase two is from its onset on, {place}."
        if overlay.onset_known
        else f"The run has not found an onset, so everything from the lowest mean order on, {place}, is taken for "
        "phase two here."
    ]
    if overlay.left_out:
        sentences.append(f"Left out, because no sample had finite outputs: {', '.join(overlay.left_out)}.")
    if overlay.turn == len(overlay.history) - 1:
        return [
            *sentences,
            f"Only the last measurement is in {overlay.stage}, and the prediction is made from it: there is nothing to "
            "compare.",
        ]
    worst = overlay.worst
    return [
        *sentences,
        f"Worst match in {overlay.stage}: cosine {float(overlay.fit.cosine[worst]):.4f}, at "
        f"{overlay.places[worst]} (Jensen-Shannon divergence {float(overlay.fit.divergence[worst]):.4f} bit).",
        _trend(overlay),
    ]


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


def conditions(measurement: Measurement) -> list[str]:
    """Say how far the conditions of Theorem 1 (Ren et al. 2024, Appendix B) hold at a measurement.

    Args:
        measurement: Of at least two players, with a valid sample.

    Returns:
        A line for each.
    """
    v = measurement.v[measurement.valid]
    dividends = and_interactions(v)
    by_order = order_strength(dividends, None, measurement.tau).sum(0)
    beyond = by_order.flip(0).cumsum(0).flip(0) / by_order.sum()  # orders k and higher
    average = faithfulness.average_outputs(v)
    drop, degree = faithfulness.largest_drop(average), faithfulness.polynomial_degree(average)
    bound, exponent = faithfulness.bound_exponent(average), faithfulness.sparsity_exponent(dividends, measurement.tau)
    bound, exponent = bound[bound.isfinite()], exponent[exponent.isfinite()]
    bounded = degree[degree.isfinite()]
    half = (len(by_order) + 1) // 2 + 1
    lines = [
        f"Conditions of sparsity, on {len(v)} samples of the last measurement (AND interactions of all of the output):",
        f"1. no interactions of high order: orders {half} and higher have {beyond[half - 1]:.1%} of the salient "
        f"strength, the highest {beyond[-1]:.2%}.",
        f"2. the output never drops as more players are there: so on {int((drop == 0).sum())} of {len(v)} samples; the "
        f"mean output drops by at most {float(faithfulness.largest_drop(average.mean(0))):.1%} of its whole change.",
        f"3. it grows at most like a power p of their number: with some p on {len(bounded)} of {len(v)} samples"
        + (f", the median p is {float(bounded.median()):.2f}." if len(bounded) else "."),
    ]
    if len(bound):
        low, middle, high = (float(x) for x in bound.quantile(bound.new_tensor([0.25, 0.5, 0.75])))
        lines.append(
            f"ξ of the bound n^ξ/τ: {middle:.2f} (half of the samples: {low:.2f} to {high:.2f}), known on {len(bound)} "
            f"of {len(v)} samples; the paper: 0.9 to 1.2."
        )
    if len(exponent):
        lines.append(f"The number of salient AND interactions itself is n^ξ/τ with a ξ of {exponent.median():.2f}.")
    return lines


def salient_alone(measurement: Measurement) -> str:
    """Say how well the salient interactions alone give the outputs of valid samples (Chen et al. 2024, Figure 6)."""
    valid = measurement.valid
    v, and_, or_ = measurement.v[valid], measurement.and_[valid], measurement.or_[valid]
    error = (v - salient_outputs(and_, or_, measurement.tau)).abs().mean() / measurement.output_change
    count = salient_counts(and_, or_, measurement.tau).sum(1).mean()
    kinds = 2 if or_.any() else 1  # a run may have measured AND interactions alone
    return (
        f"The salient interactions alone, {float(count):.0f} of {kinds * (v.shape[1] - 1)} in the mean, give the "
        f"outputs of all {v.shape[1]} masked versions with a mean error of {float(error):.1%} of the mean change."
    )


def transfer(measurement: Measurement, targets: Tensor | None = None) -> list[str]:
    """Say how far the samples of a measurement have the same interactions, where players mean the same in all.

    Args:
        measurement: With a valid sample.
        targets: (S,) Of its samples. Signs are compared within a class, as the output is that of the true one; those
            of None, or of a regression, count as one.

    Returns:
        A line on which patterns they share, and one on their signs.
    """
    valid = measurement.valid
    effects = torch.cat((measurement.and_[valid, 1:], measurement.or_[valid, 1:]), 1)
    is_salient = (effects.abs() >= measurement.tau) & (effects != 0)
    curve = transfer_curve(is_salient)
    ks = [k for k in (5, 10, 20, 50, 100) if k <= len(curve)]
    classes = torch.zeros(len(effects))
    if targets is not None and targets.ndim == 1 and not targets.is_floating_point():
        classes = targets[valid]
    parts = [(effects[of], is_salient[of]) for of in (classes == label for label in set(classes.tolist()))]
    all_salient = int(is_salient.sum()) or math.nan
    of_one_sign = sum(discrimination_power(*part) * int(part[1].sum()) for part in parts if part[1].any())
    return [
        "Of a sample's salient interactions, so many are among the k that most samples have: "
        + ", ".join(f"k={k} {float(curve[k - 1]):.0%}" for k in ks)
        + ".",
        f"Where a pattern is salient it has its most frequent sign in {of_one_sign / all_salient:.0%} of the "
        + (f"samples of its class, of {len(parts)} classes" if len(parts) > 1 else "samples")
        + "; patterns of a single sample count as all.",
    ]


def shapes(record: Record) -> list[str]:
    """Lay out the decay, the spindle and the cancelling of each measurement.

    Args:
        record: Of at least four players.

    Returns:
        A table, and where the run has references a sentence on whether the decay's share goes with theirs.
    """
    history = record.history
    fit = fit_shapes(torch.from_numpy(history.strength))
    shares = [row.generalizing_share for row in history]
    orders = "".join(f"{f'k={k}':>6}" for k in range(1, record.n_players + 1))
    lines = [
        "Decay and spindle of the strength by order, and how much of each order cancels on the whole sample:",
        f"{'':>12}{'decay':>8}{'rate':>7}{'spindle at':>12}{'misfit':>8}{'generalizing':>14}  cancels{orders}",
    ]
    for i, (place, measurement) in enumerate(zip(places(history), record.measurements, strict=True)):
        cancelled = order_cancellation(measurement.and_, measurement.or_, measurement.tau).tolist()
        share = shares[i]
        lines.append(
            f"{place:>12}{fit.decay_share[i]:>8.0%}{fit.rate[i]:>7.2f}{fit.centre[i]:>12.2f}{fit.misfit[i]:>8.0%}"
            f"{'-' if share is None else f'{share:.0%}':>14}         "
            + "".join(f"{'-':>6}" if c != c else f"{c:>6.0%}" for c in cancelled)
        )
    known = [
        (float(decay), share)
        for decay, share in zip(fit.decay_share, shares, strict=True)
        if share is not None and decay.isfinite()
    ]
    if len(known) > 2:
        agreement = rank_correlation(*zip(*known, strict=True))
        told = "cannot be told, as one of them is the same in all" if math.isnan(agreement) else f"is {agreement:.2f}"
        lines.append(
            f"Over {len(known)} measurements the rank correlation of the decay's share with the measured generalizing "
            f"share {told}."
        )
    return lines


def rank_correlation(first: Numbers, second: Numbers) -> float:
    """Give Spearman's rank correlation; equal values share their mean rank.

    Args:
        first: (n,) the one number of each run, or measurement.
        second: (n,) the other.

    Returns:
        -1..1; NaN for fewer than three or where one of the two is constant.

    Examples:
        >>> rank_correlation([1.0, 2.0, 3.0, 4.0], [10.0, 30.0, 20.0, 40.0])
        0.8
    """
    if len(first) < 3:
        return math.nan
    pairs = torch.stack([torch.as_tensor(numbers, dtype=torch.float64) for numbers in (first, second)])
    ranks = (pairs[:, :, None] > pairs[:, None]).sum(-1) + (pairs[:, :, None] >= pairs[:, None]).sum(-1)
    return round(float(torch.corrcoef(ranks.double())[0, 1]), 10)
