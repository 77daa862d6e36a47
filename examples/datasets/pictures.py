"""Photographs in files: CUB-200-2011 and Tiny-ImageNet in the layouts that they are published in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from examples.datasets._data import Data, drawn, place, reading, require_labels

# ImageNet's, which both sets' users take.
MEAN, SCALE = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

Box = tuple[float, float, float, float]  # left, top, width, height in pixels


@dataclass(frozen=True)
class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Image files that are read when they are asked for, cropped and resized: (3, size, size), and their classes."""

    files: tuple[Path, ...]
    labels: Tensor  # (N,) int64
    size: int
    boxes: tuple[Box, ...] = ()  # one for each file; none takes the whole picture

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        from PIL import Image

        with reading(self.files[index]), Image.open(self.files[index]) as picture:
            image = picture.convert("RGB")
        if self.boxes:
            left, top, width, height = self.boxes[index]
            image = image.crop((round(left), round(top), round(left + width), round(top + height)))
        resized = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.asarray(resized).copy()).float() / 255
        return ((pixels - MEAN) / SCALE).permute(2, 0, 1), self.labels[index]

    def subset(self, chosen: Sequence[int], labels: Tensor) -> Pictures:
        """Take some of them, with these labels."""
        boxes = tuple(self.boxes[i] for i in chosen) if self.boxes else ()
        return Pictures(tuple(self.files[i] for i in chosen), labels, self.size, boxes)


def cub200(
    data: str | Path | None, *, size: int = 224, n_train: int | None = None, wrong_labels: float = 0.0, seed: int = 0
) -> Data:
    """Load CUB-200-2011 from the folder's `CUB_200_2011`: birds, cropped by their boxes, 5,994 for training.

    Read are `classes.txt`, `images.txt`, `image_class_labels.txt`, `train_test_split.txt`, `bounding_boxes.txt` and the
    files in `images`.
    """
    folder = place(data, "CUB_200_2011")

    def table(name: str, words: int = 1) -> dict[str, list[str]]:
        with reading(folder / f"{name}.txt"):
            lines = place(folder, f"{name}.txt").read_text(encoding="utf-8").splitlines()
        rows = [line.split() for line in lines if line.strip()]
        if short := [row for row in rows if len(row) <= words]:
            raise ValueError(
                f"{folder / name}.txt must have a number and {words} more in each line, but has "
                f"{' '.join(short[0])!r}; get it again"
            )
        return {row[0]: row[1:] for row in rows}

    files, classes, labels = table("images"), table("classes"), table("image_class_labels")
    training, boxes = table("train_test_split"), table("bounding_boxes", words=4)
    for name, rows in (("image_class_labels", labels), ("train_test_split", training), ("bounding_boxes", boxes)):
        if lacking := sorted(files.keys() - rows.keys()):
            raise ValueError(f"{folder / name}.txt has no line for picture {lacking[0]} of images.txt; get it again")
    if unknown := sorted({labels[key][0] for key in files} - classes.keys()):
        raise ValueError(f"{folder}/classes.txt names no class {unknown[0]} of image_class_labels.txt; get it again")
    number = {key: at for at, key in enumerate(classes)}

    def part(flag: str) -> Pictures:
        keys = [key for key in files if training[key][0] == flag]
        return Pictures(
            tuple(folder / "images" / files[key][0] for key in keys),
            torch.tensor([number[labels[key][0]] for key in keys], dtype=torch.long),
            size,
            tuple(_box(boxes[key], f"{folder}/bounding_boxes.txt") for key in keys),
        )

    names = tuple(name[0] for name in classes.values())
    return _made(part("1"), part("0"), names, n_train=n_train, wrong_labels=wrong_labels, seed=seed)


def _box(words: Sequence[str], file: str) -> Box:
    with reading(file):
        left, top, width, height = (float(word) for word in words[:4])
        if not (width >= 1 and height >= 1):
            raise ValueError(f"a box of {width:g} x {height:g} pixels")
    return left, top, width, height


def tiny_imagenet(
    data: str | Path | None,
    *,
    size: int = 224,
    every: int = 4,
    n_train: int | None = None,
    wrong_labels: float = 0.0,
    seed: int = 0,
) -> Data:
    """Load Tiny-ImageNet from the folder's `tiny-imagenet-200`: 500 training pictures a class, 50 for testing.

    Of its 200 classes every fourth is taken, the 4th, 8th, ... 200th in alphabetical order, as in Ren et al. 2024, F.1.
    Read are `wnids.txt`, `train/CLASS/images/*.JPEG`, `val/val_annotations.txt` and `val/images`.
    """
    folder = place(data, "tiny-imagenet-200")
    names = tuple(sorted(place(folder, "wnids.txt").read_text(encoding="utf-8").split())[every - 1 :: every])
    if not names:
        raise ValueError(f"every={every}, but wnids.txt names fewer classes")
    number = {name: at for at, name in enumerate(names)}
    training = [(file, number[name]) for name in names for file in _pictures(folder, f"train/{name}/images")]
    lines = place(folder, "val/val_annotations.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line.strip()]
    if short := [row for row in rows if len(row) < 2]:
        raise ValueError(
            f"{folder}/val/val_annotations.txt must have a picture, tab, and its class in each line, but has "
            f"{short[0][0]!r}; get it again"
        )
    testing = [(folder / "val/images" / row[0], number[row[1]]) for row in rows if row[1] in number]

    def part(pairs: list[tuple[Path, int]]) -> Pictures:
        labels = torch.tensor([label for _, label in pairs], dtype=torch.long)
        return Pictures(tuple(file for file, _ in pairs), labels, size)

    return _made(part(training), part(testing), names, n_train=n_train, wrong_labels=wrong_labels, seed=seed)


def _pictures(folder: Path, name: str) -> list[Path]:
    """List the pictures of a folder, without what else a file manager may have left there."""
    found = sorted(file for file in place(folder, name).iterdir() if file.suffix.lower() in (".jpeg", ".jpg", ".png"))
    if not found:
        raise FileNotFoundError(f"there is no picture in {folder / name}; unpack the data set again")
    return found


def _made(
    train: Pictures, test: Pictures, classes: tuple[str, ...], *, n_train: int | None, wrong_labels: float, seed: int
) -> Data:
    files = (*train.files, *test.files)
    for name, one in (("training", train), ("test", test)):
        require_labels(name, one, one.labels, len(classes))
    if missing := [file for file in files if not file.is_file() or not file.stat().st_size]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(files)} pictures are missing or empty, such as {missing[0]}; unpack the data set "
            "again"
        )
    chosen, labels = drawn(train.labels, len(classes), n_train=n_train, wrong_labels=wrong_labels, seed=seed)
    return Data(train.subset(chosen.tolist(), labels), test, classes)
