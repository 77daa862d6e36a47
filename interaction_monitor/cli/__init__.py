"""The command `interaction-monitor`: what can be done before a run, and with runs that have ended.

A command prints to stdout, and raises `CommandError`, `RecordError` or `OSError` where the user has to do something.
The modules import nothing heavy before a command runs.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TextIO, cast

from interaction_monitor import __version__
from interaction_monitor.cli import network_commands, record_commands
from interaction_monitor.cli.inputs import CommandError

_COMMANDS = (*record_commands.COMMANDS, *network_commands.COMMANDS)


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
        with redirect_stdout(cast("TextIO", _Output(sys.stdout))) as out:
            arguments.run_command(arguments)
            out.flush()  # here, and not as Python ends, where a closed pipe could no longer be seen to
    except (CommandError, RecordError) as error:
        return _fail(arguments, str(error))
    except OSError as error:
        return _fail(arguments, f"{error.filename or 'a file'} cannot be read or written: {error.strerror or error}")
    return 0


class _Output(io.TextIOBase):
    """Stdout whose reader may go away, as `head` does: what comes then is dropped, and files are written all the same.

    Without it the first line after would raise BrokenPipeError, wherever the command is.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except BrokenPipeError:
            self._drop()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        # As Python's documentation has it (signal, "Note on SIGPIPE"): what is buffered goes there too as Python ends.
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
    for command in _COMMANDS:
        added = commands.add_parser(command.name, help=command.summary, description=command.run.__doc__)
        command.add_arguments(added)
        added.set_defaults(run_command=command.run)
    return parser


def _fail(arguments: argparse.Namespace, message: str) -> int:
    print(f"interaction-monitor {arguments.command}: error: {' '.join(message.split())}", file=sys.stderr)
    return 2
