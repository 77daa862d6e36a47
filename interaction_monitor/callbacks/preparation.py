"""What a trainer gives to be measured, and what is chosen of it: samples, players, a way to call the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from interaction_monitor._sharded import is_split, require_shared_by_samples
from interaction_monitor.callbacks import checkpoint
from interaction_monitor.distributed import Ranks
from interaction_monitor.forward import assign_players, check_forwards
from interaction_monitor.forward.calls import Call
from interaction_monitor.forward.model import call_model
from interaction_monitor.loading import TooFewSamplesError, UnreadableLoaderError
from interaction_monitor.outputs import OUTPUTS, prediction, resolve
from interaction_monitor.players import Players
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe, Suits, advice_on_targets
from interaction_monitor.settings import ForwardContext, ForwardFunc, Settings, require_few_players


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
    """What the user asked for."""

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
        probe = checkpoint.samples_of(state, probe, given=wanted.probe is not None)
    check_forwards(len(probe) + wanted.n_train_samples, wanted.players.n_players)
    if not wanted.n_train_samples:
        return probe, None
    train = _training_samples(source, wanted)
    return probe, train if state is None else checkpoint.training_of(state, train)


def _training_samples(source: TrainerSource, wanted: Wanted) -> Probe:
    n_samples = wanted.n_train_samples
    try:
        return source.training_samples(n_samples, wanted.seed, wanted.players.suits)
    except UnreadableLoaderError as error:
        raise UnreadableLoaderError(error.told, instead=f"leave n_train_samples={n_samples} away") from error
    except TooFewSamplesError as error:
        argument, loader = "n_train_samples", "the loader for training"
        raise TooFewSamplesError(error.found, n_samples, argument=argument, loader=loader) from None


def _require_targets(probe: Probe, wanted: Wanted) -> None:
    score = resolve(wanted.settings.output)
    advice = advice_on_targets(probe, getattr(wanted.players, "input_key", None))
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
