"""`interaction-monitor ratio`: the head start that the theory gives every order over the next."""

from __future__ import annotations

import argparse
from pathlib import Path

from interaction_monitor.cli import inputs
from interaction_monitor.cli.inputs import CommandError

SUMMARY = "draw how the reach of an order over the next fades with the noise: Proposition 1, no run needed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--players", type=int, nargs="+", default=[6, 8, 10], metavar="N", help="a panel for each; default: 6 8 10"
    )
    parser.add_argument(
        "--out", type=inputs.path, default=Path("norm_ratio.png"), metavar="FILE", help="default: norm_ratio.png"
    )


def run(arguments: argparse.Namespace) -> None:
    """Say for each number of players whether the proposition holds, and save the picture."""
    if min(arguments.players) < 2:
        raise CommandError(f"--players must be at least 2, for two orders to compare, but is {min(arguments.players)}")
    if arguments.out.suffix not in (".png", ".pdf", ".svg"):
        raise CommandError(f"--out must be a file that ends in .png, .pdf or .svg, but is {arguments.out}")
    inputs.require_writable(arguments.out.parent)
    import torch

    from interaction_monitor.plots.theory_figures import norm_ratio_figure
    from interaction_monitor.theory import norm_ratio

    levels = torch.logspace(-10, 3, 131, dtype=torch.float64)
    for n in arguments.players:
        ratio = norm_ratio(n, levels)
        falls = bool((ratio.diff(dim=0) > 0).all())
        least, at = ratio.min(0).values.min(0)
        print(
            f"n = {n}: every ratio {'falls with the noise' if falls else 'does not fall everywhere with the noise'}, "
            f"and is {'above 1' if float(least) > 1 else f'as low as {float(least):.4f} (order {int(at) + 1})'}"
        )
    with inputs.writing(arguments.out.parent):
        norm_ratio_figure(arguments.players).savefig(arguments.out, dpi=130)
    print(f"wrote {arguments.out}")
