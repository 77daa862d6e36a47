"""How large the rounding in somebody else's model is, found by a higher precision, and what it does to interactions."""

from __future__ import annotations

import logging
import math
import random
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from interaction_monitor.distributed import is_split
from interaction_monitor.forward.model import call_model, device_of, eager_if_compiled
from interaction_monitor.forward.runner import Runner
from interaction_monitor.functional import noise_floor
from interaction_monitor.functional.extraction import NOISE
from interaction_monitor.outputs import resolve, score_of
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Inputs, Probe
from interaction_monitor.settings import Settings
from interaction_monitor.state import Kept, undisturbed

log = logging.getLogger(__name__)

# A higher precision, and those that it is higher than.
LOWER = {
    torch.float32: (torch.bfloat16, torch.float16),
    torch.float64: (torch.bfloat16, torch.float16, torch.float32),
}
# TF32, which GPUs compute in without saying so.
_TF32_EPSILON = 2.0**-10


@contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[set[torch.dtype]]:
    """Run every operation inside the block in a higher precision than its tensors have.

    Weights and inputs are converted where they are used, one after the other, so that neither the model changes nor
    memory is needed for a second one. Casts to a lower precision, by an autocast or the model's own code, do nothing.

    Args:
        dtype: float32, or float64.

    Yields:
        The precisions that were raised to it so far.

    Examples:
        >>> layer, x = nn.Linear(4, 2).bfloat16(), torch.rand(3, 4)
        >>> with torch.no_grad(), computing_in(torch.float64):
        ...     found = layer(x.bfloat16()).half()
        >>> found.dtype, layer.weight.dtype, torch.equal(found, layer.double()(x.double()))
        (torch.float64, torch.bfloat16, True)
    """
    # An autocast keeps the weights that it has converted: neither may it come with some nor leave some behind.
    torch.clear_autocast_cache()
    try:
        with _Operations(dtype) as operations, _Calls(operations):
            yield operations.found
    finally:
        torch.clear_autocast_cache()


class _Operations(TorchDispatchMode):
    """Converts what operations are run on."""

    def __init__(self, to: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.to = to
        self.found: set[torch.dtype] = set()

    def lower(self, dtype: object) -> bool:
        """Tell whether this is a lower precision, and remember that it was met."""
        if dtype not in LOWER[self.to]:
            return False
        self.found.add(dtype)
        return True

    def raised(self, tree: Any) -> Any:
        """Convert the tensors in a tree."""
        # Those of other classes, such as quantised ones, know themselves what to do.
        kinds = (Tensor, nn.Parameter)
        return tree_map(lambda x: x.to(self.to) if type(x) in kinds and self.lower(x.dtype) else x, tree)

    def __torch_dispatch__(self, func: Any, types_: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if self.lower(kwargs.get("dtype")):
            kwargs["dtype"] = self.to
        # Takes rows out as they are, so that a large table need not be converted for a few of them.
        if func is torch.ops.aten.embedding.default:
            return func(*args, **kwargs)
        made = not any(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs)))
        # What is written to must stay the tensor that it is, and so must what is looked at by a view: that may be
        # written to later, as by `weight.data.mul_(2)`.
        same = {x.name for x in func._schema.arguments if x.alias_info is not None}
        names = [x.name for x in func._schema.arguments]
        args = [x if name in same else self.raised(x) for name, x in zip(names, args, strict=False)]
        kwargs = {name: x if name in same else self.raised(x) for name, x in kwargs.items()}
        result = func(*args, **kwargs)
        return self.raised(result) if made else result


class _Calls(TorchFunctionMode):
    """Converts what functions are called with, as some refuse tensors of several precisions before they run."""

    def __init__(self, operations: _Operations) -> None:
        super().__init__()
        self.operations = operations

    def __torch_function__(self, func: Any, types_: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == torch.Tensor.dtype.__get__:  # type: ignore[attr-defined]  # a property written in C
            found = func(*args)
            return self.operations.to if found in LOWER[self.operations.to] else found
        # Not methods, most of which write to their tensor or only look at it.
        function = isinstance(func, (types.FunctionType, types.BuiltinFunctionType))
        if function and not func.__name__.endswith("_") and "out" not in kwargs:
            args, kwargs = self.operations.raised((args, kwargs))
        return func(*args, **kwargs)


def coarsest_rounding(runner: Runner, logits: Tensor) -> float:
    """Return the coarsest rounding there may be on the way to the logits."""
    device = logits.device.type
    dtypes = {tensor.dtype for tensor in (logits, *runner.model.parameters()) if tensor.is_floating_point()}
    with runner.settings.forward_context():
        if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
            dtypes.add(torch.get_autocast_dtype(device))
    finest = 0.0 if device == "cpu" else _TF32_EPSILON
    return max(finest, runner.epsilon, *(torch.finfo(dtype).eps for dtype in dtypes))


def same(logits: Tensor, reference: Tensor, epsilon: float) -> bool:
    """Tell whether logits (2 S, ...), of the empty and the full coalition of each sample, are those by full forwards.

    They may differ by rounding to `epsilon` on the way.
    """
    if logits.shape != reference.shape:
        return False
    # Rounding depends on the batch size. A wrong way is wrong by about as much as masking changes.
    effect = (reference[::2] - reference[1::2]).abs().max()
    rounding = 16 * epsilon * reference.abs().max()
    return not bool(((logits - reference).abs() > 0.1 * effect + rounding).any())


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

    Examples:
        >>> from interaction_monitor.forward import assign_players, masked_outputs
        >>> from interaction_monitor.players import ImagePatches
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> probe = Probe(torch.rand(5, 1, 8, 8), torch.arange(5))
        >>> players = assign_players(net, ImagePatches(n_players=6), probe)
        >>> 1e-9 < rounding(net, probe, players, masked_outputs(net, probe, players)) < 1e-6
        True
    """
    drawn = random.Random(0)
    finite = v.isfinite().all(dim=1).nonzero()[:, 0].tolist()
    chosen = sorted(drawn.sample(finite, min(samples, len(finite))))
    rows = torch.tensor(drawn.sample(range(v.shape[1]), min(coalitions, v.shape[1])))
    device = device_of(model, probe.inputs)

    def run(kept: Kept, sample: int, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, set[torch.dtype]]:
        of_probe, of_players = probe.select([sample]).to(device), players.select([sample]).to(device)
        met: set[torch.dtype] = set()

        def forward_func(model: nn.Module, inputs: Inputs) -> Any:
            # Operations that write to a tensor in place leave it in the precision that it is in.
            raised = tree_map(lambda x: x.to(dtype) if x.is_floating_point() else x, inputs)
            with computing_in(dtype) as found:
                result = (settings.forward_func or call_model)(model, raised)
            met.update(found)
            return result

        runner = Runner(model, of_probe, of_players, replace(settings, forward_func=forward_func), kept=kept)
        places = torch.zeros_like(rows, device=device)
        logits = runner.logits_of_rows(places, rows.to(device))
        return score_of(resolve(settings.output), logits, of_probe.select(places).targets).to(v), met

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


def rounding_warning(sigma: float, v: Tensor, tau: float, settings: Settings) -> str | None:
    """Warn where interactions come from rounding rather than from the network.

    AND interactions alone take rounding up as it is: σ 2^{k/2} in order k (Ren et al. 2024, Lemma 1). The extraction of
    AND and OR interactions leaves out of the outputs what its correction can reach, so that rounding does nothing to
    them as long as the largest of 2^n errors, about σ √(2 n ln 2), stays below the correction (docs/forward.md).

    Args:
        sigma: from `rounding`.
        v: (S, 2^n) the outputs, all finite.
        tau: the saliency threshold.
        settings: how it was measured.
    """
    if math.isnan(sigma):
        return None
    n = v.shape[-1].bit_length() - 1
    known = f"rounding inside the network gives its outputs a standard deviation of {sigma:.2g}"
    more = "Interactions of high order may be rounding:"
    advice = "measure in float32 (Precision in docs/forward.md says how)"
    spread = float((v.amax(1) - v.amin(1)).mean())
    # So far apart lie the highest and the lowest of 2^n outputs by rounding alone.
    if sigma > 0 and spread <= 2 * largest_of_all(sigma, n):
        return (
            "the network gives the same output whatever is masked: on each sample the outputs of all coalitions lie "
            f"within {spread:.2g}, and {known}. There are no interactions to measure"
        )
    if settings.interactions == "and":
        drowned = [k for k, floor in enumerate(noise_floor(n, sigma).tolist(), start=1) if floor > tau]
        text = f"{known}. That alone makes interactions of order {min(drowned, default=n)} and above salient"
        return f"{text} (τ = {tau:.2g}): {advice}, or take fewer players" if drowned else None
    correction = settings.thresholds.noise * float((v[:, -1] - v[:, 0]).abs().mean())
    if correction == 0 and sigma > 0:
        why, fix = "here masking all players changes no output", ""
        if settings.thresholds.noise == 0:
            why, fix = "Thresholds(noise=0) forbids that", f"give Thresholds(noise={NOISE}), or "
        return (
            f"{known}. The extraction can remove it only where it may correct outputs, and {why}. {more} {fix}{advice}"
        )
    largest = largest_of_all(sigma, n)
    text = f"{known}, and errors up to {largest:.2g}. The extraction can remove them up to {correction:.2g}. {more}"
    return f"{text} {advice}" if largest > correction else None


def largest_of_all(sigma: float, n: int) -> float:
    """Return about how large the largest of 2^n normally distributed errors is.

    Examples:
        >>> round(largest_of_all(1.0, 10), 1)
        3.7
    """
    return sigma * math.sqrt(2 * n * math.log(2))
