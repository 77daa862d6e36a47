"""Interactions by order as a torchmetrics metric, for loops that already speak that language.

No mathematics here: the metric keeps the interactions of all samples of all processes, and
`functional` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from interaction_monitor import functional
from interaction_monitor._float64 import float64_device, to_float64
from interaction_monitor.functional.salient_orders import SALIENCY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Float64Metric(Metric):
    """A metric with states in float64; they stay on the CPU where the metric's device has no float64."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set_dtype(torch.float64)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        device = fn(torch.zeros(1, device=self.device)).device
        staying = exclude_state if float64_device(device) == device else tuple(self._defaults)
        return super()._apply(fn, staying)


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

    full_state_update = False

    ends: list[Tensor]

    def __init__(self, n_players: int, fraction: float, states: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if n_players < 1:
            raise ValueError(f"n_players must be at least 1, but is {n_players}")
        if not fraction >= 0:
            raise ValueError(f"fraction must be at least 0, but is {fraction}; the paper's is {SALIENCY}")
        self.n_players = n_players
        self.fraction = fraction
        # flat, because torchmetrics puts a flat empty tensor in the place of a rank without samples
        for state in ("ends", *states):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def require_shapes(self, v: Tensor, and_: Tensor, or_: Tensor | None) -> None:
        """Raise unless all are (samples, 2^n_players)."""
        shapes = [tuple(tensor.shape) for tensor in (v, and_, or_) if tensor is not None]
        if len(set(shapes)) > 1 or v.ndim != 2 or v.shape[-1] != 2**self.n_players:
            raise ValueError(
                f"v, and_ and or_ must be (samples, {2**self.n_players}), as n_players is {self.n_players}, "
                f"but are {', '.join(map(str, shapes))}"
            )

    def add_samples(self, v: Tensor, **interactions: Tensor) -> None:
        """Keep the samples whose numbers are all finite: each (S, 2^n), under the name of its state."""
        valid = torch.stack([to_float64(values) for values in (v, *interactions.values())]).isfinite().all(-1).all(0)
        for state, values in {"ends": v[:, [0, -1]], **interactions}.items():
            getattr(self, state).append(to_float64(values)[valid].flatten())

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

    What is salient depends on τ, and τ on the mean output change over *all* samples, so the
    interactions themselves are kept until `compute`, where the threshold is known: 2·2^n numbers per
    sample, 0.8 MB for 50 samples of 10 players. So the result does not depend on how samples fall to
    batches and processes.

    Args:
        n_players: number of players, the same for all samples.
        fraction: an interaction is salient from this fraction of the mean |v(N) - v(∅)| on; the
            paper's 0.03.
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
    plot_lower_bound = 0.0

    and_: list[Tensor]
    or_: list[Tensor]

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
        self.add_samples(v, and_=and_, or_=torch.zeros_like(and_) if or_ is None else or_)

    def compute(self) -> dict[str, Tensor]:
        """Give the distribution over all samples seen, on all processes.

        Returns:
            `distribution` (n,), I_real^(k), sums to n; `strength` (n,), the mean over samples, not
            normalised; `mean_order` (), NaN if nothing is salient; `n_salient` (), mean number of
            salient interactions per sample. All float64.
        """
        and_, or_, tau = self.rows("and_"), self.rows("or_"), self.threshold()
        strength = functional.order_strength(and_, or_, tau)
        return {
            "distribution": functional.order_distribution(strength),
            "strength": strength.mean(0),
            "mean_order": functional.mean_order(strength),
            "n_salient": functional.salient_counts(and_, or_, tau).sum(-1).mean(),
        }

    def plot(
        self,
        val: dict[str, Tensor] | Sequence[dict[str, Tensor]] | None = None,
        ax: Axes | None = None,
    ) -> tuple[Figure, Axes]:
        """Draw the distribution over orders.

        Args:
            val: what `compute` gave, or a sequence of it, one line each; None computes now.
            ax: where to draw; None makes a figure.

        Returns:
            The figure and its axes.
        """
        from matplotlib import pyplot

        results = self.compute() if val is None else val
        if ax is None:
            ax = pyplot.subplots()[1]
        order = range(1, self.n_players + 1)
        if isinstance(results, dict):
            ax.bar(order, results["distribution"].tolist())
        else:
            for index, result in enumerate(results):
                ax.plot(order, result["distribution"].tolist(), marker=".", label=str(index))
            ax.legend(title="measurement")
        ax.set(xlabel="order k", ylabel="strength $I^{(k)}$", xticks=list(order), ylim=(0, None))
        return cast("Figure", ax.figure), ax
