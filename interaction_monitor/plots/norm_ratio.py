"""Figures of the theory; kept apart so that the closed form needs no plotting library."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from interaction_monitor.theory.norms import norm_ratio


def norm_ratio_figure(n_players: Sequence[int] = (6, 8, 10), sigma2: Sequence[float] | None = None) -> Figure:
    """Draw r^(k) against σ², one panel for each number of players, one line for each order.

    Figure 3 of Ren et al. 2024: the head start of every order over the next fades with the noise.

    Args:
        n_players: numbers of players, each at least 2, one panel for each.
        sigma2: noise variances, positive; default: 37 levels from 1e-6 to 1e3.

    Returns:
        The figure; save it with `figure.savefig(path)`.

    Raises:
        ValueError: if a number of players is below 2, which leaves no ratio to draw, or a variance is not positive.

    Examples:
        >>> figure = norm_ratio_figure((3, 5))
        >>> [len(panel.lines) for panel in figure.axes]
        [2, 4]
    """
    if not n_players or min(n_players) < 2:
        raise ValueError(f"n_players must be numbers of at least 2, for two orders to compare, but is {n_players}")
    if sigma2 is not None and not all(level > 0 for level in sigma2):
        raise ValueError(f"sigma2 is drawn on a logarithmic axis and must be positive, but is {sigma2}")
    levels = torch.logspace(-6, 3, 37, dtype=torch.float64) if sigma2 is None else torch.tensor(sigma2).double()
    figure = Figure(figsize=(3.6 * len(n_players), 3.2), layout="constrained")
    panels = figure.subplots(1, len(n_players), sharey=True, squeeze=False)[0]
    for panel, n in zip(panels, n_players, strict=True):
        for k, ratio in enumerate(norm_ratio(n, levels).T, start=1):
            shade = 0.15 + 0.7 * (k - 1) / max(n - 2, 1)
            panel.plot(levels, ratio, color=(shade, 0.35, 1 - shade), label=f"k = {k}", linewidth=1.2)
        panel.set(xscale="log", xlabel="noise variance σ²", title=f"n = {n}")
        panel.legend(fontsize="xx-small", frameon=False)
    panels[0].set_ylabel("r$^{(k)}$, reach of order k over order k + 1")
    return figure
