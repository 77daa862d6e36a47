"""Pictures of a comparison: Figures 2 to 5 of Chen et al. 2024 for networks of one's own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from interaction_monitor.comparison.comparison import Comparison, Extraction
from interaction_monitor.functional import (
    and_outputs,
    matching_precision_curve,
    members,
    or_outputs,
    order_sharing,
    sparsity_curve,
)
from interaction_monitor.plots.comparison_text import powers
from interaction_monitor.plots.layout import styled, to_png
from interaction_monitor.plots.sample_figures import SIGNS, draw_players, image_of

# Okabe and Ito's colours, from the plainest extraction to the shared one
_COLOURS = ("#999999", "#0072B2", "#D55E00", "#D55E00")
_LINES = ("-", "-", "-", ":")
_POSITIVE, _NEGATIVE = "#D55E00", "#0072B2"
_PALE = 0.28
_FAINT = 0.01  # a bar shorter than this share of the longest cannot be seen
_NETWORKS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


@styled
def sparsity(comparison: Comparison) -> Figure:
    """Draw the strengths of the interactions from the strongest down, by extraction [Figure 2].

    The paper sorts the interactions of all samples together; so does this with `Counting(pooled=True)`. Otherwise it
    draws the mean over samples of the strongest, the second and so on, in which no sample makes the curve alone.

    Args:
        comparison: The networks.

    Returns:
        The figure, a panel per network.
    """
    figure, axes = _panels(comparison, height=3.6)
    pooled = comparison.counting.pooled
    for network, ax in enumerate(axes):
        largest = 0.0
        for extraction, colour in zip(comparison.extractions[:3], _COLOURS[:3], strict=True):
            curve = sparsity_curve(extraction.and_[network], extraction.or_[network], pooled=pooled)
            largest = max(largest, float(curve[0]))
            rank = torch.arange(1, len(curve) + 1)
            ax.plot(rank, curve.clamp_min(1e-12), color=colour, label=extraction.name, lw=1.8)
        bottom = max(largest, 1e-9) * 1e-4
        ax.set(title=comparison.names[network], xlabel="interaction, strongest first", xscale="log", yscale="log")
        ax.set_ylim(bottom, largest * 1.5 or 1.0)
        ax.axhline(0.05 * largest, color="#BBBBBB", lw=1, ls="--")  # the paper's, whatever is counted elsewhere
    axes[0].set_ylabel("strength |I|, all samples" if pooled else "strength |I|, mean over samples")
    _legend(figure, axes[0])
    return figure


@styled
def generalization(comparison: Comparison) -> Figure:
    """Draw s_and and s_or over the number of strongest interactions, by extraction [Figure 3].

    Args:
        comparison: The networks.

    Returns:
        The figure; means over networks and samples. The control is the shared extraction of outputs that have
        nothing to share.
    """
    figure = Figure(figsize=(8.5, 3.6), dpi=100, layout="constrained", facecolor="white")
    axes = figure.subplots(1, 2, sharey=True)
    ks = comparison.ks
    for kind, (ax, title) in enumerate(zip(axes, ("AND: $s_{and}$", "OR: $s_{or}$"), strict=True)):
        for extraction, colour, line in zip(comparison.extractions, _COLOURS, _LINES, strict=False):
            power = powers(extraction, ks)[kind]
            ax.plot(ks, power, color=colour, ls=line, label=extraction.name, marker="o", ms=4, lw=1.8)
        ax.set(title=title, xlabel="strongest k of each network", ylim=(0, 1.02))
        _bare(ax)
    axes[0].set_ylabel("share found in all networks")
    _legend(figure, axes[0])
    return figure


@styled
def orders(comparison: Comparison) -> Figure:
    """Draw the salient strength of each order and sign, and that which is shared, before it [Figure 4].

    Args:
        comparison: The networks.

    Returns:
        The figure: a column per network, extracted alone above, together below.
    """
    networks = len(comparison.names)
    figure = Figure(figsize=(1.2 + 3.4 * networks, 5.6), dpi=100, layout="constrained", facecolor="white")
    axes = figure.subplots(2, networks, sharex=True, sharey=True, squeeze=False)
    order = range(1, comparison.n_players + 1)
    for row, extraction in zip(axes, (comparison.alone, comparison.shared), strict=True):
        sharing = order_sharing(extraction.and_, extraction.or_, *extraction.salient)
        parts = [
            (sharing.all_positive, _POSITIVE, _PALE, "positive"),
            (sharing.all_negative, _NEGATIVE, _PALE, "negative"),
            (sharing.shared_positive, _POSITIVE, 1.0, "positive, in all networks"),
            (sharing.shared_negative, _NEGATIVE, 1.0, "negative, in all networks"),
        ]
        for network, ax in enumerate(row):
            for strength, colour, alpha, label in parts:
                ax.bar(order, strength[network].mean(0).tolist(), color=colour, alpha=alpha, label=label, width=0.8)
            ax.axhline(0, color="#444444", lw=0.8)
            ax.set_title(f"{comparison.names[network]}: {extraction.name}")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            _bare(ax)
        row[0].set_ylabel("strength, mean over samples")
    for ax in axes[-1]:
        ax.set_xlabel("order k")
    _legend(figure, axes[0, 0])
    return figure


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
    figure = Figure(figsize=(12, height), dpi=100, layout="constrained", facecolor="white")
    axes = figure.subplots(1, 2)
    _map_of_players(figure, comparison, sample)
    for ax, extraction, (shared, distinctive) in zip(axes, both, lists, strict=True):
        _pattern_bars(ax, comparison, extraction, sample, [*shared, *distinctive])
        ax.axhline(len(shared) - 0.5, color="#444444", lw=1)
        # beside the axes, where no bar can run through it
        note = {"transform": ax.get_yaxis_transform(), "ha": "left", "fontsize": 9, "color": "#555555"}
        ax.text(1.01, len(shared) - 0.6, f"{len(shared)} in all\nnetworks", va="bottom", **note)
        ax.text(1.01, len(shared) - 0.4, f"{len(distinctive)} in\nsome", va="top", **note)
        ax.set_title(f"{extraction.name}, sample {comparison.samples[sample]}")
    _legend(figure, axes[0])
    return figure


@styled
def matching(comparison: Comparison, sample: int = 0) -> Figure:
    """Draw how well the interactions give the outputs [Figures 13 and 11].

    Args:
        comparison: The networks.
        sample: Which sample of the comparison, from 0 on, has its outputs drawn.

    Returns:
        The figure, a column per network. Above, the outputs of all masked versions of the sample, from the largest
        down, and what the interactions without their noise terms make of them; below, the matching precision of the
        strongest k, AND and OR together, mean over samples.
    """
    networks = len(comparison.names)
    figure = Figure(figsize=(1.5 + 3.6 * networks, 6.2), dpi=100, layout="constrained", facecolor="white")
    axes = figure.subplots(2, networks, squeeze=False)
    for network, (above, below) in enumerate(axes.T):
        v = comparison.v[network]
        by_output = v[sample].argsort(descending=True)
        rank = torch.arange(v.shape[-1])
        for extraction, colour in zip(comparison.extractions[:3], _COLOURS, strict=False):
            # the dividends of all outputs are AND interactions alone, and miss nothing
            and_ = extraction.and_[network]
            or_ = None if extraction is comparison.harsanyi else extraction.or_[network]
            if or_ is not None:
                explained = (and_outputs(and_[sample]) + or_outputs(or_[sample]))[by_output]
                above.plot(rank, explained, color=colour, lw=0.8)
                above.fill_between(rank, v[sample][by_output], explained, color=colour, alpha=_PALE)
            precision = matching_precision_curve(v, and_, or_).mean(0)
            below.plot(torch.arange(1, len(precision) + 1), precision, color=colour, label=extraction.name, lw=1.8)
        above.plot(rank, v[sample][by_output], color="#1B1B1B", lw=1.2, label="output")
        above.set(title=comparison.names[network], xlabel=f"masked versions of sample {comparison.samples[sample]}")
        below.set(xlabel="strongest k", xscale="log", ylim=(None, 1.01))
    axes[0, 0].set_ylabel("output v")
    axes[1, 0].set_ylabel("matching precision")
    for ax in axes.flat:
        _bare(ax)
    (output, *_), (extractions, names) = (ax.get_legend_handles_labels() for ax in axes[:, 0])
    figure.legend([*output, *extractions], ["output", *names], loc="outside upper right", ncols=4, frameon=False)
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
    _bare(ax)


def _panels(comparison: Comparison, height: float) -> tuple[Figure, list[Axes]]:
    count = len(comparison.names)
    figure = Figure(figsize=(1.5 + 3.6 * count, height), dpi=100, layout="constrained", facecolor="white")
    axes = list(figure.subplots(1, count, sharey=True, squeeze=False)[0])
    for ax in axes:
        _bare(ax)
    return figure, axes


def _legend(figure: Figure, ax: Axes) -> None:
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=4, frameon=False)


def _bare(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)


PICTURES: dict[str, Callable[[Comparison], Figure]] = {
    "sparsity": sparsity,
    "generalization": generalization,
    "orders": orders,
    "patterns": patterns,
    "matching": matching,
}

# These are about one sample, and take which.
OF_ONE_SAMPLE: dict[str, Callable[[Comparison, int], Figure]] = {"patterns": patterns, "matching": matching}


def draw_all(comparison: Comparison, sample: int = 0) -> dict[str, bytes]:
    """Draw all of `PICTURES` as PNG files.

    Args:
        comparison: The networks.
        sample: Which sample of the comparison, from 0 on, where a picture is of one.

    Returns:
        Name to content of the file.
    """
    drawn = {}
    for name, picture in PICTURES.items():
        figure = OF_ONE_SAMPLE[name](comparison, sample) if name in OF_ONE_SAMPLE else picture(comparison)
        drawn[name] = to_png(figure, dpi=110)
    return drawn
