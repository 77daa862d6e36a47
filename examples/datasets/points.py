"""Point clouds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from examples.datasets._data import Data, arrays, make, place, reading


def modelnet10(
    data: str | Path | None,
    *,
    n_points: int = 512,
    n_train: int | None = None,
    wrong_labels: float = 0.0,
    seed: int = 0,
) -> Data:
    """Load ModelNet10 from the folder's `modelnet10`: clouds (n_points, 3), the first of 512 in random order."""
    file = arrays(data, "modelnet10", "x_train", "y_train", "x_test", "y_test", "classes")
    for name in ("x_train", "x_test"):
        if file[name].ndim != 3 or file[name].shape[1] < n_points or file[name].shape[2] != 3:
            raise ValueError(
                f"{name} of modelnet10 must be (N, {n_points} or more, 3), but is {file[name].shape}; get it again"
            )
    return make(
        (torch.tensor(file["x_train"][:, :n_points]).float(), torch.tensor(file["y_train"]).long()),
        (torch.tensor(file["x_test"][:, :n_points]).float(), torch.tensor(file["y_test"]).long()),
        tuple(map(str, file["classes"])),
        n_train=n_train,
        wrong_labels=wrong_labels,
        seed=seed,
    )


def shapenet(
    data: str | Path | None,
    *,
    n_points: int = 1024,
    n_train: int | None = None,
    wrong_labels: float = 0.0,
    seed: int = 0,
) -> Data:
    """Load the shapes of ShapeNet's part annotations as clouds (n_points, 3), scaled into the unit ball, of 16 kinds.

    Read are, of the folder's `shapenetcore_partanno_segmentation_benchmark_v0_normal`, `synsetoffset2category.txt`,
    `train_test_split/shuffled_train_file_list.json` and `..._test_file_list.json`, and `KIND/SHAPE.txt`, a point in
    each line, of which the first three numbers count. Points are drawn with repetition where a shape has too few.
    """
    folder = place(data, "shapenetcore_partanno_segmentation_benchmark_v0_normal")
    with reading(folder / "synsetoffset2category.txt"):
        lines = place(folder, "synsetoffset2category.txt").read_text(encoding="utf-8").splitlines()
        names = {line.split()[1]: line.split()[0] for line in lines if line.strip()}
    number = {key: at for at, key in enumerate(names)}
    generator = torch.Generator().manual_seed(0)  # the clouds are the same for every seed

    def cloud(kind: str, shape: str) -> Tensor:
        file = place(folder, f"{kind}/{shape}.txt")
        if not file.stat().st_size:
            raise ValueError(f"{file} is empty; unpack the data set again")
        with reading(file):
            points = torch.from_numpy(np.loadtxt(file, usecols=(0, 1, 2), ndmin=2)).float()
        if not points.isfinite().all() or len(points.unique(dim=0)) < 2:
            raise ValueError(f"{file} must hold two different points or more, all finite; unpack the data set again")
        enough = torch.randperm(len(points), generator=generator)
        more = torch.randint(len(points), (max(0, n_points - len(points)),), generator=generator)
        points = points[torch.cat((enough, more))[:n_points]]
        points = points - points.mean(dim=0)
        return points / points.norm(dim=1).max()

    def part(name: str) -> tuple[Tensor, Tensor]:
        file = place(folder, f"train_test_split/shuffled_{name}_file_list.json")
        with reading(file):
            pairs = [(kind, shape) for *_, kind, shape in (entry.split("/") for entry in json.loads(file.read_text()))]
        if not pairs:
            raise ValueError(f"{file} lists no shape; get it again")
        if unknown := sorted({kind for kind, _ in pairs} - number.keys()):
            raise ValueError(f"{folder / 'synsetoffset2category.txt'} names no kind {unknown[0]}; get it again")
        return torch.stack([cloud(*pair) for pair in pairs]), torch.tensor([number[kind] for kind, _ in pairs])

    return make(
        part("train"), part("test"), tuple(names.values()), n_train=n_train, wrong_labels=wrong_labels, seed=seed
    )
