"""The masked forward passes: the outputs of a model on all coalitions of each sample's players."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from interaction_monitor._checks import float64_device
from interaction_monitor.distributed import Ranks, is_split, require_shared_by_samples
from interaction_monitor.forward.batching import (
    MAX_FORWARDS,
    Chunk,
    Sizes,
    check_forwards,
    fitting_rows,
    is_out_of_memory,
    largest_power_of_two,
    most_rows,
    next_chunk,
)
from interaction_monitor.forward.model import (
    assign_players,
    casts_kept,
    device_of,
    eager_if_compiled,
    find_layer,
    same_numbers,
)
from interaction_monitor.forward.preflight import try_out
from interaction_monitor.forward.runner import Runner
from interaction_monitor.outputs import Output, log_odds, resolve, score_of
from interaction_monitor.players.base import require_drawn
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe
from interaction_monitor.progress_bar import progress
from interaction_monitor.settings import ForwardContext, ForwardFunc, Settings
from interaction_monitor.state import undisturbed

__all__ = [
    "MAX_FORWARDS",
    "ForwardContext",
    "ForwardFunc",
    "assign_players",
    "check_forwards",
    "masked_outputs",
    "outputs_of",
]

log = logging.getLogger(__name__)

SIZES = Sizes()
# Logits are collected up to here. An output is a dozen small operations, which a small network would feel per chunk.
COLLECTED_BYTES = 2**20


def masked_outputs(
    model: nn.Module,
    probe: Probe,
    players: PlayerMap,
    *,
    output: str | Output = log_odds,
    forward_func: ForwardFunc | None = None,
    chunk_size: int | None = None,
    forward_context: ForwardContext = nullcontext,
    max_forwards: int = MAX_FORWARDS,
) -> Tensor:
    """Compute the output of the model on every coalition of every sample's players, v(x_T) for all T.

    Where an inner layer is masked, the model is called with one sample and a hook on the layer spreads its
    output over a chunk of coalitions, so that the layers before it run once per chunk, and what bypasses the
    layer (residual connections, attention masks) is broadcast. That is tried first on two coalitions against
    full forwards; a model that does not allow it (it asks for the batch size before the layer, or concatenates)
    gets full forwards. A chunk holds several samples if 2^n is small and nothing bypasses the layer. Masked
    inputs exist only for one chunk at a time.

    A model that is split over processes by `fully_shard` or stage 3 of ZeRO is run by all of them together, each on a
    part of the samples: all must call this with the same arguments, and all get the outputs of all samples.

    The model runs in eval mode, without gradients, on the device of its parameters. Its modes, buffers and
    hooks and the random states are put back, also after an exception. Nothing in the loop waits for the
    device.

    Args:
        model: the network.
        probe: the samples; moved to the model's device.
        players: their players, from `assign_players`.
        output: what is computed from the logits: "log_odds", "logit", "loss", "next_token_log_odds", "prediction" or
            a callable, see `outputs`.
        forward_func: (model, inputs) -> what the model returns; default `model(inputs)`, or `model(**inputs)`
            where the inputs are a dict.
        chunk_size: how many rows run at once at most; what is not a power of two is rounded down. None counts the
            bytes of a few rows at first use and takes what fits a budget, the same each time; it is remembered for
            the model. Halved, with a warning in the log, when memory runs out.
        forward_context: makes the context in which the model is called, for instance
            `lambda: torch.autocast("cuda", torch.bfloat16)`.
        max_forwards: refuse more forwards than that, see `check_forwards`.

    Returns:
        (S, 2^n) float64 on the model's device (on the CPU if that has no float64), index = bitmask of the
        coalition. NaN for samples that miss some of their players, and wherever the model gives it.

    Raises:
        ValueError: if the arguments do not fit each other or the model.
        TypeError: if the model returns no logits.
        NotImplementedError: if the model is split over processes so that they share each sample, or over some of them.

    Examples:
        >>> from interaction_monitor.forward import assign_players
        >>> from interaction_monitor.players import ImagePatches
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        >>> probe = Probe(torch.rand(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1]))
        >>> players = assign_players(net, ImagePatches(n_players=4), probe)
        >>> masked_outputs(net, probe, players).shape
        torch.Size([5, 16])
    """
    require_drawn("masked_outputs", probe, players)
    settings = Settings(output, forward_func, forward_context=forward_context)
    return outputs_of(model, probe, players, settings, chunk_size=chunk_size, max_forwards=max_forwards)


def outputs_of(
    model: nn.Module,
    probe: Probe,
    players: PlayerMap,
    settings: Settings,
    *,
    chunk_size: int | None = None,
    max_forwards: int = MAX_FORWARDS,
) -> Tensor:
    """Do as `masked_outputs`."""
    score = resolve(settings.output)
    if len(players) != len(probe):
        raise ValueError(f"players are drawn for {len(players)} samples, but the probe has {len(probe)}")
    if chunk_size is not None and (type(chunk_size) is not int or chunk_size < 1):
        raise ValueError(f"chunk_size={chunk_size!r} must be a whole number of at least 1, or None")
    check_forwards(len(probe), players.n_players, max_forwards)
    if players.layer is not None:
        find_layer(model, players.layer)
    else:
        players.check(probe.entry(players.input_key)[1])
    require_shared_by_samples(model)
    device = device_of(model, probe.inputs)
    shape = len(probe), 1 << players.n_players
    v = torch.full(shape, torch.nan, dtype=torch.float64, device=float64_device(device))
    kept = players.complete.nonzero()[:, 0]
    if not len(kept):
        return v
    probe, players = probe.select(kept.cpu()).to(device), players.select(kept).to(device)
    ranks = Ranks.of_this_run() if is_split(model) else Ranks()
    runner = Runner(model, probe, players, settings)
    with (
        same_numbers(model, ranks),
        undisturbed(model) as runner.kept,
        casts_kept(),
        eager_if_compiled(model) if players.layer else nullcontext(),
    ):
        logits = try_out(runner, score, chunk_size or most_rows(device))
        # What decides the memory of a row, besides the model.
        masked = runner.players  # which may be behind a pooling layer by now
        key = (masked.layer, masked.input_key, masked.labels.shape[1:], runner.way, logits.dtype)
        size = largest_power_of_two(chunk_size) if chunk_size else SIZES.of(model, key, partial(_fitting, runner))
        share = ranks.equal_share_of(len(probe))
        if len(share) < len(probe):
            runner = replace(runner, probe=probe.select(share), players=masked.select(share))
        found = v.new_empty(len(share) << players.n_players)
        with progress("masked forwards", len(found)) as at:
            left = _fill(found, runner, score, size, at)
        # Of shares that overlap, each process hands over what those before it have not.
        found = ranks.join_samples(found.view(len(share), -1)[ranks.rank * len(share) - share.start :])
        if left < size and not chunk_size:
            SIZES.halve(model, key, left)
    v[kept.to(v.device)] = found
    _warn_if_unchanged(found, logits.dtype)
    return v


def _fitting(runner: Runner) -> int:
    layer = runner.players.layer

    def run(chunk: Chunk) -> None:
        # Other batch sizes would be compiled for, and what counts bytes is not compiled.
        with eager_if_compiled(runner.model):
            runner.logits(chunk)

    after = None if layer is None else find_layer(runner.model, layer)
    return fitting_rows(run, runner.n_coalitions, runner.players.labels.device, after=after)


def _warn_if_unchanged(v: Tensor, dtype: torch.dtype) -> None:
    """Warn if the outputs (S, 2^n), of logits of that type, are the same on all coalitions of each sample."""
    # Rows that are equal may still be rounded differently, by where they are in a batch.
    rounding = 4 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    low, high = v.aminmax(dim=1)
    # An infinity less itself is NaN.
    if bool(((high == low) | (high - low <= rounding * torch.maximum(high.abs(), low.abs()))).all()):
        warnings.warn(
            "masking changes no output of any sample: there are no interactions to measure; check layer=, baseline= "
            "and output= (only a network whose last layer begins at zero is expected to do so, before training)",
            stacklevel=4,
        )


def _fill(v: Tensor, runner: Runner, score: Output, size: int, at: Callable[[int], None]) -> int:
    """Compute the outputs of all (sample, coalition) pairs, sample-major, chunk by chunk.

    Args:
        v: (S * 2^n,), filled in place.
        runner: tried out.
        score: what is computed from the logits.
        size: the most rows of a chunk, a power of two.
        at: is told how many pairs have been run.

    Returns:
        The size that was left after memory ran out.
    """
    start, outputs = 0, Outputs(v, runner.probe.targets, runner.n_coalitions, score)
    while outputs.done < len(v):
        chunk = next_chunk(start, len(runner.probe), runner.n_coalitions, size, packed=runner.packed)
        try:
            outputs.add(runner.logits(chunk))
            start += len(chunk)
            at(start)
            if start == len(v):
                outputs.finish()
            continue
        except (RuntimeError, MemoryError) as error:
            # The other processes of a split model run the same chunks, and would wait for ever for one more.
            if len(chunk) == 1 or is_split(runner.model) or not is_out_of_memory(error):
                raise
        # Outside the except clause, whose traceback keeps the tensors of the failed forward alive.
        outputs.drop()
        runner.forget()
        start, size = outputs.done, largest_power_of_two(len(chunk) - 1)
        log.warning("out of memory: going on with chunks of %d coalitions", size)
        torch.cuda.empty_cache()  # does nothing where CUDA is not in use
    return size


class Outputs:
    """Collects the logits of chunk after chunk, and computes the outputs when there are enough.

    Args:
        v: (S * 2^n,) float64, filled in place, sample by sample.
        targets: (S, ...) of the samples, or None.
        score: what is computed from the logits.

    Attributes:
        done: how many outputs are computed.
    """

    def __init__(self, v: Tensor, targets: Tensor | None, n_coalitions: int, score: Output) -> None:
        self.v = v
        self.targets = targets
        self.n_coalitions = n_coalitions
        self.score = score
        self.done = 0
        self._waiting: list[Tensor] = []
        self._bytes = 0

    def add(self, logits: Tensor) -> None:
        """Take the logits of the next rows, (rows, ...)."""
        # They may be a view of memory that the next chunk is written to.
        self._waiting.append(logits if logits.nbytes >= COLLECTED_BYTES else logits.clone())
        self._bytes += logits.nbytes
        if self._bytes >= COLLECTED_BYTES:
            self.finish()

    def finish(self) -> None:
        """Compute the outputs of what is waiting."""
        if not self._waiting:
            return
        logits = self._waiting[0] if len(self._waiting) == 1 else torch.cat(self._waiting)
        self.drop()
        stop = self.done + len(logits)
        rows = torch.arange(self.done, stop, device=logits.device) // self.n_coalitions
        targets = None if self.targets is None else self.targets[rows.to(self.targets.device)]
        self.v[self.done : stop] = score_of(self.score, logits, targets)
        self.done = stop

    def drop(self) -> None:
        """Forget what is waiting."""
        self._waiting = []
        self._bytes = 0
