"""`interaction-monitor analyse RUN`: the conditions of sparsity, and decay and spindle of each measurement."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from interaction_monitor.cli import inputs
from interaction_monitor.cli.inputs import CommandError

if TYPE_CHECKING:
    from interaction_monitor.measurement import Measurement
    from interaction_monitor.record import Record

SUMMARY = "check the conditions of sparsity on a recorded run, and split each measurement into a decay and a spindle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    inputs.add_arguments(parser)
    parser.add_argument(
        "--same-players",
        action="store_true",
        help="a player means the same in every sample, as a column or a labelled part does: tell what samples share",
    )


def run(arguments: argparse.Namespace) -> None:
    """Print both tables."""
    record = inputs.open_record(arguments.run, skip_damaged=arguments.skip_damaged)
    if not len(record.history):
        raise CommandError(f"{record.folder} holds no measurement; train for an epoch at least")
    if record.n_players < 4:
        raise CommandError(
            f"{record.folder} was measured with n_players={record.n_players}; decay and spindle cannot be told apart "
            "with fewer than four"
        )
    last = record.measurements[-1]
    if not last.valid.any():
        raise CommandError("the last measurement has no sample with finite outputs: the run diverged")
    print("\n".join(conditions(last)))
    if arguments.same_players:
        print("\n".join(transfer(last)))
    print()
    print("\n".join(shapes(record)))


def conditions(measurement: Measurement) -> list[str]:
    """Say how far the conditions of Theorem 1 (Ren et al. 2024, Appendix B) hold at a measurement.

    Args:
        measurement: of at least two players, with a valid sample.

    Returns:
        A line for each.
    """
    from interaction_monitor.functional import and_interactions
    from interaction_monitor.functional.conditions import (
        average_outputs,
        largest_drop,
        polynomial_degree,
        sparsity_exponent,
    )
    from interaction_monitor.functional.salient_orders import order_strength

    v = measurement.v[measurement.valid]
    dividends = and_interactions(v)
    by_order = order_strength(dividends, None, measurement.tau).sum(0)
    beyond = by_order.flip(0).cumsum(0).flip(0) / by_order.sum()  # orders k and higher
    average = average_outputs(v)
    drop, degree = largest_drop(average), polynomial_degree(average)
    exponent = sparsity_exponent(dividends, measurement.tau)
    exponent = exponent[exponent.isfinite()]
    bounded = degree[degree.isfinite()]
    half = (len(by_order) + 1) // 2 + 1
    lines = [
        f"Conditions of sparsity, on {len(v)} samples of the last measurement (AND interactions of all of the output):",
        f"1. no high orders: orders {half} and higher have {beyond[half - 1]:.1%} of the salient strength, the highest "
        f"{beyond[-1]:.2%}.",
        f"2. surer with more of the sample: so on {int((drop == 0).sum())} of {len(v)} samples; the mean output drops "
        f"by at most {float(largest_drop(average.mean(0))):.1%} of its whole change.",
        f"3. at most polynomially: with some p on {len(bounded)} of {len(v)} samples"
        + (f", the median p is {float(bounded.median()):.2f}." if len(bounded) else "."),
    ]
    if len(exponent):
        low, middle, high = (float(x) for x in exponent.quantile(exponent.new_tensor([0.25, 0.5, 0.75])))
        lines.append(f"ξ of n^ξ/τ: {middle:.2f} (half of the samples: {low:.2f} to {high:.2f}); the paper: 0.9 to 1.2.")
    return lines


def transfer(measurement: Measurement) -> list[str]:
    """Say how far the samples of a measurement have the same interactions, where players mean the same in all.

    Args:
        measurement: with a valid sample.

    Returns:
        A line on which patterns they share, and one on their signs.
    """
    import torch

    from interaction_monitor.functional.conditions import discrimination_power, transfer_curve

    valid = measurement.valid
    effects = torch.cat((measurement.and_[valid, 1:], measurement.or_[valid, 1:]), 1)
    is_salient = effects.abs() >= measurement.tau
    curve = transfer_curve(is_salient)
    ks = [k for k in (5, 10, 20, 50, 100) if k <= len(curve)]
    return [
        "Of a sample's salient interactions, so many are among the k that most samples have: "
        + ", ".join(f"k={k} {float(curve[k - 1]):.0%}" for k in ks)
        + ".",
        f"Where a pattern is salient it has its most frequent sign in {discrimination_power(effects, is_salient):.0%} "
        "of the samples; patterns of a single sample count as all.",
    ]


def shapes(record: Record) -> list[str]:
    """Lay out the decay, the spindle and the cancelling of each measurement.

    Args:
        record: of at least four players.

    Returns:
        A table, and where the run has references a sentence on whether the decay's share goes with theirs.
    """
    import torch

    from interaction_monitor.functional.shapes import fit_shapes, order_cancellation
    from interaction_monitor.history.landmarks import places

    history = record.history
    fit = fit_shapes(torch.tensor([row.strength for row in history], dtype=torch.float64))
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
    known = [i for i, share in enumerate(shares) if share is not None and fit.decay_share[i].isfinite()]
    if len(known) > 2:
        pairs = torch.stack((fit.decay_share[known], torch.tensor([shares[i] for i in known], dtype=torch.float64)))
        ranks = pairs.argsort(-1).argsort(-1).double()
        lines.append(
            f"Over {len(known)} measurements the decay's share goes with the measured generalizing share at a rank "
            f"correlation of {float(torch.corrcoef(ranks)[0, 1]):.2f}."
        )
    return lines
