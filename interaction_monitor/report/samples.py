"""A few samples of a run, in a report and in the tab: where their strongest interactions are, and what these make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interaction_monitor.measurement import Measurement
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.plots.sample_inputs import (
    Interaction,
    choose,
    image_of,
    is_near_zero,
    outputs_along,
    picture,
    player_names,
    sentence,
    signed,
    strongest,
)
from interaction_monitor.record import Record

_STEPS = 8  # interactions in a sample's table; the rest is lumped together


@dataclass(frozen=True)
class Step:
    """A row of a sample's table: what an interaction adds to the output, from that of the masked input on."""

    label: str  # "AND", "OR" or "alone"; else what the row is
    players: tuple[int, ...]
    names: tuple[str, ...]  # of the players
    effect: str  # a dash where it is not salient any more
    before: str  # the effect at the earlier moment, likewise
    shared: bool | None  # whether references have it too; None where that is not known
    side: str  # "for" or "against" the output, "rest", or "" for an output itself
    left: float  # where the bar begins, in per cent of the room
    width: float  # how long it is, likewise


@dataclass(frozen=True)
class Example:
    """What is shown of one sample."""

    sample: int
    target: int | None
    outcome: str  # what the network makes of it, in words
    picture: str | None  # a data URI; None where the players are named instead
    sentence: tuple[tuple[str, int | None], ...]  # its words, with their players; None for what lies between
    steps: tuple[Step, ...]
    before: str | None  # what the earlier moment is called; None where there is none
    named: bool  # whether the players have names


def examples(record: Record, moments: Sequence[tuple[str, Measurement]], *, n_samples: int = 4) -> list[Example]:
    """Choose samples of different classes and show what is strongest in each.

    Args:
        record: Players and inputs are taken from here.
        moments: What to call a measurement, and the measurement, in their order: the last is explained, the one before
            it laid beside. The samples are finite in all of them.
        n_samples: How many samples at most.

    Returns:
        The examples, by the number of the sample.

    Raises:
        RecordError: If the players' or the samples' file is damaged.
    """
    players, targets = record.players, record.probe_targets
    valid = torch.stack([measurement.valid for _, measurement in moments]).all(0)
    *earlier, (_, now) = moments
    before = earlier[-1] if earlier else None
    found = []
    for sample in choose(valid, targets, n_samples):
        image = image_of(record.probe_inputs, players, sample)
        drawn = None
        if image is not None:
            regions = players.regions(sample, image.shape[0], image.shape[1]).numpy()
            drawn = picture(image, regions, [(name, strongest(m, sample, 5)) for name, m in moments])
        found.append(
            Example(
                sample=sample,
                target=_target(targets, sample),
                outcome=_outcome(now, sample, log_odds=record.settings.get("output") == "log_odds"),
                picture=drawn,
                sentence=sentence(players, sample),
                steps=steps(now, sample, players, before=None if before is None else before[1]),
                before=None if before is None else before[0],
                named=players.names is not None,
            )
        )
    return found


def steps(
    measurement: Measurement, sample: int, players: PlayerMap, *, before: Measurement | None = None
) -> tuple[Step, ...]:
    """Lay out how a sample's strongest interactions carry its output from that of the masked input to its own.

    Args:
        measurement: Of the sample, which is finite in it.
        sample: Which of its samples.
        players: Who plays, for their names.
        before: An earlier measurement, to say what each was there.

    Returns:
        The masked input, the interactions from the strongest down, the rest, and the input.
    """
    shown = strongest(measurement, sample, _STEPS, before=before)
    outputs = outputs_along(measurement, sample, shown)
    start, end = outputs[0], outputs[-1]
    marks = [*outputs, 0.0] if is_near_zero(outputs) else outputs
    low, high = min(marks), max(marks)
    room = 100 / (high - low) if high > low else 0.0

    def row(label: str, begin: float, to: float, side: str, x: Interaction | None = None) -> Step:
        change = signed(to - begin) if side else f"{to:.2f}"
        earlier = "" if x is None or x.before is None else signed(x.before)
        return Step(
            label,
            () if x is None else x.players,
            () if x is None else player_names(players, sample, x),
            change,
            earlier,
            None if x is None else x.shared,
            side,
            round((min(begin, to) - low) * room, 1),
            round(abs(to - begin) * room, 1),
        )

    places = zip(shown, outputs, outputs[1:], strict=False)
    middle = [row(x.label, a, b, "for" if x.effect >= 0 else "against", x) for x, a, b in places]
    return (
        row("masked input", start, start, ""),
        *middle,
        row("the rest", outputs[-2], end, "rest"),
        row("the input", end, end, ""),
    )


def _outcome(measurement: Measurement, sample: int, *, log_odds: bool) -> str:
    start, end = (float(measurement.v[sample, i]) for i in (0, -1))
    change = f"The output goes from {start:.2f} for the masked input to {end:.2f}"
    if not log_odds:
        return f"{change}."
    low, high = (f"{1 / (1 + math.exp(-max(-700.0, min(700.0, v)))):.1%}" for v in (start, end))
    return f"{change}: the probability of the true class from {low} to {high}."


def _target(targets: Tensor | None, sample: int) -> int | None:
    if targets is None or targets.ndim != 1 or targets.is_floating_point():
        return None
    return int(targets[sample])


def as_primitives(example: Example) -> dict[str, Any]:
    """Turn an example into what JSON holds."""
    return {**vars(example), "steps": [vars(step) for step in example.steps]}
