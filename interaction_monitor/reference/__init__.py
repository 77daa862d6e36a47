"""References: other networks for the same task, beside which a run shows which part of it will hold on new samples."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interaction_monitor._checks import describe, refusing
from interaction_monitor.distributed import Ranks
from interaction_monitor.forward.model import call_model, device_of, eager_if_compiled, logits_of
from interaction_monitor.functional import generalizing_share, order_strength
from interaction_monitor.functional.generalizing import held_interactions
from interaction_monitor.measurement import Measurement, NoValidSamplesError
from interaction_monitor.phases import OverfittingState, OverfittingTracker
from interaction_monitor.record.encoding import pack_reference, read_reference
from interaction_monitor.record.files import REFERENCES, RecordError, reference_path, write_arrays
from interaction_monitor.reference.sources import (
    Checkpoint,
    Given,
    Measure,
    Run,
    Salient,
    Source,
    Twins,
    described,
    from_record,
    sources_of,
)
from interaction_monitor.reference.twins import TwinTraining
from interaction_monitor.state import evaluating, preserved_rng, silent, undisturbed, uninitialized

__all__ = ["Checkpoint", "References", "Salient", "TwinTraining", "Twins"]

_SAME_START = (
    "Twins(factory=...) makes networks with the very weights of this run: at the start all that it encodes "
    "generalizes, and the share falls from there whatever is learnt. Let the factory make new ones, lambda: "
    "MyModule(...) say; where all are to begin there, as pre-trained networks do, do not count the first measurements"
)
_SAME_SCRIPT = (
    "began from the very weights from which this run begins. If it was trained on the same samples too, as the same "
    "script is, what it has learnt by heart counts as generalizing. Give a reference that was trained on other "
    "samples, or Twins(factory)"
)
_DIVERGED = (
    "a twin has no finite output any more, so what generalizes is not known from here on; a lower learning rate or "
    "gradient clipping may keep it, as twins learn from half of each batch"
)


class References:
    """Other networks for the run's task, and which part of what it encodes they encode too.

    Args:
        reference: one or several of: the folder of another run's record, or the record; a trained network; a
            `Checkpoint`. All over the same probe and players. Or `Twins`, which are trained in step.

    Attributes:
        sources: what was given.
        asked_twins: the twins that were given; None where other references were.
        twins: the training of the twins, where they are given and it has begun.
        measured: what is salient in each; None until they are measured. Twins are measured again and again.
        tracker: finds from when the generalizing share sinks.

    Raises:
        TypeError: if a source is of another kind.
        ValueError: if there is none, or a folder or file does not exist.
    """

    def __init__(self, reference: Given) -> None:
        self.sources = sources_of(reference)
        self.asked_twins = self.sources[0] if isinstance(self.sources[0], Twins) else None
        self.measured: tuple[Salient, ...] | None = None
        self.tracker = OverfittingTracker()
        self.twins: TwinTraining | None = None
        self._starts: list[Salient] = []  # of records
        self._told = False  # that a twin has diverged
        self._waiting: Mapping[str, Any] | None = None  # the state of twins that are not made yet
        given = self.asked_twins
        if given is not None and given.loss is not None and given.optimizer is not None:
            networks, optimizer = given.networks(), given.optimizer
            self.begin(TwinTraining(networks, [[optimizer(each)] for each in networks], given.loss, seed=given.seed))

    def begin(self, training: TwinTraining) -> None:
        """Take the twins that are trained from now on, and go on where a checkpoint left them."""
        self.twins = training
        if self._waiting is not None:
            training.load_state_dict(self._waiting)
            self._waiting = None

    def prepare(self, run: Run, measure: Measure, ranks: Ranks) -> None:
        """Measure the references as the run's network is measured, unless that has been done; rank zero reads records.

        Raises:
            ValueError: if one does not fit the run, or is the run itself.
        """
        if self.measured is not None:
            return
        if self.asked_twins is not None:
            if self.twins is None:
                raise ValueError("Twins(loss=None, optimizer=None): a training loop of your own must give both")
            for number, network in enumerate(self.twins.networks, start=1):
                if uninitialized(network):  # one call draws the weights of what is made lazily
                    with preserved_rng(self.twins.seed + number), torch.no_grad(), silent(network), evaluating(network):
                        _outputs(network, run)
                require_fitting(network, run, name=f"Twins({type(network).__name__})")
            self.measured = ()
            return
        self.measured = ranks.from_first(partial(self._read, run))
        if self.measured is None:
            self.measured = tuple(self._measured(source, run, measure, ranks) for source in self.sources)

    def _measured(self, source: Source | Twins, run: Run, measure: Measure, ranks: Ranks) -> Salient:
        assert not isinstance(source, Twins)
        if isinstance(source, (Checkpoint, nn.Module)):
            return from_network(source, run, measure)
        best, start = ranks.from_first(partial(from_record, source, run))
        self._starts.append(start)
        return best

    def write(self, folder: Path) -> None:
        """Put the references into the folder of a record, unless they are there.

        Raises:
            OSError: if the folder cannot be written.
        """
        if self.asked_twins is not None or not self.measured or (folder / REFERENCES).exists():
            return
        (folder / REFERENCES).mkdir()
        for number, (reference, source) in enumerate(zip(self.measured, self.sources, strict=True), start=1):
            values = reference.to_primitives() | {"name": described(source)}
            write_arrays(reference_path(folder, number), pack_reference(values))

    def _read(self, run: Run) -> tuple[Salient, ...] | None:
        """Read the references from the record of a run; None where there are none, others, or damaged ones."""
        if run.folder is None:
            return None
        found = []
        for number, name in enumerate(map(described, self.sources), start=1):
            path = reference_path(run.folder, number)
            try:
                found.append(Salient(**read_reference(path, name, len(run.probe), run.players.n_players)))
            except RecordError:
                return None
        return None if reference_path(run.folder, len(found) + 1).exists() else tuple(found)

    def compare(self, measurement: Measurement, measure: Measure, *, first: bool) -> Measurement:
        """Add to a measurement of the run which part of its strength the references have too.

        Raises:
            ValueError: if a reference has the very outputs of the first measurement.
        """
        assert self.measured is not None
        for reference in self.measured if first else ():
            if reference.is_of(measurement):
                raise ValueError(
                    f"reference {reference.name} has the very outputs of the network that is about to be trained, so "
                    "it has the same weights; give one that was trained on other samples"
                )
        for start in self._starts if first else ():
            if start.is_of(measurement):  # mostly the same script, on the same training samples
                warnings.warn(f"reference {start.name} {_SAME_SCRIPT}", stacklevel=2)
        started, present = time.perf_counter(), self._present(measure)
        if not present:
            return measurement
        if first and self.twins is not None and any(each.is_of(measurement) for each in present):
            warnings.warn(_SAME_START, stacklevel=2)
        references = [each.as_reference() for each in present]
        at_least = 1 if self.asked_twins is None else self.asked_twins.at_least
        and_, or_ = held_interactions(measurement.and_, measurement.or_, references, at_least=at_least)
        assert or_ is not None
        strength, held = order_strength(and_, or_, measurement.tau), torch.stack((and_, or_), 1).nan_to_num(0) != 0
        seconds = measurement.forward_seconds + time.perf_counter() - started
        return replace(measurement, generalizing=strength, held=held, forward_seconds=seconds)

    def _present(self, measure: Measure) -> Sequence[Salient]:
        """Return what the references have now; nothing where the twins are no use any more."""
        if self.twins is None:
            return self.measured or ()
        if self.twins.failure is not None:
            return ()
        try:
            return [Salient.of(measure(network), "twin") for network in self.twins.networks]
        except NoValidSamplesError:
            if not self._told:
                warnings.warn(_DIVERGED, stacklevel=2)
            self._told = True
            return ()

    def update(self, measurement: Measurement, *, epoch: int, step: int) -> dict[str, Any]:
        """Take in a measurement with its generalizing strength, and return the fields of a row that follow from it."""
        generalizing, strength = measurement.generalizing, measurement.strength
        if generalizing is None:
            return {}
        unseen = None if self.twins is None else self.twins.unseen_loss()
        state = self.advance(generalizing, strength, epoch=epoch, step=step, unseen=unseen)
        valid = generalizing.isfinite().all(-1) & strength.isfinite().all(-1)
        share = generalizing_share(generalizing, strength)
        shares = {"generalizing_share": share.share, "generalizing_low": share.low, "generalizing_high": share.high}
        return {
            **{name: None if value != value else value for name, value in shares.items()},
            "generalizing": tuple(generalizing[valid].mean(0).tolist()) if valid.any() else (),
            "overfitting_epoch": state.onset_epoch,
            "overfitting_detected_epoch": state.detected_epoch,
            "overfitting_step": state.onset_step,
            "overfitting_detected_step": state.detected_step,
            "unseen_loss": unseen,
        }

    def advance(
        self, generalizing: Tensor, strength: Tensor, *, epoch: int, step: int, unseen: float | None = None
    ) -> OverfittingState:
        """Let the tracker see a measurement: (S, n) its generalizing strength, and all of it; and the twins' loss."""
        if self.twins is not None:
            self.twins.forget_unseen()
        return self.tracker.update(
            epoch=epoch,
            step=step,
            generalizing=generalizing.sum(-1),
            strength=strength.sum(-1),
            unseen_loss=unseen,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain values and tensors."""
        return {
            "measured": None if self.measured is None else [each.to_primitives() for each in self.measured],
            "tracker": self.tracker.state_dict(),
            "twins": self._waiting if self.twins is None else self.twins.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave: nothing is measured again.

        Raises:
            ValueError: if a part is missing.
        """
        measured = state["measured"]
        self.measured = None if measured is None else tuple(map(Salient.from_primitives, measured))
        self.tracker.load_state_dict(state["tracker"])
        self._waiting = state.get("twins")
        if self.twins is not None:
            self.begin(self.twins)


def from_network(source: nn.Module | Checkpoint, run: Run, measure: Measure) -> Salient:
    """Measure a network, which a checkpoint makes first, as the run's is measured.

    Raises:
        ValueError: if it cannot be made, is no network, shares weights with the one that is trained, or does not fit.
    """
    name = f"reference={described(source)}"
    network: Any = source
    if isinstance(source, Checkpoint):
        fix = "let it make a network and load the weights into it: MyModule.load_from_checkpoint of Lightning, say"
        with refusing(f"{name}: its factory", fix):
            network = source.factory(source.path)
        if not isinstance(network, nn.Module):
            raise ValueError(f"{name}: its factory returned {describe(network)}; {fix}")
    require_fitting(network, run, name=described(source))
    try:
        return Salient.of(measure(network), described(source))
    except Exception as error:
        raise ValueError(f"{name} cannot be measured: {type(error).__name__}: {error}") from error


def require_fitting(network: nn.Module, run: Run, *, name: str) -> None:
    """Refuse a network that shares weights with the one that is trained, or has another number of outputs."""
    mine = {id(parameter) for parameter in run.model.parameters()}
    if network is run.model or any(id(parameter) in mine for parameter in network.parameters()):
        raise ValueError(f"reference={name} holds the very weights that are trained; give another network")
    here = _n_outputs(run.model, run)
    fix = "give one that is called as the run's network is, in its precision"
    with refusing(f"reference={name} on the probe", fix):
        there = _n_outputs(network, run)
    if here != there:
        raise ValueError(
            f"reference={name} has {there} outputs, but the network that is trained has {here}; give one for the same "
            "task"
        )


def _outputs(network: nn.Module, run: Run) -> Tensor:
    sample = run.probe.select([0])
    sample = sample.to(device_of(network, sample.inputs))
    with eager_if_compiled(network):
        return logits_of((run.settings.forward_func or call_model)(network, sample.inputs), 1)


def _n_outputs(network: nn.Module, run: Run) -> int:
    with undisturbed(network):
        logits = _outputs(network, run)
    return logits.shape[-1] if logits.ndim > 1 else 1
