"""Which interactions are strongest in single samples, and where on their inputs they are.

Where the players are patches of a plane and the input is an image, they are outlined on it; otherwise they are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
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
from interaction_monitor.plots import data_uri, to_png

COLOURS = {"AND": "#E69F00", "OR": "#56B4E9"}
SIGNS = {"AND": " ∧ ", "OR": " ∨ "}  # between the players of an interaction


@dataclass(frozen=True)
class Interaction:
    """One interaction of one sample."""

    kind: Literal["AND", "OR"]
    players: tuple[int, ...]
    effect: float  # in units of the output
    before: float | None = None  # at an earlier measurement, 0 where it was not salient; None where there is none
    shared: bool | None = None  # whether references have it too; None where that is not known

    @property
    def label(self) -> str:
        """Its kind, or "alone": of one player AND and OR are the same."""
        return self.kind if len(self.players) > 1 else "alone"


def signed(effect: float) -> str:
    """Write an effect with its sign, or a dash where there is none."""
    return f"{effect:+.2g}" if effect else "–"


def strongest(
    measurement: Measurement, sample: int, n_strongest: int, *, before: Measurement | None = None
) -> list[Interaction]:
    """List a sample's strongest interactions that are salient, AND and OR together, the strongest first.

    Args:
        measurement: Of the sample, among others.
        sample: Which of them.
        n_strongest: How many.
        before: An earlier measurement of the same samples: what was strong there comes too, up to a third.
    """
    now = _salient(measurement, sample)
    then = None if before is None or not before.valid[sample] else _salient(before, sample)
    chosen = now.abs().topk(min(n_strongest, len(now))).indices.tolist()
    if then is not None:
        gone = [i for i in then.abs().topk(min(n_strongest // 3, len(then))).indices.tolist() if i not in chosen]
        chosen = sorted(chosen[: n_strongest - len(gone)] + gone, key=lambda i: -abs(float(now[i])))
    shared = None if measurement.held is None else measurement.held[sample].flatten()
    return [
        Interaction(
            "OR" if i >= len(now) // 2 else "AND",
            members(i % (len(now) // 2)),
            float(now[i]),
            None if then is None else float(then[i]),
            None if shared is None else bool(shared[i]),
        )
        for i in chosen
        if now[i] != 0 or (then is not None and then[i] != 0)
    ]


def outputs_along(measurement: Measurement, sample: int, shown: Sequence[Interaction]) -> list[float]:
    """List v(∅), what each interaction makes of it, one after the other, and v(x), to which the rest leads."""
    start, end = (float(measurement.v[sample, i]) for i in (0, -1))
    return [*accumulate((interaction.effect for interaction in shown), initial=start), end]


def is_near_zero(outputs: Sequence[float]) -> bool:
    """Tell whether zero lies within the spread of some outputs, or so near: farther off it would dwarf their steps."""
    low, high = min(outputs), max(outputs)
    return low - (high - low) <= 0 <= high + (high - low)


def _salient(measurement: Measurement, sample: int) -> Tensor:
    """Return (2 * 2^n,) the effects of AND and then of OR interactions, 0 where one is not salient."""
    both = torch.stack([measurement.and_[sample], measurement.or_[sample]])
    both[:, 0] = 0
    return torch.where(both.abs() < measurement.tau, 0.0, both).flatten()


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


def player_names(players: PlayerMap, sample: int, interaction: Interaction) -> tuple[str, ...]:
    """Call the players of an interaction by name, and by number where they have none or others have the same."""
    if players.names is None:
        return tuple(f"player {player}" for player in interaction.players)
    # Names can be fewer than players where a sample had too few parts; it is left out of measurements then.
    names = players.names[sample]
    return tuple(_name(names, player) for player in interaction.players)


def _name(names: Sequence[str], player: int) -> str:
    if player >= len(names):
        return f"player {player}"
    return f"{names[player]} ({player})" if names.count(names[player]) > 1 else names[player]


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


def picture(
    image: NDArray[np.float64],
    regions: NDArray[np.int64],
    moments: Sequence[tuple[str, Sequence[Interaction]]],
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
                title = f"{interaction.label} {', '.join(map(str, interaction.players))}\n{signed(interaction.effect)}"
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
    # Dark images are lifted a little, so that what is dimmed can be told from what is black.
    lit = 0.12 + 0.88 * (image if image.ndim == 3 else np.repeat(image[..., None], 3, -1))
    ax.imshow(np.where(inside[..., None], lit, 0.35 * lit), vmin=0, vmax=1)
    dashes = "solid" if interaction.kind == "AND" else (0, (2, 1))
    colour = COLOURS[interaction.kind]
    ax.add_collection(LineCollection(list(outline(inside)), colors=colour, linewidths=2, linestyles=[dashes]))
