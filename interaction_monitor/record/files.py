"""What lies where in a record; files that are whole or absent, and arrays that are read without trusting them.

run.json                                       settings, players, package versions
players.npz  probe.npz                         who plays, on which samples
history.csv                                    one row of scalars per measurement
progress.json                                  the newest checkpoint, and whether the run came to its end
measurements/epoch_00012_step_00003456.npz     outputs and interactions of one measurement
training/                                      the training samples, as a record without measurements
references/reference_1.npz                     which interactions a reference has, and their signs
set_aside/                                     measurements after the checkpoint, until they are taken again
report.html  theory_bars.png  theory_noise_level.png

Writing goes through a temporary file in the same folder, so a process killed at any moment leaves the old
file or the new one. Arrays are `.npz` archives whose members are stored, never compressed or pickled: what
a file unfolds to in memory is then bounded by its size on disk, and nothing in it can run.
"""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

RUN = "run.json"
PLAYERS = "players.npz"
PROBE = "probe.npz"
HISTORY = "history.csv"
PROGRESS = "progress.json"
MEASUREMENTS = "measurements"
TRAINING = "training"
REFERENCES = "references"
WAITING = "set_aside"
REPORT = "report.html"
THEORY_BARS = "theory_bars.png"
THEORY_NOISE_LEVEL = "theory_noise_level.png"


def is_record(folder: Path) -> bool:
    """Tell whether a folder is a record: from the moment that it has a `run.json`."""
    return (folder / RUN).exists()


def records_below(folder: Path, *, most_folders: int | None = None) -> Iterator[Path]:
    """Find the records that a folder is or holds, in the order of their paths; links out of it are not followed."""
    for place, below, _ in islice(os.walk(folder), most_folders):
        below.sort()
        if is_record(Path(place)):
            yield Path(place)
            below.clear()  # what lies in a record is a part of it: training samples are a record of their own


def measurement_path(folder: Path, position: tuple[int, int], *, within: str = MEASUREMENTS) -> Path:
    """Return the file of the measurement at (epoch, step), whose name sorts as the run went.

    Examples:
        >>> measurement_path(Path("run"), (12, 3456)).name
        'epoch_00012_step_00003456.npz'
    """
    epoch, step = position
    # Built from two numbers, never from text that a record holds: no name can lead out of the folder.
    return folder / within / f"epoch_{epoch:05d}_step_{step:08d}.npz"


def reference_path(folder: Path, number: int) -> Path:
    """Return the file of a reference, which are counted from 1 in the order in which they were given."""
    return folder / REFERENCES / f"reference_{number}.npz"


Shape = tuple[int, ...]
_TEMPORARY = ".*.tmp"
_HEADER_LIMIT = 4096


class RecordError(Exception):
    """A record on disk cannot be used; the message names the file and what can be done."""


def write_bytes(path: Path, data: bytes) -> None:
    """Put a file in place whole, in a folder that exists, or leave what was there.

    Raises:
        OSError: If the disk is full or the folder cannot be written; the old file is untouched then.
    """
    with _replacing(path) as file:
        file.write(data)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Put an `.npz` archive of named arrays in place whole, or leave what was there.

    Raises:
        OSError: As `write_bytes`.
        ValueError: If an array could only be pickled.
    """
    with _replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array, order="C"), (1, 0), allow_pickle=False)


def copy_file(source: Path, target: Path) -> None:
    """Put the file in place under a second name, whole, or leave what was there.

    Files are never changed, only replaced, so another link to the same one is as good as a copy and takes no room.

    Raises:
        OSError: As `write_bytes`.
    """
    temporary = _temporary(target)
    try:
        os.link(source, temporary)
    except OSError:  # some file systems know no links
        write_bytes(target, source.read_bytes())
        return
    try:
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)  # of two names of one file, replacing one by the other leaves both
    _sync_folder(target.parent)


def read_text(path: Path, *, limit: int) -> str:
    """Read a UTF-8 text file of at most `limit` bytes.

    Raises:
        RecordError: If the file is missing, no plain file, too long, or not UTF-8.
    """
    with _opened(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise RecordError(f"{path} is larger than {limit} bytes; it was not written by a monitor")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is damaged: {error}; restore it from a copy") from error


def check_arrays(
    path: Path, expected: Mapping[str, tuple[str, Shape]], *, optional: frozenset[str] = frozenset()
) -> None:
    """Check an archive without reading its arrays: members, dtypes, shapes and declared sizes.

    Costs a fraction of a millisecond. It finds truncated, foreign and inflated files; a flipped bit inside
    an array is found by its checksum when the array is read.

    Args:
        path: The archive.
        expected: Name to (dtype, shape) of each array that has to be there.
        optional: Names that may be missing.

    Raises:
        RecordError: If anything differs from what is expected.
    """
    with _archive(path) as archive:
        for _ in _members(path, archive, expected, optional):
            pass


def read_arrays(
    path: Path, expected: Mapping[str, tuple[str, Shape]], *, optional: frozenset[str] = frozenset()
) -> dict[str, NDArray[Any]]:
    """Read an archive after checking it as `check_arrays` does, which takes the same.

    Returns:
        Name to array, writable copies in memory.

    Raises:
        RecordError: If anything differs from what is expected.
    """
    arrays: dict[str, NDArray[Any]] = {}
    with _archive(path) as archive:
        for name, offset in _members(path, archive, expected, optional):
            dtype, shape = expected[name]
            data = archive.read(f"{name}.npy")
            arrays[name] = np.frombuffer(data, dtype=dtype, offset=offset).reshape(shape).copy()
    return arrays


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a process that was killed while writing into the folder or its measurements."""
    for leftover in (*folder.glob(_TEMPORARY), *folder.glob(f"{MEASUREMENTS}/{_TEMPORARY}")):
        leftover.unlink(missing_ok=True)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _sync_folder(folder: Path) -> None:
    # Without this the new name itself may be lost with the power. Windows cannot open a folder, nor needs to.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file that has to be a plain one: a pipe would wait for ever, a device never end."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode) or (
            path.parent.name in (MEASUREMENTS, WAITING) and path.parent.is_symlink()
        ):
            raise RecordError(f"{path} is no plain file; a record holds no links, pipes or devices")
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise RecordError(f"{path} is missing; restore it from a copy of the run's folder") from None
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error}") from error


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with _opened(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive
        except RecordError:
            raise
        except Exception as error:  # the parsers raise a dozen kinds on bytes that are no archive
            raise RecordError(f"{path} is damaged: {error}; restore it from a copy or delete it") from error


def _members(
    path: Path,
    archive: zipfile.ZipFile,
    expected: Mapping[str, tuple[str, Shape]],
    optional: frozenset[str],
) -> Iterator[tuple[str, int]]:
    """Yield each array's name and where its numbers begin within its member, having checked it."""
    infos = {info.filename: info for info in archive.infolist()}
    if len(infos) != len(archive.infolist()) or not set(infos) <= {f"{name}.npy" for name in expected}:
        raise RecordError(f"{path} holds other arrays than {', '.join(expected)}: it is no file of this record")
    for name, (dtype, shape) in expected.items():
        info = infos.get(f"{name}.npy")
        if info is None:
            if name not in optional:
                raise RecordError(f"{path} lacks the array {name!r}; restore it from a copy or delete it")
            continue
        # The order matters: nothing is read from a member before its declared size is known to be right.
        wanted = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise RecordError(f"{path}: the array {name!r} is compressed or encrypted; records never are")
        if not wanted < info.file_size <= wanted + _HEADER_LIMIT or info.compress_size != info.file_size:
            declared = f"declares {info.file_size} bytes where {dtype} of {shape} takes {wanted}"
            raise RecordError(f"{path}: the array {name!r} {declared}")
        found, offset = _header(archive, info)
        if found != (np.dtype(dtype), shape, False) or offset + wanted != info.file_size:
            raise RecordError(f"{path}: the array {name!r} is {found[0]} of shape {found[1]}, not {dtype} of {shape}")
        yield name, offset


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[np.dtype[Any], Shape, bool], int]:
    with archive.open(info) as member:
        start = io.BytesIO(member.read(_HEADER_LIMIT))
    version = np.lib.format.read_magic(start)
    if version != (1, 0):
        raise ValueError(f"unknown array format {version}")
    read: Callable[..., tuple[Shape, bool, np.dtype[Any]]] = np.lib.format.read_array_header_1_0
    shape, fortran, dtype = read(start, max_header_size=_HEADER_LIMIT)
    return (dtype, shape, fortran), start.tell()
