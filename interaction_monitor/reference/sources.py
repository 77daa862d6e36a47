"""What may be a reference, what is kept of it, and refusing by name what cannot: of other players or samples, say."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from interaction_monitor._checks import describe, refusing
from interaction_monitor.comparison import Measured, require_comparable
from interaction_monitor.functional.generalizing import Reference
from interaction_monitor.measurement import Measurement
from interaction_monitor.outputs import OUTPUTS
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe
from interaction_monitor.record import Record, RecordError
from interaction_monitor.record.files import TRAINING, is_record
from interaction_monitor.settings import Settings
from interaction_monitor.state import preserved_rng


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


Loss = Callable[[nn.Module, Any], "Tensor | None"]


@dataclass(frozen=True)
class Twins:
    """Two networks like the run's, trained in step with it, each on a fixed half of its training samples.

    They take the place of finished references where there are none, and need no sample and no label beyond the training
    set. With them training takes about 2.3 times as long, since each learns from half of a batch and is
    shown the other half, up to 3 times for small networks; a measurement takes 3 times as long.

    By default an interaction counts only if both have it: each sample is known to one of the twins at most, so what
    both have cannot be learnt by heart from single samples. On a LeNet with 20% wrong labels this share sank from 0.69
    to 0.30, while the share that one of them has sank from 0.90 to 0.72.

    Args:
        factory: makes a network of the run's kind, untrained: a Lightning module's class, for example.
        loss: (network, batch) -> loss, for a training loop of one's own; None takes the Lightning module's own
            `training_step`, or the loss of the transformers Trainer (of its model where `compute_loss` is overridden).
        optimizer: network -> optimizer, likewise; None takes the module's own `configure_optimizers`, or an optimizer
            of the run's kind.
        at_least: how many of the two must have an interaction: 2, or 1.
        seed: decides their weights and what they draw.

    Raises:
        TypeError: if factory, loss or optimizer cannot be called.
        ValueError: if `at_least` is neither 1 nor 2.

    Examples:
        >>> Twins(lambda: nn.Linear(4, 2)).at_least
        2
    """

    factory: Callable[[], nn.Module]
    loss: Loss | None = None
    optimizer: Callable[[nn.Module], Optimizer] | None = None
    at_least: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("factory", "loss", "optimizer"):
            value = getattr(self, name)
            if isinstance(value, nn.Module) or not (callable(value) or (value is None and name != "factory")):
                shown = type(value).__name__ if isinstance(value, nn.Module) else repr(value)
                raise TypeError(f"Twins({name}={shown}): give a function")
        if self.at_least not in (1, 2):
            raise ValueError(f"Twins(at_least={self.at_least!r}): give 2 or 1")

    def networks(self) -> list[nn.Module]:
        """Make both networks; the random states stay as they are."""
        made, fix = [], "give a function without arguments that makes an untrained network, lambda: MyModule(...) say"
        for number in range(2):
            with preserved_rng(self.seed + number + 1), refusing("Twins(factory=...)", fix):
                made.append(self.factory())
        if not all(isinstance(network, nn.Module) for network in made):
            raise TypeError(f"Twins(factory=...) must return a network, but returned {describe(made[0])}")
        if made[0] is made[1]:
            raise ValueError("Twins(factory=...) returned the same network twice; let it make a new one each time")
        return made


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
    """Say what to give instead of what is no source, or cannot stand beside others; None where it is one that can."""
    if isinstance(source, Twins):
        return None if alone else "Twins alone, or the others alone: what counts as generalizing differs"
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
