"""What a Lightning trainer gives a monitor: samples, a folder, the loggers' step, a place to print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_warn

SPLITTING = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")


def is_a(thing: object, *names: str) -> bool:
    """Tell whether a class of one of these names is among the thing's.

    By name, because `lightning.pytorch` and `pytorch_lightning` have each its own of every class.
    """
    return any(base.__name__ in names for base in type(thing).__mro__)


def refuse_split_networks(trainer: pl.Trainer) -> None:
    """Refuse strategies with which no process holds the whole network.

    Raises:
        MisconfigurationException: that says what to do.
    """
    if is_a(trainer.strategy, *SPLITTING):
        raise MisconfigurationException(
            f"InteractionMonitor: with {type(trainer.strategy).__name__} each process holds a part of the network "
            "only, so no process can run the masked forwards alone. Train with strategy='ddp' where the network "
            "fits on one device; otherwise save checkpoints, and measure them afterwards on one device with "
            "interaction_monitor.Observer"
        )


def loader_of(trainer: pl.Trainer) -> Any:
    """Return the loader to take samples from: the first for validation, or the one for training."""
    loader: Any = trainer.val_dataloaders
    if loader is None:
        rank_zero_warn(
            "InteractionMonitor: there is no validation loader, so it measures on training samples; "
            "give one, or give probe=Probe(inputs, targets)"
        )
        loader = trainer.train_dataloader
    return _first(loader)


def train_loader_of(trainer: pl.Trainer) -> Any:
    """Return the first loader for training."""
    return _first(trainer.train_dataloader)


def _first(loader: Any) -> Any:
    while isinstance(loader, (list, tuple, dict)) and loader:
        loader = next(iter(loader.values())) if isinstance(loader, dict) else loader[0]
    return loader


def folder_of(trainer: pl.Trainer) -> Path:
    """Return the run's folder: the first logger's, as for checkpoints. To be called on every process."""
    logger: Any = trainer.loggers[0] if trainer.loggers else None
    if logger is None or is_a(logger, "TensorBoardLogger", "CSVLogger"):
        folder = trainer.log_dir
    else:
        parts = [logger.save_dir or trainer.default_root_dir, logger.name, logger.version]
        folder = str(Path(*(str(part) for part in parts if part is not None)))
    return Path(trainer.strategy.broadcast(folder or trainer.default_root_dir))


def is_trial(trainer: pl.Trainer) -> bool:
    """Tell whether the run only tries the code on a batch (`fast_dev_run`), and should leave no files."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # set by a connector


def batches_of(trainer: pl.Trainer) -> int:
    """Count the batches that stepped: what the trainer itself gives its loggers as the step."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def counted_batches_of(trainer: pl.Trainer) -> int:
    """Count them where training goes on: a checkpoint that was written within a batch has not counted that one."""
    return batches_of(trainer) + (trainer.global_step > batches_of(trainer))


def say(trainer: pl.Trainer, text: str) -> None:
    """Print a line, on rank zero only, without tearing the progress bar apart."""
    if not trainer.is_global_zero:
        return
    if trainer.progress_bar_callback is not None:
        trainer.progress_bar_callback.print(text)
    else:
        print(text)
