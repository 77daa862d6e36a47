"""`interaction-monitor theory RUN`: what the closed form predicts, beside what was measured."""

from __future__ import annotations

import argparse

from interaction_monitor.cli import inputs
from interaction_monitor.cli.inputs import CommandError

SUMMARY = "lay the theory's prediction over a recorded run: table, pictures and TensorBoard"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
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


def run(arguments: argparse.Namespace) -> None:
    """Print the table, save the pictures and write to TensorBoard."""
    from interaction_monitor.plots import tensorboard_after_run, theory_figures, theory_text
    from interaction_monitor.record import files
    from interaction_monitor.theory.overlay import NoOverlayError, fit_record

    record = inputs.open_record(arguments.run, skip_damaged=arguments.skip_damaged)
    out = arguments.out or record.folder
    board = arguments.tensorboard or tensorboard_after_run.run_folder(record.folder)
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
        tensorboard_after_run.write_theory(overlay, board, name=record.folder.resolve().name)
    print(f"wrote to the TensorBoard run {board}")
