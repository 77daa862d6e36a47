"""Finding out how a model may be run: whether one forward can be spread over the coalitions at the masked layer.

A few rows are computed both ways and compared, before the first chunk. A model whose outputs depend on chance, or on
which rows run together, is told of.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, is_tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from interaction_monitor.forward.batching import Chunk, is_out_of_memory
from interaction_monitor.forward.masking import behind_pool, pool_after
from interaction_monitor.forward.model import WrongBatchError, eager_if_compiled, find_layer
from interaction_monitor.forward.runner import Runner, Way
from interaction_monitor.outputs import OUTPUTS, Output, prediction, score_of
from interaction_monitor.targets import ends_in_sigmoid, refuse_reconstructions, warn_of_no_logits

log = logging.getLogger(__name__)

# TF32, which GPUs compute in without saying so.
_TF32_EPSILON = 2.0**-10


def try_out(runner: Runner, score: Output, size: int) -> Tensor:
    """Check that the output fits the model, and set how the runner spreads and packs.

    Args:
        runner: about to run.
        score: what is computed from the logits.
        size: how many rows a chunk may have, as far as is known.

    Returns:
        The logits of the first sample, unmasked, (1, ...).

    Raises:
        ValueError: if logits or targets do not fit the output, or the masked layer is misused or in vain.
    """
    logits = _check_output(runner, score)
    if runner.players.layer is None:
        _warn_if_unsteady(runner, logits, None)
        return logits
    samples, reference = _reference(runner, min(len(runner.probe), 2 if 2 * runner.n_coalitions <= size else 1))
    if reference is None:
        return logits
    _warn_if_unsteady(runner, logits, reference)
    if isinstance(find_layer(runner.model, runner.players.layer), nn.Embedding):
        # Nothing comes before it, so there is nothing to save.
        return logits
    # Other inputs, such as attention masks, would stay a batch of one, and be indexed by row.
    several = isinstance(runner.probe.inputs, dict) and len(runner.probe.inputs) > 1
    ways: tuple[Way, ...] = ("replayed",) if several else ("spread", "replayed")
    # Together is best, but what bypasses the layer can be spread from one sample only.
    for together in (samples, range(1)) if len(samples) > 1 else (samples,):
        for way in ways:
            if _agrees(runner, way, together, reference[: 2 * len(together)]):
                runner.way, runner.packed = way, len(together) > 1
                _move_behind_pool(runner, together, reference[: 2 * len(together)])
                return logits
    return logits


def _move_behind_pool(runner: Runner, samples: range, reference: Tensor) -> None:
    """Mask behind the pooling layer that follows the masked one, where that gives the same: it runs once then."""
    layer = find_layer(runner.model, runner.players.layer or "")
    found = pool_after(runner.model, layer, lambda: runner.call(runner.probe.inputs_of(0), 1))
    players = None if found is None else behind_pool(runner.players, *found)
    if players is not None and _agrees(replace(runner, players=players), runner.way, samples, reference):
        runner.move_mask(players)


def _reference(runner: Runner, most: int) -> tuple[range, Tensor | None]:
    """Run the empty and the full coalition of as many samples as memory allows, by full forwards."""
    for n_samples in range(most, 0, -1):
        try:
            return range(n_samples), runner.full_logits(_ends(runner, range(n_samples)))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the except clause, whose traceback keeps the tensors of the failed forward alive.
        runner.forget()
        log.warning("out of memory: the layers before %r are tried on fewer rows", runner.players.layer)
        torch.cuda.empty_cache()  # does nothing where CUDA is not in use
    return range(1), None


def _ends(runner: Runner, samples: range) -> Chunk:
    """Return a chunk that holds the empty and the full coalition of each sample."""
    last = runner.n_coalitions - 1
    return Chunk(samples, range(0, last + 1, last))


def _check_output(runner: Runner, score: Output) -> Tensor:
    """Run one unmasked sample and refuse logits or targets that do not fit the output."""
    probe = runner.probe
    # It is watched, for which compiled code would be compiled again.
    with eager_if_compiled(runner.model) if hasattr(torch.compiler, "set_stance") else nullcontext():
        logits = runner.call(probe.inputs_of(0), 1, _NoHiddenBatch(runner))
    if score in OUTPUTS.values():
        # On the CPU these check the labels of all samples.
        targets = None if probe.targets is None else probe.targets.cpu()
        score(logits.cpu().expand(len(probe), *logits.shape[1:]), targets)
        if score is not prediction:
            if targets is not None:
                inputs = probe.inputs.values() if isinstance(probe.inputs, dict) else [probe.inputs]
                refuse_reconstructions(logits, targets, inputs)
            warn_of_no_logits(logits, from_sigmoid=_ends_in_sigmoid(runner, logits))
    score_of(score, logits, probe.target_of(0))
    return logits


class _NoHiddenBatch(AbstractContextManager[None]):
    """Refuses the forward inside the block if it keeps a state for which the next batch must be as large.

    Before training there is none yet; after a batch of training no masked forward would run.

    Raises:
        ValueError: on leaving, that says what clears it.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def __enter__(self) -> None:
        self._before = {(name, key): value for name, key, value in _attributes(self._runner.model)}

    def __exit__(self, failed: object, *_: object) -> None:
        before, probe = self._before, self._runner.probe
        held = [
            (name, key, before[name, key])
            for name, key, value in _attributes(self._runner.model)
            if before.get((name, key), value) is not value and any(map(is_tensor, tree_leaves(value)))
        ]
        if failed or not held:
            return
        try:
            self._runner.forward(probe.select([0, 0]).inputs)
        except (RuntimeError, ValueError, IndexError) as error:
            if is_out_of_memory(error):
                return
            name, key, value = held[0]
            what = "None" if value is None else "..."
            owner = f'module.get_submodule("{name}")' if name else "module"
            inputs = "**x" if isinstance(probe.inputs, dict) else "x"
            raise ValueError(
                f"the forward keeps {'.'.join(filter(None, (name, key)))!r} for the next batch, which must then be as "
                f"large ({error}). So that rows can be measured by themselves, clear it before each call: "
                f"forward_func=lambda module, x: (setattr({owner}, {key!r}, {what}), module({inputs}))[1]"
            ) from error


def _attributes(model: nn.Module) -> Iterator[tuple[str, str, Any]]:
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            yield name, key, value


def _ends_in_sigmoid(runner: Runner, logits: Tensor) -> bool:
    """Tell whether logits that may be probabilities come from a sigmoid."""
    if not bool(((logits >= 0) & (logits <= 1)).all()):
        return False
    with eager_if_compiled(runner.model):
        return ends_in_sigmoid(lambda: runner.call(runner.probe.inputs_of(0), 1))


def _agrees(runner: Runner, way: Way, samples: range, reference: Tensor) -> bool:
    """Find out whether a way to save the layers before the masked one gives the same as full forwards.

    Args:
        runner: about to run.
        way: which.
        samples: one or two.
        reference: the logits of their empty and full coalitions by full forwards.

    Raises:
        ValueError: if the logits do not depend on the layer.
    """
    run = runner.spread_logits if way == "spread" else runner.replayed_logits
    name, chunk = runner.players.layer, _ends(runner, samples)
    try:
        with _CheckedIndices() if reference.device.type == "cuda" else nullcontext():  # type: ignore[no-untyped-call]  # torch leaves it untyped
            # Twice, because modules are replayed from the second time on.
            found = [run(chunk).clone() for _ in range(2)]
    except WrongBatchError as error:
        if reference[0].equal(reference[1]):
            raise ValueError(
                f"the logits do not depend on the output of layer={name!r}: masking it changes nothing; name a layer "
                "on the way from the input to the logits"
            ) from error
        log.info("not %s: the batch size of %r is lost", way, name)
        return False
    except Exception as error:
        log.info("not %s: a batch of %d before %r failed: %s", way, len(samples), name, error)
        return False
    if all(same(logits, reference, runner.epsilon) for logits in found):
        return True
    log.info("not %s: a batch of %d before %r differs", way, len(samples), name)
    return False


def _warn_if_unsteady(runner: Runner, alone: Tensor, ends: Tensor | None) -> None:
    """Warn if the first sample gives other logits when it runs again, or when other rows run beside it.

    Args:
        runner: about to run.
        alone: the logits of the first sample, unmasked, (1, ...).
        ends: those of the empty and the full coalition of one or two samples in one batch, by full forwards; None lets
            them run here.
    """
    # A measurement does without this check rather than fail for it.
    try:
        # A compiled model would be compiled for these batch sizes.
        with eager_if_compiled(runner.model):
            again = runner.call(runner.probe.inputs_of(0), 1).clone()
            if ends is None:
                last = runner.n_coalitions - 1
                ends = runner.logits(Chunk(range(min(len(runner.probe), 2)), range(0, last + 1, last))).clone()
                # The sizes of this chunk say nothing about those that follow.
                runner.forget()
        if not alone.shape == again.shape == ends[1:2].shape:
            return
        effect = (ends[0] - ends[1]).abs().max()
        # Rounding depends on the batch size.
        rounding = 64 * _epsilon(runner, alone) * torch.maximum(alone.abs().max(), ends.abs().max())
        random = bool((again - alone).abs().max() > 0.03 * effect + rounding)
        mixed = bool((ends[1] - alone[0]).abs().max() > 0.03 * effect + rounding)
    except Exception as error:
        log.info("not known whether the outputs are steady: %s: %s", type(error).__name__, error)
        return
    # Where masked_outputs was called.
    level = 5
    if random:
        warnings.warn(
            "the model gives different outputs for the same input: something in it is random also in eval mode "
            "(dropout that is always on? torch.nn.functional.dropout without training=self.training); what is "
            "measured is partly chance",
            stacklevel=level,
        )
    elif mixed:
        warnings.warn(
            "the model's outputs for an input depend on the other inputs in its batch (batch normalization without "
            "running statistics?), so that what is measured depends on chunk_size; normalize each sample by itself, "
            "or keep running statistics",
            stacklevel=level,
        )


def _epsilon(runner: Runner, logits: Tensor) -> float:
    """Return the coarsest rounding there may be on the way to the logits."""
    device = logits.device.type
    dtypes = {tensor.dtype for tensor in (logits, *runner.model.parameters()) if tensor.is_floating_point()}
    with runner.settings.forward_context():
        if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
            dtypes.add(torch.get_autocast_dtype(device))
    finest = 0.0 if device == "cpu" else _TF32_EPSILON
    return max(finest, runner.epsilon, *(torch.finfo(dtype).eps for dtype in dtypes))


def same(logits: Tensor, reference: Tensor, epsilon: float) -> bool:
    """Tell whether two ways to mask agree, on the empty and the full coalition of each sample.

    Args:
        logits: (2 S, ...), found one way.
        reference: found by full forwards.
        epsilon: the coarsest rounding on the way.
    """
    if logits.shape != reference.shape:
        return False
    # Rounding depends on the batch size. A wrong way is wrong by about as much as masking changes.
    effect = (reference[::2] - reference[1::2]).abs().max()
    rounding = 16 * epsilon * reference.abs().max()
    return not bool(((logits - reference).abs() > 0.1 * effect + rounding).any())


class _CheckedIndices(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Raises for an index out of range before the device sees it: CUDA could not be used any more in this process."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        pairs: list[tuple[int, Tensor | None]] = []
        if func is aten.index.Tensor:
            pairs = [(args[0].shape[axis], index) for axis, index in enumerate(args[1])]
        elif func in (aten.gather.default, aten.index_select.default):
            pairs = [(args[0].shape[args[1]], args[2])]
        elif func is aten.embedding.default:
            pairs = [(args[0].shape[0], args[1])]
        for size, index in pairs:
            if index is not None and index.dtype == torch.int64 and index.numel() and int(index.max()) >= size:
                raise IndexError(f"index {int(index.max())} is out of range for size {size}")
        return func(*args, **(kwargs or {}))
