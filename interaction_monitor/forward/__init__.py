"""The masked forward passes: the outputs of a model on all coalitions of each sample's players."""

from __future__ import annotations

import logging
import warnings
import weakref
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from interaction_monitor._checks import float64_device
from interaction_monitor.distributed import Ranks, is_split, require_shared_by_samples
from interaction_monitor.forward.chunks import is_out_of_memory, largest_power_of_two, most_rows, next_chunk
from interaction_monitor.forward.model import (
    assign_players,
    casts_kept,
    device_of,
    eager_if_compiled,
    find_layer,
    same_numbers,
)
from interaction_monitor.forward.preflight import fitting_rows, try_out
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

MAX_FORWARDS = 2**24

# Rows of a chunk, by what else decides the memory of a row: found once for each model, and only ever made smaller.
SIZES: weakref.WeakKeyDictionary[nn.Module, dict[Hashable, int]] = weakref.WeakKeyDictionary()
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


def check_forwards(n_samples: int, n_players: int, max_forwards: int = MAX_FORWARDS) -> None:
    """Refuse a measurement of more masked forwards than the limit, before anything is computed.

    Args:
        n_samples: S.
        n_players: n; each sample takes 2^n forwards.
        max_forwards: the limit on S * 2^n. The default, 2^24, is 134 MB of float64 outputs; the extraction of
            interactions takes some ten times that.

    Raises:
        ValueError: that says how many forwards and bytes it would be.

    Examples:
        >>> check_forwards(50, 20)
        Traceback (most recent call last):
        ValueError: n_players=20 means 50 x 2^20 = 52,428,800 masked forwards, ...
    """
    forwards = n_samples << n_players
    if forwards > max_forwards:
        fitting = (max_forwards // n_samples).bit_length() - 1
        advice = f"Take at most {fitting} players for {n_samples} samples" if fitting > 0 else "Take fewer samples"
        raise ValueError(
            f"n_players={n_players} means {n_samples} x 2^{n_players} = {forwards:,} masked forwards, whose "
            f"outputs take {forwards * 8 / 1e9:,.1f} GB; the limit is max_forwards={max_forwards:,}. "
            f"{advice}, or raise it"
        )


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
        masked = runner.players  # which may be behind a pooling layer by now
        key = (masked.layer, masked.input_key, masked.labels.shape[1:], runner.way, logits.dtype)
        sizes = SIZES.setdefault(model, {})
        if chunk_size is None and key not in sizes:
            sizes[key] = fitting_rows(runner)
        size = largest_power_of_two(chunk_size) if chunk_size else sizes[key]
        share = ranks.equal_share_of(len(probe))
        if len(share) < len(probe):
            runner = replace(runner, probe=probe.select(share), players=masked.select(share))
        found = v.new_empty(len(share) << players.n_players)
        with progress("masked forwards", len(found)) as at:
            left = _fill(found, runner, score, size, at)
        # Of shares that overlap, each process hands over what those before it have not.
        found = ranks.join_samples(found.view(len(share), -1)[ranks.rank * len(share) - share.start :])
        if chunk_size is None:
            sizes[key] = left
    v[kept.to(v.device)] = found
    _warn_if_unchanged(found, logits.dtype)
    return v


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
    """Write the outputs of all (sample, coalition) pairs, sample-major, into v (S * 2^n,), and tell how many are run.

    At most `size` rows run at once, a power of two; what is left of it after memory ran out is returned.
    """
    start = done = 0
    waiting: list[Tensor] = []
    while done < len(v):
        chunk = next_chunk(start, len(runner.probe), runner.n_coalitions, size, packed=runner.packed)
        try:
            waiting.append(runner.logits(chunk))
            start += len(chunk)
            if start == len(v) or waiting[-1].nbytes * (start - done) >= COLLECTED_BYTES * len(chunk):
                v[done:start] = _scores(runner, score, waiting, range(done, start))
                done, waiting = start, []
            else:
                # They may be a view of memory that the next chunk is written to.
                waiting[-1] = waiting[-1].clone()
            at(start)
            continue
        except (RuntimeError, MemoryError) as error:
            # The other processes of a split model run the same chunks, and would wait for ever for one more.
            if len(chunk) == 1 or is_split(runner.model) or not is_out_of_memory(error):
                raise
        # Outside the except clause, whose traceback keeps the tensors of the failed forward alive.
        waiting = []
        runner.forget()
        start, size = done, largest_power_of_two(len(chunk) - 1)
        log.warning("out of memory: going on with chunks of %d coalitions", size)
        torch.cuda.empty_cache()  # does nothing where CUDA is not in use
    return size


def _scores(runner: Runner, score: Output, logits: list[Tensor], pairs: range) -> Tensor:
    """Compute the outputs of (sample, coalition) pairs from the logits of one chunk after the other."""
    joined = logits[0] if len(logits) == 1 else torch.cat(logits)
    rows = torch.arange(pairs.start, pairs.stop, device=joined.device) // runner.n_coalitions
    targets = runner.probe.targets
    return score_of(score, joined, None if targets is None else targets[rows.to(targets.device)])
