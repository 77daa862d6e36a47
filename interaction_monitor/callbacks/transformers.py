"""The callback for `transformers.Trainer`; needs the extra "transformers"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.tensorboard import SummaryWriter

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise ImportError('this needs transformers: pip install "interaction-monitor[transformers]"') from error

from interaction_monitor.callbacks import _transformers_setup, loggers, resume
from interaction_monitor.callbacks._arguments import (
    arguments_of,
    require_probe,
    require_reference,
    require_shared,
    rule_of,
    schedules_of,
)
from interaction_monitor.callbacks._stop_reason import reason_to_stop
from interaction_monitor.callbacks.faults import Faults, OnError
from interaction_monitor.distributed import MISFITS
from interaction_monitor.forecast import Forecast
from interaction_monitor.losses import find_loss
from interaction_monitor.observer import Observer
from interaction_monitor.outputs import Output
from interaction_monitor.phases import PhaseTracker
from interaction_monitor.players import Players
from interaction_monitor.plots import run_text, tensorboard
from interaction_monitor.probe import Probe
from interaction_monitor.record import Progress
from interaction_monitor.reference.sources import Given
from interaction_monitor.schedule import Schedule, budget_of
from interaction_monitor.settings import ForwardFunc, Interactions, Settings, Thresholds, or_default
from interaction_monitor.state import preserved_rng
from interaction_monitor.stopping import StopRule


class InteractionTrainerCallback(TrainerCallback):
    """Do for `transformers.Trainer` what `InteractionMonitor` does for Lightning.

    It measures once before training, then every few epochs or steps, and after the last; where an evaluation or a log
    entry is due at that moment it waits for it, so that a measurement has the losses of its own step. The record lies
    in `args.output_dir / name`, the panels in `args.output_dir / "runs" / name`. After an evaluation the numbers are
    among its metrics, so that `metric_for_best_model="eval_interactions/mean_order"` and early stopping find them.

    A run that is resumed from its newest checkpoint goes on with its record: measurements up to there are read from it.
    From an earlier checkpoint, or that of a run that had come further, it branches off: its record begins with a copy.

    Args:
        players: what an input variable is, for example `Words(tokenizer)`.
        probe: the samples to measure on, for example
            `Probe.from_loader(trainer.get_eval_dataloader(), n_samples=50)`.
        output: the scalar output: "log_odds" of the true class, "next_token_log_odds", "logit", "loss",
            "prediction", or a function of (logits, targets).
        forward_func: how the model is called, (model, inputs) -> logits; None calls `model(**inputs)`.
            `language.last_token_logits` is for causal language models.
        interactions: "and-or" or "and".
        thresholds: which interactions count; None means the papers' values.
        every_n_epochs: epochs between two measurements, or a function of the number of completed epochs that tells
            whether to measure, for example `schedule.LogSpaced()`; None means that schedule, unless steps are counted.
        every_n_steps: the same in optimizer steps, instead of epochs; for runs of few epochs.
        max_overhead: the largest share of the training time that measuring may take. None means no limit where a
            schedule is given, else 1, from which the first 20 measurements are spared.
        tracker: decides on the phase and its onset; None means a `PhaseTracker` with its defaults.
        stop: a rule of `stopping` that tells when to stop the run, for example `HighOrdersAndGap()`.
        stop_on_onset: whether to stop the run by the rule that did best on real runs, `HighOrdersAndGap()`.
        patience: with `stop_on_onset`, measurements to go on after phase two is known to have begun, instead of that
            rule.
        train_loss: name of the training loss in the trainer's logs.
        test_loss: name of the loss in the metrics of an evaluation.
        reference: other networks for the same task, trained on other samples, beside which it shows which part of the
            strength will hold on new samples: the record of another run over the same probe and players (or its
            folder), a trained network, a `reference.Checkpoint`, or several of these. Where there is none,
            `reference.Twins(factory)`: two networks trained in step with the run, each on a half of every batch.
        name: prefix of the keys, and the folder of the record. Several callbacks in one trainer need different names.
        on_error: "warn" lets training go on when a measurement fails, "raise" does not.
        seed: draws the players.

    Attributes:
        observer: what was measured so far; None before training.
        stop_reason: why this callback stopped the run; None if it did not.

    Raises:
        ValueError: if an argument is out of its range; when training starts, if the players do not fit the model, no
            process holds the whole of it, or a resumed run would not measure as before.

    Example:
        >>> import torch
        >>> from interaction_monitor.players import Words
        >>> probe = Probe({"input_ids": torch.tensor([[2, 3]])}, torch.tensor([1]))
        >>> InteractionTrainerCallback(Words(["[MASK]", "[PAD]", "good", "film"], n_players=2), probe, every_n_steps=0)
        Traceback (most recent call last):
        ...
        ValueError: InteractionTrainerCallback(every_n_steps=0): give at least 1
    """

    def __init__(
        self,
        players: Players,
        probe: Probe,
        *,
        output: str | Output = "log_odds",
        forward_func: ForwardFunc | None = None,
        interactions: Interactions = "and-or",
        thresholds: Thresholds | None = None,
        every_n_epochs: int | Schedule | None = None,
        every_n_steps: int | Schedule | None = None,
        max_overhead: float | None = None,
        tracker: PhaseTracker | None = None,
        stop: StopRule | None = None,
        stop_on_onset: bool = False,
        patience: int | None = None,
        train_loss: str = "loss",
        test_loss: str = "eval_loss",
        reference: Given | None = None,
        name: str = "interactions",
        on_error: OnError = "warn",
        seed: int = 0,
    ) -> None:
        with arguments_of(type(self).__name__, ValueError):
            require_shared(
                players=players,
                max_overhead=max_overhead,
                interactions=interactions,
                on_error=on_error,
                thresholds=thresholds,
                tracker=tracker,
                train_loss=train_loss,
                test_loss=test_loss,
                name=name,
                seed=seed,
            )
            require_reference(reference)
            require_probe(probe)
            self.after_epochs, self.after_steps = schedules_of(every_n_epochs, every_n_steps=every_n_steps)
            self.stop = rule_of(stop=stop, stop_on_onset=stop_on_onset, patience=patience, reference=reference)
        self.players = players
        self.probe = probe
        self.settings = Settings(output, forward_func, interactions, or_default(thresholds))
        self.tracker = tracker or PhaseTracker()
        self.train_loss, self.test_loss = train_loss, test_loss
        self.reference = reference
        self.name = name
        self.faults = Faults(on_error, who=type(self).__name__)
        self.seed = seed
        self.budget = budget_of(max_overhead, every_n_epochs, every_n_steps)
        self.observer: Observer | None = None
        self.forecast: Forecast | None = None  # until the first epoch is over
        self.stop_reason: str | None = None
        self._writer: SummaryWriter | None = None
        self._losses: dict[str, float] = {}  # since the last measurement
        self._due = False
        self.noted: dict[str, Any] = {}  # what checkpoints hold: the name of the record

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the players, go on with an interrupted run's record or begin one, and measure the model's start."""
        _transformers_setup.refuse_split_models(args)
        self.observer, self._writer, self._losses, self._due = None, None, {}, False
        self.budget = self.budget.anew()
        self.budget.start()
        folder = Path(args.output_dir or ".")
        try:
            with preserved_rng(), self.budget.preparing(), self.faults.guard("setting up", through=MISFITS):
                self.observer, earlier = _transformers_setup.set_up(self, kwargs["model"], folder, state)
                with self.faults.guard("opening the record"):
                    self._writer = _transformers_setup.open_record(self, self.observer, folder, state, earlier)
                _transformers_setup.announce(self, self.observer, kwargs["model"], args)
            if self.observer is not None and len(self.observer.history) == 0:
                self._measure(kwargs["model"], state, through=MISFITS)
        except MISFITS as error:
            raise ValueError(f"{type(self).__name__} cannot measure this run: {error}") from error

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure what waited for an evaluation or a log entry that did not come."""
        self._measure_if_due(kwargs["model"], state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure, where steps are counted, if enough of them have passed or this is the last."""
        if self.after_steps is not None:
            last = state.global_step >= state.max_steps
            self._schedule(kwargs["model"], state, control, due=last or self.after_steps(state.global_step), last=last)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure, where epochs are counted, if enough of them have passed or this is the last."""
        _transformers_setup.compare_costs(self)
        last = control.should_training_stop or state.global_step >= state.max_steps
        due = last or (self.after_steps is None and self.after_epochs(round(state.epoch or 0)))
        self._schedule(kwargs["model"], state, control, due=due, last=last)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take note of the losses; measure now if a measurement waits for them alone."""
        for name in (self.train_loss, self.test_loss):
            loss = find_loss(kwargs["logs"], (name,))
            if loss is not None:
                self._losses[name] = loss
        if not control.should_evaluate:
            self._measure_if_due(kwargs["model"], state, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure if that waits for the evaluation, and put the latest numbers among its metrics."""
        self._measure_if_due(kwargs["model"], state, control)
        if self.observer is not None and len(self.observer.history):
            latest = loggers.scalars(self.observer.history, self.name)
            kwargs["metrics"].update({f"eval_{key}": value for key, value in latest.items()})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note that there is a newer checkpoint."""
        resume.note(self.observer, Progress(checkpoint=state.global_step), self.faults)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the final model if that has not been done yet, draw the run and say what it showed."""
        observer = self.observer
        if observer is None:
            return
        # The best model is not the last one.
        if not args.load_best_model_at_end and not self._measured(observer, state):
            self._measure(kwargs["model"], state)
        if observer.ranks.rank == 0:
            if len(observer.history) and self._writer is not None:
                with preserved_rng(), self.faults.guard("drawing the pictures"):
                    tensorboard.write_figures(self._writer, observer.history, name=self.name, step=state.global_step)
                self._writer.close()
            print(f"{self.name}: {run_text.verdict(observer.history, failure=self.faults.last)}")
            if len(observer.history) and observer.record is not None:
                resume.note(observer, Progress(checkpoint=state.global_step, finished=True), self.faults)
                print(f"{self.name}: recorded in {observer.record.folder}")

    def _measured(self, observer: Observer, state: TrainerState) -> bool:
        return len(observer.history) > 0 and observer.history[-1].step == state.global_step

    def _schedule(
        self, model: nn.Module, state: TrainerState, control: TrainerControl, *, due: bool, last: bool
    ) -> None:
        observer = self.observer
        if observer is None or not due or self._measured(observer, state):
            return
        # Each process has its own clock, and they must decide alike.
        if last or self.budget.most is None or observer.ranks.of_first(self.budget.allows_another()):
            self._due = True
            if not (control.should_evaluate or control.should_log):
                self._measure_if_due(model, state, control)

    def _measure_if_due(self, model: nn.Module, state: TrainerState, control: TrainerControl) -> None:
        observer = self.observer
        if not self._due or observer is None:
            return
        self._measure(model, state)
        reason = reason_to_stop(self.stop, observer, self.faults)
        if reason is not None and self.stop_reason is None:
            self.stop_reason = reason
            control.should_training_stop = True
            if observer.ranks.rank == 0:
                print(f"{self.name}: stopping the run, because {self.stop_reason}")

    def _measure(self, model: nn.Module, state: TrainerState, *, through: tuple[type[Exception], ...] = ()) -> None:
        self._due = False
        assert self.observer is not None
        epoch = int((state.epoch or 0) + 1e-6)  # the trainer adds up fractions
        losses, self._losses = self._losses, {}
        row = None
        with preserved_rng(), self.budget.measuring():
            with self.faults.guard(f"the measurement at step {state.global_step}", through=through):
                row = self.observer.look(
                    model,
                    epoch=epoch,
                    step=state.global_step,
                    train_loss=losses.get(self.train_loss),
                    test_loss=losses.get(self.test_loss),
                )
            if row is not None and self.observer.ranks.rank == 0:
                with self.faults.guard("writing the record"):
                    self.observer.keep()
                print(run_text.line(self.observer.history, name=self.name, with_step=self.after_steps is not None))
                with self.faults.guard("writing the panels"):
                    self._write(self.observer, state.global_step)

    def _write(self, observer: Observer, step: int) -> None:
        if self._writer is None:
            return
        row, losses = observer.history[-1], (f"{self.name}/train_loss", f"{self.name}/test_loss")
        values: dict[str, float | None] = {
            **loggers.scalars(observer.history, self.name),
            **loggers.cost(observer.history, self.budget, self.name),
            **dict(zip(losses, (row.train_loss, row.test_loss), strict=True)),
        }
        known = {key: value for key, value in values.items() if value is not None}
        for key, value in tensorboard.charted(known, self.name).items():
            self._writer.add_scalar(key, value, step)
        for at, phase in tensorboard.decided_phases(observer.history, step=step):
            self._writer.add_scalar(f"{self.name}/phase", phase, at)
        tensorboard.write_measurement(self._writer, observer.history, name=self.name, step=step, losses=losses)
        if tensorboard.picture_due(len(observer.history)):
            tensorboard.write_figures(self._writer, observer.history, name=self.name, step=step, pictures=("story",))
