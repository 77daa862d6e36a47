"""What is measured of what a trainer gives: samples, players, and a way to call the network that was tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from interaction_monitor.callbacks import checkpoint
from interaction_monitor.distributed import Ranks, is_split, require_shared_by_samples
from interaction_monitor.forward import assign_players, check_forwards
from interaction_monitor.forward.calls import Call, CallError, Seen, calls_like, path_of, try_call, watched
from interaction_monitor.forward.chunks import is_out_of_memory
from interaction_monitor.forward.model import call_model, device_of, eager_if_compiled, logits_of
from interaction_monitor.loading import TooFewSamplesError, UnreadableLoaderError
from interaction_monitor.outputs import OUTPUTS, prediction, resolve
from interaction_monitor.players import Players
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import TARGET_KEYS, Inputs, Probe, Suits, advice_on_targets
from interaction_monitor.settings import ForwardContext, ForwardFunc, Settings, require_few_players
from interaction_monitor.state import answered, undisturbed


@dataclass(frozen=True)
class TrainerSource:
    """What a trainer gives to be measured.

    Attributes:
        model: the network, on its device.
        samples: draws so many samples by a seed, and prefers those that suit.
        training_samples: draws so many of the training set.
        call: finds out how the network is called on the samples, where the user's `forward_func` is None.
        convert: changes a way to call the network into one that has inputs in the trainer's precision.
        forward_context: makes a context for each forward, for example an autocast.
    """

    model: nn.Module
    samples: Callable[[int, int, Suits], Probe]
    training_samples: Callable[[int, int, Suits], Probe]
    call: Callable[[Probe, ForwardFunc | None], ForwardFunc]
    convert: Callable[[ForwardFunc], ForwardFunc]
    forward_context: ForwardContext = nullcontext


@dataclass(frozen=True)
class Wanted:
    """What the user asked for, of which callback."""

    who: str
    players: Players
    probe: Probe | None
    n_samples: int
    n_train_samples: int
    settings: Settings
    seed: int


@dataclass(frozen=True)
class Chosen:
    """What is measured: S samples and their players, perhaps training samples beside them, and how."""

    probe: Probe
    players: PlayerMap
    train: tuple[Probe, PlayerMap] | None
    call: ForwardFunc


def choose(source: TrainerSource, wanted: Wanted, state: Mapping[str, Any] | None, ranks: Ranks) -> Chosen:
    """Choose on rank zero for all.

    Args:
        source: what the trainer gives.
        wanted: what the user asked for.
        state: what `checkpoint.state_of` gave when the checkpoint was taken; None where the run begins.
        ranks: the processes of the run; all of them call this.

    Raises:
        ValueError: if what is wanted does not fit the run, or the checkpoint.
        NotImplementedError: if processes need each other's activations to run the network.
    """
    call: ForwardFunc = wanted.settings.forward_func or call_model
    samples: tuple[Probe, Probe | None] | None = None
    drawn: tuple[PlayerMap, PlayerMap | None] | None = None
    with ranks.together():
        require_shared_by_samples(source.model)
        if ranks.rank == 0:
            samples = _samples(source, wanted, state)
    probe, train = ranks.of_first(samples)  # type: ignore[misc]  # None only where rank zero sends its own
    with ranks.together():
        # Whatever runs a network in parts, all processes run.
        if ranks.rank == 0 or is_split(source.model):
            call = source.call(probe, wanted.settings.forward_func)
            if isinstance(call, Call):
                _require_targets(probe, wanted, unused=call.unused(probe.inputs))
            drawn = _players(source, wanted, call, probe, train)
    players, of_train = ranks.of_first(drawn)  # type: ignore[misc]  # as above
    if of_train is not None and state is not None:
        of_train = checkpoint.with_baseline_of(state, of_train)
    found = ranks.of_first(call if isinstance(call, Call) else None)
    return Chosen(probe, players, None if train is None or of_train is None else (train, of_train), found or call)


def _samples(source: TrainerSource, wanted: Wanted, state: Mapping[str, Any] | None) -> tuple[Probe, Probe | None]:
    require_few_players(wanted.players.n_players, wanted.settings.interactions)
    probe = wanted.probe or source.samples(wanted.n_samples, wanted.seed, wanted.players.suits)
    _require_targets(probe, wanted)
    if state is not None:
        checkpoint.check_number_of_training(state, wanted.n_train_samples)
        probe = checkpoint.samples_of(state, probe, given=wanted.probe is not None, who=wanted.who)
    check_forwards(len(probe) + wanted.n_train_samples, wanted.players.n_players)
    if not wanted.n_train_samples:
        return probe, None
    train = _training_samples(source, wanted)
    return probe, train if state is None else checkpoint.training_of(state, train, who=wanted.who)


def _training_samples(source: TrainerSource, wanted: Wanted) -> Probe:
    n_samples = wanted.n_train_samples
    try:
        return source.training_samples(n_samples, wanted.seed, wanted.players.suits)
    except UnreadableLoaderError as error:
        raise UnreadableLoaderError(error.told, instead=f"leave n_train_samples={n_samples} away") from error
    except TooFewSamplesError as error:
        argument, loader = "n_train_samples", "the loader for training"
        raise TooFewSamplesError(error.found, n_samples, argument=argument, loader=loader) from None


def _require_targets(probe: Probe, wanted: Wanted, unused: Sequence[str] = ()) -> None:
    score = resolve(wanted.settings.output)
    advice = advice_on_targets(probe, getattr(wanted.players, "input_key", None), unused=unused)
    if advice and score in OUTPUTS.values() and score is not prediction:
        raise ValueError(f"output={wanted.settings.output!r} needs targets, and the samples have none; {advice}")


def _players(
    source: TrainerSource, wanted: Wanted, call: ForwardFunc, probe: Probe, train: Probe | None
) -> tuple[PlayerMap, PlayerMap | None]:
    def assign(samples: Probe) -> PlayerMap:
        return assign_players(
            source.model,
            wanted.players,
            samples,
            forward_func=source.convert(call),
            forward_context=source.forward_context,
            seed=wanted.seed,
        )

    of_train = None if train is None else assign(train)
    return assign(probe), of_train


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
    parts: list[Call] = []
    seen = Seen()
    for batch in _batches(samples):
        with undisturbed(model), eager_if_compiled(model), context():
            with watched(model) as seen:
                finished = try_call(model, batch, step) is None
            found, lines = calls_like(seen, model, samples.inputs, samples.targets)
            parts = [] if lines or seen.calls else _calls_of_parts(model, samples.inputs)
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
    known = " or ".join(map(str, (lines or parts)[:3]))
    advice = known or f"forward_func=lambda module, {shown}: ... that returns logits"
    calls = f" {name} calls {seen.shapes()}." if seen.calls else ""
    direct = "module(**inputs)" if shown == "inputs" else "module(x)"
    raise CallError(f"{direct} fails on the samples: {_told(failed)}.{calls} Give {advice}") from failed


def _calls_of_parts(model: nn.Module, inputs: Inputs) -> list[Call]:
    """List the lines that call a part of the network on the samples, where it gives a row of numbers for each."""
    given, name = ("**inputs", "inputs") if isinstance(inputs, dict) else ("x", "x")
    size = len(next(iter(inputs.values()))) if isinstance(inputs, dict) else len(inputs)
    found = []
    for path, _ in model.named_children():
        call = Call(f"{path_of(path)}({given})", name)
        with answered(model), suppress(Exception):
            values = logits_of(call(model, inputs), size)
            if values.ndim in (1, 2) and values.is_floating_point():
                found.append(call)
    return found


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
        (f"{path_of(path)}.{name}", module, name, value)
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
