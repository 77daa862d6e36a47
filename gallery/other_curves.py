"""When phase two would be known if other curves were watched for it than the mean order and the share of high orders.

``python -m gallery.other_curves`` lays their delay and their level on flat histories beside those of the tracker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gallery.detection import detect, flat_strengths
from gallery.stored import Stored, load_all
from interaction_monitor.functional import mean_order
from interaction_monitor.functional.distribution import (
    first_high_order,
    mean_order_influence,
    share_influence,
    share_interval,
)
from interaction_monitor.phases.change_tests import Curve

# Curves of which a rise is taken for phase two, each with its part of the level. The first are those of `PhaseTracker`.
WATCHED: Mapping[str, Mapping[str, float]] = {
    "mean order, high orders": {"mean order": 1 / 2, "high orders": 1 / 2},
    "their sum": {"sum": 1},
    "both and their sum": {"mean order": 1 / 3, "high orders": 1 / 3, "sum": 1 / 3},
    "both and orders above one": {"mean order": 1 / 3, "high orders": 1 / 3, "above one": 1 / 3},
    "the same, three fifths of the level": {"mean order": 0.2, "high orders": 0.2, "above one": 0.2},
}


def known_by(
    strength: Tensor, watched: Mapping[str, Mapping[str, float]] = WATCHED, *, alpha: float = 0.05
) -> dict[str, int | None]:
    """Tell when phase two is known where other curves are watched than `PhaseTracker` watches.

    Args:
        strength: (E, S, n) of all measurements.
        watched: names of curves, each with its part of the level. "sum" adds up the mean order and the share of high
            orders, each as a part of its own fall, so that either's rise counts alike.
        alpha: the level.

    Returns:
        The index of the measurement, for each of `watched`; None where it never is.
    """
    known: dict[str, int | None] = dict.fromkeys(watched)
    curves, begun = {name: Curve() for name in ("mean order", "high orders", "above one")}, False
    for index, measured in enumerate(strength):
        seen = _seen(measured)
        if np.isnan(seen["mean order"][0]):
            continue
        for name, (value, influence) in seen.items():
            curves[name].append(value, (value + influence).tolist())
        order = curves["mean order"]
        begun = begun or order.has_fallen(persistence=2, least=0.1 * (order.values[0] - 1), alpha=alpha)
        left = [name for name, at in known.items() if at is None] if begun else []
        tests = {test for name in left for test in watched[name].items()}
        risen = {
            (name, part): (_sum([order, curves["high orders"]]) if name == "sum" else curves[name]).has_risen(
                persistence=2, min_rise=0.1, alpha=part * alpha
            )
            for name, part in tests
        }
        known.update({name: index for name in left if any(risen[test] for test in watched[name].items())})
    return known


def _seen(strength: Tensor) -> dict[str, tuple[float, Tensor]]:
    """Give the value of each curve, and what each sample adds to it."""
    whole, order = strength.sum(-1), float(mean_order(strength))
    parts = {"high orders": strength[:, first_high_order(strength.shape[-1]) - 1 :].sum(-1)}
    parts["above one"] = strength[:, 1:].sum(-1)
    shares = {name: (share_interval(part, whole).share, share_influence(part, whole)) for name, part in parts.items()}
    return {"mean order": (order, mean_order_influence(strength)), **shares}


def _sum(curves: Sequence[Curve]) -> Curve:
    total, falls = Curve(), [curve.values[0] - min(curve.values) for curve in curves]
    fallen = [(curve, fall) for curve, fall in zip(curves, falls, strict=True) if fall > 0]
    for index in range(len(curves[0].values)):
        linear = sum(np.array(curve.linear[index]) / fall for curve, fall in fallen)
        total.append(sum(curve.values[index] / fall for curve, fall in fallen), np.asarray(linear).tolist())
    return total


def beside(runs: Sequence[Stored], replicates: int) -> Iterator[str]:
    """Give a line for each set of curves: onsets found, their median and mean delay, and false ones.

    Args:
        runs: stored runs.
        replicates: flat histories of each run.
    """
    found = [(run, known_by(torch.tensor(run.stored.strength["and-or"]))) for run in map(detect, runs)]
    flat = [
        [known_by(history) for history in flat_strengths(runs, replicates=replicates, rising=rising)]
        for rising in (True, False)
    ]
    for name in WATCHED:
        delays = [at - run.onset for run, known in found if run.onset is not None and (at := known[name]) is not None]
        false = sum(known[name] is not None for run, known in found if run.onset is None)
        level = " and ".join(f"{sum(each[name] is not None for each in part)} of {len(part)}" for part in flat)
        yield (
            f"{name}: {len(delays)} known, delay {np.median(delays):.1f} in the median and {np.mean(delays):.1f} in "
            f"the mean, {false} false; flat {level}"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for parts in (("choosing", "held out"), ("fresh",)):
        print(" and ".join(parts))
        print(
            "\n".join(beside([stored for stored in load_all() if stored.run.part in parts], replicates=10)), flush=True
        )
