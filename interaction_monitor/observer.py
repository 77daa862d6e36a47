"""Measuring one model again and again on the same samples, and remembering what came out.

`InteractionMonitor` does this inside a Lightning run; a plain training loop uses the `Observer` itself.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interaction_monitor._checks import describe
from interaction_monitor._split import is_split
from interaction_monitor.distributed import Ranks
from interaction_monitor.forward.all_coalitions import outputs_of
from interaction_monitor.forward.precision import rounding
from interaction_monitor.history import History, Row
from interaction_monitor.history.summary import from_before, from_training, summarise
from interaction_monitor.losses import TrainingSamples, evaluated_loss
from interaction_monitor.measurement import Measurement, interpret_by, rounding_warning
from interaction_monitor.outputs import Output
from interaction_monitor.phases import PhaseTracker
from interaction_monitor.players.base import PlayerMap, require_drawn
from interaction_monitor.probe import Probe
from interaction_monitor.record import Record
from interaction_monitor.record.new_record import NewRecord
from interaction_monitor.reference.references import References
from interaction_monitor.reference.sources import Given, Run
from interaction_monitor.reference.twins import TwinTraining
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

LossPair = tuple[float | None, float | None]  # of training, of test


class Observer:
    """Watch a model: the same probe, players and thresholds at each measurement, and a history of what was seen.

    Args:
        probe: the samples, the same at every measurement.
        players: their input variables, from `assign_players`.
        output: the scalar output, by name or as a function of (logits, targets).
        forward_func: how the model is called, (model, inputs) -> logits; None calls `model(inputs)`.
        interactions: "and-or" or "and".
        thresholds: which interactions count; None means the papers' values.
        forward_context: makes a context for each forward, for example an autocast.
        tracker: names the phase and finds the onset; None means a `PhaseTracker` with its defaults.
        record: where each measurement is kept: a record, or a folder in which one is made at the first measurement. A
            folder that exists stays as it is, and a number is put behind the name of the new one. None keeps only the
            history in memory.
        ranks: the processes that measure together, each its share of the samples; then all of them must call
            `observe`. None means that this process measures alone.
        train: training samples and their players, measured as well to see what carries over from them; this
            takes as long again for each of them. None leaves them out.
        train_samples: training samples, with the labels as trained on, whose loss is laid beside the probe's at each
            measurement, both in evaluation mode; None takes those of `train`.
        reference: other networks for the same task, trained on other samples, to see which part of the strength they
            have too: the folder of another run's record over the same probe and players, or the record; a trained
            network; a `reference.Checkpoint`; or several of these. They are measured once, by the first `observe`. Or
            `reference.Twins`, which your loop trains by `observer.twins.step(batch)`.

    Raises:
        TypeError: if the probe, the players, the thresholds or a reference are of another kind.
        ValueError: if the interactions are, or a reference does not exist.

    Example:
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
        self.train_samples = TrainingSamples(len(probe))
        self.train_samples.probe = train_samples or (None if train is None else train[0])
        self.references = References.of(reference)
        self.history = History()
        self.last: Measurement | None = None
        self._warned_of_rounding = False

    def observe(
        self,
        model: nn.Module,
        *,
        epoch: int,
        step: int,
        train_loss: float | None = None,
        test_loss: float | None = None,
        forward_context: ForwardContext | None = None,
    ) -> Row:
        """Measure the model once, advance the phase and keep the result.

        Args:
            model: the module to measure.
            epoch: completed epochs, 0 before training.
            step: training step, never falling from one measurement to the next.
            train_loss: mean loss on the training samples, where known.
            test_loss: mean loss on the test samples, where known.
            forward_context: as in the constructor, whose counts if this is None.

        Returns:
            The measurement as one row of scalars; the whole of it is in `last`.

        Raises:
            NoValidSamplesError: if no probe sample has finite outputs; nothing is kept then.
            ValueError: if a reference does not fit the run; nothing is kept then.
            OSError: if the record cannot be written; history and phase hold the measurement all the same.
        """
        row = self.measure(
            model, epoch=epoch, step=step, train_loss=train_loss, test_loss=test_loss, forward_context=forward_context
        )
        self.write_record()
        return row

    def measure(
        self,
        model: nn.Module,
        *,
        epoch: int,
        step: int,
        train_loss: float | None = None,
        test_loss: float | None = None,
        forward_context: ForwardContext | None = None,
    ) -> Row:
        """Do as `observe`, but leave writing the record to `write_record`."""
        settings = self._settings(forward_context)
        self.measure_references(model, forward_context=forward_context)
        measurement = self._measure(model, self.probe, self.players, settings)
        measurement = self._with_rounding(measurement, model, settings)
        if self.references is not None:
            measure = self._measuring(settings)
            measurement = self.references.compare(measurement, measure, first=not len(self.history))
        train = None if self.train is None else self._measure(model, *self.train, settings)
        evaluated = self._evaluated(model, settings)
        losses = self._compared_losses((train_loss, test_loss), evaluated)
        state = self.tracker.update(
            epoch=epoch, step=step, strength=measurement.strength, train_loss=losses[0], test_loss=losses[1]
        )
        row = summarise(measurement, state, epoch=epoch, step=step, train_loss=train_loss, test_loss=test_loss)
        row = replace(row, evaluated_train_loss=evaluated[0], evaluated_test_loss=evaluated[1])
        row = replace(row, **from_before(self._before(), measurement))
        if self.references is not None:
            row = replace(row, **self.references.update(measurement, epoch=epoch, step=step))
        if train is not None and self.train is not None:
            probes, maps = (self.probe, self.train[0]), (self.players, self.train[1])
            row = replace(row, seconds=row.seconds + train.seconds, **from_training(measurement, train, probes, maps))
        # Losses, times and last bits may differ between processes, and what follows from them must not.
        row = self.ranks.of_first(row)
        self.history.append(row)
        self.last = measurement
        self._warn_of_rounding(measurement, row)
        return row

    def _evaluated(self, model: nn.Module, settings: Settings) -> LossPair:
        """Return both losses of the network as it is, on all processes alike."""
        if self.train_samples.probe is None or is_split(model):
            return None, None
        found: LossPair = (None, None)
        if self.ranks.rank == 0:
            with suppress(Exception):  # it is told beside the interactions, which say what fails
                train, probe = self.train_samples.probe, self.probe
                found = evaluated_loss(model, train, settings), evaluated_loss(model, probe, settings)
        return self.ranks.of_first(found)

    def _compared_losses(self, logged: LossPair, evaluated: LossPair) -> LossPair:
        """Return the losses between which the gap opens: the evaluated ones in runs that log none from the start."""
        row = self.history[1] if len(self.history) > 1 else None
        known = None not in logged if row is None else row.loss_gap is not None
        return logged if known or not len(self.history) else evaluated

    def measure_references(self, model: nn.Module, *, forward_context: ForwardContext | None = None) -> None:
        """Measure the references, if there are any that have not been measured; `measure` does it too.

        Args:
            model: the network that is watched, which must be another one.
            forward_context: as in `observe`.

        Raises:
            ValueError: if a reference does not fit the run, or cannot be measured.
        """
        if self.references is None or self.references.measured is not None:
            return
        settings = self._settings(forward_context)
        self.references.prepare(self._run(model, settings), self._measuring(settings), self.ranks)

    @property
    def twins(self) -> TwinTraining:
        """The twins that are trained in step with the run, where `reference=Twins(...)` is given.

        Raises:
            ValueError: if there are none.
        """
        if self.references is None or self.references.twins is None:
            raise ValueError("this observer has no twins; give reference=Twins(factory, loss=..., optimizer=...)")
        return self.references.twins

    def _measuring(self, settings: Settings) -> Callable[[nn.Module], Measurement]:
        return lambda network: self._measure(network, self.probe, self.players, settings)

    def _run(self, model: nn.Module, settings: Settings) -> Run:
        return Run(
            model=model,
            probe=self.probe,
            players=self.players,
            settings=settings,
            train=None if self.train is None else self.train[0],
            folder=None if self.record is None else self.record.folder,
        )

    def _settings(self, forward_context: ForwardContext | None) -> Settings:
        return replace(self.settings, forward_context=forward_context or self.settings.forward_context)

    def write_record(self) -> None:
        """Write the last measurement to the record, if there is one."""
        if self.record is None and self.new_record is not None and self.last is not None:
            self.record = self.new_record.make(self.probe, self.players, self.train)
        if self.record is not None and self.last is not None:
            self.record.write(self.last, self.history[-1])
            if self.references is not None:
                self.references.write(self.record.folder)

    def _before(self) -> Measurement | None:
        """Return the measurement before this one; a resumed run has it in its record alone."""
        if self.last is None and self.record is not None and len(self.record.history):
            return self.record.measurements[-1]
        return self.last

    def _measure(self, model: nn.Module, probe: Probe, players: PlayerMap, settings: Settings) -> Measurement:
        started = time.perf_counter()
        # Of a split model the processes run each its share, and join them, where they exchange the model's parts.
        ranks = Ranks() if is_split(model) else self.ranks
        with self.ranks.same_buffers(model), self.ranks.together():
            v = self._outputs(model, probe, players, ranks.share_of(len(probe)), settings)
        v = ranks.join_samples(v)
        forward_seconds = time.perf_counter() - started
        with self.ranks.together():
            measurement = interpret_by(v, settings)
        return replace(measurement, forward_seconds=forward_seconds)

    def _with_rounding(self, measurement: Measurement, model: nn.Module, settings: Settings) -> Measurement:
        """Add how large the rounding in the model is; the first process tells the others by its row."""
        if self.ranks.rank != 0:
            return measurement
        started = time.perf_counter()
        sigma = rounding(model, self.probe, self.players, measurement.v, settings)
        seconds = measurement.forward_seconds + time.perf_counter() - started
        return replace(measurement, rounding=sigma, forward_seconds=seconds)

    def _warn_of_rounding(self, measurement: Measurement, row: Row) -> None:
        # An untrained network hardly tells inputs apart, and any coarse rounding is large beside so little.
        if self._warned_of_rounding or self.ranks.rank != 0 or row.step == 0:
            return
        text = rounding_warning(measurement, self.settings)
        if text is not None:
            self._warned_of_rounding = True
            warnings.warn(f"interaction monitor, epoch {row.epoch}: {text}", stacklevel=4)

    def take_over(self, row: Row, strength: Tensor, generalizing: Tensor | None = None) -> None:
        """Take over a measurement that another process made of the same network, samples and players.

        Args:
            row: it, as scalars; it comes after all that is in the history.
            strength: (S, n) its strength per sample and order.
            generalizing: (S, n) the part of it that a reference has too, where that was measured.
        """
        if self.references is not None and generalizing is not None:
            self.references.advance(generalizing, strength, epoch=row.epoch, step=row.step)
        self.tracker.update(
            epoch=row.epoch, step=row.step, strength=strength, train_loss=row.train_loss, test_loss=row.test_loss
        )
        self.history.append(row)

    def _outputs(self, model: nn.Module, probe: Probe, players: PlayerMap, share: range, settings: Settings) -> Tensor:
        if not share:
            return torch.empty(0, 1 << players.n_players, dtype=torch.float64)
        whole = len(share) == len(probe)
        if not whole:
            probe, players = probe.select(share), players.select(share)
        return outputs_of(model, probe, players, settings)

    def state_dict(self) -> dict[str, Any]:
        """Return the history, the phase and the players as plain values and tensors, as a checkpoint holds them."""
        return {
            "history": self.history.to_primitives(),
            "tracker": self.tracker.state_dict(),
            "labels": self.players.labels,
            "baseline": self.players.baseline,
            "train_samples": self.train_samples.state_dict(),
            "references": None if self.references is None else self.references.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken, with the players of that time.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: if the players of that time do not fit the probe of today.
        """
        n_before = int(state["labels"].max()) + 1
        if n_before != self.players.n_players:
            raise ValueError(
                f"the checkpoint was measured with n_players={n_before}, but this run has "
                f"n_players={self.players.n_players}; resume with {n_before}, or without the callback's state"
            )
        if len(state["labels"]) != len(self.players):
            raise ValueError(
                f"the checkpoint was measured on {len(state['labels'])} samples, but this run's probe has "
                f"{len(self.players)}; resume with the same samples, or without the callback's state"
            )
        if state["labels"].shape != self.players.labels.shape:
            raise ValueError(
                f"the checkpoint's players have shape {tuple(state['labels'].shape)}, but the probe and layer of this "
                f"run need {tuple(self.players.labels.shape)}; resume with the same data and layer"
            )
        # A baseline that is computed from the network is that of the network at the start.
        baseline = state.get("baseline", self.players.baseline)
        if isinstance(self.players.baseline, Tensor):
            fits = isinstance(baseline, Tensor) and baseline.shape == self.players.baseline.shape
        else:
            fits = isinstance(baseline, (int, float)) and abs(baseline) <= torch.finfo(torch.float32).max
        if not fits:
            raise ValueError("the checkpoint's baseline is of another kind or shape; resume with the same players")
        self.train_samples.load_state_dict(state.get("train_samples", {}))
        if self.references is not None and state.get("references") is not None:
            self.references.load_state_dict(state["references"])
        self.history = History.from_primitives(state["history"])
        self.tracker.load_state_dict(state["tracker"])
        self.players = replace(self.players, labels=state["labels"], baseline=baseline)
