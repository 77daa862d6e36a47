"""When an example measures: often at the start, where most happens, and within the first epoch too if asked to."""

from __future__ import annotations

import math
from typing import Any

import lightning as L

from interaction_monitor.schedule import LogSpaced, Schedule


def epochs_of(epochs: int) -> Schedule:
    """Measure often at the start, and then sixteen times in equal steps."""
    step = max(1, epochs // 16)
    return lambda epoch: epoch % step == 0 or (epoch < step and LogSpaced(2)(epoch))


class Early(L.Callback):
    """Test and measure within the first epoch too: after 1/2, 1/4, 1/8 ... of it; later as `epochs_of`.

    Args:
        halvings: how often the first epoch is halved; 4 begins with a sixteenth.
        n_samples: training samples.
        batch: samples of a batch.
        epochs: of the whole run.
    """

    def __init__(self, halvings: int, *, n_samples: int, batch: int, epochs: int) -> None:
        self.per_epoch = math.ceil(n_samples / batch)
        self.within = {max(1, self.per_epoch >> power) for power in range(1, halvings + 1)}
        self.due = epochs_of(epochs)

    def after(self, step: int) -> bool:
        """Tell whether to measure after so many steps: one step later than the test loss is new, which comes last."""
        tested = step - 1
        epoch, rest = divmod(tested, self.per_epoch)
        return tested in self.within or (rest == 0 and epoch > 0 and self.due(epoch))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Lightning tests after each batch whose number this divides.
        early = trainer.current_epoch == 0 and batch_idx + 1 in self.within
        trainer.val_check_batch = batch_idx + 1 if early else self.per_epoch
