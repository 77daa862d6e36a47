"""The callback for `transformers.Trainer`; needs the extra "transformers"."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import nn

try:
    from transformers import TrainerCallback, TrainerState
    from transformers import TrainerControl as Control
    from transformers import TrainingArguments as Arguments
except ImportError as error:
    raise ImportError('this needs transformers: pip install "interaction-monitor[transformers]"') from error

from interaction_monitor.callbacks.errors import OnError, no_evaluation_loss
from interaction_monitor.callbacks.transformers_trainer import (
    LOSSES,
    StepLosses,
    TransformersSetUp,
    checkpoint_folder,
    evaluation_of,
    monitored,
    source_of,
    trainer_of,
)
from interaction_monitor.distributed import MISFITS
from interaction_monitor.losses import Losses
from interaction_monitor.observer import Observer
from interaction_monitor.outputs import Output
from interaction_monitor.phases import PhaseTracker
from interaction_monitor.players import Players
from interaction_monitor.probe import Probe
from interaction_monitor.progress_bar import shown_by, transformers_bars
from interaction_monitor.record import Progress
from interaction_monitor.reference.sources import Given
from interaction_monitor.schedule import Schedule
from interaction_monitor.settings import ForwardFunc, Interactions, Thresholds
from interaction_monitor.state import preserved_rng
from interaction_monitor.stopping import StopRule


class InteractionTrainerCallback(TransformersSetUp, TrainerCallback):
    """Do for `transformers.Trainer` what `InteractionMonitor` does for Lightning.

    It measures once before training, then every few epochs or steps, and after the last; where an evaluation or a log
    entry is due at that moment it waits for it, so that a measurement has the losses of its own step. The record lies
    in `args.output_dir / name`, the panels in `args.output_dir / "runs" / name`. After an evaluation the numbers are
    among its metrics, so that `metric_for_best_model="eval_interactions/mean_order"` and early stopping find them.

    A run that is resumed from its newest checkpoint goes on with its record: measurements up to there are read from it.
    From an earlier checkpoint, or that of a run that had come further, it branches off: its record begins with a copy.

    Args that are not listed here are those of `InteractionMonitor`.

    Args:
        players: what an input variable is, for example `Words(tokenizer)`.
        probe: the samples to measure on; None takes `n_samples` of the first data set for evaluation.
        output: the scalar output, as there; "next_token_log_odds" is for causal language models.
        forward_func: how the model is called, (model, inputs) -> logits; None calls `model(**inputs)`.
            `language_models.last_token_logits` is for causal language models.
        every_n_steps: what `InteractionMonitor` calls `every_n_train_steps`.
        train_loss: name of the training loss in the trainer's logs; None averages the losses of the steps, or takes
            "loss" where the trainer does not keep them.
        test_loss: name of the loss in the metrics of an evaluation; None means "eval_loss", and of several data sets
            that of the first, "eval_NAME_loss".

    Attributes:
        observer: what was measured so far; None before training.
        stop_reason: why this callback stopped the run; None if it did not.

    Raises:
        ValueError: if an argument is out of its range; when training starts, if the players do not fit the model, no
            process holds the whole of it, or a resumed run would not measure as before.

    Examples:
        >>> import torch
        >>> from interaction_monitor.players import Words
        >>> probe = Probe({"input_ids": torch.tensor([[2, 3]])}, torch.tensor([1]))
        >>> InteractionTrainerCallback(Words(["[MASK]", "[PAD]", "good", "film"], n_players=2), probe, every_n_steps=0)
        Traceback (most recent call last):
        ...
        ValueError: InteractionTrainerCallback(every_n_steps=0): give at least 1
    """

    _every_n_steps: ClassVar[str] = "every_n_steps"

    def __init__(
        self,
        players: Players,
        probe: Probe | None = None,
        *,
        n_samples: int = 50,
        n_train_samples: int = 0,
        output: str | Output = "log_odds",
        forward_func: ForwardFunc | None = None,
        interactions: Interactions = "and-or",
        thresholds: Thresholds | None = None,
        every_n_epochs: int | Schedule | None = None,
        every_n_steps: int | Schedule | None = None,
        max_overhead: float | None = None,
        tracker: PhaseTracker | None = None,
        reference: Given | None = None,
        stop: StopRule | None = None,
        stop_on_onset: bool = False,
        patience: int | None = None,
        train_loss: str | None = None,
        test_loss: str | None = None,
        name: str = "interactions",
        on_error: OnError = "warn",
        seed: int = 0,
    ) -> None:
        super().__init__(
            players,
            probe=probe,
            n_samples=n_samples,
            n_train_samples=n_train_samples,
            output=output,
            forward_func=forward_func,
            interactions=interactions,
            thresholds=thresholds,
            every_n_epochs=every_n_epochs,
            every_n_train_steps=every_n_steps,
            max_overhead=max_overhead,
            tracker=tracker,
            reference=reference,
            stop=stop,
            stop_on_onset=stop_on_onset,
            patience=patience,
            train_loss=train_loss,
            test_loss=test_loss,
            name=name,
            on_error=on_error,
            seed=seed,
        )
        self._train_loss, self._test_loss = train_loss, test_loss

    def _forget(self) -> None:
        super()._forget()
        self._logged: dict[str, Any] = {}  # the trainer's logs
        self._step_losses = StepLosses()
        self._values: dict[str, float] = {}  # of the last measurement, the same on all processes
        self._evaluation = "eval"
        self._due = False

    def on_train_begin(self, args: Arguments, state: TrainerState, control: Control, **kwargs: Any) -> None:
        """Draw the players, go on with an interrupted run's record or begin one, and measure the model's start."""
        self._forget()
        self._bars = transformers_bars(args, self.name)
        self.budget.start()
        model, trainer = kwargs["model"], trainer_of(self)
        self._evaluation = evaluation_of(trainer, self._test_loss)
        self.losses = Losses(self._train_loss, self._test_loss or f"{self._evaluation}_loss")
        try:
            guard = self.faults.guard("setting up", through=MISFITS)
            with preserved_rng(), self.budget.preparing(), guard, shown_by(self._bars):
                self.observer = self._set_up(args, state, source_of(trainer, model, kwargs["train_dataloader"]))
                folder, step = checkpoint_folder(args, state), state.global_step
                self._begin_twins(model, kwargs["optimizer"], trainer, folder, step)
            if self.observer is not None and len(self.observer.history) == 0:
                self._measure(model, state, through=MISFITS)
        except MISFITS as error:
            raise ValueError(f"{type(self).__name__} cannot measure this run: {error}") from error
        self._warn_unless_it_can_stop(no_evaluation_loss(args, state))

    def on_epoch_begin(self, args: Arguments, state: TrainerState, control: Control, **kwargs: Any) -> None:
        """Begin to average the training loss anew, where epochs are counted."""
        if self.after_steps is None:
            self.losses.batches.reset()

    def on_step_begin(self, args: Arguments, state: TrainerState, control: Control, **kwargs: Any) -> None:
        """Measure what waited for an evaluation or a log entry that did not come."""
        self._measure_if_due(kwargs["model"], state, control)

    def on_pre_optimizer_step(self, args: Arguments, state: TrainerState, control: Control, **kwargs: Any) -> None:
        """Train the twins on their halves of what the model is about to have learnt."""
        if self._twins is not None:
            with self.faults.guard("training the twins"):
                self._twins.step(args, kwargs["optimizer"])

    def on_step_end(self, args: Arguments, state: TrainerState, control: Control, **kwargs: Any) -> None:
        """Take in the loss; measure, where steps are counted, if enough of them have passed or this is the last."""
        with self.faults.guard("averaging the training loss"):
            if (loss := self._step_losses.next(trainer_of(self))) is not None:
                self.losses.batches.add(loss, None)
        if self.after_steps is not None:
            last = state.global_step >= state.max_steps
            self._schedule(kwargs["model"], state, control, due=last or self.after_steps(state.global_step), last=last)

    def on_epoch_end(self, args: Arguments, state: TrainerState, control: Control, **kwargs: Any) -> None:
        """Measure, where epochs are counted, if enough of them have passed or this is the last."""
        self._say(self._cost_after_epoch())
        last = control.should_training_stop or state.global_step >= state.max_steps
        due = last or (self.after_steps is None and self.after_epochs(round(state.epoch or 0)))
        self._schedule(kwargs["model"], state, control, due=due, last=last)

    def on_log(self, args: Arguments, state: TrainerState, control: Control, **kwargs: Any) -> None:
        """Take note of the losses, and measure if that waits for these; then each callback sees the monitored key."""
        logs = kwargs["logs"]
        self._logged |= logs
        evaluated = f"{self._evaluation}_runtime" in logs
        if evaluated:
            self.losses.validated()
        if evaluated or not control.should_evaluate:
            self._measure_if_due(kwargs["model"], state, control)
        if evaluated:
            # These logs become the metrics of the evaluation, but go to the loggers first: only what is monitored
            # must be there before any callback is told of the evaluation.
            known = self._known(args)
            logs.update({f"eval_{key}": known[key] for key, _ in monitored(args) if key in known})

    def on_evaluate(self, args: Arguments, state: TrainerState, control: Control, **kwargs: Any) -> None:
        """Put the latest numbers among the metrics of the evaluation."""
        metrics = kwargs["metrics"]
        ours = f"{self._evaluation}_runtime" in metrics or not any(key.endswith("_runtime") for key in metrics)
        if ours:
            self._measure_if_due(kwargs["model"], state, control)
            metrics.update({f"eval_{key}": value for key, value in self._known(args).items()})

    def on_save(self, args: Arguments, state: TrainerState, control: Control, **kwargs: Any) -> None:
        """Note that there is a newer checkpoint."""
        self._note(Progress(checkpoint=state.global_step))
        folder = checkpoint_folder(args, state)
        if self._twins is not None and self.observer is not None and self.observer.ranks.rank == 0 and folder.is_dir():
            with self.faults.guard("writing the twins beside the checkpoint"):
                self._twins.save(folder / f"{self.name}_twins.pt")

    def on_train_end(self, args: Arguments, state: TrainerState, control: Control, **kwargs: Any) -> None:
        """Measure the final model if that has not been done yet, draw the run and say what it showed."""
        if self._twins is not None:
            self._twins.close()
        observer = self.observer
        if observer is None:
            return
        # The best model is not the last one.
        if not args.load_best_model_at_end and not self._measured(observer, state):
            self._measure(kwargs["model"], state)
        if observer.ranks.rank == 0:
            if len(observer.history):
                with preserved_rng(), self.budget.apart():
                    self._loggers().draw(observer.history, step=state.global_step)
            self._say(*self._conclusion(state.global_step))
        for board in self._boards:
            board.experiment.close()
        self._boards = []

    def _known(self, args: Arguments) -> dict[str, float]:
        """Return what is known of each key, and the worst of one that is monitored before there is any."""
        return self._offered(self._values, monitored(args))

    def _measured(self, observer: Observer, state: TrainerState) -> bool:
        return len(observer.history) > 0 and observer.history[-1].step == state.global_step

    def _schedule(self, model: nn.Module, state: TrainerState, control: Control, *, due: bool, last: bool) -> None:
        observer = self.observer
        if observer is None or not due or self._measured(observer, state):
            return
        if last or self._affordable():
            self._due = True
            if not (control.should_evaluate or control.should_log):
                self._measure_if_due(model, state, control)

    def _measure_if_due(self, model: nn.Module, state: TrainerState, control: Control) -> None:
        observer = self.observer
        if not self._due or observer is None:
            return
        self._measure(model, state)
        reason = self._reason_to_stop()
        if reason is not None and self.stop_reason is None:
            self.stop_reason = reason
            control.should_training_stop = True
            self._say(f"{self.name}: stopping the run, because {self.stop_reason}")
        if not control.should_training_stop and state.global_step < state.max_steps:
            self._draw_if_due(self._loggers(), step=state.global_step)

    def _measure(self, model: nn.Module, state: TrainerState, *, through: tuple[type[Exception], ...] = ()) -> None:
        self._due = False
        observer, step = self.observer, state.global_step
        assert observer is not None
        epoch = int((state.epoch or 0) + 1e-6)  # the trainer adds up fractions
        train, test = self._losses_now(self._logged, observer.ranks, trained=epoch > 0)
        self._logged = dict.fromkeys(self._logged, math.nan)  # no loss is that of two measurements
        row = None
        with preserved_rng(), self.budget.measuring():
            with self.faults.guard(f"the measurement at step {step}", through=through), shown_by(self._bars):
                row = observer.observe(model, epoch=epoch, step=step, train_loss=train, test_loss=test, write=False)
            if self.after_steps is not None:
                self.losses.batches.reset()
            if row is not None:
                self._values = observer.ranks.of_first(self._scalars())
            if row is not None and observer.ranks.rank == 0:
                self._say(self._written())
                losses = {key: getattr(row, key) for key in LOSSES if getattr(row, key) is not None}
                values = self._values | {f"{self.name}/{key}": loss for key, loss in losses.items()}
                self._loggers().publish(observer.history, values, step=step)
