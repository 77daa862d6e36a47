"""One masked forward: the logits of a model on a few coalitions of a few samples."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interaction_monitor.forward.model import (
    ForwardFunc,
    WrongBatchError,
    changed_output,
    find_layer,
    is_compiled,
    logits_of,
)
from interaction_monitor.outputs import Output
from interaction_monitor.players.base import PlayerMap
from interaction_monitor.probe import Inputs, Probe

log = logging.getLogger(__name__)

ForwardContext = Callable[[], AbstractContextManager[Any]]


@dataclass
class Runner:
    """A model with the samples and players it is to be run on, all on one device, already in eval mode."""

    model: nn.Module
    probe: Probe
    players: PlayerMap
    forward_func: ForwardFunc
    forward_context: ForwardContext
    epsilon: float = 0.0  # the coarsest rounding seen at the masked layer
    spread: bool = False  # whether one sample's forward is spread over the coalitions at the masked layer

    def __post_init__(self) -> None:
        self.n_coalitions = 1 << self.players.n_players
        self.padded = self.players.layer is None and is_compiled(self.model)

    def outputs(self, start: int, stop: int, score: Output, chunk_size: int) -> Tensor:
        """Compute the outputs of the (sample, coalition) pairs start to stop-1, counted sample by sample.

        Where the chunks are spread, they must not straddle samples.
        """
        pairs = torch.arange(start, stop, device=self.players.labels.device)
        if self.padded and start:
            # A compiled model would be compiled again for the last, smaller batch.
            pairs = torch.arange(start, start + chunk_size, device=pairs.device).clamp_(max=stop - 1)
        coalitions = pairs % self.n_coalitions
        rows = pairs // self.n_coalitions
        first = start // self.n_coalitions
        alone = first == (stop - 1) // self.n_coalitions
        if self.spread:
            logits = self.spread_logits(first, coalitions)
        else:
            logits = self.full_logits(rows, coalitions, sample=first if alone else None)
        targets = None if self.probe.targets is None else self.probe.targets[rows]
        return score_of(score, logits, targets)[: stop - start]

    def full_logits(self, rows: Tensor, coalitions: Tensor, *, sample: int | None = None) -> Tensor:
        """Run the whole model on masked samples, one row for each.

        Args:
            rows: (B,) which sample.
            coalitions: (B,) which coalition of it.
            sample: the sample, if it is the same in all rows; its input is then masked without being copied
                first.
        """
        players = self.players
        if players.layer is not None:
            layer = find_layer(self.model, players.layer)
            with changed_output(layer, players.layer, lambda x: self._masked(x, rows, coalitions)):
                return self.call(self.probe.select(rows).inputs, len(rows))
        key, x = self.probe.entry(players.input_key)
        if sample is None:
            masked = players.mask(x[rows], rows, coalitions)
        else:
            masked = players.mask(x[sample : sample + 1], sample, coalitions)
        if isinstance(self.probe.inputs, Tensor):
            return self.call(masked, len(rows))
        others = {name: entry[rows] for name, entry in self.probe.inputs.items() if name != key}
        return self.call({name: masked if name == key else others[name] for name in self.probe.inputs}, len(rows))

    def spread_logits(self, sample: int, coalitions: Tensor) -> Tensor:
        """Run the model on one sample, spreading the masked layer's output over the coalitions (B,)."""
        name = self.players.layer or ""
        layer = find_layer(self.model, name)
        with changed_output(layer, name, lambda x: self._masked(x, sample, coalitions)):
            return self.call(self.probe.inputs_of(sample), len(coalitions))

    def _masked(self, x: Tensor, sample: int | Tensor, coalitions: Tensor) -> Tensor:
        # Under autocast the layers are coarser than the logits may look.
        self.epsilon = max(self.epsilon, torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0)
        return self.players.mask(x, sample, coalitions)

    def call(self, inputs: Inputs, batch_size: int) -> Tensor:
        """Return the logits of a batch."""
        with self.forward_context():
            result = self.forward_func(self.model, inputs)
        return logits_of(result, batch_size)

    def can_spread(self) -> bool:
        """Find out whether one sample's forward may be spread over the coalitions at the masked layer.

        Tries the empty and the full coalition of the first sample both ways.

        Raises:
            ValueError: if the layer is misused, or the logits do not depend on it.
        """
        if self.players.layer is None:
            return False
        device = self.players.labels.device
        both = torch.tensor([0, self.n_coalitions - 1], device=device)
        reference = self.full_logits(torch.zeros_like(both), both)
        layer = find_layer(self.model, self.players.layer)
        several = isinstance(self.probe.inputs, dict) and len(self.probe.inputs) > 1
        if several or isinstance(layer, nn.Embedding):
            # Other inputs, such as attention masks, would stay a batch of one, and indexing them by row would
            # fail: on a GPU for good. Nor is there anything to save before an embedding.
            return False
        try:
            logits = self.spread_logits(0, both)
        except WrongBatchError as error:
            if reference[0].equal(reference[1]):
                raise ValueError(
                    f"the logits do not depend on the output of layer={self.players.layer!r}: masking it changes "
                    "nothing; name a layer on the way from the input to the logits"
                ) from error
            log.info("full forwards for each coalition: the batch size of %r is lost", self.players.layer)
            return False
        except Exception as error:
            log.info("full forwards for each coalition: batch of one before %r failed: %s", self.players.layer, error)
            return False
        if self._same(logits, reference):
            return True
        log.info("full forwards for each coalition: a batch of one before %r differs", self.players.layer)
        return False

    def _same(self, logits: Tensor, reference: Tensor) -> bool:
        """Tell whether two ways to mask agree, on the empty and the full coalition."""
        if logits.shape != reference.shape:
            return False
        # Rounding depends on the batch size. A wrong way is wrong by about as much as masking changes.
        effect = (reference[0] - reference[1]).abs().max()
        rounding = 16 * self.epsilon * reference.abs().max()
        return not bool(((logits - reference).abs() > 0.1 * effect + rounding).any())


def score_of(score: Output, logits: Tensor, targets: Tensor | None) -> Tensor:
    """Compute the outputs of a batch.

    Raises:
        ValueError: if `score` does not return one number per row.
    """
    if logits.device.type == "mps":  # has no float64
        logits, targets = logits.cpu(), None if targets is None else targets.cpu()
    values = score(logits, targets)
    if not isinstance(values, Tensor) or values.shape != logits.shape[:1]:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"output= must return one number per row, shape ({len(logits)},), but returned {shape}")
    return values
