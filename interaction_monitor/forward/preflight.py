"""Finding out how a model may be run: which layers need not run for every row, and how many rows fit into memory.

A few rows are computed both ways and compared, before the first chunk. A warning tells of a model
whose outputs depend on chance, or on which rows run together.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, is_tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from interaction_monitor.forward.chunks import DEFAULT_ROWS, Chunk, LiveBytes, is_out_of_memory, rows_within_budget
from interaction_monitor.forward.model import WrongBatchError, eager_if_compiled, find_layer, own_path
from interaction_monitor.forward.precision import coarsest_rounding, same
from interaction_monitor.forward.runner import Runner, Way
from interaction_monitor.outputs import OUTPUTS, Output, prediction, score_of
from interaction_monitor.players.player_map import PlayerMap, behind_pool
from interaction_monitor.targets import ends_in_sigmoid, refuse_reconstructions, warn_of_no_logits

log = logging.getLogger(__name__)

POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d)


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
        ends = reference[: 2 * len(together)]
        for way in ways:
            if _agrees(runner, way, together, ends):
                runner.way, runner.packed = way, len(together) > 1
                # The layers behind the mask run for every row, the others once.
                behind = _players_behind_pool(runner, find_layer(runner.model, runner.players.layer))
                if behind is not None and _agrees(replace(runner, players=behind), way, together, ends):
                    runner.move_mask(behind)
                return logits
    return logits


def _players_behind_pool(runner: Runner, layer: nn.Module) -> PlayerMap | None:
    """Return the players behind the one pooling layer that is given the very output of `layer`, where they fit it."""
    outputs: list[object] = []
    found: list[tuple[str, nn.Module]] = []
    with ExitStack() as hooks:
        hooks.callback(layer.register_forward_hook(lambda _module, _args, result: outputs.append(result)).remove)
        for path, module in runner.model.named_modules():
            if isinstance(module, POOLS):

                def note(module: nn.Module, args: Any, name: str = own_path(path)) -> None:
                    if args and any(args[0] is output for output in outputs):
                        found.append((name, module))

                hooks.callback(module.register_forward_pre_hook(note).remove)
        runner.call(runner.probe.inputs_of(0), 1)
    return behind_pool(runner.players, *found[0]) if len(found) == 1 else None


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
        logits = runner.call(probe.inputs_of(0), 1, partial(_no_hidden_batch, runner))
    if score in OUTPUTS.values():
        # On the CPU these check the labels of all samples.
        targets = None if probe.targets is None else probe.targets.cpu()
        score(logits.cpu().expand(len(probe), *logits.shape[1:]), targets)
        if score is not prediction:
            if targets is not None:
                inputs = probe.inputs.values() if isinstance(probe.inputs, dict) else [probe.inputs]
                refuse_reconstructions(logits, targets, inputs)
            may_be_shares = bool(((logits >= 0) & (logits <= 1)).all())
            with eager_if_compiled(runner.model) if may_be_shares else nullcontext():
                from_sigmoid = may_be_shares and ends_in_sigmoid(lambda: runner.call(probe.inputs_of(0), 1))
            warn_of_no_logits(logits, from_sigmoid=from_sigmoid)
    score_of(score, logits, probe.target_of(0))
    return logits


@contextmanager
def _no_hidden_batch(runner: Runner) -> Iterator[None]:
    """Refuse the forward inside the block if it keeps a state for which the next batch must be as large.

    Before training there is none yet; after a batch of training no masked forward would run.
    """

    def attributes() -> dict[tuple[str, str], Any]:
        modules = runner.model.named_modules()
        return {(name, key): value for name, module in modules for key, value in vars(module).items()}

    before, inputs = attributes(), runner.probe.select([0, 0]).inputs
    yield
    held = [
        (*place, before[place])
        for place, value in attributes().items()
        if before.get(place, value) is not value and any(map(is_tensor, tree_leaves(value)))
    ]
    if not held:
        return
    try:
        runner.forward(inputs)
    except (RuntimeError, ValueError, IndexError) as error:
        if is_out_of_memory(error):
            return
        name, key, value = held[0]
        what = "None" if value is None else "..."
        owner = f'module.get_submodule("{name}")' if name else "module"
        given = "**x" if isinstance(inputs, dict) else "x"
        raise ValueError(
            f"the forward keeps {'.'.join(filter(None, (name, key)))!r} for the next batch, which must then be as "
            f"large ({error}). So that rows can be measured by themselves, clear it before each call: "
            f"forward_func=lambda module, x: (setattr({owner}, {key!r}, {what}), module({given}))[1]"
        ) from error


def _agrees(runner: Runner, way: Way, samples: range, reference: Tensor) -> bool:
    """Find out whether a way to save the layers before the masked one gives the same as full forwards, `reference`."""
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
    """Warn if the first sample gives other logits than `alone`, (1, ...), run again or with other rows beside it.

    They are in `ends`: the logits of the empty and the full coalition of one or two samples. None lets them run here.
    """
    # A measurement does without this check rather than fail for it.
    try:
        # A compiled model would be compiled for these batch sizes.
        with eager_if_compiled(runner.model):
            again = runner.call(runner.probe.inputs_of(0), 1).clone()
            if ends is None:
                ends = runner.logits(_ends(runner, range(min(len(runner.probe), 2)))).clone()
                # The sizes of this chunk say nothing about those that follow.
                runner.forget()
        if not alone.shape == again.shape == ends[1:2].shape:
            return
        effect = (ends[0] - ends[1]).abs().max()
        # Rounding depends on the batch size.
        rounding = 64 * coarsest_rounding(runner, alone) * torch.maximum(alone.abs().max(), ends.abs().max())
        random = bool((again - alone).abs().max() > 0.03 * effect + rounding)
        mixed = bool((ends[1] - alone[0]).abs().max() > 0.03 * effect + rounding)
    except Exception as error:
        log.info("not known whether the outputs are steady: %s: %s", type(error).__name__, error)
        return
    if random:
        text = (
            "the model gives different outputs for the same input: something in it is random also in eval mode "
            "(dropout that is always on? torch.nn.functional.dropout without training=self.training); what is "
            "measured is partly chance"
        )
    elif mixed:
        text = (
            "the model's outputs for an input depend on the other inputs in its batch (batch normalization without "
            "running statistics?), so that what is measured depends on chunk_size; normalize each sample by itself, "
            "or keep running statistics"
        )
    else:
        return
    warnings.warn(text, stacklevel=5)  # where masked_outputs was called


def fitting_rows(runner: Runner) -> int:
    """Return the number of rows, a power of two, whose activations fit the budget of the device, after `try_out`.

    It follows from the bytes of two and of four rows of the first sample, so that it is the same each time. A timing
    would find the fastest size a little better. But kernels round differently for different batch sizes, so that a run
    that is resumed, or repeated, would then differ in the last bits, by chance.
    """
    device, layer = runner.players.labels.device, runner.players.layer

    def peak(n_rows: int) -> int:
        counted = LiveBytes()
        # Other batch sizes would be compiled for, and what counts bytes is not compiled.
        with eager_if_compiled(runner.model), counted, ExitStack() as hooks:
            if layer is not None:
                # What comes before the layer runs fewer rows, and may take more for them than the rest for a few.
                after = find_layer(runner.model, layer).register_forward_hook(lambda *_: counted.restart())
                hooks.callback(after.remove)
            runner.logits(Chunk(range(1), range(n_rows)))
        return counted.peak

    # The difference of two sizes leaves out what does not grow with the rows, such as weights in another precision.
    few, more = (2, 4) if runner.n_coalitions > 2 else (1, 2)
    try:
        # The larger one first: the first forward of a sample keeps what comes before the layer, besides.
        bytes_per_row = (peak(more) - peak(few)) // (more - few)
    except Exception as error:
        log.info("chunks of %d rows, because their bytes could not be counted: %s", DEFAULT_ROWS, error)
        return DEFAULT_ROWS
    return rows_within_budget(bytes_per_row, device)


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
