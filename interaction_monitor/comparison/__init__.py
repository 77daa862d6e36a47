"""What networks, or moments of one, encode in common (Chen et al. 2024): by records, in memory, or as published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from interaction_monitor._checks import read_numbers, refusing, require_counts
from interaction_monitor.comparison.several_networks import (
    Comparison,
    Counting,
    Extraction,
    NotComparableError,
    ablate,
    compare_outputs,
    extract_again,
    require_players,
)
from interaction_monitor.forward import assign_players, outputs_of
from interaction_monitor.functional import highest_bit_first
from interaction_monitor.outputs import Output
from interaction_monitor.players import PlayerMap, Players
from interaction_monitor.probe import Probe
from interaction_monitor.record import Record
from interaction_monitor.settings import ForwardFunc, Settings

__all__ = [
    "Comparison",
    "Counting",
    "Extraction",
    "Network",
    "NotComparableError",
    "ablate",
    "compare",
    "compare_networks",
    "compare_outputs",
    "extract_again",
    "read_published",
]


@dataclass(frozen=True, eq=False)
class Network:
    """A network, and how it is to be measured.

    Args:
        module: the network, on the device where it is to run.
        probe: the samples, the same for all networks that are compared.
        players: their input variables: a kind, which is drawn by seed 0, or players that are drawn already.
        output: the scalar output, by name or as a function (logits, targets); the same for all.
        forward_func: how the module is called, (module, inputs) -> logits; None calls `module(inputs)`.
        name: what it is called; empty for a number.
        background_levels: average over L intensities, 1/L to 1, of what belongs to no player; Chen et al.'s code: 10.

    Raises:
        ValueError: if `background_levels` is below 1, or there is no such input.

    Examples:
        >>> from interaction_monitor.players import ImagePatches
        >>> module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> network = Network(module, Probe(torch.rand(5, 1, 8, 8), torch.arange(5)), ImagePatches(grid=4, n_players=4))
    """

    module: nn.Module
    probe: Probe
    players: Players | PlayerMap
    output: str | Output = "log_odds"
    forward_func: ForwardFunc | None = None
    name: str = ""
    background_levels: int = 1

    def __post_init__(self) -> None:
        require_counts(1, background_levels=self.background_levels)
        floating = isinstance(self.probe.inputs, Tensor) and self.probe.inputs.is_floating_point()
        if self.background_levels > 1 and not (floating and getattr(self.players, "layer", None) is None):
            raise ValueError("background_levels above 1 needs players of a floating input; leave it out")


def compare_networks(
    networks: Sequence[Network], *, alpha: float = 0.1, normalize: bool = False, counting: Counting | None = None
) -> Comparison:
    """Measure several networks on the same samples, and compare what they encode.

    Nothing is measured before all networks are known to have the same samples, players and output, and to give it.

    Args:
        networks: at least two.
        alpha: as in `shared_and_or`.
        normalize: as in `shared_and_or`.
        counting: as in `compare_outputs`.

    Returns:
        The comparison.

    Raises:
        NotComparableError: if the networks differ in what is measured (it says in what), there are fewer than two, or
            fewer than 2 or more than 14 players.
        ValueError: if a network cannot be measured (it says which and why).

    Examples:
        >>> from interaction_monitor.players import ImagePatches
        >>> probe, patches = Probe(torch.rand(4, 1, 8, 8), torch.arange(4)), ImagePatches(grid=4, n_players=4)
        >>> networks = [Network(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), probe, patches) for _ in range(2)]
        >>> compare_networks(networks).shared.and_.shape
        torch.Size([2, 4, 16])
    """
    names = [network.name or f"network {number}" for number, network in enumerate(networks)]
    measured = [
        Measured(name, _drawn(x, name), x.probe.inputs, x.probe.targets, x.output, x.background_levels)
        for name, x in zip(names, networks, strict=True)
    ]
    require_comparable(measured)
    require_players(measured[0].players.n_players)
    for network, facts in zip(networks, measured, strict=True):
        first = facts.players.labels.clamp(max=0).where(facts.players.labels < 1, -1)  # by it alone, soon tried out
        with refusing(facts.name, "mend what its Network holds"):
            _outputs(network, replace(facts.players, labels=first, n_players=1, names=None))
    v = torch.stack([_outputs(network, facts.players) for network, facts in zip(networks, measured, strict=True)])
    called = measured[0].players.names
    return compare_outputs(v, names=names, alpha=alpha, normalize=normalize, counting=counting, player_names=called)


def _drawn(network: Network, name: str) -> PlayerMap:
    if isinstance(network.players, PlayerMap):
        return network.players
    with refusing(name, "mend what its Network holds"):
        return assign_players(network.module, network.players, network.probe, forward_func=network.forward_func)


def _outputs(network: Network, players: PlayerMap) -> Tensor:
    levels, settings = network.background_levels, Settings(network.output, network.forward_func)
    probes = [*(_faded(network.probe, players, level / levels) for level in range(1, levels)), network.probe]
    return torch.stack([outputs_of(network.module, probe, players, settings).cpu() for probe in probes]).mean(0)


def _faded(probe: Probe, players: PlayerMap, intensity: float) -> Probe:
    """The samples, with what belongs to no player brought near to the baseline."""
    assert isinstance(probe.inputs, Tensor)
    background = replace(players, labels=torch.where(players.labels < 0, 0, -1), n_players=1, names=None)
    rows = torch.arange(len(probe.inputs), device=probe.inputs.device)
    without = background.mask(probe.inputs, rows, torch.zeros_like(rows))
    return replace(probe, inputs=intensity * probe.inputs + (1 - intensity) * without)


@dataclass(frozen=True)
class Measured:
    """What a network's interactions are about."""

    name: str
    players: PlayerMap
    inputs: Tensor | dict[str, Tensor]  # (S, ...)
    targets: Tensor | None  # (S,)
    output: object
    background_levels: int = 1

    def facts(self) -> dict[str, object]:
        """Give all that has to be the same, by what it is called in a message."""
        players, key = self.players, self.players.input_key
        return {
            "the number of players": players.n_players,
            "the number of probe samples": len(players),
            "the output": self.output,
            "the levels of the background": self.background_levels,
            "the masked layer": players.layer or "the input",
            "the masked input": "the one tensor that is the input" if key is None else f"entry {key!r}",
            "the masked axes": players.axes,
            "the probe samples": self.inputs,
            "the targets of the probe samples": self.targets,
            "which positions the players have": players.labels,
            "the baseline": players.baseline,
        }


def require_comparable(measured: Sequence[Measured]) -> None:
    """Refuse networks whose interactions do not mean the same.

    Raises:
        NotComparableError: if there are fewer than two, or two differ in this; it names both and says in what.
    """
    if len(measured) < 2:
        raise NotComparableError(f"a comparison takes at least two networks, but there is {len(measured)}")
    first, *others = measured
    for other in others:
        for (what, here), there in zip(first.facts().items(), other.facts().values(), strict=True):
            if not _same(here, there):
                shown = "" if {type(here), type(there)} & {Tensor, dict} else f": {here} and {there}"
                raise NotComparableError(
                    f"{first.name} and {other.name} differ in {what}{shown}; measure both networks on the same probe "
                    "with the same players and output"
                )


def _same(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(((one == other) | (one != one) & (other != other)).all())
    return type(one) is type(other) and bool(one == other)


def compare(
    records: Sequence[Record],
    *,
    epochs: Sequence[int] | int | None = None,
    alpha: float = 0.1,
    normalize: bool = False,
    counting: Counting | None = None,
) -> Comparison:
    """Compare what recorded runs over the same probe samples and players encode.

    Args:
        records: the runs, at least two; or one run several times, with different `epochs`.
        epochs: the measurement of each run to take, by its completed epochs; one number for all; None the last.
        alpha: as in `shared_and_or`.
        normalize: as in `shared_and_or`.
        counting: as in `compare_outputs`.

    Returns:
        The comparison; each is called by the end of its folder's path, with the epoch.

    Raises:
        NotComparableError: if the records differ in what they measure (it says in what), there are fewer than two,
            or a run has no measurement at the epoch asked for.
        RecordError: if a record's files cannot be read.
    """
    asked = [epochs] * len(records) if epochs is None or isinstance(epochs, int) else list(epochs)
    if len(asked) != len(records):
        raise NotComparableError(f"{len(asked)} epochs are given for {len(records)} records; give one for each, or one")
    require_comparable(
        [Measured(str(x.folder), x.players, x.probe_inputs, x.probe_targets, x.settings.get("output")) for x in records]
    )
    rows = [row_at(record, epoch) for record, epoch in zip(records, asked, strict=True)]
    v = torch.stack([record.measurements[row].v for record, row in zip(records, rows, strict=True)])
    each = zip(_told_apart([record.folder.resolve() for record in records]), records, rows, strict=True)
    names = [f"{name}, epoch {record.history[row].epoch}" for name, record, row in each]
    players, called = records[0].players, records[0].players.names
    result = compare_outputs(v, names=names, alpha=alpha, normalize=normalize, counting=counting, player_names=called)
    return replace(result, players=players, inputs=records[0].probe_inputs)


def row_at(record: Record, epoch: int | None) -> int:
    """Find a run's measurement after so many completed epochs, or its last; refuse one that there is not."""
    if not len(record.history):
        raise NotComparableError(f"{record.folder} holds no measurement")
    found = [place for place, row in enumerate(record.history) if epoch in (None, row.epoch)]
    if not found:
        there = ", ".join(map(str, dict.fromkeys(row.epoch for row in record.history)))
        there = f"epoch{'s' * (',' in there)} {there}"
        raise NotComparableError(f"{record.folder} has no measurement at epoch {epoch}; it was measured at {there}")
    return found[-1]


def _told_apart(folders: Sequence[Path]) -> list[str]:
    """Name folders by the parts of their paths that tell them apart: `resnet`, not `resnet/version_0/interactions`."""
    shortest = min(len(folder.parts) for folder in folders)
    levels = zip(*(folder.parts[-shortest:] for folder in folders), strict=True)
    different = [names for names in levels if len(set(names)) > 1]
    return list(map("/".join, zip(*different, strict=True))) or [folders[0].parent.name] * len(folders)


def read_published(path: str | Path, *, masks: str | Path | None = None) -> Tensor:
    """Read outputs or interactions that the code of the papers' authors has saved, in the numbering used here.

    Their `rewards.npy` are v(x_T), `I_and.pth` and `Iand.npy` AND interactions, `I_or.pth` and `Ior.npy` OR
    interactions, of one sample each, in the order of the `masks.npy` beside them.

    Args:
        path: a .npy file, or a .pth or .pt file that holds one tensor; nothing in it is executed.
        masks: their masks, (2^n, n), which players each entry has; None takes player 0 for the highest bit, as most of
            their code does. That of "Where we have arrived" sorts coalitions by size.

    Returns:
        (2^n,) float64, or (..., 2^n) as in the file.

    Raises:
        ValueError: if the file holds no vector over coalitions, or is of another kind, or the masks do not fit it.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> file = Path(tempfile.mkdtemp()) / "rewards.npy"
        >>> np.save(file, [0.0, 20.0, 10.0, 30.0])  # of nobody, player 1, player 0, both
        >>> read_published(file).tolist()
        [0.0, 10.0, 20.0, 30.0]
    """
    values = read_numbers(path)
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values  # those of the BERTs are columns
    if masks is None:
        return highest_bit_first(values)
    present = read_numbers(masks) != 0
    places = (present.long() << torch.arange(present.shape[-1] if present.ndim else 0)).sum(-1)
    if present.ndim != 2 or not torch.equal(places.sort().values, torch.arange(values.shape[-1])):
        raise ValueError(f"{masks} must list each of {values.shape[-1]} coalitions once, but is {tuple(present.shape)}")
    return values[..., places.argsort()]
