"""The interactions of one network as torchmetrics metrics, for loops that already speak that language.

No mathematics here: the metrics keep the interactions of all samples of all processes, and `functional` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from interaction_monitor import functional
from interaction_monitor._checks import float64_device, require_between_0_and_1, require_counts, to_float64
from interaction_monitor.functional.generalizing import Reference, held_interactions
from interaction_monitor.functional.saliency import SALIENCY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STATES = ("and_", "or_", "held_and", "held_or")


class Float64Metric(Metric):
    """A metric with states in float64; they stay on the CPU where the metric's device has no float64."""

    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set_dtype(torch.float64)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        device = fn(torch.zeros(1, device=self.device)).device
        staying = exclude_state if float64_device(device) == device else tuple(self._defaults)
        return super()._apply(fn, staying)

    def plot(
        self, val: dict[str, Tensor] | Sequence[dict[str, Tensor]] | None = None, ax: Axes | None = None
    ) -> tuple[Figure, Axes]:
        """Draw the metric.

        Args:
            val: what `compute` gave, or where the metric says so a sequence of it; None computes now.
            ax: where to draw; None makes a figure.

        Returns:
            The figure and its axes.
        """
        from matplotlib import pyplot

        ax = pyplot.subplots()[1] if ax is None else ax
        self._draw(ax, self.compute() if val is None else val)
        return cast("Figure", ax.figure), ax

    def _draw(self, ax: Axes, results: Any) -> None:
        raise NotImplementedError


class SampleMetric(Float64Metric):
    """A metric whose threshold depends on all samples, so that numbers of each sample are kept until `compute`.

    Args:
        n_players: number of players, the same for all samples.
        fraction: an interaction is salient from this fraction of the mean |v(N) - v(∅)| on.
        states: what is kept of each sample; "ends", v(∅) and v(N), beside it.
        **kwargs: as for every `torchmetrics.Metric`.

    Raises:
        ValueError: if `n_players` is below 1 or `fraction` negative.
    """

    def __init__(self, n_players: int, fraction: float, states: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_counts(1, n_players=n_players)
        if not fraction >= 0:
            raise ValueError(f"fraction must be at least 0, but is {fraction}; the paper's is {SALIENCY}")
        self.n_players = n_players
        self.fraction = fraction
        # flat, because torchmetrics puts a flat empty tensor in the place of a rank without samples
        for state in ("ends", *states):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def require_shapes(self, v: Tensor, and_: Tensor, or_: Tensor | None) -> None:
        """Raise unless all are (samples, 2^n_players); only OR may be None."""
        given = (v, and_) if or_ is None else (v, and_, or_)
        shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in given]
        if len(set(shapes)) > 1 or len(shapes[0]) != 2 or shapes[0][-1] != 2**self.n_players:
            raise ValueError(
                f"v, and_ and or_ must be (samples, {2**self.n_players}), as n_players is {self.n_players}, "
                f"but are {', '.join(map(str, shapes))}"
            )

    def add_samples(self, v: Tensor, **interactions: Tensor | None) -> None:
        """Keep the samples whose numbers are all finite: each (S, 2^n), under the name of its state; None are zeros."""
        known = {state: to_float64(torch.zeros_like(v) if x is None else x) for state, x in interactions.items()}
        valid = torch.stack([to_float64(v), *known.values()]).isfinite().all(-1).all(0)
        for state, values in {"ends": to_float64(v[:, [0, -1]]), **known}.items():
            getattr(self, state).append(values[valid].flatten())

    def threshold(self) -> Tensor:
        """Give τ over all samples."""
        # v(∅) and v(N) alone are a game of one player, and the threshold asks for nothing else
        return functional.saliency_threshold(self.rows("ends", width=2), self.fraction)

    def rows(self, state: str, *, width: int | None = None) -> Tensor:
        """Give what was kept of all samples, (S, 2^n) or (S, width)."""
        # a list of batches here, one tensor after processes were gathered
        batches = getattr(self, state)
        nothing = torch.empty(0, dtype=torch.float64, device=float64_device(self.device))
        flat = dim_zero_cat(batches) if len(batches) else nothing
        return flat.reshape(-1, width or 2**self.n_players)


class OrderDistribution(SampleMetric):
    """How the strength of salient interactions spreads over the orders, over all samples of all processes.

    What is salient depends on τ, and τ on the mean output change over *all* samples. So the interactions themselves are
    kept until `compute`, 0.8 MB for 50 samples of 10 players, however samples fall to batches and processes.

    Args:
        n_players: number of players, the same for all samples.
        fraction: an interaction is salient from this fraction of the mean |v(N) - v(∅)| on; the paper's 0.03.
        **kwargs: as for every `torchmetrics.Metric`.

    Raises:
        ValueError: if `n_players` is below 1 or `fraction` negative.

    Examples:
        >>> metric = OrderDistribution(n_players=2)
        >>> v = torch.tensor([[0.0, 1.0, 1.0, 5.0]])  # two players: 1 each, and 3 more together
        >>> metric.update(v, functional.and_interactions(v), None)
        >>> {name: value.tolist() for name, value in metric.compute().items()}
        {'distribution': [0.8, 1.2], 'strength': [2.0, 3.0], 'mean_order': 1.6, 'n_salient': 3.0}
    """

    is_differentiable = False
    higher_is_better = None

    def __init__(self, n_players: int, *, fraction: float = SALIENCY, **kwargs: Any) -> None:
        super().__init__(n_players, fraction, ("and_", "or_"), **kwargs)

    def update(self, v: Tensor, and_: Tensor, or_: Tensor | None) -> None:
        """Add samples.

        Samples with a number that is not finite are left out.

        Args:
            v: (S, 2^n) outputs of all coalitions; any number of samples, none included.
            and_: (S, 2^n) AND interactions.
            or_: (S, 2^n) OR interactions, or None where only AND interactions were computed.

        Raises:
            ValueError: if a shape is not (S, 2^n_players) or the shapes differ.
        """
        self.require_shapes(v, and_, or_)
        self.add_samples(v, and_=and_, or_=or_)

    def compute(self) -> dict[str, Tensor]:
        """Give the distribution over all samples seen, on all processes.

        Returns:
            `distribution` (n,), I_real^(k), sums to n; `strength` (n,), the mean over samples, not normalised;
            `mean_order` (), NaN if nothing is salient; `n_salient` (), mean number of salient interactions per sample.
            All float64.
        """
        and_, or_, tau = self.rows("and_"), self.rows("or_"), self.threshold()
        strength = functional.order_strength(and_, or_, tau)
        return {
            "distribution": functional.order_distribution(strength),
            "strength": strength.mean(0),
            "mean_order": functional.mean_order(strength),
            "n_salient": functional.salient_counts(and_, or_, tau).sum(-1).mean(),
        }

    def _draw(self, ax: Axes, results: Any) -> None:
        order = range(1, self.n_players + 1)
        if isinstance(results, dict):
            ax.bar(order, results["distribution"].tolist())
        else:
            for index, result in enumerate(results):
                ax.plot(order, result["distribution"].tolist(), marker=".", label=str(index))
            ax.legend(title="measurement")
        ax.set(xlabel="order k", ylabel="strength $I^{(k)}$", xticks=list(order), ylim=(0, None))


class GeneralizingStrength(SampleMetric):
    """How much of the strength of a network's salient interactions some reference has too, over all processes.

    Beside the network's interactions those that a reference has are kept until `compute`, 4·2^n numbers per sample. The
    references are finished, so their thresholds are known.

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

    def __init__(
        self, n_players: int, *, fraction: float = SALIENCY, level: float = 0.95, at_least: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(n_players, fraction, _STATES, **kwargs)
        require_between_0_and_1(0.95, level=level)
        require_counts(1, at_least=at_least)
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
        self.add_samples(v, **dict(zip(_STATES, (and_, or_, *held), strict=True)))

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
        shares = by_order.new_tensor((share, low, high))
        return {
            **dict(zip(("share", "share_low", "share_high"), shares, strict=True)),
            "share_by_order": by_order,
            "generalizing": generalizing.mean(0),
            "strength": strength.mean(0),
        }

    def _draw(self, ax: Axes, results: Any) -> None:
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
