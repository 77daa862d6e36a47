"""What commands take: records in folders, networks of checkpoints, and places for results."""

from __future__ import annotations

import argparse
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interaction_monitor.comparison import Network
    from interaction_monitor.record import Record


class CommandError(Exception):
    """The command cannot do what it was asked; the message says why, and what to do."""


def add_record(parser: argparse.ArgumentParser) -> None:
    """Add what every command about one record takes."""
    add = parser.add_argument
    add("run", type=path, metavar="RUN", help="a record's folder, or a log folder with one record somewhere below it")
    add("--skip-damaged", action="store_true", help="do without measurements whose files are missing or damaged")


def add_factory(parser: argparse.ArgumentParser, *, required: bool, more: str = "") -> None:
    """Add what makes networks of checkpoints, as `networks_of` does."""
    parser.add_argument(
        "--factory",
        metavar="MODULE:FUNCTION",
        required=required,
        help="a function of yours that is given a checkpoint's path and returns comparison.Network(module, probe, "
        f"players){more}",
    )


def path(text: str) -> Path:
    """Return the path that an argument gives; refuse an empty one, as of a variable that is not set."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty; give one, or . for the current folder")
    return Path(text)


def count_or_share(text: str) -> int | float:
    """Read a number of interactions, or a percentage as a share below 1."""
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else int(text)
    except ValueError:
        value = math.nan
    if not 0 < value < (1 if text.endswith("%") else math.inf):
        raise argparse.ArgumentTypeError(f"must be 1 or more, or between 0% and 100%, but is {text}")
    return value


def open_record(folder: Path, *, skip_damaged: bool) -> Record:
    """Open the record that a folder is, or the only one that lies below it, and say what is wrong with it.

    A run that was killed leaves at most its last measurement without a row; that is no damage.

    Raises:
        CommandError: If there is not exactly one, or a measurement is damaged and must not be skipped.
        RecordError: If the record cannot be opened.
    """
    from interaction_monitor.record import Record
    from interaction_monitor.record.files import HISTORY, RUN, records_below

    if not folder.is_dir():
        raise CommandError(f"{folder} is no folder; give the folder of a run, as the monitor named it")
    # A run that was ended before its first measurement has nothing to work on, and is no choice.
    found = [record for record in records_below(folder) if record == folder or (record / HISTORY).exists()]
    if not found:
        raise CommandError(f"{folder} holds no record (a folder with {RUN}); give the folder that the monitor named")
    if len(found) > 1:
        raise CommandError(f"{folder} holds {len(found)} records; give one of {', '.join(map(str, found))}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the problems are told below
        record = Record.open(found[0])
    lost = record.left_out + (record.ignored if len(record.ignored) > 1 else ())
    if lost and not skip_damaged:
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise CommandError(
            f"{record.folder} is damaged: {lost[0]}{more}; restore it from a copy, or do without by --skip-damaged"
        )
    for problem in record.problems:
        print(f"note: {problem}", file=sys.stderr)
    return record


def require_writable(folder: Path, *, option: str = "--out") -> None:
    """Check before anything is computed that files can be put into a folder, and make nothing yet.

    Raises:
        CommandError: If they cannot; it names the option that chooses another place.
    """
    above = next(place for place in (folder, *folder.parents) if place.exists() or place == place.parent)
    if not above.is_dir():
        raise CommandError(f"{above} is a file, so nothing can be put into {folder}; choose another folder by {option}")
    if not os.access(above, os.W_OK | os.X_OK):
        raise CommandError(f"{folder} cannot be written; choose another place by {option}")


def require_report(file: Path) -> None:
    """Refuse a place for a report where something else lies, which a mistyped --out would destroy.

    Raises:
        CommandError: if there is a folder, or a file that is no report; or if none can be written there.
    """
    if file.is_dir():
        raise CommandError(f"{file} is a folder; give --out the name of a file")
    if file.exists() and not _is_report(file):
        raise CommandError(f"{file} is there already and is no report; give --out another name, or remove the file")
    require_writable(file.parent)


def _is_report(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(4096)
    return head.startswith(b"<!DOCTYPE html>") and b"<title>Interactions of " in head


def require_picture(file: Path, option: str) -> None:
    """Refuse a file that cannot be a picture, or cannot be written.

    Raises:
        CommandError: that names the option.
    """
    if file.suffix not in (".png", ".pdf", ".svg"):
        raise CommandError(f"{option} must be a file that ends in .png, .pdf or .svg, but is {file}")
    require_writable(file.parent, option=option)


@contextmanager
def writing(folder: Path, *, option: str = "--out") -> Iterator[None]:
    """Make the folder into which the files of the block go, and say which option chooses another if that fails.

    Raises:
        CommandError: If the folder cannot be made or a file in it not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        place, why = error.filename or folder, error.strerror or error
        raise CommandError(f"{place} cannot be written: {why}; choose another place by {option}") from error


def networks_of(factory: str, checkpoints: Sequence[Path]) -> list[Network]:
    """Make the networks of checkpoints.

    Args:
        factory: `module:function`; the module is looked for in the working directory too.
        checkpoints: the paths that the function is given, one after the other.

    Returns:
        The networks, named after their checkpoints where the function gives them no name.

    Raises:
        CommandError: if a checkpoint or the function is not found, it fails, or it returns something else.
    """
    from interaction_monitor.comparison import Network

    for path in checkpoints:
        if not path.exists():
            raise CommandError(f"there is no checkpoint {path}")
    make = _find(factory)
    made = []
    for path in checkpoints:
        try:
            network = make(path)
        except (Exception, SystemExit) as error:  # scripts exit where a library would raise
            raise CommandError(f"{factory} failed on {path}: {type(error).__name__}: {error}") from error
        if not isinstance(network, Network):
            raise CommandError(
                f"{factory} returned {type(network).__name__} for {path}; let it return "
                "interaction_monitor.comparison.Network(module, probe, players)"
            )
        made.append(network)
    names = [network.name or path.stem for network, path in zip(made, checkpoints, strict=True)]
    if len(set(names)) < len(names):  # last.ckpt of two runs
        names = [network.name or str(path) for network, path in zip(made, checkpoints, strict=True)]
    return [replace(network, name=name) for network, name in zip(made, names, strict=True)]


def _find(factory: str) -> Callable[[Path], Any]:
    name, _, function = factory.partition(":")
    if not name or not function:
        raise CommandError(f"--factory must be MODULE:FUNCTION, such as my_package.networks:load, but is {factory}")
    if name.endswith(".py"):
        module = ".".join(Path(name).with_suffix("").parts).strip("./")
        raise CommandError(f"--factory takes a module, not a file: {module}:{function} instead of {factory}; drop .py")
    # As for python -m: modules beside which the command is called are found.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(import_module(name), function)
    except (ImportError, AttributeError) as error:
        raise CommandError(f"--factory {factory} cannot be found from {Path.cwd()}: {error}") from error
    except (Exception, SystemExit) as error:
        raise CommandError(f"the module of --factory {factory} failed: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise CommandError(f"--factory {factory} is no function, but {type(found).__name__}")
    make: Callable[[Path], Any] = found
    return make
