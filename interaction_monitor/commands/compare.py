"""`interaction-monitor compare RUN RUN [RUN ...]`: which interactions networks share that were measured alike."""

from __future__ import annotations

import argparse
from pathlib import Path

from interaction_monitor.commands import CommandError, _records

SUMMARY = "extract the interactions that several recorded networks share: tables, pictures and TensorBoard"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="records over the same probe and players, two or more; or one, with several --epoch",
    )
    parser.add_argument(
        "--epoch",
        type=int,
        nargs="+",
        metavar="N",
        help="the measurements to compare, by completed epochs: one for all runs, one for each, or several of a "
        "single run; default: the last of each",
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
    runs, epochs = arguments.runs, arguments.epoch
    if len(runs) == 1 and epochs is not None and len(epochs) > 1:
        runs = runs * len(epochs)
    if len(runs) < 2:
        raise CommandError("a comparison takes two runs or more, or one run and several --epoch")
    if epochs is not None and len(epochs) == 1:
        epochs = epochs[0]
    records = [_records.open_record(folder, skip_damaged=arguments.skip_damaged) for folder in runs]
    _records.require_writable(arguments.out)

    from interaction_monitor.comparison import NotComparableError, compare, figures, panels, words

    try:
        comparison = compare(records, epochs=epochs, alpha=arguments.alpha, normalize=arguments.normalize)
    except NotComparableError as error:
        raise CommandError(str(error)) from error
    if not 0 <= arguments.sample < len(comparison.samples):
        raise CommandError(f"--sample must lie between 0 and {len(comparison.samples) - 1}, but is {arguments.sample}")
    names = [f"{i}: {name}" for i, name in enumerate(comparison.names)]
    text = "\n".join([*names, "", words.table(comparison), "", *words.findings(comparison)])
    print(text)
    print()
    (arguments.out / "comparison.txt").write_text(text + "\n", encoding="utf-8")
    for name, picture in figures.PICTURES.items():
        drawn = figures.patterns(comparison, arguments.sample) if name == "patterns" else picture(comparison)
        drawn.savefig(arguments.out / f"{name}.png", dpi=130)
        print(f"wrote {arguments.out / name}.png")
    panels.write(comparison, arguments.out)
    print(f"wrote the TensorBoard run {arguments.out}")
