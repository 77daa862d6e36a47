"""`interaction-monitor report RUN`: a run's story as one HTML file that works offline."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from interaction_monitor.cli import inputs
from interaction_monitor.cli.inputs import CommandError

SUMMARY = "tell a recorded run's story in one HTML file that works offline"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
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


def run(arguments: argparse.Namespace) -> None:
    """Write the report."""
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
    from interaction_monitor.theory.overlay import NoOverlayError

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
