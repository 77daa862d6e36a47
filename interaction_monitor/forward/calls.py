"""How a network is called that does not take a probe's inputs as they are: watched in a step of its own training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from interaction_monitor._checks import describe
from interaction_monitor.forward.model import call_model, logits_of
from interaction_monitor.probe import Inputs
from interaction_monitor.state import answered

LOSSES = (
    functional.cross_entropy,
    functional.nll_loss,
    functional.binary_cross_entropy_with_logits,
    functional.binary_cross_entropy,
    functional.mse_loss,
    functional.l1_loss,
    functional.smooth_l1_loss,
    functional.huber_loss,
)
# What is done to a tensor between the batch and a module, or between two modules.
CHANGES = (
    "{}.flatten(1)",
    "{}.float()",
    "{}.long()",
    "{}.unsqueeze(1)",
    "{}.squeeze(1)",
    "{}.squeeze(-1)",
    "{}.mT",
    "{}.permute(0, 3, 1, 2)",
    "{}.permute(0, 2, 3, 1)",
    "{}.relu()",
    "{}.tanh()",
    "{}.sigmoid()",
    "{} / 255",
    "{}[:, 0]",
    "{}[:, -1]",
    "{}.mean(1)",
    "{}.mean((2, 3))",
)


class CallError(ValueError):
    """The network cannot be called on the probe samples; the message says how it could be."""


@dataclass(frozen=True)
class Call:
    """A way to call a network, as the line that a user would write for it.

    Attributes:
        line: of Python, in which the network is `module` and the inputs are `x` (`inputs`, where they are a dict).
        name: what the inputs are called.

    Examples:
        >>> call = Call("module[0](x.flatten(1))")
        >>> call(nn.Sequential(nn.Linear(4, 3)), torch.rand(5, 2, 2)).shape, str(call)
        (torch.Size([5, 3]), 'forward_func=lambda module, x: module[0](x.flatten(1))')
    """

    line: str
    name: str = "x"

    def __call__(self, module: nn.Module, inputs: Any) -> Any:
        """Call the network."""
        return _function(f"module, {self.name}", self.line)(module, inputs)

    def unused(self, inputs: Inputs) -> list[str]:
        """List the inputs that do not stand in the line."""
        keys = [] if isinstance(inputs, Tensor) or f"({self.name})" in self.line else inputs
        return [key for key in keys if f'["{key}"]' not in self.line]

    def __str__(self) -> str:
        return f"forward_func=lambda module, {self.name}: {self.line}"


@dataclass
class Seen:
    """What was seen of a step: the calls of modules by its own code, in turn, and what the losses were given."""

    calls: list[tuple[str, tuple[Any, ...], dict[str, Any], Any]] = field(default_factory=list)
    scored: list[Tensor] = field(default_factory=list)

    def shapes(self) -> str:
        """Say which modules were called, with what."""
        told = [
            f"{path_of(name)}({', '.join(map(describe, (*args, *kwargs.values())))}) -> {describe(result)}"
            for name, args, kwargs, result in self.calls
        ]
        return "; ".join(told[:6]) + f"; and {len(told) - 6} more" * (len(told) > 6)


@contextmanager
def watched(model: nn.Module) -> Iterator[Seen]:
    """See which modules are called inside the block, but not by other modules, and what losses are given."""
    seen, given, handles = Seen(), [], []
    for name, module in model.named_modules():

        def before(_module: nn.Module, args: Any, kwargs: Any) -> None:
            given.append(tree_map(lambda part: part, (args, kwargs)))  # some put their results into the dict they take

        def after(_module: nn.Module, _args: Any, result: Any, name: str = name) -> None:
            args, kwargs = given.pop()
            if not given and result is not None:
                seen.calls.append((name, args, kwargs, result))

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, always_call=True))
    forward, own = model.forward, vars(model).get("forward")
    # A step may call it past `__call__`, and so past the hooks.
    vars(model)["forward"] = lambda *args, **kwargs: (forward if given else model)(*args, **kwargs)
    try:
        with _Scored(seen.scored):
            yield seen
    finally:
        vars(model).pop("forward") if own is None else vars(model).update(forward=own)
        for handle in handles:
            handle.remove()


def calls_like(seen: Seen, model: nn.Module, inputs: Inputs, targets: Tensor | None) -> tuple[Call | None, list[Call]]:
    """Find the line that gives what a step gave to its loss.

    Args:
        seen: of a step on these very samples, in eval mode.
        model: the network, in eval mode, without gradients.
        inputs: of the samples.
        targets: of the samples, which no line may need.

    Returns:
        The line, if there is no doubt; and all lines that can be run, the likeliest first.
    """
    name = "inputs" if isinstance(inputs, Mapping) else "x"
    size = len(next(iter(inputs.values()))) if isinstance(inputs, Mapping) else len(inputs)
    known = [(f'inputs["{key}"]', x) for key, x in inputs.items()] if isinstance(inputs, Mapping) else [("x", inputs)]
    if targets is not None:
        known.append(("None", targets))
    found: list[tuple[Call, Tensor]] = []
    for path, args, kwargs, result in seen.calls:
        given = [_line(value, known) for value in args] + [
            f"{key}={_line(part, known)}" for key, part in kwargs.items()
        ]
        whole = len(args) == 1 and not kwargs and isinstance(args[0], Mapping) and path_of(path) + "(inputs)"
        named = isinstance(result, Mapping) and "logits" not in result
        for end, part in [(f"[{key!r}]", x) for key, x in result.items()] if named else [("", result)]:
            for line in ([f"{whole}{end}"] if whole else []) + [f"{path_of(path)}({', '.join(given)}){end}"]:
                with suppress(TypeError, ValueError):
                    logits, call = logits_of(part, size), Call(line, name)
                    if "..." in line or not logits.is_floating_point() or not _gives(call, model, inputs, logits, size):
                        continue
                    if isinstance(part, Tensor):
                        known.append((line, part))
                    found.append((call, logits))
                    break
    found.reverse()
    lines = [call for call, _ in found]
    if scored := [call for call, logits in found if any(_same(logits, given) for given in seen.scored)]:
        return scored[0], scored + [call for call in lines if call not in scored]
    rows = [result for *_, result in seen.calls if not isinstance(result, Tensor) or result.ndim]  # others are losses
    return (lines[0] if len(lines) == len(rows) == 1 and not seen.scored else None), lines


class _Scored(TorchFunctionMode):
    """Notes what loss functions are given."""

    def __init__(self, scored: list[Tensor]) -> None:
        super().__init__()
        self.scored = scored

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in LOSSES:
            # A squared error may be given them in either order.
            given = *args[:2], kwargs.get("input"), kwargs.get("target")
            self.scored.extend(x.detach() for x in given if isinstance(x, Tensor))
        return func(*args, **kwargs)


def _gives(call: Call, model: nn.Module, inputs: Inputs, logits: Tensor, size: int) -> bool:
    """Tell whether a line runs, and gives the logits that were seen."""
    try:
        with answered(model):
            return _same(logits_of(call(model, inputs), size), logits)
    except Exception:
        return False


def _same(logits: Tensor, given: Tensor) -> bool:
    """Tell whether these are the same numbers, or their logarithms of probabilities."""
    if logits.numel() != given.numel() or not logits.is_floating_point():
        return False
    flat = given.reshape(logits.shape).to(logits)
    return torch.allclose(logits, flat, equal_nan=True) or (
        logits.ndim == 2 and torch.allclose(logits.log_softmax(1), flat, equal_nan=True)
    )


def path_of(name: str) -> str:
    """Write the way to a module as Python."""
    parts = name.split(".") if name else []
    if not all(part.isidentifier() or part.isdigit() for part in parts):
        return f'module.get_submodule("{name}")'
    return "module" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in parts)


def _line(value: Any, known: list[tuple[str, Tensor]]) -> str:
    """Write a value in terms of known tensors; "..." where that is not possible."""
    if isinstance(value, Tensor):
        return _line_of_tensor(value, known)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_line(part, known)}" for key, part in value.items()) + "}"
    if type(value) in (list, tuple):
        parts = [_line(part, known) for part in value]
        return f"[{', '.join(parts)}]" if isinstance(value, list) else f"({', '.join(parts)},)"
    return repr(value) if value is None or isinstance(value, (bool, int, float, str)) else "..."


def _line_of_tensor(value: Tensor, known: list[tuple[str, Tensor]]) -> str:
    for line, tensor in known:
        if tensor is value or _equal(tensor, value):
            return line
    inputs = [(line, tensor) for line, tensor in known if line != "None"]
    for depth, (line, tensor) in zip(count(), chain(inputs, _changed(inputs)), strict=False):
        if _equal(tensor, value):
            return line
        if value.dtype == torch.float32 and _is_one_hot(value, tensor):
            return f"torch.nn.functional.one_hot({line}, {value.shape[-1]}).float()"
        if depth > 2000:
            break
    for line, tensor in inputs:
        if tensor.numel() == value.numel() and _equal(tensor.reshape(value.shape), value):
            return f"{line}.reshape(-1, {', '.join(map(str, value.shape[1:]))})"
    return "..."


def _is_one_hot(value: Tensor, codes: Tensor) -> bool:
    if codes.dtype != torch.int64 or value.shape[:-1] != codes.shape or not value.ndim:
        return False
    within = bool(((codes >= 0) & (codes < value.shape[-1])).all())
    return within and torch.equal(functional.one_hot(codes, value.shape[-1]).to(value), value)


def _changed(known: list[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Give the known tensors after one change, and after two."""
    for _ in range(2):
        changed = []
        for line, tensor in known:
            for change in CHANGES:
                try:
                    result = _function("x", change.format("x"))(tensor)
                except (RuntimeError, IndexError, TypeError):
                    continue
                if result.shape != tensor.shape or result.dtype != tensor.dtype or not torch.equal(result, tensor):
                    changed.append((change.format(f"({line})" if "/" in line else line), result))
                    yield changed[-1]
        known = changed


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


@functools.cache
def _function(arguments: str, line: str) -> Callable[..., Any]:
    # The lines are written here, of names of modules and the changes above.
    function: Callable[..., Any] = eval(f"lambda {arguments}: {line}", {"torch": torch})
    return function


def try_call(model: nn.Module, inputs: Inputs, forward_func: Callable[..., Any] = call_model) -> Exception | None:
    """Call a network, in eval mode, and return what it raised."""
    try:
        with answered(model):
            forward_func(model, inputs)
    except Exception as error:
        return error
    return None
