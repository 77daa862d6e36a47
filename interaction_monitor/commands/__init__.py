"""What `interaction-monitor` can do, a module per command.

Each has `SUMMARY`, one line for the list of commands; `add_arguments(parser)`; and `run(arguments)`, which prints to
stdout and raises `CommandError`, `RecordError` or `OSError` where the user has to do something. The modules import
nothing heavy before they run. A command exists as soon as its module does: see `interaction_monitor.cli`.
"""


class CommandError(Exception):
    """The command cannot do what it was asked; the message says why, and what to do."""
