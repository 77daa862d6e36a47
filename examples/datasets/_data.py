"""What all data sets have in common: how they are drawn, spoilt and read."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

PACKED = (".zip", ".tgz", ".gz", ".tar")


@dataclass(frozen=True)
class Data:
    train: Any  # a data set of (x, y), some y wrong where asked for; a TensorDataset where all fits into memory
    test: Any  # of (x, y)
    classes: tuple[str, ...]
    vocabulary: tuple[str, ...] = ()  # of token ids, where x are these


def make(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: tuple[str, ...],
    *,
    n_train: int | None = None,
    wrong_labels: float = 0.0,
    seed: int = 0,
    vocabulary: tuple[str, ...] = (),
) -> Data:
    """Draw the training samples, and set a share of their labels anew.

    Args:
        train: (x, y) to draw from.
        test: (x, y).
        classes: their names.
        n_train: how many to train on; None takes all.
        wrong_labels: the share whose label is drawn anew among all classes, so that some stay right.
        seed: decides both draws.
        vocabulary: of the token ids.
    """
    x, y = train
    require_labels("training", x, y, len(classes))
    require_labels("test", *test, len(classes))
    chosen, y = drawn(y, len(classes), n_train=n_train, wrong_labels=wrong_labels, seed=seed)
    return Data(TensorDataset(x[chosen], y), TensorDataset(*test), classes, vocabulary)


def require_labels(part: str, x: Sized, y: Tensor, n_classes: int) -> None:
    """Refuse samples of which there are none, or that have not one label each, of a class that there is.

    Raises:
        ValueError: that says what is there.
    """
    if y.ndim != 1 or len(x) != len(y) or not len(y):
        raise ValueError(
            f"there are {len(x)} {part} samples, and labels of shape {tuple(y.shape)}; give one label for each of one "
            "sample or more"
        )
    least, most = int(y.min()), int(y.max())
    if least < 0 or most >= n_classes:
        raise ValueError(
            f"the labels of the {part} samples are from {least} to {most}, but there are {n_classes} classes; get the "
            "data set again"
        )


@contextmanager
def reading(file: str | Path) -> Iterator[None]:
    """Name the file in what goes wrong while it is read, for it then holds something else than it should.

    Raises:
        ValueError: in the place of any error but that a file is missing.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(
            f"{file} is not as docs/examples.md describes it ({type(error).__name__}: {error}); get it again"
        ) from error


def drawn(y: Tensor, n_classes: int, *, n_train: int | None, wrong_labels: float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw training samples, and labels that are partly wrong: which samples, and a label for each."""
    if n_train is not None and n_train > len(y):
        raise ValueError(f"n_train={n_train}, but there are only {len(y)} training samples")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(y), generator=generator)[:n_train]
    y = y[chosen].clone()
    wrong = torch.randperm(len(y), generator=generator)[: int(wrong_labels * len(y))]
    y[wrong] = torch.randint(n_classes, (len(wrong),), generator=generator)
    return chosen, y


def split(x: Tensor, y: Tensor, n_test: int, seed: int = 0) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Shuffle, and keep the last `n_test` samples for testing."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return (x[order[:-n_test]], y[order[:-n_test]]), (x[order[-n_test:]], y[order[-n_test:]])


def numbered(n_classes: int) -> tuple[str, ...]:
    """Name classes by their numbers."""
    return tuple(map(str, range(n_classes)))


def place(data: str | Path | None, name: str) -> Path:
    """Return a folder or file of the data folder.

    Raises:
        FileNotFoundError: if there is none; the message says what to give.
    """
    if data is None:
        raise FileNotFoundError(f"this needs --data FOLDER with {name} in it; docs/examples.md says what to put there")
    path = Path(data) / name
    if not path.exists():
        packed = sorted(file.name for file in path.parent.glob(f"{path.name}*") if file.suffix in PACKED)
        advice = f"unpack {packed[0]}" if packed else "docs/examples.md says what to put there"
        raise FileNotFoundError(f"there is no {path}; {advice}")
    return path


def read(data: str | Path | None, name: str) -> bytes:
    """Return the contents of a file, which may be packed by gzip (and then has .gz behind its name)."""
    folder = place(data, str(Path(name).parent))
    packed = folder / f"{Path(name).name}.gz"
    if not packed.exists():
        return place(data, name).read_bytes()
    try:
        return gzip.decompress(packed.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{packed} is cut off or no gzip file; get it again") from error


def arrays(data: str | Path | None, name: str, *keys: str) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of these names of the one .npz file in a folder."""
    found = sorted(place(data, name).glob("*.npz"))
    if len(found) != 1:
        raise FileNotFoundError(f"{Path(data or '') / name} must have one .npz file, it has {len(found)}")
    with reading(found[0]), np.load(found[0], allow_pickle=False) as file:
        return {key: file[key] for key in keys}
