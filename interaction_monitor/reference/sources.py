"""What may be a reference, what is kept of it, and refusing by name what is none: of other players or samples, say."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interaction_monitor._checks import describe, refusing
from interaction_monitor.comparison import Measured, require_comparable
from interaction_monitor.forward.model import call_model, device_of, eager_if_compiled, logits_of
from interaction_monitor.functional.generalizing import Reference
from interaction_monitor.measurement import Measurement
from interaction_monitor.outputs import OUTPUTS
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe
from interaction_monitor.record import Record, RecordError
from interaction_monitor.record.files import TRAINING, is_record
from interaction_monitor.reference.twins import Twins
from interaction_monitor.settings import Settings
from interaction_monitor.state import evaluating, preserved_rng, silent, undisturbed, uninitialized


@dataclass(frozen=True, eq=False)
class Salient:
    """Which interactions of a network are salient on S probe samples of n players, and their signs."""

    name: str  # what the network is called where it is told of
    and_: Tensor  # (S, 2^n) int8: 1 or -1 where an AND interaction is salient, else 0
    or_: Tensor  # (S, 2^n) int8
    valid: Tensor  # (S,) bool, False where the network had an output that is not finite
    ends: Tensor  # (S, 2) float64, v(x_∅) and v(x), by which the same network is known again
    tau: float  # the threshold from which its interactions are salient

    @classmethod
    def of(cls, measurement: Measurement, name: str) -> Salient:
        """Keep what is salient in a measurement.

        Examples:
            >>> from interaction_monitor import interpret
            >>> v = torch.tensor([[0.0, 1.0, 1.0, -5.0]])  # two players: 1 each, and -7 more together
            >>> Salient.of(interpret(v, interactions="and"), "earlier").and_.tolist()
            [[0, 1, 1, -1]]
        """

        def signs(kind: Tensor) -> Tensor:
            found = torch.where(kind.abs() >= measurement.tau, kind.sign(), 0).to(torch.int8)
            found[:, 0] = 0
            return found

        ends = measurement.v[:, [0, -1]]
        return cls(name, signs(measurement.and_), signs(measurement.or_), measurement.valid, ends, measurement.tau)

    def as_reference(self) -> Reference:
        """Return it as `functional.generalizing_strength` takes references."""
        unknown = ~self.valid[:, None]
        and_, or_ = (kind.double().masked_fill(unknown, torch.nan) for kind in (self.and_, self.or_))
        return and_, or_, 0.5

    def is_of(self, measurement: Measurement) -> bool:
        """Tell whether a measurement is of the same network: of the very outputs, as far as rounding lets them be."""
        both = self.valid & measurement.valid
        here, there = measurement.v[both][:, [0, -1]], self.ends[both]
        return len(here) > 0 and torch.allclose(here, there, rtol=1e-6, atol=1e-6)

    def to_primitives(self) -> dict[str, Any]:
        """Return it as plain values and tensors, as a checkpoint holds them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_primitives(cls, state: Mapping[str, Any]) -> Salient:
        """Read what `to_primitives` gave.

        Raises:
            ValueError: if a part is missing.
        """
        if missing := [field.name for field in fields(cls) if field.name not in state]:
            raise ValueError(f"a reference in the checkpoint lacks {', '.join(missing)}")
        return cls(**{field.name: state[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class Checkpoint:
    """A trained network that is made when it is measured, and not kept.

    Args:
        factory: makes the network from the path: (path) -> module, on the device where it is to run, for example a
            Lightning module's `load_from_checkpoint`.
        path: of the file with its weights.

    Examples:
        >>> Checkpoint(torch.load, "other.pt").path
        'other.pt'
    """

    factory: Callable[[Any], nn.Module]
    path: str | Path


Source = str | Path | Record | nn.Module | Checkpoint
Given = Source | Sequence[Source] | Twins
Measure = Callable[[nn.Module], Measurement]


@dataclass(frozen=True)
class Run:
    """What a reference must have in common with the run beside which it is laid, and what it must not have."""

    model: nn.Module
    probe: Probe
    players: PlayerMap
    settings: Settings
    train: Probe | None  # training samples that are measured too
    folder: Path | None  # of its own record, where there is one


def sources_of(reference: Given) -> tuple[Source | Twins, ...]:
    """Return one or several sources as a tuple, or the twins alone.

    Raises:
        TypeError: if one is of another kind.
        ValueError: if there is none, or a folder or file does not exist.
    """
    given = listed(reference)
    if not given:
        raise ValueError(f"reference={reference!r}: give at least one, or None")
    for source in given:
        if (instead := refusal(source, alone=len(given) == 1)) is not None:
            kind = ValueError if isinstance(source, (str, Path, Checkpoint)) else TypeError
            shown = repr(source) if isinstance(source, (str, Path)) else describe(source)
            raise kind(f"reference={shown}: give {instead}")
    return given


def refusal(source: object, *, alone: bool) -> str | None:
    """Say what to give instead of a source that is none, or cannot stand beside others; None where it is one."""
    if isinstance(source, Twins):
        return None if alone else "Twins alone, or the others alone: what counts as held differs"
    if isinstance(source, type) and issubclass(source, nn.Module):
        return f"a network and not its class, or Twins({source.__name__})"
    if not isinstance(source, (str, Path, Record, nn.Module, Checkpoint)):
        return (
            "the folder of a record, a record, a network, or Checkpoint(factory, path) of "
            "interaction_monitor.reference; or several of these, or Twins(factory)"
        )
    path = source.path if isinstance(source, Checkpoint) else source if isinstance(source, (str, Path)) else None
    if path is not None and not Path(path).exists():
        return f"a folder or file that exists, unlike {path}"
    return None


def names_of(reference: Given | None) -> list[str] | None:
    """Name the sources, to be recorded and compared on resuming, and open none, which may be gone by then."""
    return None if reference is None else [described(source) for source in listed(reference)]


def listed(reference: Given) -> tuple[Source | Twins, ...]:
    """Return one or several sources as a tuple, whatever they are."""
    return tuple(reference) if isinstance(reference, Sequence) and not isinstance(reference, str) else (reference,)


def described(source: Source | Twins) -> str:
    """Name a source, the same in every process and wherever its folder lies.

    Examples:
        >>> described("lightning_logs/version_3/interactions"), described(nn.ReLU())
        ('record version_3/interactions', 'network ReLU')
    """
    if isinstance(source, (str, Path)):
        return f"record {'/'.join(Path(source).parts[-2:])}"
    if isinstance(source, Record):
        return described(source.folder)
    if isinstance(source, Twins):
        return f"twins, of which {source.at_least} must have an interaction"
    if isinstance(source, Checkpoint):
        return f"checkpoint {Path(source.path).name}"
    return f"network {type(source).__name__}"


def from_record(source: str | Path | Record, run: Run) -> tuple[Salient, Salient]:
    """Take a run's best network, that with the lowest test loss or the last where none is known, and its first.

    Raises:
        ValueError: if the record is of another probe, other players, another output, or of the run itself, or cannot be
            read.
    """
    try:
        return _taken(source if isinstance(source, Record) else Record.open(source), run)
    except RecordError as error:
        raise ValueError(f"reference={str(source)!r} cannot be read: {error}") from error


def _taken(record: Record, run: Run) -> tuple[Salient, Salient]:
    name = f"reference {record.folder}"
    if run.folder is not None and record.folder.resolve() == run.folder.resolve():
        raise ValueError(f"{name} is the record of this very run; give that of another one")
    if not len(record.history):
        raise ValueError(f"{name} holds no measurement")
    probe, output = run.probe.to("cpu"), record.settings.get("output")
    ours = Measured("this run", run.players.to("cpu"), probe.inputs, probe.targets, run.settings.output)
    # Records of plain loops hold what their author chose.
    theirs = output if output in OUTPUTS else run.settings.output
    require_comparable([ours, Measured(name, record.players, record.probe_inputs, record.probe_targets, theirs)])
    for setting, here in (("interactions", run.settings.interactions), ("thresholds", vars(run.settings.thresholds))):
        there = record.settings.get(setting, here)
        if there != here:
            raise ValueError(f"{name} was measured with {setting}={there!r}, but this run has {setting}={here!r}")
    _warn_of_shared_samples(record, name, run)
    known = [(row.test_loss, index) for index, row in enumerate(record.history) if row.test_loss is not None]
    best = min(known)[1] if known else len(record.history) - 1
    name = described(record)
    found, start = record.measurements[best], record.measurements[0]
    return Salient.of(found, f"{name}, epoch {record.history[best].epoch}"), Salient.of(start, name)


def from_network(source: nn.Module | Checkpoint, run: Run, measure: Measure) -> Salient:
    """Measure a network, which a checkpoint makes first, as the run's is measured.

    Raises:
        ValueError: if it cannot be made, is none, shares weights with the network that is trained, or does not fit.
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


def with_shapes(network: nn.Module, run: Run, *, seed: int) -> None:
    """Call a network that is lazily made once, so that its weights are drawn; others stay as they are."""
    if uninitialized(network):
        with preserved_rng(seed), torch.no_grad(), silent(network), evaluating(network):
            _outputs(network, run)


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


def _warn_of_shared_samples(record: Record, name: str, run: Run) -> None:
    """Warn where it can be seen that the reference learnt from samples that it should not have seen."""
    folder = record.folder / TRAINING
    if not is_record(folder):
        return
    kept = Record.open(folder)
    theirs = _digests(kept.probe_inputs)
    for samples, of in ((run.train, "of this run's training samples"), (run.probe, "of the probe's samples")):
        if samples is not None and (shared := len(theirs & _digests(samples.to("cpu").inputs))):
            warnings.warn(
                f"{name} was trained on {shared} {of}, as far as can be seen: what it has learnt by heart counts as "
                "generalizing. Give a reference that was trained on other samples",
                stacklevel=2,
            )


def _digests(inputs: Tensor | Mapping[str, Tensor]) -> set[bytes]:
    tensors = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
    rows = zip(*tensors, strict=True)
    return {b"".join(part.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for part in row) for row in rows}
