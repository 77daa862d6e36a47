"""Calling a model of somebody else: finding its layers, drawing players at them, masking one, reading its logits."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from interaction_monitor._checks import describe, some
from interaction_monitor.distributed import Ranks
from interaction_monitor.players.base import Players
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Inputs, Probe, require_probe
from interaction_monitor.settings import ForwardContext, ForwardFunc
from interaction_monitor.state import undisturbed


class WrongBatchError(ValueError):
    """The model returned logits for another number of samples than it was given."""


def call_model(model: nn.Module, inputs: Inputs) -> Any:
    """Call `model(inputs)`, or `model(**inputs)` where the inputs are a dict."""
    return model(**inputs) if isinstance(inputs, dict) else model(inputs)


def device_of(model: nn.Module, inputs: Inputs) -> torch.device:
    """Return the device of the model's first parameter or buffer, or of the inputs if it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return (next(iter(inputs.values())) if isinstance(inputs, dict) else inputs).device


# What is wrapped around a module, by torch.compile, FSDP or the checkpoints of activations, puts this into the paths.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def own_path(path: str) -> str:
    """Return a module's path as it is before anything is wrapped around it.

    Examples:
        >>> own_path("_fsdp_wrapped_module.encoder._orig_mod.0")
        'encoder.0'
    """
    return ".".join(part for part in path.split(".") if part not in _WRAPPERS)


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """Return the submodule with the dotted `name`.

    Raises:
        ValueError: if there is none, the message names the nearest ones; or if it is scripted.
    """
    layers: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        layers.setdefault(own_path(path), module)
    del layers[""]
    if name in layers:
        layer: nn.Module = layers[name]
        if isinstance(layer, torch.jit.ScriptModule):
            raise ValueError(
                f"layer={name!r} is part of a scripted or traced module, on which no hooks can be set; give the eager "
                "model, or players of the input (ImagePatches, for instance)"
            )
        return layer
    inside = [path for path in layers if path.endswith(f".{name}")]
    near = inside + [path for path in difflib.get_close_matches(name, layers, n=5) if path not in inside]
    hint = f"did you mean {' or '.join(map(repr, near[:5]))}?" if near else f"it has {some(list(layers))}"
    raise ValueError(f"layer={name!r}: {type(model).__name__} has no layer of that name; {hint}")


@contextmanager
def changed_output(layer: nn.Module, name: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let `change` replace the output of `layer` (its first element, if it is a tuple) during one forward.

    Raises:
        ValueError: if the layer is called more than once in the block, or not at all.
        TypeError: if its output is not a tensor or a tuple or list that begins with one.
    """
    calls = 0

    def hook(_module: nn.Module, _args: Any, result: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise ValueError(
                f"layer={name!r} is called more than once in one forward, so it is unclear which of its "
                "outputs to mask; name a layer that is called once, for instance the one just before or "
                "after it"
            )
        if isinstance(result, Tensor):
            return change(result)
        if isinstance(result, (tuple, list)) and result and isinstance(result[0], Tensor):
            changed = [change(result[0]), *result[1:]]
            return type(result)(*changed) if hasattr(result, "_fields") else type(result)(changed)
        raise TypeError(f"layer={name!r} must output a tensor or a tuple that begins with one, got {describe(result)}")

    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
    if calls == 0:
        raise ValueError(
            f"layer={name!r} is not called when the model runs on the probe samples, so there is nothing to "
            "mask; name a layer that takes part in the forward"
        )


def assign_players(
    model: nn.Module,
    players: Players,
    probe: Probe,
    *,
    forward_func: ForwardFunc | None = None,
    forward_context: ForwardContext = nullcontext,
    seed: int = 0,
) -> PlayerMap:
    """Draw the players of each probe sample, after a dry run of the model where they live at an inner layer.

    Args:
        model: the network; it is left as it was, see `masked_outputs`.
        players: what kind of players.
        probe: the samples.
        forward_func: (model, inputs) -> what the model returns; default `model(inputs)`, or `model(**inputs)`
            where the inputs are a dict.
        forward_context: makes the context in which the model is called, for instance an autocast.
        seed: decides the draw.

    Returns:
        The players, on the CPU.

    Raises:
        TypeError: if the arguments are of other kinds, or swapped.
        ValueError: if the layer is not found, is not called exactly once, or does not fit the players.

    Examples:
        >>> from interaction_monitor.players import FeaturePatches
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))
        >>> probe = Probe(torch.rand(5, 1, 10, 10))
        >>> assign_players(net, FeaturePatches("1", grid=4, n_players=3), probe).labels.shape
        torch.Size([5, 8, 8])
    """
    if not isinstance(players, Players):
        raise TypeError(
            f"assign_players(model, players, probe): players is {describe(players)}; give a kind of players second, "
            'such as FeaturePatches(layer="features.1"), and the model first'
        )
    require_probe("assign_players", probe)
    if players.layer is None:
        return players.assign(probe, None, seed=seed)
    layer = find_layer(model, players.layer)
    device = device_of(model, probe.inputs)
    seen: list[Tensor] = []
    found: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        # The layers after it may work in place.
        seen.append(output.detach().clone())
        return output

    def run(inputs: Inputs) -> None:
        with changed_output(layer, players.layer or "", keep), forward_context():
            (forward_func or call_model)(model, inputs)

    with undisturbed(model) as kept, eager_if_compiled(model):
        for sample in range(len(probe) if callable(players.baseline) else 1):
            kept.run(partial(run, probe.select([sample]).to(device).inputs))
            if seen[-1].ndim == 0 or len(seen[-1]) != 1:
                raise ValueError(
                    f"layer={players.layer!r} gives {describe(seen[-1])} for one sample, so its first axis is not the "
                    "batch (windows of an image? a sequence that comes first, without batch_first=True?); name a "
                    "layer whose first axis is the batch"
                )
            found.append(seen[-1])
    return players.assign(probe, torch.cat(found), seed=seed).to("cpu")


@contextmanager
def same_numbers(model: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Give the model the buffers of rank zero inside the block, and its attributes that are tensors or fractions.

    Parameters are the same everywhere, but each process goes on with running statistics (of BatchNorm)
    of its own until the next forward in training; those of rank zero are what a checkpoint holds.
    """
    if ranks.size == 1:
        yield
        return
    first = ranks.of_first(numbers_of(model))
    with undisturbed(model):
        for (path, key), value in first.items():
            module = model.get_submodule(path)
            own = getattr(module, key, None)
            if not _is_of_numbers(own):
                continue
            devices = [leaf.device for leaf in (*tree_leaves(own), *model.parameters()) if isinstance(leaf, Tensor)]
            there = tree_map_only(Tensor, methodcaller("to", devices[0]), value) if devices else value
            if key in module._buffers and isinstance(own, Tensor) and own.shape == there.shape:
                own.copy_(there)
            else:
                (module._buffers if key in module._buffers else vars(module))[key] = there
        yield


def numbers_of(model: nn.Module) -> dict[tuple[str, str], Any]:
    """Return the buffers, and the attributes of modules that are tensors or fractions or made of them, on the CPU.

    Whole numbers are left out: each process has its own number of a device.

    Examples:
        >>> net = nn.BatchNorm1d(2, momentum=0.5)
        >>> net.level = [torch.zeros(1)]
        >>> [key for _, key in numbers_of(net)]
        ['running_mean', 'running_var', 'num_batches_tracked', 'eps', 'momentum', 'level']
    """
    found = {}
    for path, module in model.named_modules():
        for key, value in (*module._buffers.items(), *vars(module).items()):
            if key not in ("_parameters", "_buffers") and value is not None and _is_of_numbers(value):
                found[path, key] = tree_map_only(Tensor, lambda x: x.detach().cpu(), value)
    return found


def _is_of_numbers(value: Any) -> bool:
    leaves = tree_leaves(value)
    return bool(leaves) and all(
        leaf is None or (isinstance(leaf, (Tensor, float)) and not isinstance(leaf, nn.Parameter)) for leaf in leaves
    )


def logits_of(result: Any, batch_size: int) -> Tensor:
    """Return the logits in what a model returned: a tensor, the first of a tuple, or the entry or field "logits".

    Raises:
        TypeError: if there are none; the message shows what came.
        WrongBatchError: if their first axis is not the batch.
    """
    logits = result
    if isinstance(result, Mapping):
        logits = result.get("logits")
    elif isinstance(result, (tuple, list)):
        logits = getattr(result, "logits", result[0] if result else None)
    elif not isinstance(result, Tensor):
        logits = getattr(result, "logits", None)
    if not isinstance(logits, Tensor):
        line = "forward_func=lambda module, x: ... that returns the logits"
        if isinstance(result, Mapping) and (keys := [key for key, x in result.items() if isinstance(x, Tensor)]):
            named = " or ".join(map(repr, keys[:5]))
            line = f"forward_func=lambda module, x: module(x)[{keys[0]!r}], if the logits are those of {named}"
        raise TypeError(
            'the model must return logits: a tensor, a tuple that begins with it, or a dict with "logits"; '
            f"got {describe(result)}. Give {line}"
        )
    if logits.ndim == 0 or logits.shape[0] != batch_size:
        raise WrongBatchError(
            "the model must return one row of logits per sample, (batch, classes): for a batch of "
            f"{batch_size} it returned {describe(result)}"
        )
    return logits


def eager_if_compiled(model: nn.Module) -> AbstractContextManager[Any]:
    """Run compiled modules eagerly inside the block: hooks that are set after compiling are not seen otherwise."""
    if not is_compiled(model):
        return nullcontext()
    if not hasattr(torch.compiler, "set_stance"):
        raise ValueError(
            f"players at a layer of a compiled model need torch 2.6 or newer, this is {torch.__version__}; mask the "
            "input instead (ImagePatches, for instance), or do not compile the model"
        )
    return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]  # torch leaves it untyped


@contextmanager
def casts_kept() -> Iterator[None]:
    """Let an autocast that is entered again and again inside the block cast each weight only once."""
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        # Also in the midst of an autocast of the caller's: what was cast without gradients would have none.
        torch.clear_autocast_cache()


def is_compiled(model: nn.Module) -> bool:
    """Tell whether `model` or a part of it was given to `torch.compile` (or by it to Lightning)."""
    return any(
        hasattr(module, "_orig_mod")
        or getattr(module, "_compiled_call_impl", None) is not None
        or getattr(module, "_compiler_ctx", None) is not None
        for module in model.modules()
    )
