"""What the output of a single sample is made of: the strongest interactions one after the other, or all salient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import torch
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from interaction_monitor.comparison.several_networks import Comparison
from interaction_monitor.functional import and_outputs, members, or_outputs, salient_counts, salient_outputs
from interaction_monitor.measurement import Measurement
from interaction_monitor.plots import NOTE, bare, legend_above, page, styled

COLOURS = {"AND": "#E69F00", "OR": "#56B4E9"}
SIGNS = {"AND": " ∧ ", "OR": " ∨ "}  # between the players of an interaction
_FOR, _AGAINST, _REST = "#0072B2", "#D55E00", "#BBBBBB"
_KEY = (
    "● AND (∧) acts where all of its players are there, ○ OR (∨) where any one of them is. "
    "Blue speaks for the output, orange against it."
)


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


def _salient(measurement: Measurement, sample: int) -> Tensor:
    """Return (2 * 2^n,) the effects of AND and then of OR interactions, 0 where one is not salient."""
    both = torch.stack([measurement.and_[sample], measurement.or_[sample]])
    both[:, 0] = 0
    return torch.where(both.abs() < measurement.tau, 0.0, both).flatten()


def outputs_along(measurement: Measurement, sample: int, shown: Sequence[Interaction]) -> list[float]:
    """List v(∅), what each interaction makes of it, one after the other, and v(x), to which the rest leads."""
    start, end = measurement.v[sample, [0, -1]].tolist()
    return [*accumulate((interaction.effect for interaction in shown), initial=start), end]


def is_near_zero(outputs: Sequence[float]) -> bool:
    """Tell whether zero lies within the spread of some outputs, or so near: farther off it would dwarf their steps."""
    low, high = min(outputs), max(outputs)
    return low - (high - low) <= 0 <= high + (high - low)


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
    moment, earlier = before or (None, None)
    shown = strongest(measurement, sample, n_strongest, before=earlier)
    called = dict(enumerate(names or ()))
    whos = [SIGNS[x.kind].join(called.get(player, str(player)) for player in x.players) for x in shown]
    labels = ["masked input", *whos, "the rest", "the input"]
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
        _columns(ax, shown, moment)
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
        columns.append([before, *(signed(x.before or 0.0) for x in shown)])
    if any(x.shared is not None for x in shown):
        columns.append(["shared", *("✓" if x.shared else "–" for x in shown)])
    for at, cells in zip((1.14, 1.28), columns, strict=False):
        for place, cell in enumerate(cells):
            ax.text(at, place, cell, transform=ax.get_yaxis_transform(), va="center", ha="center", fontsize=9)


def _dots(ax: Axes, shown: Sequence[Interaction], n_players: int) -> None:
    """Draw who takes part in each interaction: full dots joined by a line for AND, rings for OR."""
    for place, interaction in enumerate(shown, start=1):
        ax.plot(range(n_players), [place] * n_players, "o", color="#D5D5D5", ms=4)
        colour = COLOURS.get(interaction.label, "#1B1B1B")
        ring = interaction.label == "OR"
        ax.plot(
            interaction.players, [place] * len(interaction.players), "--o" if ring else "-o", color=colour, ms=7,
            mfc="white" if ring else colour, mew=2, lw=2,
        )  # fmt: skip
        ax.text(-1.2, place, str(len(interaction.players)), va="center", ha="center", fontsize=9, color=NOTE)
    ax.text(-1.2, 0, "order", va="center", ha="center", fontsize=9, color=NOTE)
    ax.set_xlim(-0.6, n_players - 0.4)
    ax.set_xticks(range(n_players), [str(player) for player in range(n_players)], fontsize=8)
    ax.xaxis.tick_top()
    ax.tick_params(length=0, labelleft=False)
    ax.set_title("player", fontsize=9, pad=4)
    ax.spines[:].set_visible(False)


@styled
def salient_matching(comparison: Comparison, sample: int = 0) -> Figure:
    """Draw the outputs of all masked versions of a sample, and what its salient interactions alone make of them.

    Proposition 1 of Chen et al. 2024 [Figure 6]; `comparison_figures.matching` has all interactions.

    Args:
        comparison: The networks; its counting says what is salient.
        sample: Which sample of the comparison, from 0 on.

    Returns:
        The figure: a column per network, extracted alone above, together below; the mean error in each title.
    """
    networks = len(comparison.names)
    figure = page(1.2 + 3.4 * networks, 5.6, laid_out=True)
    axes = figure.subplots(2, networks, sharex=True, sharey="col", squeeze=False)
    for row, extraction in zip(axes, (comparison.alone, comparison.shared), strict=True):
        parts = [
            kind[:, sample].where(mask[:, sample], 0.0)
            for kind, mask in zip((extraction.and_, extraction.or_), extraction.salient, strict=True)
        ]
        for network, ax in enumerate(row):
            v = comparison.v[network, sample]
            and_, or_ = (part[network] for part in parts)
            count = int((and_ != 0).sum() + (or_ != 0).sum())
            and_[0] = v[0]
            name = f"{comparison.names[network]}: {extraction.name}\n"
            _draw_explained(ax, v, and_outputs(and_) + or_outputs(or_), count, name)
        row[0].set_ylabel("output v")
    for ax in axes[-1]:
        ax.set_xlabel(f"masked versions of sample {comparison.samples[sample]}")
    legend_above(figure, axes[0, 0])
    return figure


@styled
def salient_only(measurement: Measurement, sample: int = 0) -> Figure:
    """Draw what `salient_matching` draws for one network alone, of as many players as a measurement takes.

    Args:
        measurement: Its threshold says what is salient.
        sample: Which sample, a valid one.

    Returns:
        The figure; how many are salient and the mean error, as a share of the whole change, in its title.
    """
    v, and_, or_ = measurement.v[sample], measurement.and_[sample], measurement.or_[sample]
    figure = page(6, 3.4, laid_out=True)
    ax = figure.subplots()
    count = int(salient_counts(and_, or_, measurement.tau).sum())
    _draw_explained(ax, v, salient_outputs(and_, or_, measurement.tau), count)
    ax.set(xlabel=f"masked versions of sample {sample}", ylabel="v")
    legend_above(figure, ax)
    return figure


def _draw_explained(ax: Axes, v: Tensor, explained: Tensor, count: int, title: str = "") -> None:
    """Draw outputs from the largest down and what so many explain of them; the mean error is in the title."""
    by_output, rank = v.argsort(descending=True), torch.arange(len(v))
    ax.plot(rank, v[by_output], color="#1B1B1B", lw=1.2, label="output", zorder=3)
    ax.plot(rank, explained[by_output], color=_AGAINST, lw=0.8, label="salient interactions")
    ax.fill_between(rank, v[by_output], explained[by_output], color=_AGAINST, alpha=0.28)
    missed, change = float((v - explained).abs().mean()), float((v[-1] - v[0]).abs())
    ax.set_title(f"{title}{count} salient" + (f", mean error {missed / change:.0%}" if change else ""))
    bare(ax)
