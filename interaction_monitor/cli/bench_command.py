"""`interaction-monitor bench --factory MODULE:FUNCTION CHECKPOINT`: what a measurement of a network takes.

Times some masked forwards of the network and some extractions on this machine, and tells what a measurement of its
samples would take for each number of players.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from interaction_monitor.cli import inputs
from interaction_monitor.cli.inputs import CommandError, networks_of

if TYPE_CHECKING:
    from interaction_monitor.comparison import Network

SUMMARY = "tell what a measurement of a network takes: forwards, extraction and memory by the number of players"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("checkpoint", type=inputs.path, metavar="CHECKPOINT", help="what the factory is given")
    parser.add_argument(
        "--factory",
        metavar="MODULE:FUNCTION",
        required=True,
        help="a function of yours that is given the checkpoint's path and returns comparison.Network(module, probe, "
        "players)",
    )
    parser.add_argument(
        "--players", type=int, nargs=2, default=(6, 16), metavar=("FEWEST", "MOST"), help="default: 6 16"
    )
    parser.add_argument(
        "--samples", type=int, metavar="S", help="samples of a measurement; default: those of the probe"
    )
    parser.add_argument("--interactions", choices=("and-or", "and"), default="and-or", help="default: and-or")
    parser.add_argument(
        "--epoch-seconds",
        type=float,
        metavar="T",
        help="how long an epoch of training takes, to lay measuring beside it",
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=10.0,
        metavar="T",
        help="extractions that would take longer than so many seconds to time are estimated from those of fewer "
        "players; default: 10",
    )


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    fewest, most = arguments.players
    if not 1 <= fewest <= most <= 24:
        raise CommandError(f"--players takes two numbers from 1 to 24, the smaller first, but is {fewest} {most}")
    for name in ("samples", "epoch_seconds", "limit"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise CommandError(f"--{name.replace('_', '-')} must be above 0, but is {value}")
    (network,) = networks_of(arguments.factory, [arguments.checkpoint])
    print(_table(network, arguments))


def _table(network: Network, arguments: argparse.Namespace) -> str:
    import torch

    from interaction_monitor.cost import bench
    from interaction_monitor.forecast import duration
    from interaction_monitor.forward import assign_players
    from interaction_monitor.functional.extraction import MAX_PLAYERS
    from interaction_monitor.players.player_map import PlayerMap

    players = network.players
    try:
        if not isinstance(players, PlayerMap):
            players = assign_players(network.module, players, network.probe, forward_func=network.forward_func, seed=0)
        fewest, most = arguments.players
        count = arguments.samples or len(network.probe)
        costs = bench(
            network.module,
            network.probe,
            players,
            replace(network.settings, interactions=arguments.interactions),
            n_players=range(fewest, most + 1),
            n_samples=count,
            limit=arguments.limit,
        )
    except (ValueError, TypeError) as error:
        raise CommandError(f"the network cannot be measured: {error}") from error
    device = next((parameter.device for parameter in network.module.parameters()), torch.device("cpu"))
    lines = [
        f"{network.name}: {count} samples, on {device}, {torch.get_num_threads()} threads",
        "",
        f"{'players':>8}{'forwards':>13}{'they take':>11}{'extraction':>12}{'memory':>11}{'in all':>10}"
        + ("   epochs of training" if arguments.epoch_seconds else ""),
    ]
    for cost in costs:
        mark = "<" if cost.n_players == players.n_players else " "
        extraction, total = duration(cost.extraction_seconds), duration(cost.seconds)
        if math.isnan(cost.extraction_seconds):
            extraction, total = "-", "-"
        elif cost.estimated:
            extraction, total = f"~{extraction}", f"~{total}"
        line = (
            f"{cost.n_players:>7}{mark}{cost.forwards:>13,}{duration(cost.forward_seconds):>11}"
            f"{extraction:>12}{_bytes(cost.memory_bytes) if cost.memory_bytes else '-':>11}{total:>10}"
        )
        if arguments.epoch_seconds:
            line += "" if math.isnan(cost.seconds) else f"{cost.seconds / arguments.epoch_seconds:>12.1f}"
        lines.append(line)
    notes = [f"< the players of the factory: n_players={players.n_players}"]
    if any(cost.estimated for cost in costs):
        notes.append("~ estimated from fewer players, each taking as many times longer as the last did; see --limit")
    if arguments.interactions == "and-or" and most > MAX_PLAYERS:
        notes.append(f"- the extraction takes {MAX_PLAYERS} players at most; --interactions and takes more")
    return "\n".join([*lines, "", *notes])


def _bytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
