"""How a Lightning module is called on the samples: as it is, or as its own validation step calls its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from interaction_monitor.forward.batching import is_out_of_memory
from interaction_monitor.forward.calls import Call, CallError, Seen, calls_like, try_call, watched
from interaction_monitor.forward.model import call_model, device_of, eager_if_compiled
from interaction_monitor.probe import TARGET_KEYS, Probe
from interaction_monitor.state import undisturbed


def way_to_call(
    trainer: pl.Trainer, pl_module: pl.LightningModule, probe: Probe, forward_func: Callable[..., Any] | None
) -> Callable[..., Any]:
    """Return how the network is called on the samples.

    Args:
        trainer: about to train.
        pl_module: the network; it is left as it was.
        probe: the samples.
        forward_func: as the user gave it; None finds out.

    Raises:
        CallError: if it cannot be called; the message has the line that would work, if one does.
    """
    samples = probe.select(range(min(2, len(probe)))).to(device_of(pl_module, probe.inputs))
    samples = Probe(trainer.precision_plugin.convert_input(samples.inputs), samples.targets)
    context = trainer.precision_plugin.forward_context
    with undisturbed(pl_module), eager_if_compiled(pl_module), context():
        failed = try_call(pl_module, samples.inputs_of(0), forward_func or call_model)
        if failed is None or is_out_of_memory(failed):
            return forward_func or call_model
    if forward_func is not None:
        raise CallError(f"forward_func= fails on the samples: {_told(failed)}") from failed
    step = _step_of(pl_module)
    found: Call | None = None
    lines: list[Call] = []
    seen = Seen()
    for batch in _batches(samples):
        with undisturbed(pl_module), eager_if_compiled(pl_module), context():
            with watched(pl_module) as seen:
                finished = try_call(pl_module, batch, lambda module, batch: getattr(module, step)(batch, 0)) is None
            found, lines = calls_like(seen, pl_module, samples.inputs, samples.targets)
        if lines or finished:
            break
    if found is not None:
        with undisturbed(pl_module), eager_if_compiled(pl_module), context():
            failed = try_call(pl_module, samples.inputs_of(0), found)
        if failed is None or is_out_of_memory(failed):
            return found
        raise CallError(
            f"the network runs on several samples, but not on one: {_told(failed)}. What it gives for a sample depends "
            "on the others in its batch (batch normalization without running statistics?), so it cannot be measured on "
            "the sample alone; keep running statistics, or normalize each sample by itself"
        ) from failed
    shown = "inputs" if isinstance(probe.inputs, dict) else "x"
    advice = " or ".join(map(str, lines[:3])) or f"forward_func=lambda module, {shown}: ... that returns logits"
    calls = f" {step} calls {seen.shapes()}." if seen.calls else ""
    call = "module(**inputs)" if shown == "inputs" else "module(x)"
    raise CallError(f"{call} fails on the samples: {_told(failed)}.{calls} Give {advice}") from failed


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _step_of(pl_module: pl.LightningModule) -> str:
    """Return which step shows how the network is called: for validation, where there is one."""
    own = type(pl_module).validation_step.__module__.split(".")[0] not in ("lightning", "pytorch_lightning")
    return "validation_step" if own or not pl_module.automatic_optimization else "training_step"


def _batches(samples: Probe) -> Iterator[Any]:
    """Give the batches that the samples may have been taken from."""
    inputs, targets = samples.inputs, samples.targets
    if isinstance(inputs, dict):
        named: dict[str, Tensor] = {} if targets is None else dict.fromkeys(TARGET_KEYS, targets)
        yield {**named, **inputs}
    if targets is not None:
        yield [inputs, targets]
    else:
        yield from (inputs, [inputs])


def told(call: Call) -> str:
    """Say what was found."""
    return f"module(x) does not run on the samples, so it is called as its own step calls it: {call}"
