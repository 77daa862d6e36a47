"""Pictures of a comparison: Figures 2 to 5, 8, 9, 11, 12 and 13 of Chen et al. 2024 for networks of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from interaction_monitor.comparison.several_networks import Comparison, Extraction
from interaction_monitor.functional import (
    and_outputs,
    matching_precision_curve,
    or_outputs,
    order_sharing,
    sparsity_curve,
)
from interaction_monitor.plots import NOTE, bare, legend_above, page, styled, to_png
from interaction_monitor.plots.comparison_text import pattern_name, powers
from interaction_monitor.plots.sample_inputs import draw_players, image_of

# Okabe and Ito's colours, from the plainest extraction to the shared one
_COLOURS = ("#999999", "#0072B2", "#D55E00", "#D55E00")
_LINES = ("-", "-", "-", ":")
_POSITIVE, _NEGATIVE = "#D55E00", "#0072B2"
_PALE = 0.28
_NETWORKS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_FAINT = 0.01  # a bar shorter than this share of the longest cannot be seen


@styled
def sparsity(comparison: Comparison) -> Figure:
    """Draw the strengths of the interactions from the strongest down, by extraction [Figure 2].

    The paper sorts the interactions of all samples together, Harsanyi's twice, for as many as the others have (Appendix
    H); so does this with `Counting(pooled=True)`. Otherwise it draws the mean over samples of the strongest, the second
    and so on, in which no sample makes the curve alone. The dashed line is at 5% of the strongest shared one.

    Args:
        comparison: The networks.

    Returns:
        The figure, a panel per network.
    """
    networks, pooled = len(comparison.names), comparison.counting.pooled
    figure = page(1.5 + 3.6 * networks, 3.6, laid_out=True)
    axes = figure.subplots(1, networks, sharey=True, squeeze=False)[0]
    for network, ax in enumerate(axes):
        bare(ax)
        largest = 0.0
        for extraction, colour in zip(comparison.extractions[:3], _COLOURS[:3], strict=True):
            and_ = extraction.and_[network]
            second = extraction.or_[network] if not extraction.and_only else and_ if pooled else None
            curve = sparsity_curve(and_, second, pooled=pooled)
            largest = max(largest, float(curve[0]))
            _draw_by_rank(ax, curve.clamp_min(1e-12), color=colour, label=extraction.name, lw=1.8)
        ax.set(title=comparison.names[network], xlabel="interaction, strongest first", xscale="log", yscale="log")
        ax.set_ylim(max(largest, 1e-9) * 1e-4, largest * 1.5 or 1.0)
        ax.axhline(0.05 * float(curve[0]), color="#BBBBBB", lw=1, ls="--")  # the paper's, whatever is counted elsewhere
    axes[0].set_ylabel("strength |I|, all samples" if pooled else "strength |I|, mean over samples")
    legend_above(figure, axes[0])
    return figure


@styled
def generalization(comparison: Comparison) -> Figure:
    """Draw s_and and s_or over the number of strongest interactions, by extraction [Figure 3].

    Args:
        comparison: The networks.

    Returns:
        The figure; means over networks and samples. The control is the shared extraction of unrelated outputs.
    """
    figure = page(8.5, 3.6, laid_out=True)
    axes = figure.subplots(1, 2, sharey=True)
    for extraction, colour, line in zip(comparison.extractions, _COLOURS, _LINES, strict=False):
        _draw_powers(axes, extraction, comparison.ks, color=colour, ls=line, label=extraction.name, lw=1.8)
    axes[0].set_ylabel("share found in all networks")
    legend_above(figure, axes[0])
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
    figure = page(1.2 + 3.4 * networks, 5.6, laid_out=True)
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
            bare(ax)
        row[0].set_ylabel("strength, mean over samples")
    for ax in axes[-1]:
        ax.set_xlabel("order k")
    legend_above(figure, axes[0, 0])
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
    figure = page(1.5 + 3.6 * networks, 6.2, laid_out=True)
    axes = figure.subplots(2, networks, squeeze=False)
    rank = torch.arange(comparison.v.shape[-1])
    for network, (above, below) in enumerate(axes.T):
        v = comparison.v[network]
        by_output = v[sample].argsort(descending=True)
        for extraction, colour in zip(comparison.extractions[:3], _COLOURS, strict=False):
            and_, or_ = extraction.and_[network], None if extraction.and_only else extraction.or_[network]
            if or_ is not None:  # the dividends of all outputs are AND interactions alone, and miss nothing
                explained = (and_outputs(and_[sample]) + or_outputs(or_[sample]))[by_output]
                above.plot(rank, explained, color=colour, lw=0.8)
                above.fill_between(rank, v[sample][by_output], explained, color=colour, alpha=_PALE)
            precision = matching_precision_curve(v, and_, or_).mean(0)
            _draw_by_rank(below, precision, color=colour, label=extraction.name, lw=1.8)
        above.plot(rank, v[sample][by_output], color="#1B1B1B", lw=1.2, label="output")
        above.set(title=comparison.names[network], xlabel=f"masked versions of sample {comparison.samples[sample]}")
        below.set(xlabel="strongest k", xscale="log", ylim=(None, 1.01))
    axes[0, 0].set_ylabel("output v")
    axes[1, 0].set_ylabel("matching precision")
    for ax in axes.flat:
        bare(ax)
    (output, *_), (extractions, names) = (ax.get_legend_handles_labels() for ax in axes[:, 0])
    figure.legend([*output, *extractions], ["output", *names], loc="outside upper right", ncols=4, frameon=False)
    return figure


@styled
def ablation(extractions: Sequence[Extraction], ks: Sequence[int]) -> Figure:
    """Draw what the penalty α does to sparsity and to generalization power [Figure 8].

    Args:
        extractions: From `ablate`.
        ks: Numbers of strongest interactions.

    Returns:
        The figure: left the interactions of all samples and networks from the strongest down, then s_and and s_or.
    """
    figure = page(12, 3.6, laid_out=True)
    left, *others = figure.subplots(1, 3)
    shades = colormaps["viridis"](torch.linspace(0, 0.9, len(extractions)).tolist())
    for extraction, shade in zip(extractions, shades, strict=True):
        curve = sparsity_curve(extraction.and_, extraction.or_, pooled=True)
        _draw_by_rank(left, curve.clamp_min(1e-12), color=shade, label=extraction.name, lw=1.6)
        _draw_powers(others, extraction, ks, color=shade, lw=1.6)
    bottom = max(left.get_ylim()[1], 1e-9) * 1e-4
    left.set(xlabel="interaction, strongest first", ylabel="strength |I|, all samples", xscale="log", yscale="log")
    left.set_ylim(bottom, None)
    bare(left)
    legend_above(figure, left)
    return figure


def _draw_by_rank(ax: Axes, values: Tensor, **line: Any) -> None:
    ax.plot(torch.arange(1, len(values) + 1), values, **line)


def _draw_powers(axes: Sequence[Axes], extraction: Extraction, ks: Sequence[int], **line: Any) -> None:
    """Draw s_and and s_or over k, each into axes of its own; NaN, the OR of an extraction without, is not drawn."""
    for ax, name, power in zip(axes, ("AND: $s_{and}$", "OR: $s_{or}$"), powers(extraction, ks), strict=True):
        ax.plot(ks, power, marker="o", ms=4, **line)
        ax.set(title=name, xlabel="strongest k of each network", ylim=(0, 1.02))
        bare(ax)


@styled
def patterns(comparison: Comparison, sample: int = 0, *, k: int = 12, again: Extraction | None = None) -> Figure:
    """Draw the strongest shared and distinctive interactions on one sample [Figures 5, 9 and 12].

    Args:
        comparison: The networks.
        sample: Which sample of the comparison, from 0 on.
        k: How many of the strongest interactions of each network, AND and OR together, are considered.
        again: The second extraction of `extract_again`; None takes the one together.

    Returns:
        The figure: the extraction alone left, the other right; each interaction with a bar per network, the shared
        above the line.
    """
    both = (comparison.alone, again or comparison.shared)
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
    draw_players(ax, image, comparison.players.regions(probed, *image.shape[:2]).numpy())
    ax.set_axis_off()
    ax.set_title("the players", fontsize=10)


def _strongest_patterns(extraction: Extraction, sample: int, k: int) -> tuple[list[int], list[int]]:
    """The patterns among the strongest k of all networks, and those of only some, each from the strongest.

    Patterns are numbered as in `pattern_name`.
    """
    size = torch.stack((extraction.and_, extraction.or_), 1)[:, :, sample].abs()  # (m, 2, 2^n)
    size[..., 0] = 0.0
    flat = size.flatten(1)
    strongest = flat.topk(min(k, flat.shape[1]), 1).indices
    chosen = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, strongest, True) & (flat > _FAINT * flat.amax())
    by_strength = flat.amax(0).argsort(descending=True, stable=True)
    shared, some = chosen.all(0)[by_strength], chosen.any(0)[by_strength]
    return by_strength[shared].tolist(), by_strength[some & ~shared].tolist()


def _pattern_bars(ax: Axes, comparison: Comparison, extraction: Extraction, sample: int, shown: list[int]) -> None:
    thickness = 0.8 / len(comparison.names)
    effects = torch.cat((extraction.and_[:, sample], extraction.or_[:, sample]), -1)[:, shown].tolist()
    for network, name in enumerate(comparison.names):
        places = [row - 0.4 + thickness * (network + 0.5) for row in range(len(shown))]
        ax.barh(places, effects[network], height=thickness, color=_NETWORKS[network % len(_NETWORKS)], label=name)
    ax.set_yticks(range(len(shown)), [pattern_name(comparison, sample, pattern) for pattern in shown])
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.axvline(0, color="#444444", lw=0.8)
    ax.set_xlabel("effect I on the output")
    bare(ax)


PICTURES: dict[str, Callable[..., Figure]] = {
    "sparsity": sparsity,
    "generalization": generalization,
    "orders": orders,
    "patterns": patterns,
    "matching": matching,
}
OF_ONE_SAMPLE = ("patterns", "matching")  # these take which


def draw_all(comparison: Comparison, sample: int = 0) -> dict[str, bytes]:
    """Draw all of `PICTURES` as PNG files.

    Args:
        comparison: The networks.
        sample: Which sample of the comparison, from 0 on, where a picture is of one.

    Returns:
        Name to content of the file.
    """
    which = {name: (sample,) if name in OF_ONE_SAMPLE else () for name in PICTURES}
    return {name: to_png(draw(comparison, *which[name]), dpi=110) for name, draw in PICTURES.items()}
