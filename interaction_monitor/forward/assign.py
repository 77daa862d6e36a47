"""Drawing the players of each sample, where they live at an inner layer too."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from interaction_monitor._checks import describe
from interaction_monitor.forward.model import (
    call_model,
    changed_output,
    device_of,
    eager_if_compiled,
    find_layer,
)
from interaction_monitor.players.base import Players
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Inputs, Probe, require_probe
from interaction_monitor.settings import ForwardContext, ForwardFunc
from interaction_monitor.state import undisturbed


def assign_players(
    model: nn.Module,
    players: Players,
    probe: Probe,
    *,
    forward_func: ForwardFunc | None = None,
    forward_context: ForwardContext = nullcontext,
    seed: int = 0,
) -> PlayerMap:
    """Draw the players of each probe sample, after a dry run of the model where they live at an inner layer.

    Args:
        model: the network; it is left as it was, see `masked_outputs`.
        players: what kind of players.
        probe: the samples.
        forward_func: (model, inputs) -> what the model returns; default `model(inputs)`, or `model(**inputs)`
            where the inputs are a dict.
        forward_context: makes the context in which the model is called, for instance an autocast.
        seed: decides the draw.

    Returns:
        The players, on the CPU.

    Raises:
        TypeError: if the arguments are of other kinds, or swapped.
        ValueError: if the layer is not found, is not called exactly once, or does not fit the players.

    Examples:
        >>> from interaction_monitor.players import FeaturePatches
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))
        >>> probe = Probe(torch.rand(5, 1, 10, 10))
        >>> assign_players(net, FeaturePatches("1", grid=4, n_players=3), probe).labels.shape
        torch.Size([5, 8, 8])
    """
    if not isinstance(players, Players):
        raise TypeError(
            f"assign_players(model, players, probe): players is {describe(players)}; give a kind of players second, "
            'such as FeaturePatches(layer="features.1"), and the model first'
        )
    require_probe("assign_players", probe)
    if players.layer is None:
        return players.assign(probe, None, seed=seed)
    layer = find_layer(model, players.layer)
    device = device_of(model, probe.inputs)
    seen: list[Tensor] = []
    found: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        # The layers after it may work in place.
        seen.append(output.detach().clone())
        return output

    def run(inputs: Inputs) -> None:
        seen.clear()
        with changed_output(layer, players.layer or "", keep), forward_context():
            (forward_func or call_model)(model, inputs)

    with undisturbed(model) as kept, eager_if_compiled(model):
        for sample in range(len(probe) if callable(players.baseline) else 1):
            kept.run(partial(run, probe.select([sample]).to(device).inputs))
            if seen[-1].ndim == 0 or len(seen[-1]) != 1:
                raise ValueError(
                    f"layer={players.layer!r} gives {describe(seen[-1])} for one sample, so its first axis is not the "
                    "batch (windows of an image? a sequence that comes first, for want of batch_first=True?); name a "
                    "layer whose first axis is the batch"
                )
            found += seen
    return players.assign(probe, torch.cat(found), seed=seed).to("cpu")
