"""Point clouds."""

from __future__ import annotations

from pathlib import Path

import torch

from examples.datasets._data import Data, arrays, make


def modelnet10(
    data: str | Path | None,
    *,
    n_points: int = 512,
    n_train: int | None = None,
    wrong_labels: float = 0.0,
    seed: int = 0,
) -> Data:
    """Load ModelNet10 from the folder's `modelnet10`: clouds (n_points, 3), the first of 512 in random order."""
    file = arrays(data, "modelnet10")
    return make(
        (torch.tensor(file["x_train"][:, :n_points]).float(), torch.tensor(file["y_train"]).long()),
        (torch.tensor(file["x_test"][:, :n_points]).float(), torch.tensor(file["y_test"]).long()),
        tuple(map(str, file["classes"])),
        n_train=n_train,
        wrong_labels=wrong_labels,
        seed=seed,
    )
