"""Charts of single samples: what the output is made of, and the strongest interactions of several networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from interaction_monitor.comparison.several_networks import Comparison, Extraction
from interaction_monitor.functional import members
from interaction_monitor.measurement import Measurement
from interaction_monitor.plots import NOTE, bare, legend_above, page, styled
from interaction_monitor.plots.sample_inputs import (
    COLOURS,
    SIGNS,
    Interaction,
    draw_players,
    image_of,
    is_near_zero,
    outputs_along,
    signed,
    strongest,
)

_FOR, _AGAINST, _REST = "#0072B2", "#D55E00", "#BBBBBB"
_KEY = (
    "● AND (∧) acts where all of its players are there, ○ OR (∨) where any one of them is. "
    "Blue speaks for the output, orange against it."
)
_FAINT = 0.01  # a bar shorter than this share of the longest cannot be seen
_NETWORKS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def waterfall(
    measurement: Measurement,
    sample: int = 0,
    *,
    names: Sequence[str] | None = None,
    n_strongest: int = 10,
    before: tuple[str, Measurement] | None = None,
) -> Figure:
    """Draw how a sample's strongest interactions carry the output from v(∅) to v(x), and who takes part in each.

    The bars are a waterfall with the rest lumped together. The dots beside them are an UpSet plot of AND and OR
    together, which shapiq has of one kind at a time.

    Args:
        measurement: The measurement.
        sample: Which of its samples, from 0 on.
        names: What the players are called, for example `players.names[sample]`; None numbers them.
        n_strongest: How many interactions get a bar of their own.
        before: What to call an earlier measurement, "onset" say, and the measurement: its effects stand beside the
            bars, and what was strong there and is gone is among them.

    Returns:
        The figure, a bar per interaction from the strongest down: blue speaks for the output, orange against it. ∧,
        full dots, needs all of its players; ∨, rings, any one of them. A tick marks what references have too.

    Raises:
        ValueError: If there is no such sample, or its outputs are not finite.

    Examples:
        >>> import torch
        >>> from interaction_monitor.measurement import interpret
        >>> figure = waterfall(interpret(torch.tensor([[0.5, 1.5, 2.5, 5.5]]).double()))
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['masked input', '1', '0 ∧ 1', '0', 'the rest', 'the input']
    """
    n_samples = len(measurement.v)
    if not 0 <= sample < n_samples:
        raise ValueError(f"sample must be one of the {n_samples} measured, 0 to {n_samples - 1}, but is {sample}")
    if not measurement.valid[sample]:
        raise ValueError(f"sample={sample} has outputs that are not finite; choose one of `measurement.valid`")
    shown = strongest(measurement, sample, n_strongest, before=None if before is None else before[1])
    labels = ["masked input", *(_label(interaction, names) for interaction in shown), "the rest", "the input"]
    n_players = measurement.strength.shape[1]
    with style.context("default"):
        height = 1.6 + 0.32 * len(labels)
        dots = 0.55 + 0.19 * n_players
        words = min(0.1 + 0.092 * max(map(len, labels)), 4.0)
        width = dots + words + 6.0
        figure = page(width, height)
        bottom, tall = 0.75 / height, 1 - 1.6 / height
        ax = figure.add_axes(((dots + words) / width, bottom, 4.4 / width, tall))
        _steps(ax, outputs_along(measurement, sample, shown))
        ax.set_yticks(range(len(labels)), labels)
        ax.set_ylim(len(labels) - 0.4, -0.6)
        ax.set_title(f"sample {sample}: from the masked input to the input", loc="left", fontsize=11, pad=28)
        _columns(ax, shown, None if before is None else before[0])
        matrix = figure.add_axes((0.5 / width, bottom, (dots - 0.55) / width, tall), sharey=ax)
        _dots(matrix, shown, n_players)
        figure.text(0.1 / width, 0.12 / height, _KEY, fontsize=8, color=NOTE)
    return figure


def _steps(ax: Axes, outputs: Sequence[float]) -> None:
    """Draw the bars one after the other from output to output, the last of what is left of the way to the end."""
    for place, (begin, end) in enumerate(pairwise(outputs), start=1):
        colour = _REST if place == len(outputs) - 1 else _FOR if end >= begin else _AGAINST
        ax.barh(place, end - begin, left=begin, color=colour, height=0.7)
        ax.plot([begin, begin], [place - 1, place], color="#888888", lw=0.7)
        ax.text(max(begin, end), place, f" {signed(end - begin)}", va="center", fontsize=9)
    for place, value in ((0, outputs[0]), (len(outputs), outputs[-1])):
        ax.plot([value], [place], "k|", ms=14, mew=2)
        ax.text(value, place, f"  {value:.2f}", va="center", fontsize=9, weight="bold")
    if is_near_zero(outputs):
        ax.axvline(0, color="#444444", lw=0.8)
    ax.use_sticky_edges = False
    ax.autoscale_view()
    ax.margins(x=0.12)
    ax.set_xlabel("output v")
    ax.spines[["top", "right", "left"]].set_visible(False)


def _columns(ax: Axes, shown: Sequence[Interaction], before: str | None) -> None:
    """Write beside the bars what each effect was before, and whether references have it too."""
    columns = []
    if before is not None:
        columns.append((before, [signed(x.before or 0.0) for x in shown]))
    if any(x.shared is not None for x in shown):
        columns.append(("shared", ["✓" if x.shared else "–" for x in shown]))
    for at, (title, cells) in zip((1.14, 1.28), columns, strict=False):
        for place, cell in enumerate([title, *cells]):
            ax.text(at, place, cell, transform=ax.get_yaxis_transform(), va="center", ha="center", fontsize=9)


def _dots(ax: Axes, shown: Sequence[Interaction], n_players: int) -> None:
    """Draw who takes part in each interaction: full dots joined by a line for AND, rings for OR."""
    for place, interaction in enumerate(shown, start=1):
        ax.plot(range(n_players), [place] * n_players, "o", color="#D5D5D5", ms=4)
        alone = len(interaction.players) == 1
        colour = "#1B1B1B" if alone else COLOURS[interaction.kind]
        full = alone or interaction.kind == "AND"
        ax.plot(
            interaction.players, [place] * len(interaction.players), "-o" if full else "--o", color=colour, ms=7,
            mfc=colour if full else "white", mew=2, lw=2,
        )  # fmt: skip
        ax.text(-1.2, place, str(len(interaction.players)), va="center", ha="center", fontsize=9, color=NOTE)
    ax.text(-1.2, 0, "order", va="center", ha="center", fontsize=9, color=NOTE)
    ax.set_xlim(-0.6, n_players - 0.4)
    ax.set_xticks(range(n_players), [str(player) for player in range(n_players)], fontsize=8)
    ax.xaxis.tick_top()
    ax.tick_params(length=0, labelleft=False)
    ax.set_title("player", fontsize=9, pad=4)
    ax.spines[:].set_visible(False)


def _label(interaction: Interaction, names: Sequence[str] | None) -> str:
    return SIGNS[interaction.kind].join(
        str(player) if names is None or player >= len(names) else names[player] for player in interaction.players
    )


@styled
def patterns(comparison: Comparison, sample: int = 0, *, k: int = 12) -> Figure:
    """Draw the strongest shared and distinctive interactions on one sample [Figures 5 and 9].

    Args:
        comparison: The networks.
        sample: Which sample of the comparison, from 0 on.
        k: How many of the strongest interactions of each network, AND and OR together, are considered.

    Returns:
        The figure: the extraction alone left, together right; each interaction with a bar per network, the shared
        above the line.
    """
    both = (comparison.alone, comparison.shared)
    lists = [_strongest_patterns(extraction, sample, k) for extraction in both]
    height = 1.6 + 0.3 * max(len(shared) + len(distinctive) for shared, distinctive in lists)
    figure = page(12, height, laid_out=True)
    axes = figure.subplots(1, 2)
    _map_of_players(figure, comparison, sample)
    for ax, extraction, (shared, distinctive) in zip(axes, both, lists, strict=True):
        _pattern_bars(ax, comparison, extraction, sample, [*shared, *distinctive])
        ax.axhline(len(shared) - 0.5, color="#444444", lw=1)
        # beside the axes, where no bar can run through it
        note = {"transform": ax.get_yaxis_transform(), "ha": "left", "fontsize": 9, "color": NOTE}
        ax.text(1.01, len(shared) - 0.6, f"{len(shared)} in all\nnetworks", va="bottom", **note)
        ax.text(1.01, len(shared) - 0.4, f"{len(distinctive)} in\nsome", va="top", **note)
        ax.set_title(f"{extraction.name}, sample {comparison.samples[sample]}")
    legend_above(figure, axes[0])
    return figure


def _map_of_players(figure: Figure, comparison: Comparison, sample: int) -> None:
    """Draw the sample with its players numbered, beside the bars, where these are patches of an image."""
    if comparison.players is None or comparison.inputs is None:
        return
    probed = comparison.samples[sample]
    image = image_of(comparison.inputs, comparison.players, probed)
    if image is None:
        return
    figure.set_size_inches(14.5, max(figure.get_figheight(), 3.2))
    figure.get_layout_engine().set(rect=(0.18, 0, 0.82, 1))  # type: ignore[union-attr, call-arg]  # a constrained layout
    ax = figure.add_axes((0.005, 0.5, 0.16, 0.4))
    draw_players(ax, image, comparison.players.regions(probed, image.shape[0], image.shape[1]).numpy())
    ax.set_axis_off()
    ax.set_title("the players", fontsize=10)


Pattern = tuple[str, int]


def _strongest_patterns(extraction: Extraction, sample: int, k: int) -> tuple[list[Pattern], list[Pattern]]:
    """The patterns among the strongest k of all networks, and those of only some, each from the strongest."""
    size = torch.stack((extraction.and_, extraction.or_), 1)[:, :, sample].abs()  # (m, 2, 2^n)
    size[..., 0] = 0.0
    flat = size.flatten(1)
    k = min(k, flat.shape[1])
    chosen = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, flat.topk(k, 1).indices, True) & (
        flat > _FAINT * flat.amax()
    )
    by_strength = flat.amax(0).argsort(descending=True, stable=True).tolist()

    def named(mask: torch.Tensor) -> list[Pattern]:
        return [(("AND", "OR")[i // size.shape[-1]], i % size.shape[-1]) for i in by_strength if mask[i]]

    return named(chosen.all(0)), named(chosen.any(0) & ~chosen.all(0))


def _pattern_bars(ax: Axes, comparison: Comparison, extraction: Extraction, sample: int, shown: list[Pattern]) -> None:
    thickness = 0.8 / len(comparison.names)
    for network, name in enumerate(comparison.names):
        effects = [
            float((extraction.and_ if kind == "AND" else extraction.or_)[network, sample, coalition])
            for kind, coalition in shown
        ]
        places = [row - 0.4 + thickness * (network + 0.5) for row in range(len(shown))]
        ax.barh(places, effects, height=thickness, color=_NETWORKS[network % len(_NETWORKS)], label=name)
    labels = [
        SIGNS[kind].join(comparison.player_name(sample, player) for player in members(coalition))
        for kind, coalition in shown
    ]
    ax.set_yticks(range(len(shown)), labels)
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.axvline(0, color="#444444", lw=0.8)
    ax.set_xlabel("effect I on the output")
    bare(ax)
