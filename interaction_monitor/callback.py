"""The Lightning callback: it decides when to measure, and carries data between the trainer and the rooms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning_utilities.core.rank_zero import rank_zero_warn

from interaction_monitor import console, loggers
from interaction_monitor.faults import Faults, OnError
from interaction_monitor.forward import assign_players
from interaction_monitor.history import History, Row
from interaction_monitor.losses import TEST_NAMES, TRAIN_NAMES, find_loss
from interaction_monitor.measurement import Interactions, Thresholds
from interaction_monitor.observer import Observer
from interaction_monitor.outputs import Output
from interaction_monitor.phases import PhaseTracker
from interaction_monitor.players import Players
from interaction_monitor.probe import Probe
from interaction_monitor.record import Record


class InteractionMonitor(Callback):
    """Measure which interactions a network encodes, order by order, while Lightning trains it.

    It measures once before training, then every few epochs or steps, and after the last; it names the phase,
    tells when phase two begins (Ren et al. 2024, section 3.2) and can stop the run there.

    Args:
        players: what an input variable is, for example `FeaturePatches(layer="features.1")`.
        probe: the samples to measure on; None takes `n_samples` of the validation set.
        n_samples: how many samples to take; the papers use 50.
        output: the scalar output: "log_odds" of the true class, "logit", "loss", or a function of
            (logits, targets).
        forward_func: how the model is called, (module, inputs) -> logits; None calls `pl_module(inputs)`.
        interactions: "and-or" extracts the sparsest AND and OR interactions; "and" takes the Harsanyi dividends
            alone, which is faster.
        thresholds: which interactions count; None means the papers' values.
        every_n_epochs: epochs between two measurements.
        every_n_train_steps: optimizer steps between two measurements, instead of epochs; for runs of few epochs.
        tracker: decides on the phase and its onset; None means a `PhaseTracker` with its defaults.
        stop_on_onset: whether to stop the run when phase two is known to have begun.
        patience: measurements to go on after that.
        train_loss: name of the logged training loss; None looks for the common names.
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

    Example:
        >>> from interaction_monitor import players
        >>> InteractionMonitor(players.ImagePatches(grid=8, n_players=10), every_n_epochs=0)
        Traceback (most recent call last):
        ...
        lightning...MisconfigurationException: InteractionMonitor(every_n_epochs=0): give at least 1
    """

    def __init__(
        self,
        players: Players,
        *,
        probe: Probe | None = None,
        n_samples: int = 50,
        output: str | Output = "log_odds",
        forward_func: Callable[..., Any] | None = None,
        interactions: Interactions = "and-or",
        thresholds: Thresholds | None = None,
        every_n_epochs: int = 1,
        every_n_train_steps: int | None = None,
        tracker: PhaseTracker | None = None,
        stop_on_onset: bool = False,
        patience: int = 0,
        train_loss: str | None = None,
        test_loss: str | None = None,
        name: str = "interactions",
        on_error: OnError = "warn",
        seed: int = 0,
    ) -> None:
        _require_at_least(1, n_samples=n_samples, every_n_epochs=every_n_epochs)
        _require_at_least(1, every_n_train_steps=1 if every_n_train_steps is None else every_n_train_steps)
        _require_at_least(0, patience=patience)
        _require_one_of(("and-or", "and"), interactions=interactions)
        _require_one_of(("warn", "raise"), on_error=on_error)
        self.players = players
        self.probe = probe
        self.n_samples = n_samples
        self.output = output
        self.forward_func = forward_func
        self.interactions: Interactions = interactions
        self.thresholds = thresholds or Thresholds()
        self.every_n_epochs = every_n_epochs
        self.every_n_train_steps = every_n_train_steps
        self.tracker = tracker or PhaseTracker()
        self.stop_on_onset = stop_on_onset
        self.patience = patience
        self.train_names = TRAIN_NAMES if train_loss is None else (train_loss,)
        self.test_names = TEST_NAMES if test_loss is None else (test_loss,)
        self.name = name
        self.faults = Faults(on_error)
        self.seed = seed
        self.observer: Observer | None = None
        self.stop_reason: str | None = None
        self._restored: dict[str, Any] | None = None
        self._validated = False  # whether the validation loss is newer than the last measurement
        self._measured_step = -1

    @property
    def state_key(self) -> str:
        """The key of this monitor's state in checkpoints; the name tells several monitors apart."""
        return f"{type(self).__qualname__}[{self.name}]"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose samples and players, check that they fit the network, and measure the network's start."""
        try:
            self.observer = self._make_observer(trainer, pl_module)
            self._explain_loggers(trainer)
            if len(self.observer.history) == 0:
                self._measure(trainer, pl_module, self.observer, epoch=0, log_step=0, metrics={})
        except (TypeError, ValueError) as error:
            raise MisconfigurationException(f"InteractionMonitor cannot measure this run: {error}") from error
        self._measured_step = trainer.global_step

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember that the validation loss is a fresh one."""
        self._validated = self._validated or not trainer.sanity_checking

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure, where steps are counted, if enough of them have passed."""
        if self.every_n_train_steps is None or trainer.global_step == self._measured_step:
            return
        if trainer.global_step % self.every_n_train_steps == 0:
            self._measure_and_log(
                trainer, pl_module, epoch=trainer.current_epoch, log_step=_batches(trainer), on_step=True
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure, where epochs are counted, if enough of them have passed or this is the last."""
        epoch = trainer.current_epoch + 1
        due = self.every_n_train_steps is None and epoch % self.every_n_epochs == 0
        last = trainer.should_stop or epoch == trainer.max_epochs
        if (due or last) and trainer.global_step != self._measured_step:
            self._measure_and_log(trainer, pl_module, epoch=epoch, log_step=_batches(trainer) - 1, on_step=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the final network if that has not been done yet, and say what the run showed."""
        if self.observer is None:
            return
        log_step = max(0, _batches(trainer) - 1)
        if trainer.global_step != self._measured_step:
            metrics = trainer.callback_metrics
            self._measure(
                trainer,
                pl_module,
                self.observer,
                epoch=trainer.current_epoch,
                log_step=log_step,
                metrics=metrics,
            )
        history, record = self.observer.history, self.observer.record
        if trainer.is_global_zero and len(history):
            with self.faults.guard("drawing the panels"):
                loggers.conclude(trainer.loggers, history, name=self.name, step=log_step)
            _say(trainer, f"{self.name}: {console.verdict(history)}")
            if record is not None:
                _say(trainer, f"{self.name}: recorded in {record.folder}")

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: the history, the players and the tracker, as plain values."""
        if self.observer is None:
            return self._restored or {}
        return {
            "observer": self.observer.state_dict(),
            "record": str(self.observer.record.folder) if self.observer.record is not None else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of the interrupted run until training starts again."""
        self._restored = state_dict or None

    def _make_observer(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Observer:
        probe = self.probe
        if probe is None:
            probe = Probe.from_loader(self._loader(trainer), self.n_samples, seed=self.seed)
        players = assign_players(pl_module, self.players, probe, forward_func=self.forward_func, seed=self.seed)
        observer = Observer(
            probe,
            players,
            output=self.output,
            forward_func=self.forward_func,
            interactions=self.interactions,
            thresholds=self.thresholds,
            tracker=self.tracker,
        )
        if self._restored is not None:
            observer.load_state_dict(self._restored["observer"])
        folder = trainer.log_dir or trainer.default_root_dir  # on every rank: it is broadcast
        if trainer.is_global_zero:
            with self.faults.guard("opening the record"):
                observer.record = self._make_record(Path(folder), observer)
        return observer

    def _make_record(self, folder: Path, observer: Observer) -> Record:
        if self._restored is not None and self._restored["record"] is not None:
            earlier = Path(self._restored["record"])
            if earlier.is_dir() and len(observer.history):
                last = observer.history[-1]
                return Record.resume(earlier, up_to=last.position)
        target = folder / self.name
        number = 1
        while target.exists():
            target = folder / f"{self.name}_{number}"
            number += 1
        settings = {
            "players": repr(self.players),
            "output": self.output if isinstance(self.output, str) else repr(self.output),
            "interactions": self.interactions,
            "thresholds": vars(self.thresholds),
            "seed": self.seed,
        }
        return Record.create(target, settings=settings, players=observer.players, probe=observer.probe)

    def _loader(self, trainer: pl.Trainer) -> Any:
        loader: Any = trainer.val_dataloaders
        if loader is None:
            rank_zero_warn(
                "InteractionMonitor: there is no validation loader, so it measures on training samples; "
                "give one, or give probe=Probe(inputs, targets)"
            )
            loader = trainer.train_dataloader
        while isinstance(loader, (list, tuple, dict)) and loader:
            loader = next(iter(loader.values())) if isinstance(loader, dict) else loader[0]
        return loader

    def _explain_loggers(self, trainer: pl.Trainer) -> None:
        if not trainer.loggers and trainer.is_global_zero:
            _say(trainer, f"{self.name}: the trainer has no logger, so the run is only recorded")
        for logger in loggers.without_pictures(trainer.loggers):
            rank_zero_warn(f"InteractionMonitor: {logger} gets the scalars, but no pictures and histograms")

    def _measure_and_log(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, epoch: int, log_step: int, on_step: bool
    ) -> None:
        if self.observer is None:
            return
        metrics = dict(trainer.callback_metrics)  # on every rank, and first: reading it runs collectives
        row = self._measure(trainer, pl_module, self.observer, epoch=epoch, log_step=log_step, metrics=metrics)
        if row is not None:
            # The loggers have the row already; this is for callbacks that monitor a key.
            pl_module.log_dict(
                loggers.scalars(row, self.name),
                on_step=on_step,
                on_epoch=not on_step,
                logger=False,
                batch_size=1,
            )
        self._stop_if_due(trainer, self.observer.history)

    def _measure(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        observer: Observer,
        *,
        epoch: int,
        log_step: int,
        metrics: dict[str, Any],
    ) -> Row | None:
        self._measured_step = trainer.global_step
        train = find_loss(metrics, self.train_names)
        test = find_loss(metrics, self.test_names) if self._validated else None
        self._validated = False
        if metrics and (train is None or test is None):
            self._warn_of_missing_loss(metrics)
        row = None
        # At the first measurement, wrong values and types mean that the arguments do not fit the run.
        through = () if len(observer.history) else (TypeError, ValueError)
        with self.faults.guard(f"the measurement at epoch {epoch}", through=through):
            row = observer.observe(
                pl_module,
                epoch=epoch,
                step=trainer.global_step,
                train_loss=train,
                test_loss=test,
                forward_context=trainer.precision_plugin.forward_context,
            )
        if row is not None and trainer.is_global_zero:
            _say(trainer, console.line(row, name=self.name))
            with self.faults.guard("writing to the loggers"):
                loggers.publish(trainer.loggers, observer.history, name=self.name, step=log_step)
        return row

    def _stop_if_due(self, trainer: pl.Trainer, history: History) -> None:
        waited = sum(row.detected_epoch is not None for row in history) - 1
        due = self.stop_on_onset and waited >= self.patience
        # Every rank decides, and all stop together.
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self.stop_reason = console.verdict(history)
            trainer.should_stop = True
            if trainer.is_global_zero:
                _say(trainer, f"{self.name}: stopping the run, because {self.stop_reason}")

    def _warn_of_missing_loss(self, metrics: dict[str, Any]) -> None:
        self.faults.warn_once(
            "losses",
            f"found no training and fresh validation loss among the logged metrics {sorted(metrics)}, so the loss "
            "gap is not known; log them as train_loss and val_loss, or give their names as train_loss= and "
            "test_loss=",
        )


def _batches(trainer: pl.Trainer) -> int:
    """Count the batches that stepped: what the trainer itself gives its loggers as the step."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def _say(trainer: pl.Trainer, text: str) -> None:
    """Print a line without tearing the progress bar apart."""
    if trainer.progress_bar_callback is not None:
        trainer.progress_bar_callback.print(text)
    else:
        print(text)


def _require_at_least(least: int, **arguments: int) -> None:
    for name, value in arguments.items():
        if value < least:
            raise MisconfigurationException(f"InteractionMonitor({name}={value}): give at least {least}")


def _require_one_of(choices: tuple[str, ...], **arguments: str) -> None:
    for name, value in arguments.items():
        if value not in choices:
            raise MisconfigurationException(f"InteractionMonitor({name}={value!r}): give one of {choices}")
