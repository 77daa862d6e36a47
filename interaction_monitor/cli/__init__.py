"""The command `interaction-monitor`: what can be done before a run, and with runs that have ended.

Each command has a module here, `NAME_command`, with `SUMMARY`, one line for the list of commands;
`add_arguments(parser)`; and `run(arguments)`, which prints to stdout and raises `CommandError`, `RecordError` or
`OSError` where the user has to do something. These modules import nothing heavy before they run. A command exists as
soon as its module does.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from interaction_monitor import __version__
from interaction_monitor.cli.inputs import CommandError

_COMMANDS = ("theory", "report", "compare", "analyse", "ratio", "bench")


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
    # Imported here, because reading a record takes torch, and --help should not have to wait for it.
    from interaction_monitor.record import RecordError

    try:
        arguments.run_command(arguments)
    except (CommandError, RecordError) as error:
        return _fail(arguments, str(error))
    except OSError as error:
        return _fail(arguments, f"{error.filename or 'a file'} cannot be read or written: {error.strerror or error}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="interaction-monitor",
        description="Work on recorded runs, compare networks, and tell beforehand what a measurement takes.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    for name in _COMMANDS:
        if find_spec(f"interaction_monitor.cli.{name}_command") is None:
            continue
        module: Any = import_module(f"interaction_monitor.cli.{name}_command")
        command = commands.add_parser(name, help=module.SUMMARY, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run_command=module.run)
    return parser


def _fail(arguments: argparse.Namespace, message: str) -> int:
    print(f"interaction-monitor {arguments.command}: error: {' '.join(message.split())}", file=sys.stderr)
    return 2
