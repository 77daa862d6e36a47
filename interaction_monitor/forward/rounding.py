"""How large the rounding inside a network is: its outputs beside those of the same rows in a higher precision."""

from __future__ import annotations

import logging
import math
import random
from typing import cast

import torch
from torch import Tensor, nn

from interaction_monitor._split import is_split
from interaction_monitor._state import Kept, undisturbed
from interaction_monitor.forward.model import (
    call_model,
    changed_output,
    device_of,
    eager_if_compiled,
    find_layer,
    logits_of,
)
from interaction_monitor.forward.precision import computing_in
from interaction_monitor.forward.scoring import score_of
from interaction_monitor.outputs import resolve
from interaction_monitor.players.base import PlayerMap
from interaction_monitor.probe import Probe
from interaction_monitor.settings import ForwardFunc, Settings

log = logging.getLogger(__name__)

_SEED = 0


def rounding(
    model: nn.Module,
    probe: Probe,
    players: PlayerMap,
    v: Tensor,
    settings: Settings = Settings(),
    *,
    coalitions: int = 16,
    samples: int = 4,
) -> float:
    """Measure the standard deviation that rounding inside the network gives to an output.

    A few rows, always the same, run once more with every operation in a higher precision: float64, or float32 where
    the model computes in bfloat16. No copy of the model is made: each weight is converted when it is used. What all
    coalitions of a sample are off by is left out, because it goes into I(∅), which is of no order. What is left is
    close to independent from coalition to coalition, so that `noise_floor` makes the floor of each order of it (Ren et
    al. 2024, Lemma 1).

    The model, its hooks and buffers and the random states are left as they were.

    Args:
        model: the network.
        probe: the S samples.
        players: their players.
        v: (S, 2^n) the outputs in the model's own precision, from `masked_outputs`.
        settings: how they were computed.
        coalitions: how many of each sample run again; 16 of 4 samples give σ to about a tenth.
        samples: how many samples.

    Returns:
        In units of the outputs. NaN, with an info in the log, where no higher precision is to be had: the model is in
        float64, its device or its kernels know none, or memory runs out.

    Example:
        >>> from interaction_monitor.forward import assign_players, masked_outputs
        >>> from interaction_monitor.players import ImagePatches
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> probe = Probe(torch.rand(5, 1, 8, 8), torch.arange(5))
        >>> players = assign_players(net, ImagePatches(n_players=6), probe)
        >>> 1e-9 < rounding(net, probe, players, masked_outputs(net, probe, players)) < 1e-6
        True
    """
    drawn = random.Random(_SEED)
    finite = v.isfinite().all(dim=1).nonzero()[:, 0].tolist()
    chosen = sorted(drawn.sample(finite, min(samples, len(finite))))
    rows = torch.tensor(drawn.sample(range(v.shape[1]), min(coalitions, v.shape[1])))
    device = device_of(model, probe.inputs)
    forward_func = settings.forward_func or call_model

    def run(kept: Kept, sample: int, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, set[torch.dtype]]:
        of_probe = probe.select([sample] * len(rows)).to(device)
        of_players = players.select([sample] * len(rows)).to(device)

        def forward() -> tuple[Tensor, set[torch.dtype]]:
            given = of_probe.select(range(len(of_probe)))
            with settings.forward_context(), computing_in(dtype) as raised:
                return _logits(model, given, of_players, rows.to(device), forward_func).clone(), raised

        logits, raised = kept.run(forward)
        return score_of(resolve(settings.output), logits, of_probe.targets).to(v), raised

    # A measurement does without this number rather than fail for it, whatever a model makes of another precision.
    try:
        if any(parameter.dtype == torch.float64 for parameter in model.parameters()):
            raise TypeError("it computes in float64")
        if is_split(model):
            raise TypeError("processes exchange its parts in the precision that they are in")
        with undisturbed(model) as kept, eager_if_compiled(model):
            # What a model computes in shows only when it runs: its own code may enter or leave an autocast.
            _, raised = run(kept, chosen[0], rows[:1], torch.float32)
            # Many GPUs are slow in float64, and even a float32 shortened to TF32 is fine enough beside bfloat16 alone.
            dtype = torch.float32 if torch.bfloat16 in raised else torch.float64
            found = [run(kept, sample, rows, dtype)[0] for sample in chosen]
            errors = torch.stack([v[s, rows.to(v.device)] - high for s, high in zip(chosen, found, strict=True)])
            return math.sqrt(float(errors.var(dim=1).mean()))
    except Exception as error:
        log.info("the rounding in %s is not known: %s: %s", type(model).__name__, type(error).__name__, error)
        return math.nan


def _logits(
    model: nn.Module, probe: Probe, players: PlayerMap, coalitions: Tensor, forward_func: ForwardFunc
) -> Tensor:
    """Run the whole model on rows that are each masked for a coalition of their own."""
    rows = torch.arange(len(probe), device=coalitions.device)

    def mask(x: Tensor) -> Tensor:
        return players.mask(x, rows, coalitions)

    if players.layer is not None:
        with changed_output(find_layer(model, players.layer), players.layer, mask):
            return logits_of(forward_func(model, probe.inputs), len(rows))
    key, x = probe.entry(players.input_key)
    inputs = mask(x) if key is None else {**cast(dict[str, Tensor], probe.inputs), key: mask(x)}
    return logits_of(forward_func(model, inputs), len(rows))
