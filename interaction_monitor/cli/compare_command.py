"""`interaction-monitor compare RUN RUN [RUN ...]`: which interactions networks share that were measured alike.

With `--factory`, checkpoints take the place of recorded runs.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from interaction_monitor.cli import records
from interaction_monitor.cli.factories import networks_of
from interaction_monitor.cli.records import CommandError

if TYPE_CHECKING:
    from interaction_monitor.comparison import Comparison

SUMMARY = "extract the interactions that several networks share: tables, pictures, one HTML file and TensorBoard"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="records over the same probe and players, two or more; or one, with several --epoch; or, with "
        "--factory, checkpoints",
    )
    parser.add_argument(
        "--factory",
        metavar="MODULE:FUNCTION",
        help="a function of yours that is given a checkpoint's path and returns comparison.Network(module, probe, "
        "players); RUN are then checkpoints, and they are measured now",
    )
    parser.add_argument(
        "--epoch",
        type=int,
        nargs="+",
        metavar="N",
        help="the measurements to compare, by completed epochs: one for all runs; one for each, in their order (of A B "
        "--epoch 2 3, A's at 2 and B's at 3); or several of a single run; default: the last of each",
    )
    parser.add_argument(
        "--alpha", type=float, default=0.1, help="charge for an interaction in each network, 0 to 1; default: 0.1"
    )
    parser.add_argument(
        "--normalize", action="store_true", help="count each network in units of its mean change of output"
    )
    parser.add_argument("--sample", type=int, default=0, help="the sample whose interactions are drawn; default: 0")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("comparison"),
        metavar="FOLDER",
        help="where the results go; default: comparison",
    )
    parser.add_argument("--skip-damaged", action="store_true", help="do without measurements that are damaged")


def run(arguments: argparse.Namespace) -> None:
    """Print the tables, save them and the pictures, and write to TensorBoard."""
    if not 0 <= arguments.alpha <= 1:
        raise CommandError(f"--alpha must lie between 0 and 1, but is {arguments.alpha}")
    from interaction_monitor.comparison import NotComparableError

    try:
        comparison = _of_records(arguments) if arguments.factory is None else _of_checkpoints(arguments)
    except NotComparableError as error:
        raise CommandError(str(error)) from error
    _write(comparison, arguments)


def _of_records(arguments: argparse.Namespace) -> Comparison:
    from interaction_monitor.comparison import compare

    runs, epochs = arguments.runs, arguments.epoch
    if len(runs) == 1 and epochs is not None and len(epochs) > 1:
        runs = runs * len(epochs)
    if len(runs) < 2:
        raise CommandError("a comparison takes two runs or more, or one run and several --epoch")
    if epochs is not None and len(epochs) == 1:
        epochs = epochs[0]
    opened = [records.open_record(folder, skip_damaged=arguments.skip_damaged) for folder in runs]
    _check_results(arguments, opened[0].n_samples)
    return compare(opened, epochs=epochs, alpha=arguments.alpha, normalize=arguments.normalize)


def _of_checkpoints(arguments: argparse.Namespace) -> Comparison:
    from interaction_monitor.comparison import compare_networks

    if arguments.epoch is not None:
        raise CommandError("--epoch chooses measurements of records; with --factory give the checkpoints of the epochs")
    if arguments.skip_damaged:
        raise CommandError("--skip-damaged does without measurements of records; leave it out with --factory")
    if len(arguments.runs) < 2:
        raise CommandError("a comparison takes two checkpoints or more")
    networks = networks_of(arguments.factory, arguments.runs)
    _check_results(arguments, len(networks[0].probe))
    return compare_networks(networks, alpha=arguments.alpha, normalize=arguments.normalize)


def _check_results(arguments: argparse.Namespace, n_samples: int) -> None:
    """Refuse before anything is computed what would fail after it."""
    if not 0 <= arguments.sample < n_samples:
        raise CommandError(f"--sample must lie between 0 and {n_samples - 1}, but is {arguments.sample}")
    records.require_writable(arguments.out)


def _write(comparison: Comparison, arguments: argparse.Namespace) -> None:
    from interaction_monitor.plots import comparison_figures, comparison_text, tensorboard
    from interaction_monitor.report.comparison_page import page

    if arguments.sample not in comparison.samples:
        kept = ", ".join(map(str, comparison.samples))
        raise CommandError(f"--sample {arguments.sample} has no finite outputs in some network; take one of {kept}")
    names = [f"{i}: {name}" for i, name in enumerate(comparison.names)]
    text = "\n".join([*names, "", comparison_text.table(comparison), "", *comparison_text.findings(comparison)])
    print(text)
    print()
    pictures = comparison_figures.draw_all(comparison, comparison.samples.index(arguments.sample))
    with records.writing(arguments.out):
        (arguments.out / "comparison.txt").write_text(text + "\n", encoding="utf-8")
        for name, picture in pictures.items():
            (arguments.out / f"{name}.png").write_bytes(picture)
            print(f"wrote {arguments.out / name}.png")
        if find_spec("jinja2") is None:
            print("wrote no HTML; for it: pip install 'interaction-monitor[report]'")
        else:
            (arguments.out / "comparison.html").write_text(page(comparison, pictures), encoding="utf-8")
            print(f"wrote {arguments.out / 'comparison.html'}; open it in any browser")
        tensorboard.write_comparison(comparison, arguments.out, pictures=pictures)
        print(f"wrote the TensorBoard run {arguments.out}")
