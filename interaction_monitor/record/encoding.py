"""How players, probe samples, measurements and references become the files of a record, and how they come back.

Every array's dtype and shape follows from `run.json`, so a file is known to be right before it is read.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interaction_monitor.history import History, Row, csv_columns
from interaction_monitor.measurement import Measurement
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe
from interaction_monitor.record import files
from interaction_monitor.record.files import RecordError, Shape

# No OR interactions were measured, which would be all zeros; or there was no reference.
OPTIONAL = frozenset({"or_", "generalizing", "held"})
_PER_GAME = ("v", "and_", "or_")
_LONGEST = 2**28  # bytes of `history.csv`, some hundred thousand measurements
_SCALARS = ("tau", "mean_order", "forward_seconds", "extraction_seconds")


def measurement_arrays(n_samples: int, n_players: int) -> dict[str, tuple[str, Shape]]:
    """Return name to (dtype, shape) of every array in a measurement's file."""
    games = (n_samples, 2**n_players)
    return {
        **dict.fromkeys(_PER_GAME, ("float64", games)),
        "gap": ("float64", (n_samples,)),
        "valid": ("bool", (n_samples,)),
        "strength": ("float64", (n_samples, n_players)),
        "generalizing": ("float64", (n_samples, n_players)),
        "held": ("bool", (n_samples, 2, 2**n_players)),
        "distribution": ("float64", (n_players,)),
        **dict.fromkeys(_SCALARS, ("float64", ())),
    }


def pack_measurement(measurement: Measurement, n_samples: int, n_players: int) -> dict[str, NDArray[Any]]:
    """Turn a measurement into the arrays of its file.

    Raises:
        ValueError: If a shape or dtype differs from the record's; the message names the field.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, (dtype, shape) in measurement_arrays(n_samples, n_players).items():
        value = getattr(measurement, name)
        if value is None:
            continue
        array = np.asarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else np.float64(value))
        if (array.dtype, array.shape) != (np.dtype(dtype), shape):
            raise ValueError(f"measurement.{name} must be {dtype} of shape {shape}, got {array.dtype} of {array.shape}")
        arrays[name] = array
    if not np.nan_to_num(arrays["or_"]).any():
        del arrays["or_"]
    return arrays


def read_measurement(path: Path, n_samples: int, n_players: int) -> Measurement:
    """Read a measurement's file; a sample with numbers that are not finite is not valid, whatever the file says.

    Raises:
        RecordError: If the file is missing, damaged, or of another record.
    """
    arrays = files.read_arrays(path, measurement_arrays(n_samples, n_players), optional=OPTIONAL)
    if "or_" not in arrays:
        arrays["or_"] = np.where(np.isnan(arrays["and_"]), np.nan, 0.0)
    # Nothing that is computed from a sample should meet a number that no monitor calls valid.
    for name in (*_PER_GAME, "strength"):
        arrays["valid"] = arrays["valid"] & np.isfinite(arrays[name]).all(axis=1)
    values: dict[str, Any] = {name: float(arrays.pop(name)) for name in _SCALARS}
    values |= {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Measurement(**values)


def pack_reference(values: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Turn what is known of a reference into the arrays of its file, with a digest in the place of its name."""
    arrays = {name: np.asarray(value) for name, value in values.items() if name != "name"}
    return {**arrays, "source": _digest(values["name"])}


def read_reference(path: Path, name: str, n_samples: int, n_players: int) -> dict[str, Any]:
    """Read the file of the reference that is called so: what `pack_reference` was given, as tensors and numbers.

    Raises:
        RecordError: If the file is missing, damaged, of another record, or of a reference with another name.
    """
    expected: dict[str, tuple[str, Shape]] = {
        **dict.fromkeys(("and_", "or_"), ("int8", (n_samples, 2**n_players))),
        "valid": ("bool", (n_samples,)),
        "ends": ("float64", (n_samples, 2)),
        "tau": ("float64", ()),
        "source": ("uint8", (32,)),
    }
    arrays = files.read_arrays(path, expected)
    if not np.array_equal(arrays.pop("source"), _digest(name)):
        raise RecordError(f"{path} is of another reference than {name}")
    tau = float(arrays.pop("tau"))
    return {"name": name, "tau": tau} | {key: torch.from_numpy(array) for key, array in arrays.items()}


def _digest(name: str) -> NDArray[np.uint8]:
    return np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype=np.uint8)


def describe(players: PlayerMap, probe: Probe) -> tuple[dict[str, Any], dict[str, dict[str, NDArray[Any]]]]:
    """Split players and samples into what goes into `run.json` and the arrays of each file."""
    arrays: dict[str, dict[str, NDArray[Any]]] = {files.PLAYERS: {}, files.PROBE: {}}

    def packed(file: str, name: str, tensor: Tensor) -> dict[str, Any]:
        tensor = tensor.detach().cpu()
        # NumPy knows no bfloat16; float32 holds each of its values exactly.
        arrays[file][name] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": tuple(tensor.shape)}

    baseline, targets = players.baseline, probe.targets
    # Members are numbered, not named by their keys: a key may hold anything, a file name may not.
    inputs = probe.inputs.items() if isinstance(probe.inputs, Mapping) else [(None, probe.inputs)]
    facts = {
        "n_samples": len(players),
        "n_players": players.n_players,
        "players": {
            "axes": players.axes,
            "layer": players.layer,
            "input_key": players.input_key,
            "names": players.names,
            "labels": packed(files.PLAYERS, "labels", players.labels),
            "baseline": packed(files.PLAYERS, "baseline", baseline) if isinstance(baseline, Tensor) else baseline,
        },
        "probe": {
            "inputs": [{"key": key, **packed(files.PROBE, f"input_{i}", x)} for i, (key, x) in enumerate(inputs)],
            "targets": None if targets is None else packed(files.PROBE, "targets", targets),
        },
    }
    return facts, arrays


def read_players(path: Path, run: Mapping[str, Any]) -> PlayerMap:
    """Read the players from `players.npz` and from what `run.json` holds.

    Raises:
        RecordError: If the file is missing or damaged, or does not fit `run.json`.
    """
    facts = run["players"]
    described = {name: facts[name] for name in ("labels", "baseline") if isinstance(facts[name], dict)}
    tensors = _read_tensors(path, described)
    names = facts["names"]
    try:
        return PlayerMap(
            labels=tensors["labels"],
            n_players=run["n_players"],
            axes=tuple(facts["axes"]),
            baseline=tensors.get("baseline", facts["baseline"]),
            layer=facts["layer"],
            input_key=facts["input_key"],
            names=None if names is None else tuple(tuple(of_sample) for of_sample in names),
        )
    except ValueError as error:
        raise RecordError(f"{path} does not fit run.json: {error}; restore both from a copy") from error


def read_probe(path: Path, run: Mapping[str, Any]) -> tuple[Tensor | dict[str, Tensor], Tensor | None]:
    """Read the inputs and targets from `probe.npz`.

    Raises:
        RecordError: If the file is missing or damaged, or does not fit `run.json`.
    """
    facts = run["probe"]
    described = {f"input_{i}": entry for i, entry in enumerate(facts["inputs"])}
    if facts["targets"] is not None:
        described["targets"] = facts["targets"]
    tensors = _read_tensors(path, described)
    targets = tensors.pop("targets", None)
    keys = [entry["key"] for entry in facts["inputs"]]
    if keys == [None]:
        return tensors["input_0"], targets
    return dict(zip(keys, tensors.values(), strict=True)), targets


def _read_tensors(path: Path, described: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    stored = {"bfloat16": "float32"}
    dtypes = {name: facts["dtype"] for name, facts in described.items()}
    expected = {name: (stored.get(dtypes[name], dtypes[name]), tuple(described[name]["shape"])) for name in dtypes}
    arrays = files.read_arrays(path, expected)
    return {name: torch.from_numpy(arrays[name]).to(getattr(torch, dtype)) for name, dtype in dtypes.items()}


class Measurements(Sequence[Measurement]):
    """Measurements on disk, each read when it is indexed and not kept.

    Args:
        paths: Their files, in order.
        n_samples: Number of probe samples S.
        n_players: Number of players n.
    """

    def __init__(self, paths: Sequence[Path], *, n_samples: int, n_players: int) -> None:
        self._paths = paths
        self._sizes = (n_samples, n_players)

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Measurement: ...
    @overload
    def __getitem__(self, index: slice) -> Measurements: ...
    def __getitem__(self, index: int | slice) -> Measurement | Measurements:
        if isinstance(index, slice):
            n_samples, n_players = self._sizes
            return Measurements(self._paths[index], n_samples=n_samples, n_players=n_players)
        return read_measurement(self._paths[index], *self._sizes)


def write_rows(path: Path, history: History, n_players: int) -> None:
    """Put the rows of a history in place whole.

    Raises:
        OSError: If the disk is full or the folder cannot be written; the old file is untouched then.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, csv_columns(n_players), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history.to_csv())
    files.write_bytes(path, text.getvalue().encode())


def read_rows(path: Path, n_players: int) -> History:
    """Read what `write_rows` wrote.

    Raises:
        RecordError: If the file is missing, damaged or of another number of players; the message names the line.
    """
    text = files.read_text(path, limit=_LONGEST)
    advice = "restore it from a copy, or delete the lines from there on to keep what comes before"
    # Rows end with a line break, so a file that does not was cut off, perhaps within a number.
    if not text.endswith("\n"):
        raise RecordError(f"{path} is cut off in its last line; {advice}")
    reader = csv.DictReader(io.StringIO(text), restkey="", restval=None)
    history = History()
    try:
        if not set(csv_columns(n_players, optional=False)) <= set(reader.fieldnames or ()):
            raise ValueError(f"its first line does not name the columns of {n_players} players")
        for cells in reader:
            row = Row.from_csv(cells)
            if row.n_players != n_players:
                raise ValueError(f"it has {row.n_players} orders, {files.RUN} says {n_players} players")
            history.append(row)
    except (ValueError, csv.Error) as error:
        raise RecordError(f"{path}, line {reader.line_num}: {error}; {advice}") from error
    return history


def read_whole(folder: Path, n_samples: int, n_players: int) -> tuple[History, tuple[str, ...], tuple[str, ...]]:
    """Read the rows of a record whose arrays are there and whole.

    Returns:
        The rows; the measurements that are missing or damaged, and the arrays without a row, one sentence each.

    Raises:
        RecordError: As `read_rows`.
    """
    found = read_rows(folder / files.HISTORY, n_players)
    arrays = measurement_arrays(n_samples, n_players)
    whole, left_out = History(), []
    for row in found:
        damage = _damage(files.measurement_path(folder, row.position), arrays)
        if damage is None:
            whole.append(row)
        else:
            left_out.append(f"epoch {row.epoch}, step {row.step} is left out: {damage}")
    named = {files.measurement_path(folder, row.position) for row in found}
    orphans = sorted({*folder.glob(f"{files.MEASUREMENTS}/*.npz")} - named)
    ignored = (f"{files.MEASUREMENTS}/{path.name} has no row in {files.HISTORY} and is ignored" for path in orphans)
    return whole, tuple(left_out), tuple(ignored)


def _damage(path: Path, arrays: Mapping[str, tuple[str, Shape]]) -> RecordError | None:
    try:
        files.check_arrays(path, arrays, optional=OPTIONAL)
    except RecordError as error:
        return error
    return None
