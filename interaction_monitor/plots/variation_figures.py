"""Pictures of a comparison's variations: Figures 8 and 6 of Chen et al. 2024 for networks of one's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from interaction_monitor.comparison.comparison import Comparison
from interaction_monitor.comparison.variations import Ablation
from interaction_monitor.functional import and_outputs, or_outputs, sparsity_curve
from interaction_monitor.plots.comparison_figures import _bare, _legend
from interaction_monitor.plots.comparison_text import powers
from interaction_monitor.plots.layout import styled


@styled
def ablation(result: Ablation, ks: Sequence[int]) -> Figure:
    """Draw what the charge α does to sparsity and to generalization power [Figure 8].

    Args:
        result: The extractions.
        ks: Numbers of strongest interactions.

    Returns:
        The figure: left the interactions of all samples and networks from the strongest down, then s_and and s_or.
    """
    figure = Figure(figsize=(12, 3.6), dpi=100, layout="constrained", facecolor="white")
    left, *others = figure.subplots(1, 3)
    shades = colormaps["viridis"](torch.linspace(0, 0.9, len(result.alphas)).tolist())
    for extraction, shade in zip(result.extractions, shades, strict=True):
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
        _bare(ax)
    _legend(figure, left)
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
    figure = Figure(figsize=(1.2 + 3.4 * networks, 5.6), dpi=100, layout="constrained", facecolor="white")
    axes = figure.subplots(2, networks, sharex=True, sharey="col", squeeze=False)
    for row, extraction in zip(axes, (comparison.alone, comparison.shared), strict=True):
        and_mask, or_mask = (mask[:, sample] for mask in extraction.salient)
        for network, ax in enumerate(row):
            v = comparison.v[network, sample]
            by_output = v.argsort(descending=True)
            and_ = extraction.and_[network, sample].where(and_mask[network], 0.0)
            and_[0] = v[0]
            explained = and_outputs(and_) + or_outputs(extraction.or_[network, sample].where(or_mask[network], 0.0))
            error = float((v - explained).abs().mean() / (v[-1] - v[0]).abs())
            rank = torch.arange(len(v))
            ax.plot(rank, v[by_output], color="#1B1B1B", lw=1.2, label="output")
            ax.plot(rank, explained[by_output], color="#D55E00", lw=0.8, label="salient interactions")
            ax.fill_between(rank, v[by_output], explained[by_output], color="#D55E00", alpha=0.28)
            count = int(and_mask[network].sum() + or_mask[network].sum())
            ax.set_title(f"{comparison.names[network]}: {extraction.name}\n{count} salient, mean error {error:.0%}")
            _bare(ax)
        row[0].set_ylabel("output v")
    for ax in axes[-1]:
        ax.set_xlabel(f"masked versions of sample {comparison.samples[sample]}")
    _legend(figure, axes[0, 0])
    return figure
