"""What is measured of what a trainer gives: samples, players, and a way to call the network that was tried."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from interaction_monitor.callbacks import resume
from interaction_monitor.distributed import Ranks, is_split, require_shared_by_samples
from interaction_monitor.forward import assign_players, check_forwards
from interaction_monitor.forward.calls import Call, CallError, calls_like, path_of, try_call, watched
from interaction_monitor.forward.chunks import is_out_of_memory
from interaction_monitor.forward.model import call_model, device_of, eager_if_compiled, logits_of
from interaction_monitor.loading import TooFewSamplesError, UnreadableLoaderError
from interaction_monitor.observer import Observer
from interaction_monitor.outputs import OUTPUTS, prediction, resolve
from interaction_monitor.phases import PhaseTracker
from interaction_monitor.players import Players
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import TARGET_KEYS, Inputs, Probe, Suits, advice_on_targets
from interaction_monitor.record import Record, RecordError
from interaction_monitor.record.files import TRAINING
from interaction_monitor.reference.sources import Given
from interaction_monitor.settings import ForwardContext, ForwardFunc, Settings, plain, require_few_players
from interaction_monitor.state import answered, undisturbed

Draw = Callable[[int, int, Suits], Probe]  # so many samples, by a seed, rather those that suit


@dataclass(frozen=True)
class TrainerSource:
    """What a trainer gives to be measured."""

    model: nn.Module  # on its device
    samples: Draw
    training_samples: Draw
    call: Callable[[Probe, ForwardFunc | None], ForwardFunc]  # finds out how, where the user's `forward_func` is None
    convert: Callable[[ForwardFunc], ForwardFunc]  # gives it inputs in the trainer's precision
    forward_context: ForwardContext = nullcontext


class Wanted(Protocol):
    """What the user asked for: a callback, as far as it matters here."""

    players: Players
    probe: Probe | None
    n_samples: int
    n_train_samples: int
    settings: Settings
    tracker: PhaseTracker
    reference: Given | None
    seed: int


def observer_of(
    source: TrainerSource, wanted: Wanted, state: Mapping[str, Any] | None, ranks: Ranks
) -> tuple[Observer, Call | None]:
    """Choose samples and players on rank zero for all, and where a run goes on from a state, those that it had.

    Returns:
        What measures them; and how the network is called, where that had to be found out.

    Raises:
        ValueError: if what is wanted does not fit the run, or the checkpoint.
        NotImplementedError: if processes need each other's activations to run the network.
    """
    settings, how = wanted.settings, dict[str, Any]()
    call: ForwardFunc = settings.forward_func or call_model
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
            call = source.call(probe, settings.forward_func)
            if isinstance(call, Call):
                _require_targets(probe, wanted, unused=call.unused(probe.inputs))
            how |= {"forward_func": source.convert(call), "forward_context": source.forward_context}
            assign: Callable[[Probe], PlayerMap] = partial(
                assign_players, source.model, wanted.players, seed=wanted.seed, **how
            )
            of_train = None if train is None else assign(train)
            drawn = assign(probe), of_train
    players, of_train = ranks.of_first(drawn)  # type: ignore[misc]  # as above
    if of_train is not None and state is not None:
        of_train = resume.with_baseline_of(state, of_train)
    found = ranks.of_first(call if isinstance(call, Call) else None)
    how |= {"forward_func": source.convert(found or call), "forward_context": source.forward_context}
    observer = Observer(
        probe,
        players,
        **vars(replace(settings, **how)),
        tracker=copy.deepcopy(wanted.tracker),
        ranks=ranks,
        train=None if train is None or of_train is None else (train, of_train),
        reference=wanted.reference,
    )
    return observer, found


def _samples(source: TrainerSource, wanted: Wanted, state: Mapping[str, Any] | None) -> tuple[Probe, Probe | None]:
    require_few_players(wanted.players.n_players, wanted.settings.interactions)
    probe = wanted.probe or source.samples(wanted.n_samples, wanted.seed, wanted.players.suits)
    _require_targets(probe, wanted)
    if state is not None:
        resume.check_number_of_training(state, wanted.n_train_samples)
        probe = _of_the_start(state, probe, wanted)
    check_forwards(len(probe) + wanted.n_train_samples, wanted.players.n_players)
    if not (n_train := wanted.n_train_samples):
        return probe, None
    try:
        train = source.training_samples(n_train, wanted.seed, wanted.players.suits)
    except UnreadableLoaderError as error:
        raise UnreadableLoaderError(error.told, instead=f"leave n_train_samples={n_train} away") from error
    except TooFewSamplesError as error:
        loader = "the loader for training"
        raise TooFewSamplesError(error.found, n_train, argument="n_train_samples", loader=loader) from None
    if state is not None:
        before, record = (state.get("train") or {}).get("samples"), state.get("record")
        folder = None if record is None else str(Path(record) / TRAINING)
        loader = f"{type(wanted).__name__}: the loader for training"
        train = _recorded(before, train, folder, loader, "training samples")
    return probe, train


def _of_the_start(state: Mapping[str, Any], probe: Probe, wanted: Wanted) -> Probe:
    """Return the samples on which an interrupted run has measured; refuse others, or another number."""
    before, labels = state.get("samples"), state["observer"].get("labels")
    if not isinstance(labels, Tensor) or not labels.ndim:  # restoring says what is wrong
        return probe
    if len(labels) != len(probe):
        asked = f"this run has n_samples={len(probe)}" if wanted.probe is None else f"probe= holds {len(probe)}"
        raise ValueError(
            f"the checkpoint's history was measured on n_samples={len(labels)} samples, but {asked}; resume with "
            f"{len(labels)}, {resume.NEW}"
        )
    if wanted.probe is not None and before is not None and before != plain(probe):
        raise ValueError(
            "the checkpoint's history was measured with other samples than probe= holds now; resume with the same, "
            f"{resume.NEW}"
        )
    return _recorded(before, probe, state.get("record"), f"{type(wanted).__name__}: the loader", "samples")


def _recorded(before: object, probe: Probe, record: str | None, loader: str, what: str) -> Probe:
    """Return those samples that were there before, by their digest: these, or those of the record; else warn."""
    if before is None or before == plain(probe):
        return probe
    try:
        kept = Record.open(record or "")
        recorded = Probe(kept.probe_inputs, kept.probe_targets)
    except (RecordError, TypeError, ValueError):
        recorded = probe
    told = f"{loader} gives other samples than when the run began"
    if plain(recorded) == before:
        rank_zero_warn(f"{told}; the run goes on with those of its record, {record}")
        return recorded
    rank_zero_warn(
        f"{told}, and the run's record does not hold those {what}; what is measured from here on may differ for that "
        "alone"
    )
    return probe


def _require_targets(probe: Probe, wanted: Wanted, unused: Sequence[str] = ()) -> None:
    score = resolve(wanted.settings.output)
    advice = advice_on_targets(probe, getattr(wanted.players, "input_key", None), unused=unused)
    if advice and score in OUTPUTS.values() and score is not prediction:
        raise ValueError(f"output={wanted.settings.output!r} needs targets, and the samples have none; {advice}")


def way_to_call(
    model: nn.Module,
    probe: Probe,
    forward_func: ForwardFunc | None,
    *,
    step: Callable[[nn.Module, Any], Any],
    name: str,
    context: ForwardContext,
) -> ForwardFunc:
    """Return how a network is called on the samples, and leave it as it was.

    Where it cannot be called by itself, and the user gave no `forward_func`, a step of the trainer is watched, which
    takes the network and a batch and has a name.

    Raises:
        CallError: if it cannot be called; the message has the line that would work, if one does.
    """
    samples = probe.select(range(min(2, len(probe)))).to(device_of(model, probe.inputs))
    call = forward_func or call_model
    failed = _failure(model, samples.select([0]), call, context)
    if failed is None:
        return call
    if fresh := _fresh_state(model, samples, call, context):
        shown = "inputs" if isinstance(samples.inputs, dict) else "x"
        raise CallError(
            f"what the network keeps from one batch to the next ({', '.join(fresh)}) fits no batch of another size: "
            f"{_told(failed)}. To measure it from a fresh state give forward_func=, a function of (module, {shown}) "
            f"that does {'; '.join(f'{path} = None' for path in fresh)} before it calls the module"
        ) from failed
    if forward_func is not None:
        raise CallError(f"forward_func= fails on the samples: {_told(failed)}") from failed
    return _call_of_the_step(model, samples, failed, step=step, name=name, context=context)


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
    inputs, targets = samples.inputs, samples.targets
    # What the samples may have been taken from.
    batches: list[Any] = [inputs, [inputs]] if targets is None else [[inputs, targets]]
    if isinstance(inputs, dict):
        named = {} if targets is None else dict.fromkeys(TARGET_KEYS, targets)
        batches.insert(0, {**named, **inputs})
    for batch in batches:
        with undisturbed(model), eager_if_compiled(model), context():
            with watched(model) as seen:
                finished = try_call(model, batch, step) is None
            found, lines = calls_like(seen, model, inputs, targets)
            parts = [] if lines or seen.calls else _calls_of_parts(model, inputs)
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
    shown = "inputs" if isinstance(inputs, dict) else "x"
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
        held = []
        for path, module in model.named_modules():
            for name, value in vars(module).items():
                parts = value if isinstance(value, (tuple, list)) else [value]
                if any(isinstance(part, Tensor) and not isinstance(part, nn.Parameter) for part in parts):
                    held.append((f"{path_of(path)}.{name}", module, name))
        for _, owner, name in held:
            setattr(owner, name, None)
        failed = try_call(model, samples.inputs_of(0), call) if held else None
    return [path for path, *_ in held] if failed is None else []


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
