"""From a monitor's arguments and a trainer to an observer that is ready to measure, on all processes together."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from torch import Tensor

from interaction_monitor.callbacks import lightning_twins, loggers, resume
from interaction_monitor.callbacks._lightning_call import told, way_to_call
from interaction_monitor.callbacks._lightning_samples import training_samples, validation_samples
from interaction_monitor.callbacks._lightning_trainer import (
    counted_batches_of,
    folder_of,
    is_trial,
    say,
)
from interaction_monitor.callbacks._samples import check_number_of_training, samples_of, training_of, with_baseline_of
from interaction_monitor.callbacks._settings import plain, settings_of
from interaction_monitor.callbacks._telling import announce
from interaction_monitor.distributed import Ranks
from interaction_monitor.forward import assign_players, check_forwards
from interaction_monitor.forward.calls import Call
from interaction_monitor.forward.model import call_model
from interaction_monitor.functional.extraction import MAX_PLAYERS
from interaction_monitor.history import Row
from interaction_monitor.observer import Observer
from interaction_monitor.players.base import PlayerMap
from interaction_monitor.probe import Probe

if TYPE_CHECKING:
    from interaction_monitor.callbacks.lightning import InteractionMonitor


@dataclass
class _Converting:
    """Calls a network with its inputs in the trainer's precision; unlike a closure it can be pickled."""

    call: Callable[..., Any]
    convert: Callable[[Any], Any]

    def __call__(self, module: Any, inputs: Any) -> Any:
        return self.call(module, self.convert(inputs))


def set_up(
    monitor: InteractionMonitor, trainer: pl.Trainer, pl_module: pl.LightningModule, state: dict[str, Any] | None
) -> Observer:
    """Choose samples and players, restore what a checkpoint holds, and open the record.

    Args:
        monitor: whose arguments count.
        trainer: the trainer, about to train.
        pl_module: the network, on its device.
        state: the monitor's state in the checkpoint from which the run goes on; None where it begins.

    Returns:
        The observer; only that of rank zero has a record.
    """
    settings = settings_of(monitor)
    if state is not None:
        resume.check(state, settings)
    ranks = Ranks.of_this_run()
    forward_func = _Converting(monitor.settings.forward_func or call_model, trainer.precision_plugin.convert_input)
    with ranks.together():
        chosen = _choose(monitor, trainer, pl_module, forward_func, state) if ranks.rank == 0 else None
    probe, players, train = ranks.of_first(chosen)  # type: ignore[misc]  # None only where rank zero sends its own
    found = ranks.of_first(forward_func.call if isinstance(forward_func.call, Call) else None)
    if found is not None:
        forward_func.call = found
        say(trainer, f"{monitor.name}: {told(found)}")
    monitor.samples = plain(probe)
    context = trainer.precision_plugin.forward_context
    observer = Observer(
        probe,
        players,
        **vars(replace(monitor.settings, forward_func=forward_func, forward_context=context)),
        tracker=copy.deepcopy(monitor.tracker),
        reference=monitor.reference,
        ranks=ranks,
        train=train,
    )
    lightning_twins.begin(observer, trainer, pl_module, name=monitor.name)
    if state is not None:
        resume.restore(state, observer, monitor.budget)
    target = folder_of(trainer) / monitor.name
    if is_trial(trainer):
        return observer
    observer.begin = resume.Begin(target, observer, settings) if ranks.rank == 0 else None
    adopted: list[tuple[Row, Tensor, Tensor | None]] = []
    with monitor.faults.guard("opening the record"), ranks.together():
        if ranks.rank == 0 and state is not None:
            observer.record, adopted = resume.continued(
                state["record"], target, observer, step=monitor.steps.now(trainer)
            )
    for row, strength, generalizing in ranks.of_first(adopted):
        observer.adopt(row, strength, generalizing)
    if len(observer.history) and (monitor.shown is None or observer.history[-1].step == monitor.steps.now(trainer)):
        monitor.shown = counted_batches_of(trainer) - 1
    with ranks.together():
        if ranks.rank == 0:
            if not trainer.loggers:
                say(trainer, f"{monitor.name}: the trainer has no logger, so the run is only recorded")
            announce(monitor, trainer, pl_module, observer)
            loggers.introduce(trainer.loggers, name=monitor.name, guard=monitor.faults.guard)
            if monitor.shown is not None:
                after, guard = monitor.shown + 1, monitor.faults.guard
                loggers.take_back(trainer.loggers, observer.history, name=monitor.name, step=after, guard=guard)
    return observer


def _choose(
    monitor: InteractionMonitor,
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    forward_func: _Converting,
    state: dict[str, Any] | None,
) -> tuple[Probe, PlayerMap, tuple[Probe, PlayerMap] | None]:
    n_players = monitor.players.n_players
    if monitor.settings.interactions == "and-or" and n_players > MAX_PLAYERS:
        raise ValueError(
            f"n_players={n_players} is more than the {MAX_PLAYERS} that interactions='and-or' takes; "
            "take fewer players, or interactions='and'"
        )
    probe = monitor.probe or validation_samples(trainer, pl_module, monitor.n_samples, seed=monitor.seed)
    if state is not None:
        check_number_of_training(state, monitor.n_train_samples)
        probe = samples_of(state, probe, given=monitor.probe is not None)
    check_forwards(len(probe) + monitor.n_train_samples, n_players)
    forward_func.call = way_to_call(trainer, pl_module, probe, monitor.settings.forward_func)

    def assign(samples: Probe) -> PlayerMap:
        return assign_players(
            pl_module,
            monitor.players,
            samples,
            forward_func=forward_func,
            forward_context=trainer.precision_plugin.forward_context,
            seed=monitor.seed,
        )

    train = None
    if monitor.n_train_samples:
        samples = training_samples(trainer, pl_module, monitor.n_train_samples, seed=monitor.seed)
        if state is not None:
            samples = training_of(state, samples)
        players = assign(samples)
        train = samples, players if state is None else with_baseline_of(state, players)
    return probe, assign(probe), train
