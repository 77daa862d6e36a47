"""What of a network generalizes, as a torchmetrics metric; `functional.generalizing` does the mathematics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from interaction_monitor import functional
from interaction_monitor.functional.generalizing import Reference, held_interactions
from interaction_monitor.functional.salient_orders import SALIENCY
from interaction_monitor.metrics.order_distribution import SampleMetric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STATES = ("and_", "or_", "held_and", "held_or")


class GeneralizingStrength(SampleMetric):
    """How much of the strength of a network's salient interactions some reference has too, over all processes.

    The network's own threshold depends on all samples, so its interactions are kept until `compute`, and with them
    those that a reference has: 4·2^n numbers per sample. The references are finished, so their thresholds are known.

    Args:
        n_players: number of players, the same for all samples.
        fraction: an interaction of the network is salient from this fraction of the mean |v(N) - v(∅)| on; the
            paper's 0.03.
        level: coverage of the share's interval over samples.
        at_least: how many references must have an interaction, as in `functional.generalizing_strength`.
        **kwargs: as for every `torchmetrics.Metric`.

    Raises:
        ValueError: if `n_players` or `at_least` is below 1, `fraction` negative, or `level` not between 0 and 1.

    Examples:
        >>> metric = GeneralizingStrength(n_players=2)
        >>> v = torch.tensor([[0.0, 1.0, 1.0, 5.0]])  # two players: 1 each, and 3 more together
        >>> and_, or_ = functional.and_interactions(v), torch.zeros(1, 4)
        >>> reference = torch.tensor([[0.0, 2.0, 0.5, -1.0]])  # the same for each, the opposite for both
        >>> metric.update(v, and_, or_, [(reference, or_, 0.1)])
        >>> result = metric.compute()
        >>> result["share"].item(), result["share_by_order"].tolist()
        (0.4, [1.0, 0.0])
    """

    is_differentiable = False
    higher_is_better = True
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    and_: list[Tensor]
    or_: list[Tensor]
    held_and: list[Tensor]
    held_or: list[Tensor]

    def __init__(
        self, n_players: int, *, fraction: float = SALIENCY, level: float = 0.95, at_least: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(n_players, fraction, _STATES, **kwargs)
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, but is {level}; 0.95 is usual")
        if at_least < 1:
            raise ValueError(f"at_least must be at least 1, but is {at_least}")
        self.level = level
        self.at_least = at_least

    def update(self, v: Tensor, and_: Tensor, or_: Tensor | None, references: Sequence[Reference]) -> None:
        """Add samples.

        Samples with a number that is not finite, in a reference too, are left out.

        Args:
            v: (S, 2^n) outputs of all coalitions; any number of samples, none included.
            and_: (S, 2^n) AND interactions.
            or_: (S, 2^n) OR interactions, or None where only AND interactions were computed.
            references: (and_, or_, tau) of each reference for these samples, as in `functional.generalizing_strength`.

        Raises:
            ValueError: if a shape is not (S, 2^n_players), the shapes differ, or there is no reference.
        """
        self.require_shapes(v, and_, or_)
        held = held_interactions(and_, or_, references, at_least=self.at_least)
        kept = dict(zip(_STATES, (and_, or_, *held), strict=True))
        zero = torch.zeros_like(and_)
        self.add_samples(v, **{state: zero if values is None else values for state, values in kept.items()})

    def compute(self) -> dict[str, Tensor]:
        """Give the share over all samples seen, on all processes.

        Returns:
            `share` (), with `share_low` and `share_high`, its interval over samples; `share_by_order` (n,), NaN for an
            order without strength; `generalizing` (n,) and `strength` (n,), means over samples, entry k-1 for order k.
            All float64; NaN if nothing is salient.
        """
        tau = self.threshold()
        strength = functional.order_strength(self.rows("and_"), self.rows("or_"), tau)
        generalizing = functional.order_strength(self.rows("held_and"), self.rows("held_or"), tau)
        low, share, high = functional.generalizing_share(generalizing, strength, level=self.level)
        by_order = generalizing.mean(0) / strength.mean(0)
        shares = {"share": share, "share_low": low, "share_high": high}
        return {
            **{
                name: torch.tensor(value, dtype=torch.float64, device=by_order.device) for name, value in shares.items()
            },
            "share_by_order": by_order,
            "generalizing": generalizing.mean(0),
            "strength": strength.mean(0),
        }

    def plot(
        self, val: dict[str, Tensor] | Sequence[dict[str, Tensor]] | None = None, ax: Axes | None = None
    ) -> tuple[Figure, Axes]:
        """Draw the strength of every order with its generalizing part, or the share over several measurements.

        Args:
            val: what `compute` gave, or a sequence of it; None computes now.
            ax: where to draw; None makes a figure.

        Returns:
            The figure and its axes.
        """
        from matplotlib import pyplot

        results = self.compute() if val is None else val
        if ax is None:
            ax = pyplot.subplots()[1]
        if isinstance(results, dict):
            order = range(1, self.n_players + 1)
            ax.bar(order, results["strength"].tolist(), color="C1", label="all")
            ax.bar(order, results["generalizing"].tolist(), color="C2", label="generalizing")
            ax.set(xlabel="order k", ylabel="strength", xticks=list(order))
            ax.legend()
        else:
            place = range(len(results))
            low, share, high = ([float(r[n]) for r in results] for n in ("share_low", "share", "share_high"))
            ax.fill_between(place, low, high, alpha=0.2, linewidth=0)
            ax.plot(place, share, marker=".")
            ax.set(xlabel="measurement", ylabel="generalizing share", ylim=(0, 1.02))
        return cast("Figure", ax.figure), ax
