"""The commands about several networks or one that is no record yet: `compare` and `bench`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from interaction_monitor.cli import inputs
from interaction_monitor.cli.inputs import CommandError, networks_of

if TYPE_CHECKING:
    from interaction_monitor.comparison import Comparison, Counting


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    add, flag = parser.add_argument, partial(parser.add_argument, action="store_true")
    add(
        "runs",
        type=inputs.path,
        nargs="+",
        metavar="RUN",
        help="records over the same probe and players, two or more; or one, with several --epoch; or, with "
        "--factory, checkpoints",
    )
    inputs.add_factory(parser, required=False, more="; RUN are then checkpoints, and they are measured now")
    add(
        "--epoch",
        type=int,
        nargs="+",
        metavar="N",
        help="the measurements to compare, by completed epochs: one for all runs; one for each, in their order (of A B "
        "--epoch 2 3, A's at 2 and B's at 3); or several of a single run; default: the last of each",
    )
    add("--alpha", type=float, default=0.1, help="penalty on an interaction in each network; default: 0.1")
    flag("--normalize", help="count each network in units of its mean change of output")
    add(
        "--alphas",
        type=float,
        nargs="+",
        metavar="A",
        help="extract with each of these penalties too, and tell what sharing and sparsity become: Figure 8",
    )
    flag("--again", help="extract each network again, from outputs changed by a millionth: Table 2 and Figure 12")
    flag("--salient-matching", help="draw the outputs that the salient interactions of --sample give alone: Figure 6")
    add("--sample", type=int, help="the sample whose interactions are drawn; default: the first with finite outputs")
    add("--out", type=inputs.path, default=Path("comparison"), metavar="FOLDER", help="default: comparison")
    flag("--skip-damaged", help="do without measurements that are damaged")
    counting = parser.add_argument_group("what the tables and pictures count")
    add, flag = counting.add_argument, partial(counting.add_argument, action="store_true")
    add(
        "--k",
        type=inputs.count_or_share,
        nargs="+",
        metavar="K",
        default=[],
        help="numbers of strongest interactions, or percentages of 2^n (Figure 3 of Chen et al. 2024: 5%% to 45%%); "
        "default: 5 to 100",
    )
    add(
        "--floor",
        type=float,
        default=1e-3,
        help="leave out of the strongest k what is at most this fraction of the sample's largest; 0 leaves none out; "
        "default: 0.001",
    )
    add("--salient", type=float, default=0.05, metavar="SHARE", help="salient is what exceeds it; default: 0.05")
    add(
        "--salient-of",
        choices=("largest", "change"),
        default="largest",
        help="of the sample's largest interaction, or of the network's mean change of output; default: largest",
    )
    flag("--pooled", help="sort the interactions of all samples together in the picture of the sparsity: Figure 2")


def _compare(arguments: argparse.Namespace) -> None:
    """Extract what networks share, of records or of checkpoints: tables, pictures, an HTML file and TensorBoard."""
    if arguments.alphas is not None and not all(0 <= alpha < math.inf for alpha in arguments.alphas):
        raise CommandError(f"--alphas must be finite numbers, at least 0, but are {arguments.alphas}")
    if not 0 <= arguments.alpha < math.inf:
        raise CommandError(f"--alpha must be a finite number, at least 0, but is {arguments.alpha}")
    _write(_of_records(arguments) if arguments.factory is None else _of_checkpoints(arguments), arguments)


def _of_records(arguments: argparse.Namespace) -> Comparison:
    from interaction_monitor.comparison import compare, row_at

    runs, epochs = arguments.runs, arguments.epoch
    if len(runs) == 1 and epochs is not None and len(epochs) > 1:
        runs = runs * len(epochs)
    if len(runs) < 2:
        raise CommandError("a comparison takes two runs or more, or one run and several --epoch")
    if epochs is not None and len(epochs) == 1:
        epochs = epochs[0]
    opened = [inputs.open_record(folder, skip_damaged=arguments.skip_damaged) for folder in runs]
    counting = _checked(arguments, opened[0].n_samples, opened[0].n_players)
    if arguments.sample is not None:
        asked = epochs if isinstance(epochs, list) else [epochs] * len(opened)
        measured = [record.measurements[row_at(record, at)].valid for record, at in zip(opened, asked, strict=False)]
        _require_finite(
            arguments.sample, [i for i in range(len(measured[0])) if all(x[i : i + 1].all() for x in measured)]
        )
    return compare(opened, epochs=epochs, alpha=arguments.alpha, normalize=arguments.normalize, counting=counting)


def _of_checkpoints(arguments: argparse.Namespace) -> Comparison:
    from interaction_monitor.comparison import compare_networks

    if arguments.epoch is not None:
        raise CommandError("--epoch chooses measurements of records; with --factory give the checkpoints of the epochs")
    if arguments.skip_damaged:
        raise CommandError("--skip-damaged does without measurements of records; leave it out with --factory")
    if len(arguments.runs) < 2:
        raise CommandError("a comparison takes two checkpoints or more")
    networks = networks_of(arguments.factory, arguments.runs)
    counting = _checked(arguments, len(networks[0].probe), networks[0].players.n_players)
    try:
        return compare_networks(networks, alpha=arguments.alpha, normalize=arguments.normalize, counting=counting)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _checked(arguments: argparse.Namespace, n_samples: int, n_players: int) -> Counting:
    """Refuse before anything is computed what would fail after it, and return what is counted."""
    from interaction_monitor.comparison import Counting

    if arguments.sample is not None and not 0 <= arguments.sample < n_samples:
        raise CommandError(f"--sample must lie between 0 and {n_samples - 1}, but is {arguments.sample}")
    inputs.require_writable(arguments.out)
    ks = tuple(k if isinstance(k, int) else max(1, int(k * 2**n_players)) for k in arguments.k)
    if max(ks, default=0) >= 2**n_players:
        raise CommandError(f"--k must be at most {2**n_players - 1}, as many as there are, but is {max(ks)}")
    floor, fraction, unit, pooled = arguments.floor, arguments.salient, arguments.salient_of, arguments.pooled
    try:
        return Counting(ks=ks, floor=floor, fraction=fraction, unit=unit, pooled=pooled)
    except ValueError as error:
        raise CommandError(f"--floor or --salient: {error}") from error


def _require_finite(sample: int, finite: Sequence[int]) -> None:
    if finite and sample not in finite:
        there = ", ".join(map(str, finite))
        raise CommandError(f"--sample {sample} has no finite outputs in some network; take one of {there}")


def _write(comparison: Comparison, arguments: argparse.Namespace) -> None:
    from interaction_monitor.comparison import ablate, extract_again
    from interaction_monitor.plots import comparison_figures, comparison_text, sample_figures, to_png

    asked = comparison.samples[0] if arguments.sample is None else arguments.sample
    _require_finite(asked, comparison.samples)
    names = [f"{i}: {name}" for i, name in enumerate(comparison.names)]
    lines = [*names, "", comparison_text.table(comparison), "", *comparison_text.findings(comparison)]
    sample = comparison.samples.index(asked)
    ablation = None
    if arguments.alphas is not None:
        ablation = ablate(comparison, arguments.alphas)
        lines += ["", "s_and / s_or, Σ|I| and number of salient interactions by α:"]
        lines += [comparison_text.ablation_table(ablation, comparison.ks)]
    repetition = extract_again(comparison) if arguments.again else None
    if repetition is not None:
        lines += ["", *comparison_text.repetition_lines(repetition, comparison, sample)]
    text = "\n".join(lines) + "\n"
    print(text)
    pictures = comparison_figures.draw_all(comparison, sample)
    if ablation is not None:
        pictures["ablation"] = to_png(comparison_figures.ablation(ablation, comparison.ks), dpi=110)
    if repetition is not None:
        pictures["again"] = to_png(
            comparison_figures.patterns(comparison, sample, k=5, again=repetition.again), dpi=110
        )
    if arguments.salient_matching:
        pictures["salient_matching"] = to_png(sample_figures.salient_matching(comparison, sample), dpi=110)
    with inputs.writing(arguments.out):
        (arguments.out / "comparison.txt").write_text(text, encoding="utf-8")
        for name, picture in pictures.items():
            (arguments.out / f"{name}.png").write_bytes(picture)
            print(f"wrote {arguments.out / name}.png")
        if find_spec("jinja2") is None:
            print("wrote no HTML; for it: pip install 'interaction-monitor[report]'")
        else:
            from interaction_monitor.report import comparison_page

            (arguments.out / "comparison.html").write_text(comparison_page(comparison, pictures), encoding="utf-8")
            print(f"wrote {arguments.out / 'comparison.html'}; open it in any browser")
        comparison_text.write_comparison(comparison, arguments.out, pictures=pictures)
        print(f"wrote the TensorBoard run {arguments.out}")


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", type=inputs.path, metavar="CHECKPOINT", help="what the factory is given")
    inputs.add_factory(parser, required=True)
    add("--players", type=int, nargs=2, default=(6, 16), metavar=("FEWEST", "MOST"), help="default: 6 16")
    add("--samples", type=int, metavar="S", help="samples of a measurement; default: those of the probe")
    add("--interactions", choices=("and-or", "and"), default="and-or", help="default: and-or")
    add("--epoch-seconds", type=float, metavar="T", help="what an epoch of training takes, to lay measuring beside it")
    add(
        "--limit",
        type=float,
        default=10.0,
        metavar="T",
        help="extractions that would take longer than so many seconds to time are estimated from those of fewer "
        "players; default: 10",
    )


def _bench(arguments: argparse.Namespace) -> None:
    """Tell what a measurement of a network takes: forwards, extraction and memory by the number of players."""
    fewest, most = arguments.players
    if not 1 <= fewest <= most <= 24:
        raise CommandError(f"--players takes two numbers from 1 to 24, the smaller first, but is {fewest} {most}")
    for name in ("samples", "epoch_seconds", "limit"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise CommandError(f"--{name.replace('_', '-')} must be above 0, but is {value}")
    (network,) = networks_of(arguments.factory, [arguments.checkpoint])

    from interaction_monitor.cost import cost_of, cost_table
    from interaction_monitor.forward import assign_players
    from interaction_monitor.players.player_map import PlayerMap
    from interaction_monitor.settings import Settings

    module, players, count = network.module, network.players, arguments.samples or len(network.probe)
    settings = Settings(network.output, network.forward_func, interactions=arguments.interactions)
    options = {"n_samples": count, "with_memory": True, "limit": arguments.limit}
    try:
        if not isinstance(players, PlayerMap):
            players = assign_players(module, players, network.probe, forward_func=network.forward_func, seed=0)
        costs = cost_of(module, network.probe, players, settings, n_players=range(fewest, most + 1), **options)
    except Exception as error:  # a network may fail in any way
        raise CommandError(f"the network cannot be measured: {type(error).__name__}: {error}") from error
    device = next((parameter.device for parameter in module.parameters()), "cpu")
    heading = f"{network.name}: {count} samples, on {device}"
    print(cost_table(costs, heading, n_players=players.n_players, epoch_seconds=arguments.epoch_seconds))


COMMANDS = {"compare": (_compare_arguments, _compare), "bench": (_bench_arguments, _bench)}
