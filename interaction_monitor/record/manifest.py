"""The file `run.json`, the folder it makes a record, and what a resumed run goes by.

What `run.json` holds, settings and the shapes of all else, is checked once, when it is opened, and relied on. Beside it
`progress.json` says how far the run had come. It is asked only where a run is resumed: are the rows after a checkpoint
those of the same run, which was killed before it could write the next one, or is somebody going another way from there?
In the first case they wait in `set_aside/`, a folder like a record's but without `run.json`, to be taken again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from interaction_monitor._checks import is_number
from interaction_monitor.history import History
from interaction_monitor.record import files
from interaction_monitor.record.encoding import read_rows, write_rows
from interaction_monitor.record.files import RecordError

FORMAT_VERSION = 1
_FORMAT = "interaction_monitor record"
_PACKAGES = ("interaction-monitor", "torch", "numpy", "lightning", "pytorch-lightning")
_LIMIT = 64 * 2**20
_PROGRESS_LIMIT = 4096
_DEEPEST = 40  # nested settings beyond this were not written by people
_LARGEST_N = 30  # no run can measure 2^30 outputs per sample; a larger number comes from a damaged file
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def make(settings: Mapping[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Put together what `run.json` holds, as it will be read back: settings, and what `encoding.describe` found.

    Raises:
        TypeError: If the settings hold something that JSON cannot.
        ValueError: If the settings hold NaN or infinity, which JSON cannot hold either.
    """
    packages = {package: found for package in _PACKAGES if (found := _version(package))}
    run = {"format": _FORMAT, "version": FORMAT_VERSION, "settings": dict(settings), **facts, "packages": packages}
    copy: dict[str, Any] = json.loads(_text(run))
    check(copy)
    return copy


def write(folder: Path, run: Mapping[str, Any]) -> None:
    """Write `run.json`.

    Raises:
        OSError: If the folder cannot be written.
    """
    files.write_bytes(folder / files.RUN, _text(run).encode())


def read(folder: Path) -> dict[str, Any]:
    """Read `run.json` and check it.

    Raises:
        RecordError: If it is missing, damaged, not a monitor's, or of a newer version.
    """
    path = folder / files.RUN
    if not path.exists():
        raise RecordError(f"{folder} holds no record: {files.RUN} is missing; give the folder that the monitor named")
    text = files.read_text(path, limit=_LIMIT)
    try:
        run = json.loads(text, parse_int=_integer, parse_float=_finite, parse_constant=_finite)
        json.dumps(run, ensure_ascii=False).encode()  # half a character can be read, but never shown
        _demand(_depth(run) <= _DEEPEST, "settings")
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is damaged: {error}; restore it from a copy") from error
    if not isinstance(run, dict) or run.get("format") != _FORMAT:
        raise RecordError(f"{path} was not written by an interaction monitor; give a run's folder")
    if type(run.get("version")) is not int or not 1 <= run["version"] <= FORMAT_VERSION:
        raise RecordError(
            f"{path} has format version {run.get('version')!r}, this package reads up to {FORMAT_VERSION}; "
            "upgrade interaction-monitor"
        )
    try:
        check(run)
    except ValueError as error:
        raise RecordError(f"{path} is damaged: {error}; restore it from a copy") from error
    return run


def check(run: Any) -> None:
    """Check that what `run.json` holds can be relied on by everything that reads the record.

    Raises:
        ValueError: If a part is missing or is not what it should be; the message names the part.
    """
    n_samples, n_players = run.get("n_samples"), run.get("n_players")
    _demand(_is_count(n_samples) and n_samples >= 1, "n_samples")
    _demand(_is_count(n_players) and 1 <= n_players <= _LARGEST_N, "n_players")
    for name in ("settings", "players", "probe", "packages"):
        _demand(isinstance(run.get(name), dict), name)
    players, probe = run["players"], run["probe"]
    labels, baseline, names = players.get("labels"), players.get("baseline"), players.get("names", 0)
    _demand(_is_array(labels, n_samples) and labels["dtype"] == "int64", "players.labels")
    _demand(is_number(baseline) or _is_array(baseline), "players.baseline")
    _demand(names is None or _are_names(names, n_samples), "players.names")
    _demand(isinstance(players.get("axes"), list) and all(map(_is_count, players["axes"])), "players.axes")
    _demand(all(isinstance(version, str) for version in run["packages"].values()), "packages")
    for name in ("layer", "input_key"):
        _demand(isinstance(players.get(name, 0), str | None), f"players.{name}")
    inputs, targets = probe.get("inputs"), probe.get("targets", 0)
    _demand(bool(inputs) and isinstance(inputs, list), "probe.inputs")
    _demand(all(_is_array(entry, n_samples) for entry in inputs), "probe.inputs")
    keys = [entry.get("key", 0) for entry in inputs]
    named = all(isinstance(key, str) for key in keys) and len(set(keys)) == len(keys)
    _demand(named or keys == [None], "probe.inputs")
    _demand(targets is None or _is_array(targets, n_samples), "probe.targets")


def require_free(folder: Path) -> Path:
    """Give the folder back if it holds no record.

    Raises:
        RecordError: If it holds one, or measurements of one.
    """
    if files.is_record(folder) or any(folder.glob(f"{files.MEASUREMENTS}/*.npz")):
        raise RecordError(f"{folder} already holds a record; go on with it by Record.resume, or choose another folder")
    return folder


def prepare(folder: Path) -> None:
    """Make the folder of a record, without what a killed run left there."""
    (folder / files.MEASUREMENTS).mkdir(parents=True, exist_ok=True)
    files.remove_leftovers(folder)


def free(target: Path, word: str = "") -> Path:
    """Return the path itself, or with the word and the first number added that nothing is called yet."""
    number, path = 0, target
    while path.exists():
        number += 1
        path = target.with_name(f"{target.name}_{word}{number}")
    return path


def _integer(text: str) -> int:
    if len(text) > 19:
        raise ValueError(f"the number {text[:40]} is too long")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is not finite")
    return value


def _depth(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, parts), default=0)


def _demand(holds: bool, part: str) -> None:
    if not holds:
        raise ValueError(f"{part} is missing or not what it should be")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_array(value: Any, first: int | None = None) -> bool:
    if not isinstance(value, dict) or value.get("dtype") not in _DTYPES:
        return False
    shape = value.get("shape")
    if not isinstance(shape, list) or not all(map(_is_count, shape)):
        return False
    return first is None or (len(shape) > 0 and shape[0] == first)


def _are_names(names: Any, n_samples: int) -> bool:
    lists = isinstance(names, list) and len(names) == n_samples and all(isinstance(each, list) for each in names)
    return lists and all(isinstance(name, str) for of_sample in names for name in of_sample)


def _text(run: Mapping[str, Any]) -> str:
    return json.dumps(run, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # either of the two Lightning packages will do
        return None


@dataclass(frozen=True)
class Progress:
    """What a run is known to have done.

    Examples:
        >>> Progress(checkpoint=40).goes_on_from(40), Progress(checkpoint=40).goes_on_from(20)
        (True, False)
    """

    checkpoint: int | None = None  # optimizer steps at the newest checkpoint; None where none is known
    finished: bool = False  # whether training came to its end

    def goes_on_from(self, step: int) -> bool:
        """Tell whether a run resumed at this step replaces what was measured after it."""
        return not self.finished and self.checkpoint is not None and step >= self.checkpoint


def write_progress(folder: Path, progress: Progress) -> None:
    """Put `progress.json` in place.

    Raises:
        OSError: If it cannot be written.
    """
    files.write_bytes(folder / files.PROGRESS, (json.dumps(asdict(progress)) + "\n").encode())


def read_progress(folder: Path) -> Progress:
    """Read `progress.json`; what is missing or damaged is a run of which nothing is known."""
    try:
        found = json.loads(files.read_text(folder / files.PROGRESS, limit=_PROGRESS_LIMIT))
        checkpoint, finished = found["checkpoint"], found["finished"]
    except (RecordError, ValueError, RecursionError, TypeError, KeyError):
        return Progress()
    known = type(checkpoint) is int and type(finished) is bool
    return Progress(checkpoint, finished) if known else Progress()


def read_waiting(folder: Path, n_players: int) -> History:
    """Return the rows that wait to be measured again; none where nothing does, or where they cannot be read."""
    try:
        return read_rows(folder / files.WAITING / files.HISTORY, n_players)
    except RecordError:
        return History()


def set_back(folder: Path, history: History, kept: int, n_players: int) -> None:
    """Keep the first measurements of a record; the others are put into `set_aside/`, beside those that wait there.

    Args:
        folder: The record's folder.
        history: The measurements that are whole; arrays of others are removed.
        kept: How many of them stay.
        n_players: Number of players.

    Raises:
        OSError: If the folder cannot be written.
    """
    files.remove_leftovers(folder)
    # A run that is killed in here has its measurements twice, never not at all.
    if len(history) > kept:
        (folder / files.WAITING).mkdir(exist_ok=True)
        for row in history[kept:]:
            target = files.measurement_path(folder, row.position, within=files.WAITING)
            files.copy_file(files.measurement_path(folder, row.position), target)
        waiting = {row.position: row for row in (*read_waiting(folder, n_players), *history[kept:])}
        rows = History(waiting[position] for position in sorted(waiting))
        write_rows(folder / files.WAITING / files.HISTORY, rows, n_players)
    write_rows(folder / files.HISTORY, history[:kept], n_players)
    staying = {files.measurement_path(folder, row.position) for row in history[:kept]}
    for path in folder.glob(f"{files.MEASUREMENTS}/*.npz"):
        if path not in staying:
            path.unlink()


def drop_measured(folder: Path, position: tuple[int, int], n_players: int) -> None:
    """Remove from `set_aside/` what the run has measured again: all up to (epoch, step)."""
    waiting = read_waiting(folder, n_players)
    left = History(row for row in waiting if row.position > position)
    if len(left) == len(waiting):
        return
    aside = folder / files.WAITING
    if len(left):
        write_rows(aside / files.HISTORY, left, n_players)
        for row in waiting.until(*position):
            files.measurement_path(folder, row.position, within=files.WAITING).unlink(missing_ok=True)
        return
    files.remove_leftovers(aside)
    for path in (aside / files.HISTORY, *aside.glob("epoch_*.npz")):
        path.unlink(missing_ok=True)
    aside.rmdir()
