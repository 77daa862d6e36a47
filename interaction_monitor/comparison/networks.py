"""Comparing networks themselves, without a record: checkpoints, or whatever is in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from interaction_monitor.comparison.comparable import Measured, NotComparableError, refuse_different
from interaction_monitor.comparison.extraction import Comparison, compare_outputs
from interaction_monitor.forward import assign_players, masked_outputs
from interaction_monitor.outputs import Output
from interaction_monitor.players.base import PlayerMap, Players
from interaction_monitor.probe import Probe


@dataclass(frozen=True, eq=False)
class Network:
    """A network, and how it is to be measured.

    Args:
        module: the network, on the device where it is to run.
        probe: the samples, the same for all networks that are compared.
        players: their input variables: a kind, which is drawn by seed 0, or players that are drawn already.
        output: the scalar output, by name or as a function of (logits, targets); the same for all.
        forward_func: how the module is called, (module, inputs) -> logits; None calls `module(inputs)`.
        name: what it is called; empty for a number.

    Example:
        >>> from interaction_monitor.players import ImagePatches
        >>> module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> probe = Probe(torch.rand(5, 1, 8, 8), torch.arange(5))
        >>> network = Network(module, probe, ImagePatches(grid=4, margin=1, n_players=4), name="linear")
    """

    module: nn.Module
    probe: Probe
    players: Players | PlayerMap
    output: str | Output = "log_odds"
    forward_func: Callable[..., Any] | None = None
    name: str = ""


def compare_networks(
    networks: Sequence[Network],
    *,
    alpha: float = 0.1,
    noise: float = 0.02,
    tol: float = 1e-2,
    normalize: bool = False,
) -> Comparison:
    """Measure several networks on the same samples, and compare what they encode.

    Nothing is measured before all networks are known to have the same samples, players and output.

    Args:
        networks: at least two.
        alpha: as in `shared_and_or`.
        noise: as in `shared_and_or`.
        tol: as in `shared_and_or`.
        normalize: as in `shared_and_or`.

    Returns:
        The comparison.

    Raises:
        NotComparableError: if the networks differ in what is measured (it says in what), or there are fewer than two.

    Example:
        >>> from interaction_monitor.players import ImagePatches
        >>> probe, patches = Probe(torch.rand(4, 1, 8, 8), torch.arange(4)), ImagePatches(grid=4, n_players=4)
        >>> networks = [Network(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), probe, patches) for _ in range(2)]
        >>> compare_networks(networks).shared.and_.shape
        torch.Size([2, 4, 16])
    """
    if len(networks) < 2:
        raise NotComparableError(f"a comparison takes at least two networks, but there is {len(networks)}")
    named = [
        replace(network, players=_drawn(network), name=network.name or f"network {number}")
        for number, network in enumerate(networks)
    ]
    refuse_different([_measured(network) for network in named])
    v = torch.stack([_outputs(network) for network in named])
    return compare_outputs(
        v,
        names=[network.name for network in named],
        alpha=alpha,
        noise=noise,
        tol=tol,
        normalize=normalize,
        player_names=_map(named[0]).names,
    )


def _drawn(network: Network) -> PlayerMap:
    if isinstance(network.players, PlayerMap):
        return network.players
    return assign_players(network.module, network.players, network.probe, forward_func=network.forward_func)


def _map(network: Network) -> PlayerMap:
    assert isinstance(network.players, PlayerMap)
    return network.players


def _measured(network: Network) -> Measured:
    return Measured(network.name, _map(network), network.probe.inputs, network.probe.targets, network.output)


def _outputs(network: Network) -> torch.Tensor:
    v = masked_outputs(
        network.module, network.probe, _map(network), output=network.output, forward_func=network.forward_func
    )
    return v.cpu()
