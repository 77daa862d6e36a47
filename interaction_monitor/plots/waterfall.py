"""One sample explained: from the output of its fully masked input to its own, interaction by interaction."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import style
from matplotlib.figure import Figure

from interaction_monitor.measurement import Measurement
from interaction_monitor.plots.layout import page
from interaction_monitor.plots.sample_figures import SIGNS, Interaction, strongest

_FOR, _AGAINST, _REST = "#0072B2", "#D55E00", "#BBBBBB"


def waterfall(
    measurement: Measurement, sample: int = 0, *, names: Sequence[str] | None = None, n_strongest: int = 10
) -> Figure:
    """Draw how a sample's strongest interactions carry the output from v(∅) to v(x), the rest lumped together.

    Args:
        measurement: The measurement.
        sample: Which of its samples, from 0 on.
        names: What the players are called, for example `players.names[sample]`; None numbers them.
        n_strongest: How many interactions get a bar of their own.

    Returns:
        The figure, a bar per interaction from the strongest down: blue speaks for the output, red against it. ∧ needs
        all of its players, ∨ any one of them.

    Raises:
        ValueError: If there is no such sample, or its outputs are not finite.

    Examples:
        >>> import torch
        >>> from interaction_monitor.measurement import interpret
        >>> figure = waterfall(interpret(torch.tensor([[0.5, 1.5, 2.5, 5.5]]).double()))
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['masked input', '1', '0 ∧ 1', '0', '0 ∨ 1', 'the rest', 'the input']
    """
    n_samples = len(measurement.v)
    if not 0 <= sample < n_samples:
        raise ValueError(f"sample must be one of the {n_samples} measured, 0 to {n_samples - 1}, but is {sample}")
    if not measurement.valid[sample]:
        raise ValueError(f"sample={sample} has outputs that are not finite; choose one of `measurement.valid`")
    shown = strongest(measurement, sample, n_strongest)
    start, end = float(measurement.v[sample, 0]), float(measurement.v[sample, -1])
    steps = [interaction.effect for interaction in shown]
    steps.append(end - start - sum(steps))
    labels = ["masked input", *(_label(interaction, names) for interaction in shown), "the rest", "the input"]
    with style.context("default"):
        height = 1.0 + 0.32 * len(labels)
        figure = page(8, height)
        left = min(0.02 + 0.0115 * max(map(len, labels)), 0.45)
        ax = figure.add_axes((left, 0.6 / height, 0.93 - left, 1 - 1.0 / height))
        at = start
        for place, step in enumerate(steps, start=1):
            colour = _REST if place == len(steps) else _FOR if step >= 0 else _AGAINST
            ax.barh(place, step, left=at, color=colour, height=0.7)
            ax.plot([at, at], [place - 1, place], color="#888888", lw=0.7)
            ax.text(max(at, at + step), place, f" {step:+.2g}", va="center", fontsize=9)
            at += step
        for place, value in ((0, start), (len(labels) - 1, end)):
            ax.plot([value], [place], "k|", ms=14, mew=2)
            ax.text(value, place, f"  {value:.2f}", va="center", fontsize=9, weight="bold")
        ax.axvline(0, color="#444444", lw=0.8)
        ax.set_yticks(range(len(labels)), labels)
        ax.invert_yaxis()
        ax.use_sticky_edges = False
        ax.autoscale_view()
        ax.margins(x=0.12)
        ax.set_xlabel("output v")
        ax.set_title(f"sample {sample}: from the masked input to the input", loc="left", fontsize=11)
        ax.spines[["top", "right", "left"]].set_visible(False)
    return figure


def _label(interaction: Interaction, names: Sequence[str] | None) -> str:
    return SIGNS[interaction.kind].join(
        str(player) if names is None or player >= len(names) else names[player] for player in interaction.players
    )
