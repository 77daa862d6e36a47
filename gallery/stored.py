"""What is kept of a run: enough to analyse it again without training, some ten kilobytes."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gallery.runs import Run

RESULTS = Path(__file__).parent / "results"
KINDS = ("and-or", "and")
CURVES = tuple(f"{part}_{what}" for part in ("train", "val", "test") for what in ("loss", "accuracy"))


class UnusableError(ValueError):
    """A file is missing, broken or not to be replaced; the message names it and says what helps."""


@dataclass(frozen=True)
class Theory:
    """How well the closed form of Ren et al. 2024, Theorem 3, matches each measurement."""

    sigma2: NDArray[np.float64]  # (E,) σ̂²
    low: NDArray[np.float64]  # (E,) its 95% interval over samples
    high: NDArray[np.float64]  # (E,)
    cosine: NDArray[np.float64]  # (E,) of I_theo and I_real
    distribution: NDArray[np.float64]  # (E, n) I_theo^(k)


@dataclass(frozen=True)
class Stored:
    """A finished run: E measurements of S samples of n players, and the losses after each of T epochs."""

    run: Run
    epochs: NDArray[np.int64]  # (E,) completed epochs at each measurement
    steps: NDArray[np.int64]  # (E,)
    strength: dict[str, NDArray[np.float64]]  # "and-or" and "and": (E, S, n) salient strength per sample and order
    tau: NDArray[np.float64]  # (E,) threshold of salience, the same for both kinds
    output_change: NDArray[np.float64]  # (E,) mean |v(x) - v(x_∅)|
    solver_gap: NDArray[np.float64]  # (E,) worst sample
    theory: dict[str, Theory]  # per kind; empty where nothing is salient in the end
    effect: dict[str, NDArray[np.float64]]  # "test" and, where measured, "train": (E, n) what each order adds to v
    curves: dict[str, NDArray[np.float64]]  # train/val/test _loss and _accuracy: (T + 1,) after 0..T epochs
    seconds: tuple[float, float]  # spent on training and on measuring

    @property
    def n_epochs(self) -> int:
        """How many epochs were trained."""
        return len(self.curves["test_accuracy"]) - 1


def path_of(name: str, folder: Path = RESULTS) -> Path:
    """Give the file of a run."""
    return folder / f"{name}.npz"


def save(stored: Stored, folder: Path = RESULTS) -> Path:
    """Write a run's file; it is whole or not there.

    Strengths are kept as half precision in units of the threshold: an error of 0.05% where the samples differ by tens
    of percent.

    Args:
        stored: the run.
        folder: where to.

    Returns:
        The file.
    """
    arrays: dict[str, NDArray[np.generic]] = {
        "run": np.array(json.dumps(asdict(stored.run))),
        "epochs": stored.epochs.astype(np.int32),
        "steps": stored.steps.astype(np.int32),
        "tau": stored.tau,
        "output_change": stored.output_change.astype(np.float32),
        "solver_gap": stored.solver_gap.astype(np.float32),
        "seconds": np.array(stored.seconds),
    }
    for kind in KINDS:
        scaled = (stored.strength[kind] / stored.tau[:, None, None]).astype(np.float16)
        if np.isinf(scaled).any():
            raise ValueError(f"{stored.run.name}: a strength is more than 65504 thresholds, which half precision lacks")
        arrays[f"strength {kind}"] = scaled
        if kind in stored.theory:
            for name, values in asdict(stored.theory[kind]).items():
                arrays[f"theory {kind} {name}"] = values.astype(np.float32)
    for name, values in stored.effect.items():
        arrays[f"effect {name}"] = values.astype(np.float32)
    for name, values in stored.curves.items():
        arrays[f"curve {name}"] = values.astype(np.float32)
    return write(path_of(stored.run.name, folder), arrays)


def write(target: Path, arrays: Mapping[str, NDArray[np.generic]]) -> Path:
    """Write arrays into a file that is whole or as it was before.

    Args:
        target: the file; its folder is made.
        arrays: name to values.

    Returns:
        The file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".tmp", delete=False) as file:
        try:
            np.savez_compressed(file, **arrays)
        except BaseException:  # Ctrl-C too
            os.unlink(file.name)
            raise
    os.chmod(file.name, 0o644)
    os.replace(file.name, target)
    return target


@contextmanager
def _naming(path: Path, remedy: str = "train it again") -> Iterator[None]:
    """Say which file it is that cannot be read."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UnusableError(f"{path} is broken ({reason}); delete it and {remedy}") from error


def read(path: Path, *, remedy: str = "train it again") -> dict[str, NDArray[np.generic]]:
    """Read the arrays of a file.

    Args:
        path: the file.
        remedy: what to do about a broken one, once it is deleted.

    Returns:
        Name to values.

    Raises:
        UnusableError: if the file is broken.
    """
    with _naming(path, remedy), np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def load(path: Path) -> Stored:
    """Read a run's file.

    Args:
        path: the file.

    Returns:
        The run.

    Raises:
        UnusableError: if the file is broken.
    """
    arrays = read(path)
    with _naming(path):
        return _stored(arrays)


def _stored(arrays: Mapping[str, NDArray[np.generic]]) -> Stored:
    curves = _starting("curve ", arrays)
    if missing := [name for name in CURVES if name not in curves]:
        raise KeyError(f"curve {missing[0]}")
    tau = arrays["tau"].astype(np.float64)
    names = Theory.__dataclass_fields__
    return Stored(
        # Which preset a run is part of is no property of its result.
        run=Run(**json.loads(str(arrays["run"])) | {"small": False}),
        epochs=arrays["epochs"].astype(np.int64),
        steps=arrays["steps"].astype(np.int64),
        strength={kind: arrays[f"strength {kind}"].astype(np.float64) * tau[:, None, None] for kind in KINDS},
        tau=tau,
        output_change=arrays["output_change"].astype(np.float64),
        solver_gap=arrays["solver_gap"].astype(np.float64),
        theory={
            kind: Theory(**{name: arrays[f"theory {kind} {name}"].astype(np.float64) for name in names})
            for kind in KINDS
            if f"theory {kind} sigma2" in arrays
        },
        effect=_starting("effect ", arrays),
        curves=curves,
        seconds=(float(arrays["seconds"][0]), float(arrays["seconds"][1])),
    )


def load_all(folder: Path = RESULTS) -> list[Stored]:
    """Read all runs that are there, in the order of their names."""
    return [load(path) for path in sorted(folder.glob("*.npz"))]


def load_outputs(name: str, folder: Path) -> NDArray[np.float32]:
    """Read the masked outputs that `train --outputs` kept.

    Args:
        name: of the run.
        folder: where they are.

    Returns:
        (E, S, 2^n).

    Raises:
        UnusableError: if they are not there or broken.
    """
    path = path_of(name, folder)
    if not path.exists():
        raise UnusableError(f"no {path}; {keeping_outputs(name, folder)}")
    arrays = read(path)
    with _naming(path):
        return arrays["v"].astype(np.float32)


def keeping_outputs(name: str, folder: Path) -> str:
    """Say how to get the masked outputs of a run that is stored without them."""
    return (
        "outputs are only kept while training: "
        f"python -m gallery train {name} --outputs {folder} --results ANOTHER_FOLDER trains it again"
    )


def _starting(prefix: str, arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float64]]:
    return {
        name.removeprefix(prefix): values.astype(np.float64)
        for name, values in arrays.items()
        if name.startswith(prefix)
    }
