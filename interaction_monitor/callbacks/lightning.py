"""The Lightning callback: it decides when to measure, and carries data between the trainer and an observer."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback

from interaction_monitor._checks import some
from interaction_monitor.callbacks import resume, train_twins
from interaction_monitor.callbacks.errors import no_validation_loss
from interaction_monitor.callbacks.lightning_trainer import (
    LightningSetUp,
    batches_of,
    counted_batches_of,
    ends_after,
    finished_batches,
    loss_of,
    measured_module,
    monitored,
)
from interaction_monitor.distributed import MISFITS
from interaction_monitor.observer import Observer
from interaction_monitor.progress_bar import lightning_bars, say, shown_by
from interaction_monitor.record import Progress
from interaction_monitor.state import preserved_rng, uninitialized


class InteractionMonitor(LightningSetUp, Callback):
    """Measure which interactions a network encodes, order by order, while Lightning trains it.

    It measures once before training, then every few epochs or steps, and after the last; it names the phase,
    tells when phase two begins (Ren et al. 2024, section 3.2) and can stop the run there.

    Args:
        players: what an input variable is, for example `FeaturePatches(layer="features.1")`.
        probe: the samples to measure on; None takes `n_samples` of the validation set.
        n_samples: how many samples to take; the papers use 50.
        n_train_samples: how many training samples to measure too, to see by order what carries over from them to
            the others; each takes as long as one of the others.
        output: the scalar output: "log_odds" of the true class, "logit", "loss", "prediction", or a function
            of (logits, targets).
        forward_func: how the model is called, (module, inputs) -> logits; None calls `pl_module(inputs)`.
        interactions: "and-or" extracts the sparsest AND and OR interactions; "and" takes the Harsanyi dividends
            alone, which is faster.
        thresholds: which interactions count; None means the defaults of `Thresholds`.
        every_n_epochs: epochs between two measurements, or a function that tells after how many completed epochs
            to measure, for example `schedule.LogSpaced()`; None means that schedule: each of the first eight epochs,
            then ever fewer.
        every_n_train_steps: the same in optimizer steps, instead of epochs; for runs of few epochs. Batches are counted
            where the trainer knows of no steps, as with manual optimization by an optimizer of one's own.
        max_overhead: the largest share of the training time that measuring may take, for example 0.05;
            measurements that are due are put off to keep it. The first and the last network are measured in any
            case. None means no limit where a schedule is given, else 1, from which the first 20 measurements
            are spared.
        tracker: decides on the phase and its onset; None means a `PhaseTracker` with its defaults.
        reference: other networks for the same task, trained on other samples, beside which it shows which part of the
            strength will hold on new samples: the record of another run over the same probe and players (or its
            folder), a trained network, a `reference.Checkpoint`, or several of these. Where there is none,
            `reference.Twins(factory)`: two networks trained in step with the run, each on a half of every batch.
        stop: a rule of `stopping` that tells when to stop the run, for example `HighOrdersAndGap()`.
        stop_on_onset: whether to stop the run by the rule that did best on real runs, `HighOrdersAndGap()`: some time
            after phase two has begun, when high orders and the loss gap have grown together.
        patience: with `stop_on_onset`, measurements to go on after phase two is known to have begun, instead of that
            rule.
        train_loss: name of the logged training loss; None averages what `training_step` returns over the batches of
            the epoch, or where steps are counted, over those since the last measurement.
        test_loss: name of the logged validation loss; None looks for the common names.
        name: prefix of the logged keys, and the record's folder beside the logger's files. Several monitors in
            one trainer need different names.
        on_error: "warn" lets training go on when a measurement fails, "raise" does not.
        seed: draws the samples and their players.

    Attributes:
        observer: what was measured so far (`observer.history`, `observer.last`); None before training.
        stop_reason: why the monitor stopped the run; None if it did not.

    Raises:
        MisconfigurationException: if an argument is out of its range; when training starts, if the players do
            not fit the network or its data.

    Examples:
        >>> from interaction_monitor import players
        >>> InteractionMonitor(players.ImagePatches(grid=8, n_players=10), every_n_epochs=0)
        Traceback (most recent call last):
        ...
        lightning...MisconfigurationException: InteractionMonitor(every_n_epochs=0): give at least 1
    """

    _refusal = MisconfigurationException
    _restored: dict[str, Any] | None = None  # from a checkpoint, until training begins

    def _forget(self) -> None:
        super()._forget()
        self._seen_step = 0
        self._tried_step = -1
        self._waiting: list[str] = []  # weights whose shapes only the first batch gives
        self._saved: int | None = None  # optimizer steps at a checkpoint that the record does not know of yet

    @property
    def state_key(self) -> str:
        """The key of this monitor's state in checkpoints; the name tells several monitors apart."""
        return f"{type(self).__qualname__}[{self.name}]"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose samples and players, check that they fit the network, and measure the network's start."""
        if not finished_batches(trainer):
            self._restored = None
        elif self._restored is None and self.observer is not None:
            self._restored = self.state_dict()  # the same trainer goes on
        self._forget()
        self.budget.start()
        self._waiting = uninitialized(pl_module)
        if self._waiting:
            names = some(self._waiting)
            say(trainer, f"{self.name}: measures from the first batch on, which gives {names} their shapes")
        else:
            self._begin(trainer, pl_module)

    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with preserved_rng():
            try:
                guard = self.faults.guard("setting up", through=MISFITS)
                with self.budget.preparing(), guard, shown_by(lightning_bars(trainer, self.name)):
                    self.observer = self._set_up(trainer, pl_module, self._restored)
                if self.observer is not None and self._due_at_start(trainer, self.observer):
                    of, epoch = (trainer, pl_module, self.observer), trainer.current_epoch
                    uncounted = counted_batches_of(trainer) > batches_of(trainer)
                    with self.budget.measuring():
                        self._measure(*of, epoch=epoch, uncounted=uncounted, through=MISFITS)
            except MISFITS as error:
                raise MisconfigurationException(f"InteractionMonitor cannot measure this run: {error}") from error
        if self.observer is not None:  # else checkpoints go on to hold what was restored
            self._restored = None
        self._warn_unless_it_can_stop(no_validation_loss(trainer, self.losses))
        self._offer_keys(trainer, pl_module)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep some of the samples, on which the network's loss is evaluated at each measurement."""
        if self.observer is not None and dataloader_idx == 0 and not trainer.sanity_checking:
            self.observer.loss_samples.test.add(batch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that the validation loss is a new one, or what there is to be one."""
        if trainer.sanity_checking:
            self.losses.tried = list(trainer.callback_metrics)
            return
        self.losses.validated(trainer.callback_metrics)
        if self.observer is not None:
            self.observer.loss_samples.test.close()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember that there will be a newer checkpoint."""
        self._saved = self._steps.now(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note a checkpoint that has been written by now, and train the twins on their halves of the batch."""
        # After a checkpoint of an epoch's last batch Lightning leaves out the start of the next epoch.
        if batch_idx == 0 and self.after_steps is None:
            self.losses.batches.reset()
        with self.faults.guard("training the twins"):
            train_twins.step_beside(self.observer, trainer, pl_module, batch, batch_idx)
        if self._saved is not None:
            self._note(Progress(checkpoint=self._saved))
            self._saved = None
        if self.observer is not None and self.observer.loss_samples.collects:
            self.observer.loss_samples.train.add(batch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in the loss; measure, where steps are counted, if enough of them have passed."""
        with self.faults.guard("averaging the training loss"):
            if (loss := loss_of(trainer, outputs)) is not None:
                self.losses.batches.add(loss, batch)
        if self._waiting:
            self._waiting = []
            self._begin(trainer, pl_module)
        self._steps.notice(trainer, pl_module)
        step = self._steps.now(trainer)
        if self.after_steps is not None and step != self._seen_step and step > 0:
            self._seen_step = step  # accumulated batches end with the same step again and again
            if self.after_steps(step) and self._affordable():
                self._measure_and_log(trainer, pl_module, epoch=trainer.current_epoch, on_step=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure, where epochs are counted, if enough of them have passed or this is the last."""
        epoch = trainer.current_epoch + 1
        self._steps.notice(trainer, pl_module, epoch_over=True)
        say(trainer, self._cost_after_epoch())
        if self.observer is not None:
            self.observer.loss_samples.train.close()
        last = ends_after(trainer, epoch)
        if last or (self.after_steps is None and self.after_epochs(epoch) and self._affordable()):
            self._measure_and_log(trainer, pl_module, epoch=epoch, on_step=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the final network if that has not been done yet, and say what the run showed."""
        observer, self._saved = self.observer, None
        if observer is None:
            say(trainer, *self._conclusion(self._steps.now(trainer)))
            return
        if not self._measured(trainer, observer):
            metrics = dict(trainer.callback_metrics)
            with preserved_rng(), self.budget.measuring():
                self._measure(trainer, pl_module, observer, epoch=trainer.current_epoch, metrics=metrics)
        with preserved_rng(), self.budget.apart(), observer.ranks.together():
            if trainer.is_global_zero:
                if len(observer.history):
                    self._loggers(trainer).draw(observer.history, step=max(0, batches_of(trainer) - 1))
                say(trainer, *self._conclusion(self._steps.now(trainer)))

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: the history, the players and the tracker, as plain values."""
        if self.observer is None:
            return self._restored or {}
        run = {"in_batches": self._steps.in_batches, "loss": self.losses.state_dict()}
        return resume.state_of(
            self.observer, self.budget, self.plain_settings(), samples=self._samples, shown=self._shown, run=run
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of the interrupted run until training starts again."""
        self._restored = state_dict or None

    def _measured(self, trainer: pl.Trainer, observer: Observer) -> bool:
        """Tell whether the network as it is now has been measured, or tried to."""
        known = observer.history[-1].step if len(observer.history) else -1
        return self._steps.now(trainer) in (known, self._tried_step)

    def _measure_and_log(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, epoch: int, on_step: bool
    ) -> None:
        observer = self.observer
        if observer is None or self._measured(trainer, observer):
            return
        metrics = dict(trainer.callback_metrics)  # on every rank, and first: reading it runs collectives
        with preserved_rng(), self.budget.measuring():
            self._measure(trainer, pl_module, observer, epoch=epoch, metrics=metrics, uncounted=on_step)
        self._offer_keys(trainer, pl_module)
        self._stop_if_due(trainer, observer)
        if self._shown is not None and not ends_after(trainer, epoch):  # else all pictures come soon
            self._draw_if_due(self._loggers(trainer), step=self._shown)

    def _offer_keys(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let callbacks that monitor a key find it; the loggers have what was measured already."""
        # Each process has its own clock, and callbacks must decide alike.
        values = {} if self.observer is None else self.observer.ranks.of_first(self._scalars())
        known = self._offered(values, monitored(trainer))
        # Lightning keeps this dict through the whole run, and hands it to whatever monitors a key.
        trainer.callback_metrics.update({key: torch.tensor(known[key], device=pl_module.device) for key in known})

    def _measure(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        observer: Observer,
        *,
        epoch: int,
        metrics: dict[str, Any] | None = None,
        uncounted: bool = False,
        through: tuple[type[Exception], ...] = (),
    ) -> None:
        step = self._tried_step = self._steps.now(trainer)
        train, test = self._losses_now(metrics or {}, observer.ranks, trained=epoch > 0)
        row = None
        shown = shown_by(lightning_bars(trainer, self.name))
        with self.faults.guard(f"the measurement at epoch {epoch}", through=through), shown:
            model = measured_module(trainer, pl_module)
            row = observer.observe(model, epoch=epoch, step=step, train_loss=train, test_loss=test, write=False)
        if self.after_steps is not None:  # only now: Ctrl-C within the measurement leaves them to the checkpoint
            self.losses.batches.reset()
        if row is not None:
            # Within an epoch the trainer counts the present batch only later.
            self._shown = max(0, batches_of(trainer) - (0 if uncounted else 1))
            with observer.ranks.together():
                if trainer.is_global_zero:
                    say(trainer, self._written())
                    self._loggers(trainer).publish(observer.history, self._scalars(), step=self._shown)

    def _stop_if_due(self, trainer: pl.Trainer, observer: Observer) -> None:
        reason = self._reason_to_stop()
        # Every rank decides, and all stop together.
        if trainer.strategy.reduce_boolean_decision(reason is not None, all=False):
            trainer.should_stop = True
            if self.stop_reason is None:  # a run may have to go on, to its min_epochs say
                self.stop_reason = reason or "the rule said so on another process"
                say(trainer, f"{self.name}: stopping the run, because {self.stop_reason}")
