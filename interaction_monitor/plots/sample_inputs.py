"""Which interactions are strongest in single samples, and where on their inputs they are.

Where the players are patches of a plane and the input is an image, they are outlined on it; otherwise they are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from interaction_monitor.functional import members
from interaction_monitor.measurement import Measurement
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.plots.layout import data_uri, to_png
from interaction_monitor.record import Record

AND, OR = "#E69F00", "#56B4E9"
SIGNS = {"AND": " ∧ ", "OR": " ∨ "}  # between the players of an interaction


@dataclass(frozen=True)
class Interaction:
    """One interaction of one sample."""

    kind: Literal["AND", "OR"]
    players: tuple[int, ...]
    effect: float  # in units of the output

    @property
    def label(self) -> str:
        """Its kind, or "alone": of one player AND and OR are the same."""
        return self.kind if len(self.players) > 1 else "alone"

    @property
    def signed(self) -> str:
        """The effect with its sign."""
        return f"{self.effect:+.2g}"


def strongest(measurement: Measurement, sample: int, n_strongest: int) -> list[Interaction]:
    """List a sample's strongest interactions, AND and OR together, the strongest first."""
    both = torch.stack([measurement.and_[sample], measurement.or_[sample]])
    both[:, 0] = 0
    flat = both.flatten()
    largest = flat.abs().topk(min(n_strongest, len(flat))).indices.tolist()
    games = both.shape[1]
    return [
        Interaction("OR" if i >= games else "AND", members(i % games), float(flat[i])) for i in largest if flat[i] != 0
    ]


def choose(valid: Tensor, targets: Tensor | None, n_samples: int) -> list[int]:
    """Choose samples spread over the classes, or over the probe where there are none.

    Examples:
        >>> choose(torch.tensor([False, True, True, True, True]), torch.tensor([0, 0, 0, 1, 2]), 2)
        [1, 4]
    """
    candidates: list[int] = valid.nonzero()[:, 0].tolist()
    if targets is not None and targets.ndim == 1:
        first: dict[Any, int] = {}
        for sample in candidates:
            first.setdefault(targets[sample].item(), sample)
        if len(first) > 1:
            candidates = sorted(first.values())
    if len(candidates) <= n_samples:
        return candidates
    return [candidates[i] for i in np.linspace(0, len(candidates) - 1, n_samples).round().astype(int).tolist()]


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
    order = [int(label) for label in players.labels[sample]]
    runs = [label for place, label in enumerate(order) if not place or label != order[place - 1]]
    return tuple((names[sample][label], label) if label >= 0 else ("…", None) for label in runs)


def _names(players: PlayerMap, sample: int, interaction: Interaction) -> tuple[str, ...]:
    if players.names is None:
        return tuple(f"player {player}" for player in interaction.players)
    # Names can be fewer than players where a sample had too few parts; it is left out of measurements then.
    names = players.names[sample]
    return tuple(_name(names, player) for player in interaction.players)


def _name(names: Sequence[str], player: int) -> str:
    """Call a player by its name, and by its number too where others have the same."""
    if player >= len(names):
        return f"player {player}"
    return f"{names[player]} ({player})" if names.count(names[player]) > 1 else names[player]


@dataclass(frozen=True)
class Example:
    """What the report shows of one sample."""

    sample: int
    target: int | None
    picture: str | None  # a data URI; None where the players are named instead
    sentence: tuple[tuple[str, int | None], ...]  # its words, with their players; None for what lies between
    moments: tuple[tuple[str, tuple[tuple[Interaction, tuple[str, ...]], ...]], ...]  # name, interactions and names


def examples(
    record: Record, moments: Sequence[tuple[str, Measurement]], *, n_samples: int = 4, n_strongest: int = 5
) -> list[Example]:
    """Choose samples of different classes and show what is strongest in each.

    Args:
        record: Players and inputs are taken from here.
        moments: What to call a measurement, and the measurement; the samples are finite in all of them.
        n_samples: How many samples at most.
        n_strongest: How many interactions of each.

    Returns:
        The examples, by the number of the sample.

    Raises:
        RecordError: If the players' or the samples' file is damaged.
    """
    players, targets = record.players, record.probe_targets
    valid = torch.stack([measurement.valid for _, measurement in moments]).all(0)
    found = []
    for sample in choose(valid, targets, n_samples):
        shown = [(name, strongest(measurement, sample, n_strongest)) for name, measurement in moments]
        image = image_of(record.probe_inputs, players, sample)
        picture = None
        if image is not None:
            regions = players.regions(sample, image.shape[0], image.shape[1]).numpy()
            picture = _draw(image, regions, shown, n_strongest)
        named = tuple(
            (name, tuple((interaction, _names(players, sample, interaction)) for interaction in interactions))
            for name, interactions in shown
        )
        found.append(Example(sample, _target(targets, sample), picture, sentence(players, sample), named))
    return found


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
    image: NDArray[np.float64] = ((pixels - low) / (high - low).clamp(min=1e-12)).numpy()
    return image


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
    flat = np.stack([np.stack([columns - 1.5, rows - 0.5], -1), np.stack([columns - 0.5, rows - 0.5], -1)], 1)
    rows, columns = np.nonzero(padded[:, 1:] != padded[:, :-1])
    upright = np.stack([np.stack([columns - 0.5, rows - 1.5], -1), np.stack([columns - 0.5, rows - 0.5], -1)], 1)
    return np.concatenate([flat, upright]).astype(np.float64)


def _draw(
    image: NDArray[np.float64],
    regions: NDArray[np.int64],
    moments: Sequence[tuple[str, Sequence[Interaction]]],
    n_columns: int,
) -> str:
    # Placed by hand: a layout engine takes longer than all the drawing.
    size, head = 1.6, 0.42
    width, height = (n_columns + 1) * size, len(moments) * (size + head)
    with style.context("default"):
        figure = Figure(figsize=(width, height), dpi=100)
        for row, (name, interactions) in enumerate(moments):
            bottom = (len(moments) - 1 - row) * (size + head)

            def panel(column: int, title: str, *, bold: bool = False, bottom: float = bottom) -> Axes:
                box = (column * size + 0.04) / width, bottom / height, (size - 0.08) / width, size / height
                ax = figure.add_axes(box)
                ax.set_axis_off()
                weight = "bold" if bold else "normal"
                ax.text(0.5, 1.01, title, transform=ax.transAxes, ha="center", va="bottom", fontsize=9, weight=weight)
                return ax

            draw_players(panel(0, name.replace(", ", ",\n"), bold=True), image, regions)
            for column, interaction in enumerate(interactions, start=1):
                title = f"{interaction.label} {', '.join(map(str, interaction.players))}\n{interaction.signed}"
                _interaction(panel(column, title), image, regions, interaction)
        return data_uri(to_png(figure))


def draw_players(ax: Axes, image: NDArray[np.float64], regions: NDArray[np.int64]) -> None:
    """Draw an image with its players outlined and numbered.

    Args:
        ax: Where to draw.
        image: (height, width) or (height, width, 3) in 0..1.
        regions: (height, width) the player of each pixel; -1 is of none.
    """
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
    colour = AND if interaction.kind == "AND" else OR
    # Dark images are lifted a little, so that what is dimmed can be told from what is black.
    lit = 0.12 + 0.88 * (image if image.ndim == 3 else np.repeat(image[..., None], 3, -1))
    ax.imshow(np.where(inside[..., None], lit, 0.35 * lit), vmin=0, vmax=1)
    dashes = "solid" if interaction.kind == "AND" else (0, (2, 1))
    ax.add_collection(LineCollection(list(outline(inside)), colors=colour, linewidths=2, linestyles=[dashes]))


def _target(targets: Tensor | None, sample: int) -> int | None:
    if targets is None or targets.ndim != 1 or targets.is_floating_point():
        return None
    return int(targets[sample])
