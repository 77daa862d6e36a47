"""Measuring one model again and again on the same samples, and remembering what came out.

`InteractionMonitor` does this inside a Lightning run; a plain training loop uses the `Observer` itself.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from interaction_monitor._checks import describe
from interaction_monitor.distributed import Ranks
from interaction_monitor.forward.precision import rounding_warning
from interaction_monitor.functional import order_effects, order_similarity, order_strength
from interaction_monitor.history import History, Row
from interaction_monitor.history.landmarks import EVALUATED, shown_losses
from interaction_monitor.history.row import from_before, of_phase, summarise
from interaction_monitor.losses import LossSamples
from interaction_monitor.measurement import Measurement, measure_jointly, with_rounding
from interaction_monitor.outputs import Output
from interaction_monitor.phases import PhaseState, PhaseTracker
from interaction_monitor.players.base import require_drawn
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe
from interaction_monitor.record import NewRecord, Record
from interaction_monitor.reference import References, TwinTraining
from interaction_monitor.reference.sources import Given, Run
from interaction_monitor.settings import (
    ForwardContext,
    ForwardFunc,
    Interactions,
    Settings,
    Thresholds,
    or_default,
    plain_settings,
    require_few_players,
)


class Observer:
    """Watch a model: the same probe, players and thresholds at each measurement, and a history of what was seen.

    Args:
        probe: the samples, the same at every measurement.
        players: their input variables, from `assign_players`.
        output: the scalar output, by name or as a function of (logits, targets).
        forward_func: how the model is called, (model, inputs) -> logits; None calls `model(inputs)`.
        interactions: "and-or" or "and".
        thresholds: which interactions count; None means the defaults of `Thresholds`.
        forward_context: makes a context for each forward, for example an autocast.
        tracker: names the phase and finds the onset; None means a `PhaseTracker` with its defaults.
        record: where each measurement is kept: a record, or a folder in which one is made at the first measurement. A
            folder that exists stays as it is, and a number is put after the name of the new one. None keeps only the
            history in memory.
        ranks: the processes that measure together, each its share of the samples; then all of them must call
            `observe`. None means that this process measures alone.
        train: training samples and their players, measured as well to see what carries over from them; this
            takes as long again for each of them. None leaves them out.
        train_samples: training samples, with the labels as trained on, and
        test_samples: others, whose losses are evaluated at each measurement; of 200 or more each they are what the loss
            gap is between. None takes those of `train` and the probe's.
        reference: other networks for the same task, trained on other samples, to see which part of the strength they
            have too: the folder of another run's record over the same probe and players, or the record; a trained
            network; a `reference.Checkpoint`; or several of these. They are measured once, by the first `observe`. Or
            `reference.Twins`, which your loop trains by `observer.twins.step(batch)`.

    Raises:
        TypeError: if the probe, the players, the thresholds or a reference are of another kind.
        ValueError: if the interactions are, or a reference does not exist.

    Examples:
        >>> import torch
        >>> from interaction_monitor import Probe, assign_players, players
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> probe = Probe(torch.randn(5, 1, 8, 8), torch.arange(5))
        >>> patches = players.ImagePatches(grid=4, margin=0, n_players=6)
        >>> observer = Observer(probe, assign_players(model, patches, probe))
        >>> row = observer.observe(model, epoch=0, step=0)
        >>> round(row.mean_order, 2)  # the log-odds of a linear model bend only in the softmax
        1...
    """

    def __init__(
        self,
        probe: Probe,
        players: PlayerMap,
        *,
        output: str | Output = "log_odds",
        forward_func: ForwardFunc | None = None,
        interactions: Interactions = "and-or",
        thresholds: Thresholds | None = None,
        forward_context: ForwardContext = nullcontext,
        tracker: PhaseTracker | None = None,
        record: Record | str | Path | None = None,
        ranks: Ranks | None = None,
        train: tuple[Probe, PlayerMap] | None = None,
        train_samples: Probe | None = None,
        test_samples: Probe | None = None,
        reference: Given | None = None,
    ) -> None:
        require_drawn("Observer", probe, players)
        self.probe = probe
        self.players = players
        self.settings = Settings(output, forward_func, interactions, or_default(thresholds), forward_context)
        require_few_players(players.n_players, interactions)
        self.tracker = tracker or PhaseTracker()
        self.record = record if isinstance(record, Record) else None
        self.new_record: NewRecord | None = None  # makes one at the first write, where there is none by then
        if not (record is None or isinstance(record, (Record, str, Path))):
            raise TypeError(f"Observer(record={describe(record)}): give a folder, a Record, or None")
        if isinstance(record, (str, Path)):
            self.new_record = NewRecord(Path(record), plain_settings(self.settings))
        self.ranks = ranks or Ranks()
        self.train = train
        self.loss_samples = LossSamples(probe, measured=train and train[0], train=train_samples, test=test_samples)
        self.references = None if reference is None else References(reference)
        self.history = History()
        self.last: Measurement | None = None
        self._warned_of_rounding: set[bool] = set()  # of a trained network, and of one before training

    def observe(
        self,
        model: nn.Module,
        *,
        epoch: int,
        step: int,
        train_loss: float | None = None,
        test_loss: float | None = None,
        write: bool = True,
    ) -> Row:
        """Measure the model once, advance the phase and keep the result.

        Args:
            model: the module to measure.
            epoch: completed epochs, 0 before training.
            step: training step, never falling from one measurement to the next.
            train_loss: mean loss on the training samples, where known.
            test_loss: mean loss on the test samples, where known.
            write: whether the record is written at once; else `write_record` does it.

        Returns:
            The measurement as one row of scalars; the whole of it is in `last`.

        Raises:
            NoValidSamplesError: if no probe sample has finite outputs; nothing is kept then.
            ValueError: if a reference does not fit the run, or cannot be measured; nothing is kept then.
            OSError: if the record cannot be written; history and phase hold the measurement all the same.
        """
        if self.references is not None:
            train_samples, folder = self.train and self.train[0], None if self.record is None else self.record.folder
            run = Run(model, self.probe, self.players, settings=self.settings, train=train_samples, folder=folder)
            self.references.prepare(run, self._measured, self.ranks)
        measurement = self._measured(model)
        if self.ranks.rank == 0:  # which tells the others by its row
            measurement = with_rounding(measurement, model, self.probe, self.players, self.settings)
        if self.references is not None:
            measurement = self.references.compare(measurement, self._measured, first=not len(self.history))
        train = None if self.train is None else measure_jointly(model, *self.train, self.settings, self.ranks)
        evaluated = self.loss_samples.evaluate(model, self.settings, self.ranks, step=step)
        before, state = self.last, PhaseTracker().state  # until this measurement's is known
        row = summarise(measurement, state, epoch=epoch, step=step, train_loss=train_loss, test_loss=test_loss)
        row = replace(row, **evaluated)
        row = replace(row, **of_phase(self._advance(row, measurement.strength)))
        if before is None and self.record is not None and len(self.record.history):
            before = self.record.measurements[-1]  # a resumed run has it in its record alone
        row = replace(row, **from_before(before, measurement))
        if self.references is not None:
            row = replace(row, **self.references.update(measurement, epoch=epoch, step=step))
        if train is not None and self.train is not None:
            numbers = from_training(measurement, train, (self.probe, self.players), self.train)
            row = replace(row, seconds=row.seconds + train.seconds, **numbers)
        # Losses, times and last bits may differ between processes, and what follows from them must not.
        self.history.append(row := self.ranks.of_first(row))
        self.last = measurement
        self._warn_of_rounding(measurement, row)
        if write:
            self.write_record()
        return row

    @property
    def twins(self) -> TwinTraining:
        """The twins that are trained in step with the run, where `reference=Twins(...)` is given.

        Raises:
            ValueError: if there are none.
        """
        if self.references is None or self.references.twins is None:
            raise ValueError("this observer has no twins; give reference=Twins(factory, loss=..., optimizer=...)")
        return self.references.twins

    def _measured(self, network: nn.Module) -> Measurement:
        return measure_jointly(network, self.probe, self.players, self.settings, self.ranks)

    def _advance(self, row: Row, strength: Tensor) -> PhaseState:
        """Let the tracker take in a measurement, with the losses that are shown of the run up to it."""
        before, losses = shown_losses(self.history), shown_losses(History([*self.history, row]))
        forget = getattr(self.tracker, "forget_losses", None)  # a tracker of the user's own need not have it
        if losses.of == EVALUATED != before.of and forget is not None:
            forget(losses.first)
        train, test = (None if np.isnan(values[-1]) else float(values[-1]) for values in (losses.train, losses.test))
        return self.tracker.update(epoch=row.epoch, step=row.step, strength=strength, train_loss=train, test_loss=test)

    def write_record(self) -> None:
        """Write the last measurement to the record, if there is one."""
        if self.record is None and self.new_record is not None and self.last is not None:
            self.record = self.new_record.make(self.probe, self.players, self.train)
        if self.record is not None and self.last is not None:
            self.record.write(self.last, self.history[-1])
            if self.references is not None:
                self.references.write(self.record.folder)

    def _warn_of_rounding(self, measurement: Measurement, row: Row) -> None:
        if (trained := row.step > 0) in self._warned_of_rounding or self.ranks.rank != 0:
            return
        sigma, finite, tau = measurement.rounding, measurement.v[measurement.valid], measurement.tau
        if (text := rounding_warning(sigma, finite, tau, self.settings)) is not None:
            self._warned_of_rounding.add(trained)
            text += "" if trained else ". That the mean order falls from this untrained network may be rounding too"
            warnings.warn(f"interaction monitor, epoch {row.epoch}: {text}", stacklevel=3)

    def take_over(self, row: Row, strength: Tensor, generalizing: Tensor | None = None) -> None:
        """Take over a measurement that another process made of the same network, samples and players.

        Args:
            row: it, as scalars; it comes after all that is in the history.
            strength: (S, n) its strength per sample and order.
            generalizing: (S, n) the part of it that a reference has too, where that was measured.
        """
        if self.references is not None and generalizing is not None:
            self.references.advance(generalizing, strength, epoch=row.epoch, step=row.step, unseen=row.unseen_loss)
        self._advance(row, strength)
        self.history.append(row)

    def state_dict(self) -> dict[str, Any]:
        """Return the history, the phase and the players as plain values and tensors, as a checkpoint holds them."""
        return {
            "history": self.history.to_primitives(),
            "tracker": self.tracker.state_dict(),
            "labels": self.players.labels,
            "baseline": self.players.baseline,
            **self.loss_samples.state_dict(),
            "references": None if self.references is None else self.references.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken, with the players of that time.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: if the players of that time do not fit the probe of today.
        """
        players = self.players.of_checkpoint(state["labels"], state.get("baseline", self.players.baseline))
        self.loss_samples.load_state_dict(state)
        if self.references is not None and state.get("references") is not None:
            self.references.load_state_dict(state["references"])
        self.history = History.from_primitives(state["history"])
        self.tracker.load_state_dict(state["tracker"])
        self.players = players


def from_training(
    test: Measurement, train: Measurement, probe: tuple[Probe, PlayerMap], samples: tuple[Probe, PlayerMap]
) -> dict[str, Any]:
    """Return the fields of a row that lay the interactions of training samples beside those of the probe's.

    Strengths are comparable because both take the threshold of the test samples; effects need none. The
    interactions themselves are compared only where a player is the same in all samples of both.

    Args:
        test: the measurement of the probe's samples.
        train: that of training samples.
        probe: the samples of the former, and their players.
        samples: those of the latter.
    """
    own, others = ((each.and_[each.valid], each.or_[each.valid]) for each in (train, test))
    numbers = {"train_strength": order_strength(*own, test.tau).mean(0), "train_effect": order_effects(*own).mean(0)}
    classes = _classes(samples[0], train), _classes(probe[0], test)
    labels = [players.labels for _, players in (probe, samples)]
    same = all(each.shape[1:] == labels[0].shape[1:] and bool((each == labels[0][:1]).all()) for each in labels)
    if same and torch.isin(*classes).any():
        numbers["similarity"] = order_similarity(own, others, classes)
    return {name: tuple(values.tolist()) for name, values in numbers.items()}


def _classes(probe: Probe, measurement: Measurement) -> Tensor:
    targets = probe.targets
    # Targets that are no classes, of one sample each, make one group.
    if targets is None or targets.ndim != 1 or targets.is_floating_point():
        return torch.zeros(int(measurement.valid.sum()), dtype=torch.int64)
    return targets.cpu()[measurement.valid]
