"""One masked forward: the logits of a model on a chunk of coalitions of a few samples."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from interaction_monitor.forward.batching import Chunk
from interaction_monitor.forward.masking import MaskedRows
from interaction_monitor.forward.model import call_model, changed_output, find_layer, is_compiled, logits_of
from interaction_monitor.forward.prefix import Prefix, cloned, repeated
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Inputs, Probe
from interaction_monitor.settings import Settings
from interaction_monitor.state import Kept

Way = Literal["full", "spread", "replayed"]


@dataclass
class Runner:
    """A model with the samples and players it is to be run on, all on one device, already in eval mode.

    Attributes:
        way: how the rows of a chunk get through the layers before the masked one. "full": all run. "spread": the
            samples alone run, and what comes out of the masked layer is spread over the coalitions, as is by
            broadcasting whatever bypasses it. "replayed": the samples alone run, once; for the chunks of their rows the
            modules before the masked layer return what they returned then, repeated for the rows, and do not run.
        packed: whether a chunk may hold several samples.
        kept: the state that each forward starts from.
        spoils: whether a forward changes its inputs in place; None before the first.
        epsilon: the coarsest rounding seen at the masked layer.
    """

    model: nn.Module
    probe: Probe
    players: PlayerMap
    settings: Settings
    way: Way = "full"
    packed: bool = True
    kept: Kept | None = None
    spoils: bool | None = None
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        self.n_coalitions = 1 << self.players.n_players
        name = self.players.layer
        self._layer = None if name is None else find_layer(self.model, name)
        self._one_size = self.players.layer is None and is_compiled(self.model)
        self.forget()

    def move_mask(self, players: PlayerMap) -> None:
        """Mask the same players at another layer."""
        self.players = players
        self.__post_init__()

    def forget(self) -> None:
        """Let go of all memory that is kept from chunk to chunk."""
        self._masked = MaskedRows(self.players)
        self._prefix = None if self._layer is None else Prefix(self.model, self._layer)
        self._most_samples = 0

    def logits(self, chunk: Chunk) -> Tensor:
        """Run the model on the rows of a chunk, whichever way it allows; the logits may share memory with the input."""
        players = self.players
        self._most_samples = max(self._most_samples, len(chunk.samples))
        if self._one_size and len(chunk.samples) < self._most_samples:
            # A compiled model would be compiled again for a smaller chunk, so samples before it run once more.
            wider = Chunk(range(chunk.samples.stop - self._most_samples, chunk.samples.stop), chunk.coalitions)
            return self.logits(wider)[-len(chunk) :]
        if self.way == "spread":
            return self.spread_logits(chunk)
        if self.way == "replayed":
            return self.replayed_logits(chunk)
        if players.layer is not None:
            return self.full_logits(chunk)
        x = self.probe.entry(players.input_key)[1]
        masked = self._masked.rows(x[chunk.samples.start : chunk.samples.stop], chunk)
        if isinstance(self.probe.inputs, Tensor):
            return self.call(masked, len(chunk))
        return self.call(self._with_others(masked, chunk.rows_on(masked.device)), len(chunk))

    def spread_logits(self, chunk: Chunk) -> Tensor:
        """Run the model on the samples alone, spreading the masked layer's output over the coalitions."""
        prefix = self._known_prefix()
        known = prefix.samples == chunk.samples
        if len(chunk.samples) > 1 or len(chunk.coalitions) == self.n_coalitions:
            # The only chunk of these samples.
            again: AbstractContextManager[None] = nullcontext()
        else:
            again = prefix.replayed() if known else prefix.recorded(chunk.samples)
        changed = self._changed(lambda x: self._masked.rows(x, chunk))
        return self.call(self._slice(chunk.samples), len(chunk), again, changed)

    def replayed_logits(self, chunk: Chunk) -> Tensor:
        """Run the model on a copy of its sample for each row, without the modules before the masked layer."""
        prefix = self._known_prefix()
        if prefix.samples != chunk.samples:
            self.call(self._slice(chunk.samples), len(chunk.samples), prefix.recorded(chunk.samples))
        inputs = repeated(self._slice(chunk.samples), len(chunk.coalitions), chunk.samples)
        changed = self._changed(lambda x: self._masked.rows(x, chunk))
        return self.call(inputs, len(chunk), prefix.replayed(len(chunk.coalitions)), changed)

    def full_logits(self, chunk: Chunk) -> Tensor:
        """Run the whole model on a copy of its sample for each row."""
        rows = chunk.rows_on(self.players.labels.device)
        return self.logits_of_rows(rows, chunk.coalitions_on(rows.device).repeat(len(chunk.samples)))

    def logits_of_rows(self, rows: Tensor, coalitions: Tensor) -> Tensor:
        """Run the whole model on rows that are each masked for a coalition of their own.

        Args:
            rows: (B,) int64, which sample each row is of.
            coalitions: (B,) int64, of each row.
        """

        def mask(x: Tensor) -> Tensor:
            return self.players.mask(x, rows, coalitions)

        if self._layer is not None:
            return self.call(self.probe.select(rows).inputs, len(rows), self._changed(mask))
        x = self.probe.entry(self.players.input_key)[1]
        return self.call(self._with_others(mask(x[rows]), rows), len(rows))

    def _with_others(self, masked: Tensor, rows: Tensor) -> Inputs:
        """Return inputs of rows that are masked in one entry."""
        key = self.probe.entry(self.players.input_key)[0]
        inputs = self.probe.inputs
        if isinstance(inputs, Tensor):
            return masked
        return {name: masked if name == key else entry[rows] for name, entry in inputs.items()}

    def _known_prefix(self) -> Prefix:
        assert self._prefix is not None
        return self._prefix

    def call(self, inputs: Inputs, batch_size: int, *around: AbstractContextManager[Any]) -> Tensor:
        """Return the logits of a batch.

        Args:
            inputs: the samples, or what else must stay as it is.
            batch_size: how many rows of logits there must be.
            around: what changes the model during this forward.
        """

        def forward() -> Tensor:
            given = inputs if self.spoils is False else tree_map(cloned, inputs)
            with ExitStack() as stack:
                for context in around:
                    stack.enter_context(context)
                result = self.forward(given)
            if self.spoils is None:
                self.spoils = not all(map(_same, tree_leaves(inputs), tree_leaves(given)))
            logits = logits_of(result, batch_size)
            # They may be part of what is put back.
            return logits.clone() if self.kept and self.kept.written else logits

        # What is put back afterwards must be the model as it was before the changes around the forward.
        return self.kept.run(forward) if self.kept else forward()

    def forward(self, inputs: Inputs) -> Any:
        """Return what the model returns, which changes what it changes."""
        with self.settings.forward_context():
            return (self.settings.forward_func or call_model)(self.model, inputs)

    def _slice(self, samples: range) -> Inputs:
        inputs = self.probe.inputs
        if isinstance(inputs, Tensor):
            return inputs[samples.start : samples.stop]
        return {name: entry[samples.start : samples.stop] for name, entry in inputs.items()}

    def _changed(self, change: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
        """Let `change` replace the output of the masked layer."""
        assert self._layer is not None

        def noted(x: Tensor) -> Tensor:
            # Under autocast the layers are coarser than the logits may look.
            self.epsilon = max(self.epsilon, torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0)
            return change(x)

        return changed_output(self._layer, self.players.layer or "", noted)


def _same(x: Any, copy: Any) -> bool:
    # Where there is a NaN they seem different, which costs copies and nothing else.
    return not isinstance(x, Tensor) or torch.equal(x, copy)
