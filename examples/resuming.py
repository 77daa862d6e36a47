"""Going on with an interrupted run as if it had not been interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

CHECKPOINT = "last"  # name of the file


class RandomState(L.Callback):
    """Keep torch's random numbers in the checkpoint, so that a run that goes on draws what it would have drawn.

    Args:
        options: what the run was asked for, kept beside them.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.kept: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"torch": torch.get_rng_state(), "options": self.options}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.kept = state_dict["torch"]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.kept is not None:
            torch.set_rng_state(self.kept)
            # By now the loader of a run that was not interrupted has drawn the seed of its workers.
            torch.empty((), dtype=torch.int64).random_()
            self.kept = None


def interrupted(folder: Path) -> Path | None:
    """Find the newest checkpoint of the runs in a folder; None if there is none."""
    found = folder.glob(f"version_*/{CHECKPOINT}.ckpt")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def require_same(checkpoint: Path | None, asked: dict[str, Any]) -> None:
    """Refuse to go on with a run that was asked for something else.

    Raises:
        ValueError: that names what differs, or the checkpoint if it is damaged.
    """
    if checkpoint is None:
        return
    kept = _contents(checkpoint)["callbacks"].get("RandomState", {})
    before = kept.get("options", asked)
    pairs = {name: (before.get(name, value), value) for name, value in asked.items()}
    changed = [f"{name} was {was} and is {value}" for name, (was, value) in pairs.items() if was != value]
    if changed:
        raise ValueError(
            f"{checkpoint} is of another run: {', '.join(changed)}; ask for the same, or give another folder as --out"
        )


def epochs_done(checkpoint: Path | None) -> int:
    """Tell how many epochs are behind a run that goes on."""
    return 0 if checkpoint is None else int(_contents(checkpoint)["epoch"]) + 1


def _contents(checkpoint: Path) -> dict[str, Any]:
    try:
        contents: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # each kind of damage has another
        raise ValueError(
            f"{checkpoint} is damaged ({type(error).__name__}); put a copy there, or remove it to begin anew"
        ) from error
    return contents


def each_epoch(folder: Path) -> ModelCheckpoint:
    """Keep the newest epoch of a run, in the place of the one before."""
    return ModelCheckpoint(
        folder, filename=CHECKPOINT, enable_version_counter=False, save_on_train_epoch_end=True, every_n_epochs=1
    )
