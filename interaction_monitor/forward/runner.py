"""One masked forward: the logits of a model on a chunk of coalitions of a few samples.

The layers before the masked one need to run only once for all chunks of a sample. A forward cannot be entered in the
middle, but what each module before that layer returned can be kept: in the next forward it is returned at once, and the
module does not run. The model's own code between these modules runs as always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from interaction_monitor.forward.chunks import Chunk, MaskedRows
from interaction_monitor.forward.model import call_model, changed_output, find_layer, is_compiled, logits_of
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Inputs, Probe
from interaction_monitor.settings import Settings
from interaction_monitor.state import Kept, version_of

Way = Literal["full", "spread", "replayed"]
Around = Callable[[], AbstractContextManager[Any]]


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
        self._layer = None if self.players.layer is None else find_layer(self.model, self.players.layer)
        self._one_size = self.players.layer is None and is_compiled(self.model)
        self.forget()

    def move_mask(self, players: PlayerMap) -> None:
        """Mask the same players at another layer."""
        self.players = players
        self.__post_init__()

    def forget(self) -> None:
        """Let go of all memory that is kept from chunk to chunk."""
        self._masked = MaskedRows(self.players)
        self._prefix = Prefix(self.model, self.model if self._layer is None else self._layer)
        self._most_samples = 0

    def logits(self, chunk: Chunk) -> Tensor:
        """Run the model on the rows of a chunk, whichever way it allows; the logits may share memory with the input."""
        self._most_samples = max(self._most_samples, len(chunk.samples))
        if self._one_size and len(chunk.samples) < self._most_samples:
            # A compiled model would be compiled again for a smaller chunk, so samples before it run once more.
            wider = Chunk(range(chunk.samples.stop - self._most_samples, chunk.samples.stop), chunk.coalitions)
            return self.logits(wider)[-len(chunk) :]
        if self.way == "spread":
            return self.spread_logits(chunk)
        if self.way == "replayed":
            return self.replayed_logits(chunk)
        if self.players.layer is not None:
            return self.full_logits(chunk)
        x = self.probe.entry(self.players.input_key)[1]
        masked = self._masked.rows(x[chunk.samples.start : chunk.samples.stop], chunk)
        return self.call(self._with_others(masked, partial(chunk.rows_on, masked.device)), len(chunk))

    def spread_logits(self, chunk: Chunk) -> Tensor:
        """Run the model on the samples alone, spreading the masked layer's output over the coalitions."""
        prefix = self._prefix
        if len(chunk.samples) > 1 or len(chunk.coalitions) == self.n_coalitions:  # the only chunk of these samples
            again: Around = nullcontext
        else:
            again = prefix.replayed if prefix.samples == chunk.samples else partial(prefix.recorded, chunk.samples)
        changed = self._changed(partial(self._masked.rows, chunk=chunk))
        return self.call(self._slice(chunk.samples), len(chunk), again, changed)

    def replayed_logits(self, chunk: Chunk) -> Tensor:
        """Run the model on a copy of its sample for each row, without the modules before the masked layer."""
        inputs, repeat = self._slice(chunk.samples), len(chunk.coalitions)
        if self._prefix.samples != chunk.samples:
            self.call(inputs, len(chunk.samples), partial(self._prefix.recorded, chunk.samples))
        again, changed = partial(self._prefix.replayed, repeat), self._changed(partial(self._masked.rows, chunk=chunk))
        return self.call(repeated(inputs, repeat, chunk.samples), len(chunk), again, changed)

    def full_logits(self, chunk: Chunk) -> Tensor:
        """Run the whole model on a copy of its sample for each row."""
        rows = chunk.rows_on(self.players.labels.device)
        return self.logits_of_rows(rows, chunk.coalitions_on(rows.device).repeat(len(chunk.samples)))

    def logits_of_rows(self, rows: Tensor, coalitions: Tensor) -> Tensor:
        """Run the whole model on rows (B,) int64 of samples, each masked for a coalition (B,) int64 of its own."""

        def mask(x: Tensor) -> Tensor:
            return self.players.mask(x, rows, coalitions)

        if self._layer is not None:
            return self.call(self.probe.select(rows).inputs, len(rows), self._changed(mask))
        x = self.probe.entry(self.players.input_key)[1]
        return self.call(self._with_others(mask(x[rows]), lambda: rows), len(rows))

    def _with_others(self, masked: Tensor, rows: Callable[[], Tensor]) -> Inputs:
        """Return inputs that are masked in one entry, with those rows of the others."""
        key, inputs = self.probe.entry(self.players.input_key)[0], self.probe.inputs
        if isinstance(inputs, Tensor):
            return masked
        chosen = rows()
        return {name: masked if name == key else entry[chosen] for name, entry in inputs.items()}

    def call(self, inputs: Inputs, batch_size: int, *around: Around) -> Tensor:
        """Return the logits of a batch.

        Args:
            inputs: the samples, or what else must stay as it is.
            batch_size: how many rows of logits there must be.
            around: make the contexts that change the model during this forward, which may run twice.
        """

        def forward() -> Tensor:
            given = inputs if self.spoils is False else tree_map_only(Tensor, Tensor.clone, inputs)
            with ExitStack() as stack:
                for context in around:
                    stack.enter_context(context())
                result = self.forward(given)
            if self.spoils is None:
                # Some add to them. Where there is a NaN they seem different, which costs copies and nothing else.
                pairs = zip(tree_leaves(inputs), tree_leaves(given), strict=False)
                self.spoils = not all(x.equal(copy) for x, copy in pairs if isinstance(x, Tensor))
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
        part: Inputs = tree_map(lambda entry: entry[samples.start : samples.stop], self.probe.inputs)
        return part

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Around:
        """Let `change` replace the output of the masked layer."""

        def noted(x: Tensor) -> Tensor:
            # Under autocast the layers are coarser than the logits may look.
            self.epsilon = max(self.epsilon, torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0)
            return change(x)

        return partial(changed_output, self._prefix.layer, self.players.layer or "", noted)


class _Recorded:
    """What a module gave in one call."""

    def __init__(self, module: nn.Module, result: Any) -> None:
        self.module, self._result, self._copy = module, result, tree_map_only(Tensor, Tensor.clone, result)
        self._versions = [(leaf, version_of(leaf)) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]

    @property
    def unchanged(self) -> bool:
        """Whether nothing was written to it since."""
        return all(version_of(tensor) == version is not None for tensor, version in self._versions)

    def again(self) -> Any:
        """Return it as it was, also where the code that followed has changed it in place."""
        return self._result if self.unchanged else tree_map_only(Tensor, Tensor.clone, self._copy)


@dataclass
class Prefix:
    """What the modules before a layer returned, and the layer itself.

    Attributes:
        layer: where the prefix ends.
        samples: for which samples the outputs are; none at first.
    """

    model: nn.Module
    layer: nn.Module
    samples: range = range(0)
    _recorded: list[_Recorded] = field(default_factory=list)

    @contextmanager
    def recorded(self, samples: range) -> Iterator[None]:
        """Keep what the modules give in the forward inside the block."""
        begun: list[int] = []
        done: list[_Recorded] = []
        ended = False

        def begin(_module: nn.Module, _args: Any) -> None:
            begun.append(len(done))

        def end(module: nn.Module, _args: Any, result: Any) -> None:
            nonlocal ended
            first = begun.pop()
            if ended:
                return
            # Where it is replayed, its parts do not run.
            done[first:] = [_Recorded(module, result)]
            ended = module is self.layer

        self.samples = range(0)
        # After the first time it is known which modules there are; asking all of a large model takes its time.
        watched = dict.fromkeys(record.module for record in self._recorded) or self.model.modules()
        with ExitStack() as hooks:
            for module in watched:
                # First, so that the user's own hooks change what is replayed as they changed it before.
                hooks.callback(module.register_forward_pre_hook(begin, prepend=True).remove)
                hooks.callback(module.register_forward_hook(end, prepend=True).remove)
            yield
        self.samples, self._recorded = samples, done

    @contextmanager
    def replayed(self, repeat: int = 1) -> Iterator[None]:
        """Let the modules return what they returned before instead of running, in the forward inside the block.

        Args:
            repeat: how often each row of the outputs comes, except for those of the layer itself.
        """
        before = {record.module: record.module.__dict__.get("forward") for record in self._recorded}
        calls: dict[nn.Module, list[Any]] = {}
        for record in self._recorded:
            result = record.again()
            if repeat > 1:
                widen = repeated_rest if record.module is self.layer else repeated
                result = widen(result, repeat, self.samples)
                if not record.unchanged:
                    # Nobody can write to a view that has all rows in one place.
                    result = tree_map_only(Tensor, Tensor.contiguous, result)
            calls.setdefault(record.module, []).append(result)
        try:
            for module, results in calls.items():
                # Past nn.Module's own __setattr__, which takes its time.
                module.__dict__["forward"] = _giving(results, module.forward)
            yield
        finally:
            for module, forward in before.items():
                module.__dict__.pop("forward", None)
                if forward is not None:
                    module.__dict__["forward"] = forward


def _giving(results: list[Any], forward: Callable[..., Any]) -> Callable[..., Any]:
    """Make a forward that returns the results in turn, and runs once there are none left."""
    waiting = iter(results)

    def give(*args: Any, **kwargs: Any) -> Any:
        for result in waiting:
            return result
        return forward(*args, **kwargs)

    return give


def repeated(result: Any, repeat: int, samples: range) -> Any:
    """Repeat the rows of tensors that have one for each of the samples; those of one sample as a view."""

    def widen(x: Tensor) -> Tensor:
        if x.ndim == 0 or len(x) != len(samples):
            return x
        return x[:, None].expand(-1, repeat, *x.shape[1:]).flatten(0, 1)

    return tree_map_only(Tensor, widen, result)


def repeated_rest(result: Any, repeat: int, samples: range) -> Any:
    """Repeat all but the first part of what the masked layer gave: that one is masked."""
    if isinstance(result, Tensor):
        return result
    parts = [result[0], *(repeated(part, repeat, samples) for part in result[1:])]
    return type(result)(*parts) if hasattr(result, "_fields") else type(result)(parts)
