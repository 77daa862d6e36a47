"""The command `interaction-monitor`: how it is run, and what it does with one recorded run.

A command is a name, a function that adds its arguments and one that runs it, whose docstring is its help. It prints to
stdout, and raises `CommandError`, `OSError` or what the package raises where the user has to do something. The modules
import nothing heavy before a command runs.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO, cast

from interaction_monitor import __version__
from interaction_monitor.cli import inputs, network_commands
from interaction_monitor.cli.inputs import CommandError


def _theory_arguments(parser: argparse.ArgumentParser) -> None:
    inputs.add_record(parser)
    add = parser.add_argument
    add("--and-part", action="store_true", help="match the AND interactions alone, of a run measured with AND and OR")
    add("--out", type=inputs.path, metavar="FOLDER", help="where the pictures go; default: into the record")
    add(
        "--tensorboard",
        type=inputs.path,
        metavar="FOLDER",
        help="the TensorBoard run to write to; default: the folder above the record, if it is one",
    )


def _theory(arguments: argparse.Namespace) -> None:
    """Lay the theory's prediction over a recorded run: table, pictures and TensorBoard."""
    from interaction_monitor.plots import theory_figures, theory_text
    from interaction_monitor.record import files
    from interaction_monitor.theory import fit_record

    record = inputs.open_record(arguments.run, skip_damaged=arguments.skip_damaged)
    out = arguments.out or record.folder
    board = arguments.tensorboard or theory_figures.run_folder(record.folder)
    inputs.require_writable(out)
    if board is not None:
        inputs.require_writable(board, option="--tensorboard")
    overlay = fit_record(record, and_part=arguments.and_part)
    grey = [] if overlay.in_phase_two.all() else ["", f"(one): {theory_text.WHY_GREY}"]
    print("\n".join([theory_text.table(overlay), *grey, "", *theory_text.findings(overlay), ""]))
    pictures = {files.THEORY_BARS: theory_figures.bars, files.THEORY_NOISE_LEVEL: theory_figures.noise_level}
    with inputs.writing(out):
        for name, picture in pictures.items():
            picture(overlay).savefig(out / name, dpi=130)
            print(f"wrote {out / name}")
    if board is None:
        print(
            f"no TensorBoard run lies beside the record, in {record.folder.resolve().parent}; "
            "--tensorboard FOLDER writes to one elsewhere"
        )
        return
    with inputs.writing(board, option="--tensorboard"):
        theory_figures.write_theory(overlay, board, name=record.folder.resolve().name)
    print(f"wrote to the TensorBoard run {board}")


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    inputs.add_record(parser)
    parser.add_argument(
        "--with",
        dest="others",
        type=inputs.path,
        nargs="+",
        default=[],
        metavar="OTHER",
        help="other runs over the same probe and players: tell what their last networks share with this one's",
    )
    parser.add_argument("--out", type=inputs.path, metavar="FILE.html", help="where it goes; default: into the record")


def _report(arguments: argparse.Namespace) -> None:
    """Tell a recorded run's story in one HTML file that works offline."""
    if find_spec("jinja2") is None:
        raise CommandError("the report needs jinja2; install it by: pip install 'interaction-monitor[report]'")
    from interaction_monitor.record import files

    record = inputs.open_record(arguments.run, skip_damaged=arguments.skip_damaged)
    others = [inputs.open_record(other, skip_damaged=arguments.skip_damaged) for other in arguments.others]
    out = arguments.out or record.folder / files.REPORT
    inputs.require_report(out)

    from interaction_monitor.report import report_page

    page = report_page(record, others)
    with inputs.writing(out.parent):
        out.write_text(page, encoding="utf-8")
    print(f"wrote {out} ({len(page.encode()) / 1e6:.1f} MB); open it in any browser")


def _analyse_arguments(parser: argparse.ArgumentParser) -> None:
    inputs.add_record(parser)
    parser.add_argument(
        "--same-players",
        action="store_true",
        help="a player means the same in every sample, as a column or a labelled part does: tell what samples share",
    )
    parser.add_argument(
        "--salient-matching",
        type=inputs.path,
        metavar="FILE",
        help="draw what the salient interactions of --sample give by themselves: Figure 6 of Chen et al. 2024",
    )
    parser.add_argument("--sample", type=int, help="the sample of that picture; default: the first with finite outputs")


def _analyse(arguments: argparse.Namespace) -> None:
    """Check the conditions of sparsity on a recorded run, and split each measurement into a decay and a spindle."""
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
    if not (last.output_change > 0 and last.strength[last.valid].any()):
        raise CommandError("the last measurement has no salient interaction, so there is nothing to analyse; train on")
    picture, valid = arguments.salient_matching, last.valid.nonzero()[:, 0].tolist()
    sample = valid[0] if arguments.sample is None else arguments.sample
    if picture is not None:
        inputs.require_picture(picture, "--salient-matching")
    if sample not in valid:
        raise CommandError(f"--sample must be one of {', '.join(map(str, valid))}, but is {sample}")
    from interaction_monitor.plots import sample_figures, theory_text

    shared = theory_text.transfer(last, record.probe_targets) if arguments.same_players else []
    lines = [*theory_text.conditions(last), theory_text.salient_alone(last), *shared, "", *theory_text.shapes(record)]
    print("\n".join(lines))
    if picture is not None:
        with inputs.writing(picture.parent, option="--salient-matching"):
            sample_figures.salient_only(last, sample).savefig(picture, dpi=110)
        print(f"wrote {picture}")


def _ratio_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--players", type=int, nargs="+", default=[6, 8, 10], metavar="N", help="a panel for each; default: 6 8 10")
    add("--out", type=inputs.path, default=Path("norm_ratio.png"), metavar="FILE", help="default: norm_ratio.png")


def _ratio(arguments: argparse.Namespace) -> None:
    """Say and draw how the reach of an order over the next fades with the noise: Proposition 1, no run needed."""
    if min(arguments.players) < 2:
        raise CommandError(f"--players must be at least 2, for two orders to compare, but is {min(arguments.players)}")
    inputs.require_picture(arguments.out, "--out")
    import torch

    from interaction_monitor.plots.theory_figures import norm_ratio_figure
    from interaction_monitor.theory import norm_ratio

    for n in arguments.players:
        lowest = -10 - n // 2  # the more players, the less noise it takes for the middle orders to come
        ratio = norm_ratio(n, torch.logspace(lowest, 3, 10 * (3 - lowest) + 1, dtype=torch.float64))
        breaking = ((ratio.diff(dim=0) <= 0).any(0).nonzero()[:, 0] + 1).tolist()
        falls = "every ratio falls as the noise fades"
        if breaking:
            orders = f"order{'s' if len(breaking) > 1 else ''} {', '.join(map(str, breaking))}"
            falls = f"as the noise fades, the ratio of {orders} rises somewhere"
        least, at = ratio.min(0).values.min(0)
        below = f"the least ratio is 1 - {1 - float(least):.1e} (order {int(at) + 1})"
        print(f"n = {n}: {falls}; {'all are above 1' if float(least) > 1 else below}")
    # Beyond the paper's numbers of players the proposition fails at less noise than its figure has.
    least_drawn = -6 if max(arguments.players) <= 10 else -10 - max(arguments.players) // 2
    drawn = torch.logspace(least_drawn, 3, 4 * (3 - least_drawn) + 1, dtype=torch.float64).tolist()
    with inputs.writing(arguments.out.parent):
        norm_ratio_figure(arguments.players, drawn).savefig(arguments.out, dpi=130)
    print(f"wrote {arguments.out}")


_COMMANDS = {
    "theory": (_theory_arguments, _theory),
    "report": (_report_arguments, _report),
    "analyse": (_analyse_arguments, _analyse),
    "ratio": (_ratio_arguments, _ratio),
    **network_commands.COMMANDS,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments; None takes those of the process.

    Returns:
        The exit code: 0, or 2 where the user has to do something, with one line on stderr that says what.

    Raises:
        SystemExit: After `--help` and `--version`, and with code 2 where the arguments cannot be understood.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ⟨ and σ still shows the table
    arguments = _parser().parse_args(argv)
    # Imported here, because these take torch, and --help should not have to wait for it.
    from interaction_monitor.comparison import NotComparableError
    from interaction_monitor.record import RecordError
    from interaction_monitor.theory import NoOverlayError

    try:
        with redirect_stdout(cast("TextIO", _Output(sys.stdout))) as out:
            arguments.run_command(arguments)
            out.flush()  # here, and not as Python ends, where a closed pipe could no longer be seen to
            return 0
    except (CommandError, RecordError, NoOverlayError, NotComparableError) as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename or 'a file'} cannot be read or written: {error.strerror or error}"
    print(f"interaction-monitor {arguments.command}: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


class _Output(io.TextIOBase):
    """Stdout whose reader may go away, as `head` does: what comes then is dropped, and files are written all the same.

    Without it the first line after would raise BrokenPipeError, wherever the command is.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._dropped():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropped():
            self._stream.flush()

    @contextmanager
    def _dropped(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            # As Python's documentation has it (signal, "Note on SIGPIPE"): what is buffered goes there too at its end.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="interaction-monitor",
        description="Work on recorded runs, compare networks, and tell beforehand what a measurement takes.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    for name, (add_arguments, run) in _COMMANDS.items():
        added = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        add_arguments(added)
        added.set_defaults(run_command=run)
    return parser
