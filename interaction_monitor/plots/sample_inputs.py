"""A few samples of a run, in a report and in the tab: the strongest interactions in a table, outlined on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from interaction_monitor.measurement import Measurement
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.plots import data_uri, to_png
from interaction_monitor.plots.sample_figures import (
    COLOURS,
    Interaction,
    is_near_zero,
    outputs_along,
    signed,
    strongest,
)
from interaction_monitor.record import Record

_STEPS = 8  # interactions in a sample's table; the rest is lumped together


@dataclass(frozen=True)
class Step:
    """A row of a sample's table: what an interaction adds to the output, from that of the masked input on."""

    label: str  # "AND", "OR" or "alone"; else what the row is
    effect: str  # a dash where it is not salient any more
    side: str  # "for" or "against" the output, "rest", or "" for an output itself
    left: float  # where the bar begins, in per cent of the room
    width: float  # how long it is, likewise
    players: tuple[int, ...] = ()
    names: tuple[str, ...] = ()  # of the players
    before: str = ""  # the effect at the earlier moment, a dash where it was not salient
    shared: bool | None = None  # whether references have it too; None where that is not known


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
    classes = targets if targets is not None and targets.ndim == 1 and not targets.is_floating_point() else None
    valid = torch.stack([measurement.valid for _, measurement in moments]).all(0)
    *earlier, (_, now) = moments
    moment, before = earlier[-1] if earlier else (None, None)
    found = []
    for sample in choose(valid, targets, n_samples):
        image = image_of(record.probe_inputs, players, sample)
        drawn = None
        if image is not None:
            shown = [(name, strongest(measurement, sample, 5)) for name, measurement in moments]
            drawn = picture(image, players.regions(sample, *image.shape[:2]).numpy(), shown)
        found.append(
            Example(
                sample=sample,
                target=None if classes is None else int(classes[sample]),
                outcome=_outcome(now, sample, log_odds=record.settings.get("output") == "log_odds"),
                picture=drawn,
                sentence=sentence(players, sample),
                steps=steps(now, sample, players, before=before),
                before=moment,
                named=players.names is not None,
            )
        )
    return found


def choose(valid: Tensor, targets: Tensor | None, n_samples: int) -> list[int]:
    """Choose samples spread over the classes, or over the probe where there are none.

    Examples:
        >>> choose(torch.tensor([False, True, True, True, True]), torch.tensor([0, 0, 0, 1, 2]), 2)
        [1, 4]
    """
    candidates: list[int] = valid.nonzero()[:, 0].tolist()
    if targets is not None and targets.ndim == 1:
        first_of_class = {targets[sample].item(): sample for sample in reversed(candidates)}
        if len(first_of_class) > 1:
            candidates = sorted(first_of_class.values())
    spread = np.linspace(0, len(candidates) - 1, min(n_samples, len(candidates))).round().astype(int)
    return [candidates[i] for i in spread.tolist()]


def _outcome(measurement: Measurement, sample: int, *, log_odds: bool) -> str:
    outputs = measurement.v[sample, [0, -1]]
    start, end = outputs.tolist()
    change = f"The output goes from {start:.2f} for the masked input to {end:.2f}"
    if not log_odds:
        return f"{change}."
    low, high = outputs.double().sigmoid().tolist()
    return f"{change}: the probability of the true class from {low:.1%} to {high:.1%}."


def sentence(players: PlayerMap, sample: int) -> tuple[tuple[str, int | None], ...]:
    """List the words of a sample in their order, each with its player, and "…" for the words between them.

    Args:
        players: Words of sequences, called by name.
        sample: Which sample.

    Returns:
        Pairs of text and player; nothing where the players are no words of a sentence.

    Examples:
        >>> labels = torch.tensor([[-1, 0, -1, 1, 1, -1], [0, 1, -1, -1, -1, -1]])
        >>> names = (("funny", "film"), ("dull", "film"))
        >>> sentence(PlayerMap(labels, n_players=2, axes=(1,), names=names), 0)
        (('…', None), ('funny', 0), ('…', None), ('film', 1), ('…', None))
    """
    names = players.names
    if names is None or players.labels.ndim != 2 or len(set(names)) < 2:
        return ()
    runs = groupby(players.labels[sample].tolist())
    return tuple((names[sample][label], label) if label >= 0 else ("…", None) for label, _ in runs)


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
    marks = [*outputs, 0.0] if is_near_zero(outputs) else outputs
    low, high = min(marks), max(marks)
    room = 100 / (high - low) if high > low else 0.0

    def row(label: str, begin: float, to: float, side: str, **of_interaction: Any) -> Step:
        effect = signed(to - begin) if side else f"{to:.2f}"
        left, width = round((min(begin, to) - low) * room, 1), round(abs(to - begin) * room, 1)
        return Step(label, effect, side, left, width, **of_interaction)

    table = [row("masked input", outputs[0], outputs[0], "")]
    for x, begin, to in zip(shown, outputs, outputs[1:], strict=False):
        of_it = {"players": x.players, "names": player_names(players, sample, x), "shared": x.shared}
        earlier = "" if x.before is None else signed(x.before)
        table.append(row(x.label, begin, to, "for" if x.effect >= 0 else "against", before=earlier, **of_it))
    return (*table, row("the rest", outputs[-2], outputs[-1], "rest"), row("the input", outputs[-1], outputs[-1], ""))


def player_names(players: PlayerMap, sample: int, interaction: Interaction) -> tuple[str, ...]:
    """Call the players of an interaction by name, and by number where they have none or others have the same."""
    # Names can be fewer than players where a sample had too few parts; it is left out of measurements then.
    names = players.names[sample] if players.names is not None else ()

    def called(player: int) -> str:
        if player >= len(names):
            return f"player {player}"
        return f"{names[player]} ({player})" if names.count(names[player]) > 1 else names[player]

    return tuple(map(called, interaction.players))


def image_of(inputs: Tensor | dict[str, Tensor], players: PlayerMap, sample: int) -> NDArray[np.float64] | None:
    """Make a sample's input an image, if it is one and its players are patches of a plane.

    Returns:
        (height, width) or (height, width, 3) in 0..1, or None.
    """
    if isinstance(inputs, dict):
        inputs = inputs[players.input_key] if players.input_key in inputs else next(iter(inputs.values()))
    if players.labels.ndim != 3 or inputs.ndim not in (3, 4):
        return None
    pixels = inputs[sample].double()
    if pixels.ndim == 3:
        channels_last = players.axes == (1, 2) if players.layer is None else pixels.shape[0] not in (1, 3, 4)
        pixels = pixels if channels_last and pixels.shape[-1] <= 4 else pixels.permute(1, 2, 0)
        pixels = pixels[..., :3] if pixels.shape[-1] in (3, 4) else pixels.mean(-1)
    if min(pixels.shape[:2]) < 2 or not pixels.isfinite().any():
        return None
    pixels = pixels.nan_to_num(0.0, 0.0, 0.0)
    low, high = pixels.min(), pixels.max()
    return np.asarray((pixels - low) / (high - low).clamp(min=1e-12))


def outline(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """List the edges around the true pixels, as lines between corners.

    Args:
        inside: (height, width).

    Returns:
        (edges, 2, 2) pairs of (x, y), where a pixel is centred on its index.

    Examples:
        >>> len(outline(np.array([[True, True, False]])))
        6
    """
    padded = np.pad(inside, 1)
    rows, columns = np.nonzero(padded[1:] != padded[:-1])
    flat = np.stack([columns - 1.5, rows - 0.5, columns - 0.5, rows - 0.5], -1)
    rows, columns = np.nonzero(padded[:, 1:] != padded[:, :-1])
    upright = np.stack([columns - 0.5, rows - 1.5, columns - 0.5, rows - 0.5], -1)
    return np.concatenate([flat, upright]).reshape(-1, 2, 2)


def picture(
    image: NDArray[np.float64], regions: NDArray[np.int64], moments: Sequence[tuple[str, Sequence[Interaction]]]
) -> str:
    """Draw the strongest interactions on an image, a row for each moment.

    Args:
        image: (height, width) or (height, width, 3) in 0..1.
        regions: (height, width) the player of each pixel; -1 is of none.
        moments: What to call each, and its interactions.

    Returns:
        The picture, inside an address.
    """
    # Placed by hand: a layout engine takes longer than all the drawing.
    size, head = 1.6, 0.42
    columns = 1 + max(len(interactions) for _, interactions in moments)
    width, height = columns * size, len(moments) * (size + head)
    with style.context("default"):
        figure = Figure(figsize=(width, height), dpi=100)

        def panel(row: int, column: int, title: str, weight: str = "normal") -> Axes:
            bottom = (len(moments) - 1 - row) * (size + head)
            box = (column * size + 0.04) / width, bottom / height, (size - 0.08) / width, size / height
            ax = figure.add_axes(box)
            ax.set_axis_off()
            ax.text(0.5, 1.01, title, transform=ax.transAxes, ha="center", va="bottom", fontsize=9, weight=weight)
            return ax

        for row, (name, interactions) in enumerate(moments):
            draw_players(panel(row, 0, name.replace(", ", ",\n"), "bold"), image, regions)
            for column, interaction in enumerate(interactions, start=1):
                title = f"{interaction.label} {', '.join(map(str, interaction.players))}\n{signed(interaction.effect)}"
                _interaction(panel(row, column, title), image, regions, interaction)
        return data_uri(to_png(figure))


def draw_players(ax: Axes, image: NDArray[np.float64], regions: NDArray[np.int64]) -> None:
    """Draw an image, as `picture` takes it, with its players outlined and numbered."""
    ax.imshow(image, cmap="gray", vmin=0, vmax=1)
    for player in np.unique(regions[regions >= 0]):
        inside = regions == player
        # White on black, so that the line shows on any image.
        for colour, width in (("#000000", 2.2), ("#FFFFFF", 0.9)):
            ax.add_collection(LineCollection(list(outline(inside)), colors=colour, linewidths=width))
        y, x = (float(x.mean()) for x in np.nonzero(inside))
        box = {"boxstyle": "round,pad=0.1", "facecolor": "#000000", "alpha": 0.5, "linewidth": 0}
        ax.text(x, y, str(player), color="white", fontsize=7, ha="center", va="center", bbox=box)


def _interaction(ax: Axes, image: NDArray[np.float64], regions: NDArray[np.int64], interaction: Interaction) -> None:
    inside = np.isin(regions, interaction.players)
    # Dark images are lifted a little, so that what is dimmed can be told from what is black.
    lit = 0.12 + 0.88 * (image if image.ndim == 3 else np.repeat(image[..., None], 3, -1))
    ax.imshow(np.where(inside[..., None], lit, 0.35 * lit), vmin=0, vmax=1)
    dashes = "solid" if interaction.kind == "AND" else (0, (2, 1))
    colour = COLOURS[interaction.kind]
    ax.add_collection(LineCollection(list(outline(inside)), colors=colour, linewidths=2, linestyles=[dashes]))
