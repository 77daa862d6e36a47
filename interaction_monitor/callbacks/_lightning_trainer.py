"""What a Lightning trainer gives a monitor: samples, a folder, the loggers' step, a place to print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from tqdm import tqdm

from interaction_monitor.losses import Losses

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
    # With manual optimization each batch counts, whatever steps it makes.
    automatic = trainer.lightning_module.automatic_optimization
    counted = trainer.global_step if automatic else finished_batches(trainer)
    return batches_of(trainer) + (counted > batches_of(trainer))


def ends_after(trainer: pl.Trainer, epoch: int) -> bool:
    """Tell whether training ends after so many completed epochs, as far as the trainer knows at the end of the last."""
    long_enough = epoch >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)
    out_of_steps = 0 <= trainer.max_steps <= trainer.global_step
    return (trainer.should_stop and long_enough) or epoch == trainer.max_epochs or out_of_steps


def loss_of(trainer: pl.Trainer, outputs: Any) -> Tensor | None:
    """Return the loss of a batch as the training step made it; None where it returned none."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not isinstance(loss, Tensor):
        return None
    # Lightning has divided it by the number of batches whose gradients accumulate.
    return loss * trainer.accumulate_grad_batches if trainer.lightning_module.automatic_optimization else loss


def no_test_loss(trainer: pl.Trainer, losses: Losses) -> str | None:
    """Say why the validation loss can never be known, and what to do; None where it may come to be."""
    instead = "or give stop= a rule without losses, HighOrderGrowth() or OnsetPatience(5) say"
    if not trainer.enable_validation:
        return (
            f"and this run has no validation; give a validation loader and log val_loss in validation_step, {instead}"
        )
    if losses.tried is not None and not losses.knows_test_loss(losses.tried):
        names = " or ".join(losses.test_names[:2])
        return (
            f"and the sanity check of the validation logged {sorted(losses.tried) or 'nothing'}, but no {names}; log "
            f"it in validation_step, give its name as test_loss=, {instead}"
        )
    return None


def finished_batches(trainer: pl.Trainer) -> int:
    """Count the batches of the whole run, the one that just ends included, also in a checkpoint written within it."""
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return int(total.processed)


def say(trainer: pl.Trainer, text: str) -> None:
    """Print a line, on rank zero only, without tearing the progress bar apart."""
    if not trainer.is_global_zero:
        return
    bar = trainer.progress_bar_callback
    if is_a(bar, "TQDMProgressBar"):
        tqdm.write(text)  # the callback's own method drops what comes while none of its bars is shown
    elif bar is not None:
        bar.print(text)
    else:
        print(text)
