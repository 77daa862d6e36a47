"""All that is kept of a reference: which of its interactions are salient, and their signs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interaction_monitor.functional.generalizing import Reference
from interaction_monitor.measurement import Measurement
from interaction_monitor.record.files import REFERENCES, RecordError, read_arrays, write_arrays


@dataclass(frozen=True, eq=False)
class Salient:
    """Which interactions of a network are salient on S probe samples of n players, and their signs."""

    name: str  # what the network is called where it is told of
    and_: Tensor  # (S, 2^n) int8: 1 or -1 where an AND interaction is salient, else 0
    or_: Tensor  # (S, 2^n) int8
    valid: Tensor  # (S,) bool, False where the network had an output that is not finite
    ends: Tensor  # (S, 2) float64, v(x_∅) and v(x), by which the same network is known again
    tau: float  # the threshold from which its interactions are salient

    @classmethod
    def of(cls, measurement: Measurement, name: str) -> Salient:
        """Keep what is salient in a measurement.

        Examples:
            >>> from interaction_monitor import interpret
            >>> v = torch.tensor([[0.0, 1.0, 1.0, -5.0]])  # two players: 1 each, and -7 more together
            >>> Salient.of(interpret(v, interactions="and"), "earlier").and_.tolist()
            [[0, 1, 1, -1]]
        """

        def signs(kind: Tensor) -> Tensor:
            found = torch.where(kind.abs() >= measurement.tau, kind.sign(), 0).to(torch.int8)
            found[:, 0] = 0
            return found

        ends = measurement.v[:, [0, -1]]
        return cls(name, signs(measurement.and_), signs(measurement.or_), measurement.valid, ends, measurement.tau)

    def as_reference(self) -> Reference:
        """Return it as `functional.generalizing_strength` takes references."""
        unknown = ~self.valid[:, None]
        and_, or_ = (kind.double().masked_fill(unknown, torch.nan) for kind in (self.and_, self.or_))
        return and_, or_, 0.5

    def is_of(self, measurement: Measurement) -> bool:
        """Tell whether a measurement is of the same network: of the very outputs, as far as rounding lets them be."""
        both = self.valid & measurement.valid
        here, there = measurement.v[both][:, [0, -1]], self.ends[both]
        return len(here) > 0 and torch.allclose(here, there, rtol=1e-6, atol=1e-6)

    def to_primitives(self) -> dict[str, Any]:
        """Return it as plain values and tensors, as a checkpoint holds them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_primitives(cls, state: Mapping[str, Any]) -> Salient:
        """Read what `to_primitives` gave.

        Raises:
            ValueError: if a part is missing.
        """
        missing = [field.name for field in fields(cls) if field.name not in state]
        if missing:
            raise ValueError(f"a reference in the checkpoint lacks {', '.join(missing)}")
        return cls(**{field.name: state[field.name] for field in fields(cls)})


def write(folder: Path, references: Sequence[Salient], sources: Sequence[str]) -> None:
    """Put references into the folder of a record, unless they are there.

    Args:
        folder: the record's.
        references: what is salient in each.
        sources: what each is called.

    Raises:
        OSError: if the folder cannot be written.
    """
    if not references or (folder / REFERENCES).exists():
        return
    (folder / REFERENCES).mkdir()
    for number, (reference, source) in enumerate(zip(references, sources, strict=True), start=1):
        arrays = {name: np.asarray(value) for name, value in reference.to_primitives().items() if name != "name"}
        write_arrays(_path(folder, number), {**arrays, "source": _digest(source)})


def read(folder: Path, sources: Sequence[str], *, n_samples: int, n_players: int) -> tuple[Salient, ...] | None:
    """Read the references of a record; None where there are none, others, or damaged ones.

    Args:
        folder: the record's.
        sources: what each is called.
        n_samples: S.
        n_players: n.
    """
    games = ("int8", (n_samples, 2**n_players))
    expected = {
        "and_": games,
        "or_": games,
        "valid": ("bool", (n_samples,)),
        "ends": ("float64", (n_samples, 2)),
        "tau": ("float64", ()),
        "source": ("uint8", (32,)),
    }
    found = []
    for number, source in enumerate(sources, start=1):
        try:
            arrays = read_arrays(_path(folder, number), expected)
        except RecordError:
            return None
        if not np.array_equal(arrays.pop("source"), _digest(source)):
            return None
        tau = float(arrays.pop("tau"))
        found.append(Salient(source, **{name: torch.from_numpy(array) for name, array in arrays.items()}, tau=tau))
    return tuple(found) if found and not _path(folder, len(found) + 1).exists() else None


def _path(folder: Path, number: int) -> Path:
    return folder / REFERENCES / f"reference_{number}.npz"


def _digest(name: str) -> NDArray[np.uint8]:
    return np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype=np.uint8)
