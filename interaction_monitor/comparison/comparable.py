"""Which measurements can be compared: those of the same samples, players and output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from interaction_monitor.players.base import PlayerMap


class NotComparableError(ValueError):
    """The networks were not measured on the same samples with the same players; the message says what differs."""


@dataclass(frozen=True)
class Measured:
    """What a network's interactions are about."""

    name: str
    players: PlayerMap
    inputs: Tensor | dict[str, Tensor]  # (S, ...)
    targets: Tensor | None  # (S,)
    output: object


def refuse_different(measured: Sequence[Measured]) -> None:
    """Refuse networks whose interactions do not mean the same.

    Raises:
        NotComparableError: if two differ in their samples, players or outputs; it names both and says in what.
    """
    for other in measured[1:]:
        _refuse(measured[0], other)


def _refuse(first: Measured, other: Measured) -> None:
    one, another = first.players, other.players
    for what, here, there in (
        ("number of players", one.n_players, another.n_players),
        ("number of probe samples", len(one), len(another)),
        ("output", first.output, other.output),
        ("masked layer", one.layer or "the input", another.layer or "the input"),
        ("masked input", _input(one), _input(another)),
        ("masked axes", one.axes, another.axes),
    ):
        if here != there:
            raise NotComparableError(
                f"{first.name} and {other.name} differ in the {what}: {here} and {there}; measure both networks "
                "on the same probe with the same players and output"
            )
    for what, alike in (
        ("the probe samples", _same(first.inputs, other.inputs)),
        ("the targets of the probe samples", _same(first.targets, other.targets)),
        ("which positions the players have", _same(one.labels, another.labels)),
        ("the baseline", _same(one.baseline, another.baseline)),
    ):
        if not alike:
            raise NotComparableError(
                f"{first.name} and {other.name} differ in {what}; give both networks the same probe and players"
            )


def _input(players: PlayerMap) -> str:
    return "the one tensor that is the input" if players.input_key is None else f"entry {players.input_key!r}"


def _same(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(((one == other) | (one != one) & (other != other)).all())
    return type(one) is type(other) and bool(one == other)
