"""Interactions as torchmetrics metrics, for loops that already speak that language; here those of several networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interaction_monitor import functional
from interaction_monitor._checks import require_counts
from interaction_monitor.metrics.one_network import Float64Metric, GeneralizingStrength, OrderDistribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["GeneralizationPower", "GeneralizingStrength", "OrderDistribution", "SharedStrength"]

_STRENGTHS = ("all_positive", "all_negative", "shared_positive", "shared_negative")


class GeneralizationPower(Float64Metric):
    """Which share of the strongest k interactions of each network is among the strongest k of all networks.

    s_and and s_or of Chen et al. 2024 ("Defining and extracting generalizable interaction primitives from DNNs",
    Definition 1), as in their Figure 3: the mean over the samples of all processes.

    Args:
        n_networks: how many networks are compared, at least 2.
        ks: numbers k of strongest interactions, for AND and for OR each.
        **kwargs: as for every `torchmetrics.Metric`.

    Raises:
        ValueError: if there are fewer than two networks, or a k is below 1.

    Examples:
        >>> metric = GeneralizationPower(n_networks=2, ks=(1, 2))
        >>> and_ = torch.tensor([[[0.0, 3.0, 2.0, 1.0]], [[0.0, 3.0, 1.0, 2.0]]])  # 2 networks, 1 sample
        >>> metric.update(and_, torch.zeros_like(and_))
        >>> metric.compute()["and"].tolist()
        [[1.0, 0.5], [1.0, 0.5]]
    """

    is_differentiable = False
    higher_is_better = True

    totals: Tensor
    counts: Tensor

    def __init__(self, n_networks: int, *, ks: Sequence[int] = (10, 20, 30, 40, 50), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_counts(2, n_networks=n_networks)
        if not ks or min(ks) < 1:
            raise ValueError(f"ks must hold numbers of at least 1, but is {tuple(ks)}")
        self.n_networks = n_networks
        self.ks = tuple(ks)
        zeros = torch.zeros(2, n_networks, len(self.ks), dtype=torch.float64)
        self.add_state("totals", default=zeros, dist_reduce_fx="sum")
        self.add_state("counts", default=zeros.clone(), dist_reduce_fx="sum")

    def update(self, and_: Tensor, or_: Tensor) -> None:
        """Add samples.

        A sample on which a network has no interaction of a kind does not count for that network and kind.

        Args:
            and_: (m, S, 2^n) AND interactions of the m networks on the same samples.
            or_: (m, S, 2^n) OR interactions.

        Raises:
            ValueError: if a shape is not (n_networks, S, 2^n) or the shapes differ.
        """
        _check_shapes(and_, or_, self.n_networks, None)
        power = torch.stack([functional.generalization_curve(i, self.ks) for i in (and_, or_)])
        self.totals += power.nansum(2)
        self.counts += power.isfinite().sum(2)

    def compute(self) -> dict[str, Tensor]:
        """Give the mean over the samples.

        Returns:
            `and` (m, K), s_and of each network and k; `or` (m, K), s_or. Both float64, NaN where no sample counts.
        """
        means = self.totals / self.counts
        return {"and": means[0], "or": means[1]}

    def _draw(self, ax: Axes, result: Any) -> None:
        """Draw s_and and s_or over k, their means over the networks."""
        for kind, means in result.items():
            ax.plot(self.ks, means.mean(0).tolist(), marker=".", label=f"$s_{{{kind}}}$")
        ax.set(xlabel="strongest k", ylabel="generalization power", ylim=(0, 1.02))
        ax.legend()


class SharedStrength(Float64Metric):
    """How strong the salient interactions of each order and sign are, and those of them that all networks share.

    All± and Shared± of Chen et al. 2024, Figure 4: means over the samples of all processes.

    Args:
        n_networks: how many networks are compared, at least 2.
        n_players: number of players, the same for all samples.
        fraction: an interaction is salient above this fraction of the sample's largest; the paper's 0.05.
        k: take the strongest k AND and the strongest k OR interactions as salient instead.
        **kwargs: as for every `torchmetrics.Metric`.

    Raises:
        ValueError: if there are fewer than two networks, or `n_players` is below 1.

    Examples:
        >>> metric = SharedStrength(n_networks=2, n_players=2)
        >>> and_ = torch.tensor([[[0.0, 3.0, 0.0, -1.0]], [[0.0, 2.0, 0.0, 0.0]]])  # 2 networks, 1 sample
        >>> metric.update(and_, torch.zeros_like(and_))
        >>> result = metric.compute()
        >>> result["all_negative"].tolist(), result["shared_negative"].tolist()
        ([[0.0, -1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]])
    """

    is_differentiable = False
    higher_is_better = None

    totals: Tensor
    count: Tensor

    def __init__(
        self, n_networks: int, n_players: int, *, fraction: float = 0.05, k: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        require_counts(2, n_networks=n_networks)
        require_counts(1, n_players=n_players)
        self.n_networks = n_networks
        self.n_players = n_players
        self.fraction = fraction
        self.k = k
        zeros = torch.zeros(4, n_networks, n_players, dtype=torch.float64)
        self.add_state("totals", default=zeros, dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, and_: Tensor, or_: Tensor) -> None:
        """Add samples.

        Args:
            and_: (m, S, 2^n) AND interactions of the m networks on the same samples.
            or_: (m, S, 2^n) OR interactions.

        Raises:
            ValueError: if a shape is not (n_networks, S, 2^n_players) or the shapes differ.
        """
        _check_shapes(and_, or_, self.n_networks, 2**self.n_players)
        if self.k is None:
            masks = functional.salient(and_, or_, self.fraction)
        else:
            masks = functional.strongest(and_, self.k), functional.strongest(or_, self.k)
        sharing = functional.order_sharing(and_, or_, *masks)
        self.totals += torch.stack([getattr(sharing, name).sum(1) for name in _STRENGTHS])
        self.count += and_.shape[1]

    def compute(self) -> dict[str, Tensor]:
        """Give the means over the samples.

        Returns:
            `all_positive`, `all_negative`, `shared_positive`, `shared_negative`, (m, n) each, entry k-1 for order k;
            float64.
        """
        return dict(zip(_STRENGTHS, self.totals / self.count, strict=True))

    def _draw(self, ax: Axes, result: Any) -> None:
        """Draw the strengths by order, shared ones before all of them; means over the networks."""
        order = range(1, self.n_players + 1)
        for (name, strength), colour in zip(result.items(), ("C3", "0.2", "C1", "C2"), strict=True):
            ax.bar(order, strength.mean(0).tolist(), color=colour, label=name.replace("_", ", "))
        ax.set(xlabel="order k", ylabel="strength", xticks=list(order))
        ax.legend()


def _check_shapes(and_: Tensor, or_: Tensor, n_networks: int, size: int | None) -> None:
    fits = and_.ndim == 3 and len(and_) == n_networks and size in (None, and_.shape[-1])
    if not fits or and_.shape != or_.shape:
        raise ValueError(
            f"and_ and or_ must be ({n_networks}, samples, {size or '2^n'}), but are {tuple(and_.shape)} "
            f"and {tuple(or_.shape)}"
        )
