"""Pictures of a comparison: Figures 2 to 4, 6, 8, 11 and 13 of Chen et al. 2024 for networks of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    salient_counts,
    salient_outputs,
    sparsity_curve,
)
from interaction_monitor.measurement import Measurement
from interaction_monitor.plots import bare, legend_above, page, styled, to_png
from interaction_monitor.plots.comparison_text import powers
from interaction_monitor.plots.sample_figures import patterns

# Okabe and Ito's colours, from the plainest extraction to the shared one
_COLOURS = ("#999999", "#0072B2", "#D55E00", "#D55E00")
_LINES = ("-", "-", "-", ":")
_POSITIVE, _NEGATIVE = "#D55E00", "#0072B2"
_PALE = 0.28


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
            and_, or_ = extraction.and_[network], extraction.or_[network]
            if extraction.and_only:
                or_ = and_
            curve = sparsity_curve(and_, or_ if pooled or not extraction.and_only else None, pooled=pooled)
            largest = max(largest, float(curve[0]))
            rank = torch.arange(1, len(curve) + 1)
            ax.plot(rank, curve.clamp_min(1e-12), color=colour, label=extraction.name, lw=1.8)
        bottom = max(largest, 1e-9) * 1e-4
        ax.set(title=comparison.names[network], xlabel="interaction, strongest first", xscale="log", yscale="log")
        ax.set_ylim(bottom, largest * 1.5 or 1.0)
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
        The figure; means over networks and samples. The control is the shared extraction of outputs that have
        nothing to share.
    """
    figure = page(8.5, 3.6, laid_out=True)
    axes = figure.subplots(1, 2, sharey=True)
    ks = comparison.ks
    for kind, (ax, title) in enumerate(zip(axes, ("AND: $s_{and}$", "OR: $s_{or}$"), strict=True)):
        for extraction, colour, line in zip(comparison.extractions, _COLOURS, _LINES, strict=False):
            power = powers(extraction, ks)[kind]  # NaN, and not drawn, for the OR of an extraction without
            ax.plot(ks, power, color=colour, ls=line, label=extraction.name, marker="o", ms=4, lw=1.8)
        ax.set(title=title, xlabel="strongest k of each network", ylim=(0, 1.02))
        bare(ax)
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
    for network, (above, below) in enumerate(axes.T):
        v = comparison.v[network]
        by_output = v[sample].argsort(descending=True)
        rank = torch.arange(v.shape[-1])
        for extraction, colour in zip(comparison.extractions[:3], _COLOURS, strict=False):
            # the dividends of all outputs are AND interactions alone, and miss nothing
            and_ = extraction.and_[network]
            or_ = None if extraction.and_only else extraction.or_[network]
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
        bare(ax)
    (output, *_), (extractions, names) = (ax.get_legend_handles_labels() for ax in axes[:, 0])
    figure.legend([*output, *extractions], ["output", *names], loc="outside upper right", ncols=4, frameon=False)
    return figure


@styled
def ablation(extractions: Sequence[Extraction], ks: Sequence[int]) -> Figure:
    """Draw what the charge α does to sparsity and to generalization power [Figure 8].

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
        left.plot(torch.arange(1, len(curve) + 1), curve.clamp_min(1e-12), color=shade, label=extraction.name, lw=1.6)
        for ax, power in zip(others, powers(extraction, ks), strict=True):
            ax.plot(ks, power, color=shade, marker="o", ms=4, lw=1.6)
    top = left.get_ylim()[1]
    left.set(xlabel="interaction, strongest first", ylabel="strength |I|, all samples", xscale="log", yscale="log")
    left.set_ylim(max(top, 1e-9) * 1e-4, None)
    for ax, title in zip(others, ("AND: $s_{and}$", "OR: $s_{or}$"), strict=True):
        ax.set(title=title, xlabel="strongest k of each network", ylim=(0, 1.02))
    for ax in figure.axes:
        bare(ax)
    legend_above(figure, left)
    return figure


@styled
def salient_matching(comparison: Comparison, sample: int = 0) -> Figure:
    """Draw the outputs of all masked versions of a sample, and what its salient interactions alone make of them.

    Proposition 1 of Chen et al. 2024 [Figure 6]; `matching` has all interactions.

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
        and_mask, or_mask = (mask[:, sample] for mask in extraction.salient)
        for network, ax in enumerate(row):
            v = comparison.v[network, sample]
            and_ = extraction.and_[network, sample].where(and_mask[network], 0.0)
            and_[0] = v[0]
            explained = and_outputs(and_) + or_outputs(extraction.or_[network, sample].where(or_mask[network], 0.0))
            count = int(and_mask[network].sum() + or_mask[network].sum())
            error = _draw_explained(ax, v, explained)
            ax.set_title(f"{comparison.names[network]}: {extraction.name}\n{count} salient, mean error {error:.0%}")
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
    error = _draw_explained(ax, v, salient_outputs(and_, or_, measurement.tau))
    count = int(salient_counts(and_, or_, measurement.tau).sum())
    ax.set(title=f"{count} salient, mean error {error:.0%}", xlabel=f"masked versions of sample {sample}", ylabel="v")
    legend_above(figure, ax)
    return figure


def _draw_explained(ax: Axes, v: Tensor, explained: Tensor) -> float:
    """Draw outputs from the largest down and what explains them; return the mean error as a share of the change."""
    by_output, rank = v.argsort(descending=True), torch.arange(len(v))
    ax.plot(rank, v[by_output], color="#1B1B1B", lw=1.2, label="output", zorder=3)
    ax.plot(rank, explained[by_output], color=_POSITIVE, lw=0.8, label="salient interactions")
    ax.fill_between(rank, v[by_output], explained[by_output], color=_POSITIVE, alpha=_PALE)
    bare(ax)
    return float((v - explained).abs().mean() / (v[-1] - v[0]).abs())


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
