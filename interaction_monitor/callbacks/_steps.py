"""How far a Lightning run has come: in steps, or in batches where the trainer's count of steps stands still."""

from __future__ import annotations

import lightning.pytorch as pl

from interaction_monitor.callbacks._lightning_trainer import finished_batches, is_a


class Steps:
    """Counts as the trainer does, unless the network is trained by an optimizer that the trainer does not know of.

    With manual optimization `global_step` counts the steps of Lightning's own wrappers only. An optimizer that was made
    elsewhere, or is called past its wrapper, leaves it at zero for the whole run; then batches are counted.

    Attributes:
        in_batches: whether batches are counted. Once they are, they are to the end of the run.
    """

    def __init__(self) -> None:
        self.in_batches = False
        self._versions = 0

    def begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, in_batches: bool) -> None:
        """Start to look, where training begins or goes on.

        Args:
            trainer: about to train.
            pl_module: the network.
            in_batches: whether the run counted batches before it was interrupted.
        """
        self.in_batches = in_batches
        self._versions = _versions_of(pl_module)
        self.notice(trainer, pl_module, epoch_over=trainer.current_epoch > 0)

    def notice(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, epoch_over: bool = False) -> None:
        """See whether the trainer's count stands still although the network is trained.

        Args:
            trainer: at the end of a batch or an epoch.
            pl_module: the network.
            epoch_over: whether a whole epoch has been, after which even accumulated gradients have made a step.
        """
        if self.in_batches or trainer.global_step > 0 or not finished_batches(trainer):
            return
        unknown = not pl_module.automatic_optimization and (
            all(is_a(optimizer, "_MockOptimizer") for optimizer in trainer.optimizers)
            or _versions_of(pl_module) != self._versions
        )
        self.in_batches = epoch_over or unknown

    def now(self, trainer: pl.Trainer) -> int:
        """Return the steps so far, or the batches."""
        return finished_batches(trainer) if self.in_batches else trainer.global_step


def _versions_of(pl_module: pl.LightningModule) -> int:
    # Each change in place adds to a tensor's version, whoever's optimizer makes it.
    return sum(parameter._version for parameter in pl_module.parameters() if parameter.requires_grad)
