"""From the arguments of the callback for `transformers.Trainer` to an observer and a record, on all processes."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.tensorboard import SummaryWriter

from interaction_monitor.callbacks import loggers, resume
from interaction_monitor.callbacks._settings import plain, settings_of
from interaction_monitor.distributed import Ranks
from interaction_monitor.forecast import forecast
from interaction_monitor.forward import assign_players, check_forwards
from interaction_monitor.observer import Observer
from interaction_monitor.probe import Probe
from interaction_monitor.record import Record, RecordError
from interaction_monitor.schedule import most_measurements

if TYPE_CHECKING:
    from transformers import TrainerState, TrainingArguments

    from interaction_monitor.callbacks.transformers import InteractionTrainerCallback


def refuse_split_models(args: TrainingArguments) -> None:
    """Refuse to train where no process may hold the whole model.

    Raises:
        ValueError: that says what to do.
    """
    if args.fsdp or args.deepspeed:
        raise ValueError(
            "InteractionTrainerCallback: with FSDP or DeepSpeed no process may hold the whole model, so none can run "
            "the masked forwards alone. Save checkpoints, and measure them afterwards on one device with "
            "interaction_monitor.Observer"
        )


class _Noted(dict[str, Any]):
    """What a callback adds to the trainer's state in this very run; from a checkpoint comes a plain dict."""


def claim(callback: InteractionTrainerCallback, state: TrainerState) -> dict[str, Any]:
    """Take the callback's place in the trainer's state, which goes into each checkpoint.

    Returns:
        What a callback of the same name had left there when the checkpoint was taken.

    Raises:
        ValueError: if another callback of this run has the place.
    """
    key = f"{type(callback).__name__}[{callback.name}]"
    places: Any = state.stateful_callbacks  # the state has made a dict of it
    before = places.get(key)
    if isinstance(before, _Noted):
        raise ValueError(
            f"{type(callback).__name__}(name={callback.name!r}): another one in this trainer has this name; give each "
            "a name= of its own, by which its record and its keys are known"
        )
    callback.noted = places[key] = _Noted()
    return before if isinstance(before, dict) else {}


def set_up(
    callback: InteractionTrainerCallback, model: nn.Module, folder: Path, state: TrainerState
) -> tuple[Observer, Record | None]:
    """Draw the players and make what measures them.

    Args:
        callback: whose arguments count.
        model: the network, on its device.
        folder: where the trainer writes.
        state: the trainer's state; in a resumed run that of the checkpoint.

    Returns:
        The observer; and on rank zero of a resumed run the record to go on with, if there is one.

    Raises:
        ValueError: if the players do not fit the model or the samples, or a resumed run would measure otherwise.
    """
    before = claim(callback, state)
    ranks = Ranks.of_this_run()
    earlier = None
    with ranks.together():
        if ranks.rank == 0 and state.global_step > 0:
            earlier = _earlier(callback, folder, state, before.get("record"))
        check_forwards(len(callback.probe), callback.players.n_players)
        drawn = assign_players(
            model, callback.players, callback.probe, forward_func=callback.settings.forward_func, seed=callback.seed
        )
    observer = Observer(
        callback.probe,
        ranks.of_first(drawn),
        **vars(callback.settings),
        tracker=copy.deepcopy(callback.tracker),
        reference=callback.reference,
        ranks=ranks,
    )
    with ranks.together():
        if earlier is not None:  # a baseline that is computed from the network is that of the network at the start
            players = {"labels": earlier.players.labels, "baseline": earlier.players.baseline}
            observer.load_state_dict(observer.state_dict() | players)
    return observer, earlier


def open_record(
    callback: InteractionTrainerCallback, observer: Observer, folder: Path, state: TrainerState, earlier: Record | None
) -> SummaryWriter | None:
    """Open the record on rank zero, and go on with what a resumed run has measured before.

    Args:
        callback: whose arguments count.
        observer: from `set_up`, as is `earlier`.
        folder: where the trainer writes.
        state: the trainer's state.
        earlier: the record of the run that wrote the checkpoint.

    Returns:
        What writes the panels; None on other ranks.
    """
    writer = None
    try:
        with observer.ranks.together():
            if observer.ranks.rank == 0:
                writer = _open(callback, observer, folder, state, earlier)
    finally:  # all processes must know the same, also where a part of it could not be read
        observer.load_state_dict(observer.ranks.of_first(observer.state_dict()))
    return writer


def _open(
    callback: InteractionTrainerCallback, observer: Observer, folder: Path, state: TrainerState, earlier: Record | None
) -> SummaryWriter:
    target = folder / callback.name
    if earlier is None:
        observer.record = Record.create(
            resume.free(target), settings=settings_of(callback), players=observer.players, probe=observer.probe
        )
    else:
        observer.record = _resumed(callback, target, observer, state, earlier)
    callback.noted["record"] = observer.record.folder.name
    # No other curves lie in this folder, so a new record may drop whatever is left there.
    panels = str(folder / "runs" / observer.record.folder.name)
    if len(observer.history) == 0:
        return SummaryWriter(panels, purge_step=0)
    writer = SummaryWriter(panels)
    step, more = state.global_step + 1, ("train_loss", "test_loss")
    loggers.take_back_from(writer, observer.history, name=callback.name, step=step, more=more)
    return writer


def _earlier(callback: InteractionTrainerCallback, folder: Path, state: TrainerState, noted: object) -> Record | None:
    """Find the record of the run that wrote the checkpoint, and refuse to measure otherwise than there."""
    path = folder / (Path(noted).name if isinstance(noted, str) else callback.name)
    try:
        if not (path / "run.json").exists():
            raise RecordError(f"there is no record to go on with in {path}")
        record = Record.open(path)
        samples = Probe(record.probe_inputs, record.probe_targets)
        _ = record.players
    except RecordError as error:
        epoch = int((state.epoch or 0) + 1e-6)
        message = f"{error}, so the record begins at epoch {epoch} (step {state.global_step})"
        callback.faults.warn_once("resume", message)
        return None
    before = record.settings
    if "forward_func" not in before:  # earlier versions wrote the others in another form
        before = {name: before[name] for name in ("interactions", "thresholds", "seed") if name in before}
    resume.check({"settings": before}, settings_of(callback))
    if plain(samples) != plain(callback.probe):
        raise ValueError(
            f"the checkpoint's history was measured on other samples than probe= holds now: {len(samples)}, and these "
            f"are {len(callback.probe)}; resume with the same, which are Probe(record.probe_inputs, "
            f"record.probe_targets) of record = Record.open({str(path)!r}), or give the callback another name= to "
            "begin a new history and record"
        )
    return record


def _resumed(
    callback: InteractionTrainerCallback, target: Path, observer: Observer, state: TrainerState, earlier: Record
) -> Record:
    """Go on in the record or branch off, and read back what was measured until the checkpoint."""
    # The trainer adds up fractions of epochs, so only the step tells what came before the checkpoint.
    positions = [row.position for row in earlier.history if row.step <= state.global_step]
    up_to = positions[-1] if positions else (0, -1)
    record = resume.go_on(earlier, target, up_to=up_to, step=state.global_step, who=type(callback).__name__)
    for measurement, row in zip(record.measurements, record.history, strict=True):
        observer.adopt(row, measurement.strength, measurement.generalizing)
    return record


def announce(
    callback: InteractionTrainerCallback, observer: Observer, model: nn.Module, args: TrainingArguments
) -> None:
    """Say on rank zero what a measurement will take, where the run begins."""
    callback.forecast = None
    if observer.ranks.rank == 0 and len(observer.history) == 0:
        callback.forecast = forecast(observer, model)
    if callback.forecast is not None:
        epochs = math.ceil(args.num_train_epochs) if args.max_steps <= 0 else None
        count = None if callback.after_steps is not None else most_measurements(callback.after_epochs, epochs)
        print(f"{callback.name}: {callback.forecast.at_start(count)}")


def compare_costs(callback: InteractionTrainerCallback) -> None:
    """Say once, after the first epoch, if measuring takes longer than training."""
    known, callback.forecast = callback.forecast, None
    if known is None or callback.observer is None or not len(callback.observer.history) or callback.after_steps:
        return
    measured, budgeted = callback.observer.history[-1].seconds, callback.budget.most is not None
    text = known.after_epoch(trained=callback.budget.trained(), measured=measured, budgeted=budgeted)
    if text is not None:
        print(f"{callback.name}: {text}")
