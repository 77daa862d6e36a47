"""The commands about one recorded run, `theory`, `report` and `analyse`, and `ratio`, which is theory without a run."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from interaction_monitor.cli import inputs
from interaction_monitor.cli.inputs import Command, CommandError


def _theory_arguments(parser: argparse.ArgumentParser) -> None:
    inputs.add_arguments(parser)
    parser.add_argument(
        "--and-part", action="store_true", help="match the AND interactions alone, of a run measured with AND and OR"
    )
    parser.add_argument(
        "--out", type=inputs.path, metavar="FOLDER", help="where the pictures go; default: into the record"
    )
    parser.add_argument(
        "--tensorboard",
        type=inputs.path,
        metavar="FOLDER",
        help="the TensorBoard run to write to; default: the folder above the record, if it is one",
    )


def _theory(arguments: argparse.Namespace) -> None:
    """Lay what the closed form predicts beside what was measured: print it, draw it, and write it to TensorBoard."""
    from interaction_monitor.plots import theory_figures, theory_text
    from interaction_monitor.record import files
    from interaction_monitor.theory import NoOverlayError, fit_record

    record = inputs.open_record(arguments.run, skip_damaged=arguments.skip_damaged)
    out = arguments.out or record.folder
    board = arguments.tensorboard or theory_figures.run_folder(record.folder)
    inputs.require_writable(out)
    if board is not None:
        inputs.require_writable(board, option="--tensorboard")
    try:
        overlay = fit_record(record, and_part=arguments.and_part)
    except NoOverlayError as error:
        raise CommandError(str(error)) from error
    print(theory_text.table(overlay))
    if not overlay.in_phase_two.all():
        print(f"\n(one): {theory_text.WHY_GREY}")
    print()
    for sentence in theory_text.findings(overlay):
        print(sentence)
    print()
    with inputs.writing(out):
        for name, picture in (
            (files.THEORY_BARS, theory_figures.bars),
            (files.THEORY_NOISE_LEVEL, theory_figures.noise_level),
        ):
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
    inputs.add_arguments(parser)
    parser.add_argument(
        "--with",
        dest="others",
        type=inputs.path,
        nargs="+",
        default=[],
        metavar="OTHER",
        help="other runs over the same probe and players: tell what their last networks share with this one's",
    )
    parser.add_argument("--out", type=inputs.path, metavar="FILE.html", help="default: report.html in the record")


def _report(arguments: argparse.Namespace) -> None:
    """Tell a run's story in one HTML file that works offline."""
    if find_spec("jinja2") is None:
        raise CommandError("the report needs jinja2; install it by: pip install 'interaction-monitor[report]'")
    from interaction_monitor.record import files

    record = inputs.open_record(arguments.run, skip_damaged=arguments.skip_damaged)
    others = [inputs.open_record(other, skip_damaged=arguments.skip_damaged) for other in arguments.others]
    out = arguments.out or record.folder / files.REPORT
    if out.is_dir():
        raise CommandError(f"{out} is a folder; give --out the name of a file")
    if out.exists() and not _is_report(out):
        raise CommandError(f"{out} is there already and is no report; give --out another name, or remove the file")
    inputs.require_writable(out.parent)

    from interaction_monitor.comparison import NotComparableError
    from interaction_monitor.report import report_page
    from interaction_monitor.theory import NoOverlayError

    try:
        page = report_page(record, others)
    except (NoOverlayError, NotComparableError) as error:
        raise CommandError(str(error)) from error
    with inputs.writing(out.parent):
        out.write_text(page, encoding="utf-8")
    print(f"wrote {out} ({len(page.encode()) / 1e6:.1f} MB); open it in any browser")


def _is_report(path: Path) -> bool:
    """Tell a report, which may be replaced by a newer one, from whatever else a mistyped --out could destroy."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(4096)
    return head.startswith(b"<!DOCTYPE html>") and b"<title>Interactions of " in head


def _analyse_arguments(parser: argparse.ArgumentParser) -> None:
    inputs.add_arguments(parser)
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
    parser.add_argument("--sample", type=int, default=0, help="the sample of that picture; default: 0")


def _analyse(arguments: argparse.Namespace) -> None:
    """Print the conditions of sparsity, and decay and spindle of each measurement."""
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
    picture, valid = arguments.salient_matching, last.valid.nonzero()[:, 0].tolist()
    if picture is not None:
        _require_picture(picture, "--salient-matching")
        if arguments.sample not in valid:
            raise CommandError(f"--sample must be one of {', '.join(map(str, valid))}, but is {arguments.sample}")
    from interaction_monitor.plots import comparison_figures, theory_text

    print("\n".join([*theory_text.conditions(last), theory_text.salient_alone(last)]))
    if arguments.same_players:
        print("\n".join(theory_text.transfer(last, record.probe_targets)))
    print()
    print("\n".join(theory_text.shapes(record)))
    if picture is not None:
        with inputs.writing(picture.parent, option="--salient-matching"):
            comparison_figures.salient_only(last, arguments.sample).savefig(picture, dpi=110)
        print(f"wrote {picture}")


def _require_picture(file: Path, option: str) -> None:
    if file.suffix not in (".png", ".pdf", ".svg"):
        raise CommandError(f"{option} must be a file that ends in .png, .pdf or .svg, but is {file}")
    inputs.require_writable(file.parent, option=option)


def _ratio_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--players", type=int, nargs="+", default=[6, 8, 10], metavar="N", help="a panel for each; default: 6 8 10"
    )
    parser.add_argument(
        "--out", type=inputs.path, default=Path("norm_ratio.png"), metavar="FILE", help="default: norm_ratio.png"
    )


def _ratio(arguments: argparse.Namespace) -> None:
    """Say for each number of players whether every order reaches further than the next, and draw it."""
    if min(arguments.players) < 2:
        raise CommandError(f"--players must be at least 2, for two orders to compare, but is {min(arguments.players)}")
    _require_picture(arguments.out, "--out")
    import torch

    from interaction_monitor.plots.theory_figures import norm_ratio_figure
    from interaction_monitor.theory import norm_ratio

    for n in arguments.players:
        # The more players, the less noise it takes for the middle orders to come.
        lowest = -10 - n // 2
        ratio = norm_ratio(n, torch.logspace(lowest, 3, 10 * (3 - lowest) + 1, dtype=torch.float64))
        breaking = ((ratio.diff(dim=0) <= 0).any(0).nonzero()[:, 0] + 1).tolist()
        falls = "every ratio falls as the noise fades"
        if breaking:
            orders = f"order{'s' if len(breaking) > 1 else ''} {', '.join(map(str, breaking))}"
            falls = f"as the noise fades, the ratio of {orders} rises somewhere"
        least, at = ratio.min(0).values.min(0)
        below = f"the least ratio is 1 - {1 - float(least):.1e} (order {int(at) + 1})"
        print(f"n = {n}: {falls}; {'all are above 1' if float(least) > 1 else below}")
    with inputs.writing(arguments.out.parent):
        norm_ratio_figure(arguments.players).savefig(arguments.out, dpi=130)
    print(f"wrote {arguments.out}")


COMMANDS = (
    Command(
        "theory",
        "lay the theory's prediction over a recorded run: table, pictures and TensorBoard",
        _theory_arguments,
        _theory,
    ),
    Command("report", "tell a recorded run's story in one HTML file that works offline", _report_arguments, _report),
    Command(
        "analyse",
        "check the conditions of sparsity on a recorded run, and split each measurement into a decay and a spindle",
        _analyse_arguments,
        _analyse,
    ),
    Command(
        "ratio",
        "draw how the reach of an order over the next fades with the noise: Proposition 1, no run needed",
        _ratio_arguments,
        _ratio,
    ),
)
