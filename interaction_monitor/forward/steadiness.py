"""Finding out whether a row's logits depend on anything but the row: on chance, or on the rows beside it."""

from __future__ import annotations

import logging
import warnings

import torch
from torch import Tensor

from interaction_monitor.forward.chunk import Chunk
from interaction_monitor.forward.model import eager_if_compiled
from interaction_monitor.forward.runner import Runner

log = logging.getLogger(__name__)

# TF32, which GPUs compute in without saying so.
_TF32_EPSILON = 2.0**-10


def warn_if_unsteady(runner: Runner, alone: Tensor, ends: Tensor | None) -> None:
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
