"""What a trainer of `transformers` gives a callback: itself, samples and losses; and what happens before its run."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn
from transformers import Trainer, TrainerState, TrainingArguments

from interaction_monitor._checks import describe
from interaction_monitor.callbacks import CallbackBase, resume, train_twins
from interaction_monitor.callbacks.loggers import Loggers
from interaction_monitor.callbacks.preparation import TrainerSource, observer_of, way_to_call
from interaction_monitor.distributed import Ranks
from interaction_monitor.forward.calls import CallError
from interaction_monitor.loading import UnreadableLoaderError
from interaction_monitor.losses import why_losses_are_sums
from interaction_monitor.observer import Observer
from interaction_monitor.probe import TARGET_KEYS, Probe, Suits
from interaction_monitor.progress_bar import show
from interaction_monitor.record import RecordError
from interaction_monitor.reference.sources import Loss
from interaction_monitor.reference.twins import COSTS
from interaction_monitor.settings import ForwardFunc

LOSSES = ("train_loss", "test_loss")


class TransformersSetUp(CallbackBase):
    """What the callback for `transformers.Trainer` does before the first measurement."""

    def _forget(self) -> None:
        super()._forget()
        self._boards: list[TensorBoardLogger] = []
        if (twins := getattr(self, "_twins", None)) is not None:  # of a training that was broken off
            twins.close()
        self._twins: train_twins.ModelTwins | None = None

    def _begin_twins(self, model: nn.Module, optimizer: Any, trainer: Trainer | None, folder: Path, step: int) -> None:
        """Make the twins, if there are to be any, and go on with those of the checkpoint of a step in the folder."""
        observer = self.observer
        if observer is None or observer.references is None or (asked := observer.references.asked_twins) is None:
            return
        loss = asked.loss or loss_for_twins(trainer)
        training = train_twins.twins_of_model(asked, model, optimizer, loss, observer.ranks)
        observer.references.begin(training)
        self._twins = train_twins.ModelTwins(training, model, trainer)
        self._say(f"{self.name}: {COSTS}")
        path, history = folder / f"{self.name}_twins.pt", observer.history
        if len(history) or path.exists():
            with self.faults.guard("going on with the twins"):
                self._twins.load(path)
        if len(history) and history[-1].step == step:
            training.forget_unseen()  # the checkpoint is older than the measurement

    def _set_up(self, args: TrainingArguments, state: TrainerState, source: TrainerSource) -> Observer:
        """Make what measures, and open the record, on all processes together."""
        who, folder, ranks = type(self).__name__, Path(args.output_dir or "."), Ranks.of_this_run()
        places: Any = state.stateful_callbacks  # the state has made a dict of it
        noted, before = _claim(who, self.name, places)
        earlier = None
        with ranks.together():
            if ranks.rank == 0 and state.global_step > 0:
                try:
                    earlier = resume.earlier_record(folder / Path(before).name, self.plain_settings())
                except RecordError as error:
                    at = f"epoch {int((state.epoch or 0) + 1e-6)} (step {state.global_step})"
                    self.faults.warn_once("resume", f"{error}, so the record begins at {at}")
        observer, found = observer_of(source, self, None if earlier is None else resume.state_in(earlier), ranks)
        if found is not None and ranks.rank == 0:
            self._say(f"{self.name}: model(**inputs) does not run on the samples, so it is called so: {found}")
        with ranks.together():
            if earlier is not None:  # a baseline that is computed from the network is that of the network at the start
                players = {"labels": earlier.players.labels, "baseline": earlier.players.baseline}
                observer.load_state_dict(observer.state_dict() | players)
        try:
            with self.faults.guard("opening the record"), ranks.together():
                if ranks.rank == 0:
                    resume.open_at_step(
                        observer, folder / self.name, self.plain_settings(), earlier, step=state.global_step, who=who
                    )
                    assert observer.record is not None
                    # No other curves lie in this folder, so a new record may drop whatever is left there.
                    purge: Any = {} if len(observer.history) else {"purge_step": 0}
                    self._boards = [TensorBoardLogger(folder, "runs", observer.record.folder.name, **purge)]
                    if len(observer.history):
                        self._loggers().take_back(observer.history, step=state.global_step + 1)
                    noted["record"] = self._boards[0].version
        finally:  # all processes must know the same, also where a part of it could not be read
            observer.load_state_dict(ranks.of_first(observer.state_dict()))
        self._recall(observer.history)
        with self.faults.guard("looking at the loss"):
            trainer = trainer_of(self)
            if trainer is not None and (why := why_losses_are_sums(trainer, observer.probe)) is not None:
                self.faults.warn_once("sums", why)
        if ranks.rank == 0 and len(observer.history) == 0:
            n_epochs = math.ceil(args.num_train_epochs) if args.max_steps <= 0 else None
            self._say(self._cost_at_start(observer, source.model, n_epochs))
        return observer

    def _loggers(self) -> Loggers:
        return Loggers(self._boards, name=self.name, guard=self.faults.guard, losses=LOSSES)

    def _say(self, *texts: str | None) -> None:
        if self.observer is None or self.observer.ranks.rank == 0:
            for text in texts:
                if text is not None:
                    show(text)


class _Noted(dict[str, Any]):
    """What a callback adds to the trainer's state in this very run; from a checkpoint comes a plain dict."""


def _claim(who: str, name: str, places: MutableMapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Take a callback's place in a trainer's state, which goes into each checkpoint.

    Returns:
        The place; and the name of the record there, as it was when the checkpoint was taken.
    """
    key = f"{who}[{name}]"
    before = places.get(key)
    if isinstance(before, _Noted):
        raise ValueError(
            f"{who}(name={name!r}): another one in this trainer has this name; give each a name= of its own, by which "
            "its record and its keys are known"
        )
    places[key] = _Noted()
    return places[key], before.get("record", name) if isinstance(before, dict) else name


# What an encoder and a decoder can be asked: how sure they are of the first token.
_FIRST_TOKEN = (
    "To explain the first token that this decoder gives, say, give forward_func=lambda model, inputs: model(**inputs, "
    "decoder_input_ids=inputs['input_ids'][:, :1] * 0 + model.config.decoder_start_token_id).logits[:, 0] and "
    "output=lambda logits, labels: interaction_monitor.outputs.log_odds(logits, labels[:, 0])"
)


def trainer_of(callback: object) -> Trainer | None:
    """Find the trainer that calls a callback; None if something else does.

    A trainer hands its callbacks much, but neither itself nor the loaders of its evaluation. It is known from where
    the call comes.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer) and callback in caller.callback_handler.callbacks:
            return caller
        frame = frame.f_back
    return None


def evaluation_of(trainer: Trainer | None, test_loss: str | None) -> str:
    """Return what the metrics begin with of the evaluation that counts: "eval", or that data set's of the loss."""
    data = None if trainer is None else trainer.eval_dataset
    if not isinstance(data, dict) or not data:
        return "eval"
    fitting = [name for name in data if (test_loss or "").startswith(f"eval_{name}_")]
    return f"eval_{max(fitting, key=len) if fitting else next(iter(data))}"


def monitored(args: TrainingArguments) -> list[tuple[str, str]]:
    """List what the trainer and its callbacks monitor, and in which direction it gets better."""
    metric = args.metric_for_best_model
    return [] if metric is None else [(metric.removeprefix("eval_"), "max" if args.greater_is_better else "min")]


class StepLosses:
    """Takes the loss of each step out of the sum that a trainer keeps until it logs the mean."""

    def __init__(self) -> None:
        self._before: Tensor | None = None
        self._logged_at = -1

    def next(self, trainer: Trainer | None) -> Tensor | None:
        """Return the loss of the step that just ends; None where the trainer keeps no such sum."""
        total, logged_at = getattr(trainer, "_tr_loss", None), getattr(trainer, "_globalstep_last_logged", None)
        if not isinstance(total, Tensor) or logged_at is None:
            return None
        before = self._before if logged_at == self._logged_at else None
        self._before, self._logged_at = total.detach().clone(), logged_at
        return self._before if before is None else self._before - before


def loss_for_twins(trainer: Trainer | None) -> Loss:
    """Return the trainer's own loss, with smoothed labels say; of a trainer that overrides it, that of the model."""
    context = nullcontext if trainer is None else trainer.compute_loss_context_manager
    own = None if trainer is None or trainer.compute_loss.__module__ != "transformers.trainer" else trainer.compute_loss

    def loss(network: nn.Module, batch: Any) -> Any:
        with context():
            if own is not None:
                return own(network, dict(batch))
            result = network(**batch)
        found = result.get("loss") if isinstance(result, Mapping) else getattr(result, "loss", None)
        if not isinstance(found, Tensor):
            instead = "give Twins(loss=lambda network, batch: ...)"
            raise TypeError(f"a twin must return a loss, but returned {describe(result)}; {instead}")
        return found

    return loss


def checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """Return where the trainer keeps the checkpoint of this step, if it does."""
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"


def source_of(trainer: Trainer | None, model: nn.Module, train_loader: Any) -> TrainerSource:
    """Return what a trainer that is about to train, from `trainer_of`, gives to be measured."""

    def loss(module: nn.Module, batch: Any) -> Any:
        if trainer is None or not isinstance(batch, dict):
            raise TypeError("no step is known")
        others = {*TARGET_KEYS} - {*trainer.label_names}
        return trainer.compute_loss(module, {key: value for key, value in batch.items() if key not in others})

    def forward(module: nn.Module, batch: Any) -> Any:
        others = {*TARGET_KEYS} - {"labels"}
        # Of the class, so that the calls of the parts are seen and not that of the whole.
        return type(module).forward(module, **{key: value for key, value in batch.items() if key not in others})

    def call(probe: Probe, forward_func: ForwardFunc | None) -> ForwardFunc:
        try:
            return way_to_call(model, probe, forward_func, step=loss, name="compute_loss", context=nullcontext)
        except CallError as error:
            with suppress(CallError):  # the parts of a model that cannot do without labels may
                return way_to_call(model, probe, forward_func, step=forward, name="forward", context=nullcontext)
            if forward_func is None and getattr(getattr(model, "config", None), "is_encoder_decoder", False):
                raise CallError(f"{error}. {_FIRST_TOKEN}") from error
            raise error

    return TrainerSource(
        model,
        partial(_samples, trainer, train_loader),
        training_samples=lambda n_samples, seed, suits: Probe.from_loader(
            train_loader, n_samples, seed=seed, suits=suits
        ),
        call=call,
        convert=lambda call: call,
    )


def _samples(trainer: Trainer | None, train_loader: Any, n_samples: int, seed: int, suits: Suits) -> Probe:
    """Draw samples from the first data set for evaluation, or from those for training."""
    advice = "give probe=Probe.from_loader(loader, n_samples=50), from a loader of your own"
    if trainer is None:
        raise ValueError(f"the trainer is not known here, so no samples can be drawn; {advice}")
    loader = train_loader
    if trainer.eval_dataset is None:
        rank_zero_warn(
            "InteractionTrainerCallback: there is no eval_dataset, so it measures on training samples; give one, or "
            "give probe=Probe(inputs, targets)"
        )
    else:
        first = next(iter(trainer.eval_dataset)) if isinstance(trainer.eval_dataset, dict) else None
        with _unchanged(trainer):
            loader = trainer.get_eval_dataloader(first)
    try:
        return Probe.from_loader(loader, n_samples, seed=seed, suits=suits)
    except UnreadableLoaderError as error:
        raise UnreadableLoaderError(error.told, instead=advice) from error


@contextmanager
def _unchanged(trainer: Trainer) -> Iterator[None]:
    """Leave no trace of a loader that is made for the samples: a trainer keeps those that it makes."""
    loaders = trainer.accelerator._dataloaders
    before, attributes = list(loaders), dict(vars(trainer))
    kept = attributes.get("_eval_dataloaders")
    kept_before = None if kept is None else dict(kept)
    try:
        yield
    finally:
        loaders[:] = before
        vars(trainer).clear()
        vars(trainer).update(attributes)
        if kept is not None:
            kept.clear()
            kept.update(kept_before or {})
