"""What of a network generalizes, as a torchmetrics metric; `functional.generalizing` does the mathematics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from interaction_monitor import functional
from interaction_monitor._float64 import float64_device, to_float64
from interaction_monitor.functional.generalizing import Reference, held_interactions
from interaction_monitor.functional.salient_orders import SALIENCY
from interaction_monitor.metrics.order_distribution import Float64Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STATES = ("ends", "and_", "or_", "held_and", "held_or")


class GeneralizingStrength(Float64Metric):
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
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    ends: list[Tensor]
    and_: list[Tensor]
    or_: list[Tensor]
    held_and: list[Tensor]
    held_or: list[Tensor]

    def __init__(
        self, n_players: int, *, fraction: float = SALIENCY, level: float = 0.95, at_least: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if n_players < 1:
            raise ValueError(f"n_players must be at least 1, but is {n_players}")
        if not fraction >= 0:
            raise ValueError(f"fraction must be at least 0, but is {fraction}; the paper's is {SALIENCY}")
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, but is {level}; 0.95 is usual")
        self.n_players = n_players
        self.fraction = fraction
        if at_least < 1:
            raise ValueError(f"at_least must be at least 1, but is {at_least}")
        self.level = level
        self.at_least = at_least
        # flat, because torchmetrics puts a flat empty tensor in the place of a rank without samples
        for state in _STATES:
            self.add_state(state, default=[], dist_reduce_fx="cat")

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
        shapes = {tuple(tensor.shape) for tensor in (v, and_, or_) if tensor is not None}
        if len(shapes) > 1 or v.ndim != 2 or v.shape[-1] != 2**self.n_players:
            raise ValueError(
                f"v, and_ and or_ must be (samples, {2**self.n_players}), as n_players is {self.n_players}, "
                f"but are {', '.join(map(str, sorted(shapes)))}"
            )
        held_and, held_or = held_interactions(and_, or_, references, at_least=self.at_least)
        v, and_, or_ = to_float64(v), to_float64(and_), None if or_ is None else to_float64(or_)
        zero = torch.zeros_like(and_)
        or_, held_or = (zero if or_ is None else or_), (zero if held_or is None else held_or)
        valid = torch.stack((v, and_, or_, held_and, held_or)).isfinite().all(-1).all(0)
        for state, values in zip(_STATES, (v[:, [0, -1]], and_, or_, held_and, held_or), strict=True):
            getattr(self, state).append(values[valid].flatten())

    def compute(self) -> dict[str, Tensor]:
        """Give the share over all samples seen, on all processes.

        Returns:
            `share` (), with `share_low` and `share_high`, its interval over samples; `share_by_order` (n,), NaN for an
            order without strength; `generalizing` (n,) and `strength` (n,), means over samples, entry k-1 for order k.
            All float64; NaN if nothing is salient.
        """
        # v(∅) and v(N) alone are a game of one player, and the threshold asks for nothing else
        tau = functional.saliency_threshold(self._rows("ends", width=2), self.fraction)
        strength = functional.order_strength(self._rows("and_"), self._rows("or_"), tau)
        generalizing = functional.order_strength(self._rows("held_and"), self._rows("held_or"), tau)
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

    def _rows(self, state: str, *, width: int | None = None) -> Tensor:
        # a list of batches before processes are gathered, one tensor afterwards
        batches = getattr(self, state)
        nothing = torch.empty(0, dtype=torch.float64, device=float64_device(self.device))
        flat = dim_zero_cat(batches) if len(batches) else nothing
        return flat.reshape(-1, width or 2**self.n_players)
