"""What may be a reference, and refusing by name what is none: of other players or samples, or the run itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interaction_monitor._checks import describe, refusing
from interaction_monitor.comparison import Measured, require_comparable
from interaction_monitor.forward.model import call_model, device_of, eager_if_compiled, logits_of
from interaction_monitor.history import History
from interaction_monitor.measurement import Measurement
from interaction_monitor.outputs import OUTPUTS
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe
from interaction_monitor.record import Record, RecordError
from interaction_monitor.record.files import TRAINING, is_record
from interaction_monitor.reference.salient import Salient
from interaction_monitor.reference.twins import Twins
from interaction_monitor.settings import Settings
from interaction_monitor.state import evaluating, preserved_rng, silent, undisturbed, uninitialized

Measure = Callable[[nn.Module], Measurement]


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
        instead = refusal(source, alone=len(given) == 1)
        if instead is not None:
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
    """Name the sources, the same in every process, to be recorded and compared on resuming; None where there are none.

    Nothing is opened: a folder may be gone by then.
    """
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
    """Take the reference's best network: that with the lowest test loss, or the last where no loss is known.

    Returns:
        It, and the network of the first measurement.

    Raises:
        ValueError: if the record is of another probe, other players, another output, or of the run itself, or cannot be
            read.
    """
    try:
        record = source if isinstance(source, Record) else Record.open(source)
        return _taken(record, run)
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
    best = _best(record.history)
    row = record.history[best]
    name = described(record)
    return Salient.of(record.measurements[best], f"{name}, epoch {row.epoch}"), Salient.of(record.measurements[0], name)


def from_network(network: nn.Module, run: Run, measure: Measure, *, name: str) -> Salient:
    """Measure a network as the run's is measured.

    Raises:
        ValueError: if it shares weights with the network that is trained, or has another number of outputs.
    """
    require_fitting(network, run, name=name)
    try:
        return Salient.of(measure(network), name)
    except Exception as error:
        raise ValueError(f"reference={name} cannot be measured: {type(error).__name__}: {error}") from error


def from_checkpoint(source: Checkpoint, run: Run, measure: Measure) -> Salient:
    """Make a network and measure it.

    Raises:
        ValueError: if it cannot be made, is none, or does not fit.
    """
    name = f"reference={described(source)}"
    fix = "let it make a network and load the weights into it: MyModule.load_from_checkpoint of Lightning, say"
    with refusing(f"{name}: its factory", fix):
        network: object = source.factory(source.path)
    if not isinstance(network, nn.Module):
        raise ValueError(f"{name}: its factory returned {describe(network)}; {fix}")
    return from_network(network, run, measure, name=described(source))


def with_shapes(network: nn.Module, run: Run, *, seed: int) -> None:
    """Call a network that is lazily made once, so that its weights are drawn; others stay as they are."""
    if uninitialized(network):
        with preserved_rng(seed), torch.no_grad(), silent(network), evaluating(network):
            _outputs(network, run)


def require_fitting(network: nn.Module, run: Run, *, name: str) -> None:
    """Refuse a network that shares weights with the one that is trained, or has another number of outputs.

    Raises:
        ValueError: that names it.
    """
    mine = {id(parameter) for parameter in run.model.parameters()}
    if network is run.model or any(id(parameter) in mine for parameter in network.parameters()):
        raise ValueError(f"reference={name} holds the very weights that are trained; give another network")
    here = _n_outputs(run.model, run)
    with refusing(
        f"reference={name} on the probe", "give one that is called as the run's network is, in its precision"
    ):
        there = _n_outputs(network, run)
    if here != there:
        raise ValueError(
            f"reference={name} has {there} outputs, but the network that is trained has {here}; give one for the same "
            "task"
        )


def require_other(references: Sequence[Salient], measurement: Measurement) -> None:
    """Refuse a reference that is the network which is about to be trained.

    Raises:
        ValueError: that names it.
    """
    for reference in references:
        if reference.is_of(measurement):
            raise ValueError(
                f"reference {reference.name} has the very outputs of the network that is about to be trained, so it "
                "has the same weights; give one that was trained on other samples"
            )


def warn_of_the_same_start(starts: Sequence[Salient], measurement: Measurement) -> None:
    """Warn of a reference that began from the run's own start: mostly the same script, on the same training samples."""
    for start in starts:
        if start.is_of(measurement):
            warnings.warn(
                f"reference {start.name} began from the very weights from which this run begins. If it was trained on "
                "the same samples too, as the same script is, what it has learnt by heart counts as generalizing. Give "
                "a reference that was trained on other samples, or Twins(factory)",
                stacklevel=2,
            )


def _best(history: History) -> int:
    losses = [row.test_loss for row in history]
    known = [(loss, index) for index, loss in enumerate(losses) if loss is not None]
    return min(known)[1] if known else len(history) - 1


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
        if samples is None:
            continue
        shared = len(theirs & _digests(samples.to("cpu").inputs))
        if shared:
            warnings.warn(
                f"{name} was trained on {shared} {of}, as far as can be seen: what it has learnt by heart counts as "
                "generalizing. Give a reference that was trained on other samples",
                stacklevel=2,
            )


def _digests(inputs: Tensor | Mapping[str, Tensor]) -> set[bytes]:
    tensors = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
    rows = zip(*tensors, strict=True)
    return {b"".join(part.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for part in row) for row in rows}
