"""Trying before training how a network is called on the samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from interaction_monitor.forward.batching import is_out_of_memory
from interaction_monitor.forward.calls import Call, CallError, Seen, calls_like, try_call, watched
from interaction_monitor.forward.model import call_model, device_of, eager_if_compiled
from interaction_monitor.probe import TARGET_KEYS, Probe
from interaction_monitor.settings import ForwardContext, ForwardFunc
from interaction_monitor.state import undisturbed


def way_to_call(
    model: nn.Module,
    probe: Probe,
    forward_func: ForwardFunc | None,
    *,
    step: Callable[[nn.Module, Any], Any],
    name: str,
    context: ForwardContext,
) -> ForwardFunc:
    """Return how a network is called on the samples.

    Args:
        model: the network; it is left as it was.
        probe: the samples.
        forward_func: as the user gave it; None finds out.
        step: what the trainer does with the network and a batch.
        name: what that is called.
        context: makes a context for each forward, for example an autocast.

    Raises:
        CallError: if it cannot be called; the message has the line that would work, if one does.
    """
    samples = probe.select(range(min(2, len(probe)))).to(device_of(model, probe.inputs))
    call = forward_func or call_model
    failed = _failure(model, samples.select([0]), call, context)
    if failed is not None and (fresh := _fresh_state(model, samples, call, context)):
        shown = "inputs" if isinstance(samples.inputs, dict) else "x"
        raise CallError(
            f"what the network keeps from one batch to the next ({', '.join(fresh)}) fits no batch of another size: "
            f"{_told(failed)}. To measure it from a fresh state give forward_func=, a function of (module, {shown}) "
            f"that does {'; '.join(f'{path} = None' for path in fresh)} before it calls the module"
        ) from failed
    if failed is not None and forward_func is not None:
        raise CallError(f"forward_func= fails on the samples: {_told(failed)}") from failed
    if failed is not None:
        call = _call_of_the_step(model, samples, failed, step=step, name=name, context=context)
    return call


def _call_of_the_step(
    model: nn.Module,
    samples: Probe,
    failed: Exception,
    *,
    step: Callable[[nn.Module, Any], Any],
    name: str,
    context: ForwardContext,
) -> Call:
    """Find how a step calls the network, where the network itself is not called so."""
    found: Call | None = None
    lines: list[Call] = []
    seen = Seen()
    for batch in _batches(samples):
        with undisturbed(model), eager_if_compiled(model), context():
            with watched(model) as seen:
                finished = try_call(model, batch, step) is None
            found, lines = calls_like(seen, model, samples.inputs, samples.targets)
        if lines or finished:
            break
    if found is not None:
        alone = _failure(model, samples.select([0]), found, context)
        if alone is None:
            return found
        raise CallError(
            f"the network runs on several samples, but not on one: {_told(alone)}. What it gives for a sample depends "
            "on the others in its batch (batch normalization without running statistics?), so it cannot be measured on "
            "the sample alone; keep running statistics, or normalize each sample by itself"
        ) from alone
    shown = "inputs" if isinstance(samples.inputs, dict) else "x"
    advice = " or ".join(map(str, lines[:3])) or f"forward_func=lambda module, {shown}: ... that returns logits"
    calls = f" {name} calls {seen.shapes()}." if seen.calls else ""
    direct = "module(**inputs)" if shown == "inputs" else "module(x)"
    raise CallError(f"{direct} fails on the samples: {_told(failed)}.{calls} Give {advice}") from failed


def _failure(model: nn.Module, samples: Probe, call: ForwardFunc, context: ForwardContext) -> Exception | None:
    with undisturbed(model), eager_if_compiled(model), context():
        failed = try_call(model, samples.inputs, call)
    return None if failed is None or is_out_of_memory(failed) else failed


def _fresh_state(model: nn.Module, samples: Probe, call: ForwardFunc, context: ForwardContext) -> list[str]:
    """List what a network keeps from other batches, if it can be called without; else nothing."""
    with undisturbed(model), eager_if_compiled(model), context():
        held = _held(model)
        for _, owner, name, _ in held:
            setattr(owner, name, None)
        failed = try_call(model, samples.inputs_of(0), call) if held else None
    return [path for path, *_ in held] if failed is None else []


def _held(model: nn.Module) -> list[tuple[str, nn.Module, str, Any]]:
    """List the attributes, and whose they are, with tensors that are neither weights nor statistics."""
    return [
        (".".join(filter(None, ("module", path, name))), module, name, value)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if any(isinstance(part, Tensor) and not isinstance(part, nn.Parameter) for part in _parts(value))
    ]


def _parts(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (tuple, list)) else (value,)


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


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
