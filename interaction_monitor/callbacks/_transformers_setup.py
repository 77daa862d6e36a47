"""From the arguments of the callback for `transformers.Trainer` to an observer and a record, on all processes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.tensorboard import SummaryWriter

from interaction_monitor.distributed import Ranks
from interaction_monitor.forward import assign_players, check_forwards
from interaction_monitor.measurement import Thresholds
from interaction_monitor.observer import Observer
from interaction_monitor.record import Record, RecordError

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


def set_up(callback: InteractionTrainerCallback, model: nn.Module) -> Observer:
    """Draw the players and make what measures them.

    Raises:
        ValueError: if the players do not fit the model or the samples.
    """
    ranks = Ranks.of_this_run()
    with ranks.together():
        check_forwards(len(callback.probe), callback.players.n_players)
        drawn = assign_players(
            model, callback.players, callback.probe, forward_func=callback.forward_func, seed=callback.seed
        )
    return Observer(
        callback.probe,
        ranks.of_first(drawn),
        output=callback.output,
        forward_func=callback.forward_func,
        interactions=callback.interactions,
        thresholds=callback.thresholds,
        tracker=copy.deepcopy(callback.tracker),
        ranks=ranks,
    )


def open_record(
    callback: InteractionTrainerCallback, observer: Observer, folder: Path, state: TrainerState
) -> SummaryWriter | None:
    """Open the record on rank zero, and go on with what a resumed run has measured before.

    Returns:
        What writes the panels; None on other ranks.
    """
    writer = None
    with observer.ranks.together():
        if observer.ranks.rank == 0:
            target = folder / callback.name
            observer.record = _resumed(callback, target, observer, state) if state.global_step > 0 else None
            if observer.record is None:
                observer.record = Record.create(
                    _free(target), settings=_settings(callback), players=observer.players, probe=observer.probe
                )
            panels = folder / "runs" / observer.record.folder.name
            writer = SummaryWriter(str(panels), purge_step=state.global_step + 1)
    observer.load_state_dict(observer.ranks.of_first(observer.state_dict()))
    return writer


def _resumed(
    callback: InteractionTrainerCallback, target: Path, observer: Observer, state: TrainerState
) -> Record | None:
    """Read back into the observer what was measured until the checkpoint; None if there is nothing that fits."""
    try:
        if not Record.open(target).players.labels.equal(observer.players.labels.cpu()):
            raise RecordError(f"{target} has other players")
        record = Record.resume(target, up_to=(int(state.epoch or 0), state.global_step))
    except RecordError as error:
        callback.faults.warn_once("resume", f"a new record is begun, because {error}")
        return None
    for measurement, row in zip(record.measurements, record.history, strict=True):
        observer.adopt(row, measurement.strength)
    return record


def _free(target: Path) -> Path:
    number, path = 0, target
    while path.exists():
        number += 1
        path = target.with_name(f"{target.name}_{number}")
    return path


def _settings(callback: InteractionTrainerCallback) -> dict[str, Any]:
    return {
        "players": repr(callback.players),
        "output": callback.output if isinstance(callback.output, str) else repr(callback.output),
        "interactions": callback.interactions,
        "thresholds": vars(callback.thresholds or Thresholds()),
        "seed": callback.seed,
    }
