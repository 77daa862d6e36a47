"""Clusters of a point cloud as players."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from interaction_monitor._checks import describe, require_whole
from interaction_monitor.loading import draw
from interaction_monitor.players.base import Baseline, Players, resolve_baseline
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe

MAX_ITERATIONS = 100  # of k-means; a few hundred points settle in about ten


@dataclass(frozen=True, kw_only=True)
class PointClusters(Players):
    """K-means clusters of a point cloud, some drawn per sample, each masked by its own mean [Ren et al. 2024, F.3].

    Args:
        n_clusters: into how many clusters each cloud is cut.
        n_players: how many of them are drawn; 2**n_players masked forwards follow for each cloud.
        baseline: what the points of absent clusters are replaced by: None for the mean of their cluster (the papers'
            choice; the cloud keeps its coarse shape), or a number, a tensor, or a callable (clouds) -> number or
            tensor.
        channels_first: whether clouds are (B, 3, N) and not (B, N, 3); None takes the shorter axis for coordinates.
        input_key: which entry of a dict of inputs holds the clouds; needed if there are several.

    Raises:
        ValueError: if there are more players than clusters.
        TypeError: if a number is not whole.

    Examples:
        >>> clouds = torch.rand(2, 64, 3)
        >>> drawn = PointClusters(n_clusters=8, n_players=4).assign(Probe(clouds), seed=0)
        >>> drawn.labels.shape, drawn.axes, drawn.baseline.shape
        (torch.Size([2, 64]), (1,), torch.Size([2, 64, 3]))
    """

    n_clusters: int = 30
    n_players: int = 10
    baseline: Baseline | None = None  # type: ignore[assignment]  # None stands for the default of the kind
    channels_first: bool | None = None
    input_key: str | None = None

    def __post_init__(self) -> None:
        require_whole(self, n_clusters=self.n_clusters, n_players=self.n_players)
        if not 1 <= self.n_players <= self.n_clusters:
            raise ValueError(f"n_players={self.n_players} must be from 1 to n_clusters={self.n_clusters}")

    def assign(self, probe: Probe, activation: Tensor | None = None, *, seed: int = 0) -> PlayerMap:
        """Cluster each cloud and draw its players.

        Args:
            probe: samples with clouds (S, N, C) or (S, C, N); the first three of the C channels are the coordinates.
            activation: not used.
            seed: decides the clusters' seeds and the draw.

        Returns:
            The players, with positions (N,).

        Raises:
            ValueError: if the inputs are no clouds, are not finite, or have fewer different points than clusters.
        """
        key, inputs = probe.entry(self.input_key)
        clouds, channels_first = self._clouds(probe), self._channels_first(inputs)
        if not clouds.isfinite().all():
            raise ValueError("PointClusters needs finite coordinates, but some are NaN or infinite")
        labels = torch.full(clouds.shape[:2], -1, dtype=torch.int64)
        means = torch.empty_like(clouds)
        for sample, cloud in enumerate(clouds):
            try:
                clusters = k_means(cloud[:, :3], self.n_clusters, (seed, sample))
            except ValueError as error:
                raise ValueError(
                    f"sample {sample} of the probe: {error}; take fewer clusters, or other samples"
                ) from None
            for player, cluster in enumerate(sorted(draw(self.n_clusters, self.n_players, seed, sample))):
                labels[sample, clusters == cluster] = player
            for cluster in range(self.n_clusters):
                means[sample, clusters == cluster] = cloud[clusters == cluster].mean(0)
        baseline: float | Tensor
        if self.baseline is None:
            baseline = (means.transpose(1, 2) if channels_first else means).contiguous().to(inputs.dtype)
        else:
            baseline = resolve_baseline(self.baseline, inputs, n_samples=len(probe))
        return PlayerMap(
            labels=labels,
            n_players=self.n_players,
            axes=(2,) if channels_first else (1,),
            baseline=baseline,
            input_key=key,
        )

    def suits(self, probe: Probe) -> Tensor:
        """Tell which clouds can be cut into so many clusters.

        Args:
            probe: as for `assign`.

        Returns:
            (S,) bool; all True where `assign` will refuse.

        Examples:
            >>> clouds = torch.stack([torch.arange(24.0).view(8, 3), torch.zeros(8, 3)])
            >>> PointClusters(n_clusters=4, n_players=2).suits(Probe(clouds))
            tensor([ True, False])
        """
        with suppress(ValueError):
            clouds = self._clouds(probe)
            different = [len(torch.unique(cloud[:, :3], dim=0)) for cloud in clouds]
            return (torch.tensor(different) >= self.n_clusters) & clouds.isfinite().flatten(1).all(1)
        return super().suits(probe)

    def _clouds(self, probe: Probe) -> Tensor:
        """Return the clouds, (S, N, C) float64 on the CPU."""
        inputs = probe.entry(self.input_key)[1]
        return (inputs.transpose(1, 2) if self._channels_first(inputs) else inputs).detach().cpu().double()

    def _channels_first(self, clouds: Tensor) -> bool:
        if clouds.ndim != 3 or not clouds.is_floating_point():
            raise ValueError(
                f"PointClusters needs clouds (samples, points, coordinates) of floats, got {describe(clouds)} of "
                f"{clouds.dtype}"
            )
        _, rows, columns = clouds.shape
        if self.channels_first is None and rows == columns:
            raise ValueError(f"clouds of {rows}x{columns} may be read both ways: give channels_first=True or False")
        return rows < columns if self.channels_first is None else self.channels_first


def k_means(points: Tensor, n_clusters: int, key: tuple[int, ...]) -> Tensor:
    """Cluster points by Lloyd's algorithm from k-means++ seeds (Arthur & Vassilvitskii 2007), decided by `key`.

    Args:
        points: (N, D) float64.
        n_clusters: how many; none stays empty.
        key: decides the seeds.

    Returns:
        (N,) int64, the cluster of each point.

    Raises:
        ValueError: if there are fewer different points than clusters.

    Examples:
        >>> k_means(torch.tensor([[0.0], [0.1], [9.0], [9.1]]), 2, (0,))
        tensor([1, 1, 0, 0])
    """
    different = len(torch.unique(points, dim=0))
    if different < n_clusters:
        raise ValueError(f"n_clusters={n_clusters}, but a cloud has only {different} different points")
    centers = _seeds(points, n_clusters, key)
    assigned = torch.full((len(points),), -1)
    for _ in range(MAX_ITERATIONS):
        squares = (points[:, None] - centers).square().sum(-1)
        nearest = squares.argmin(1)
        for cluster in (torch.bincount(nearest, minlength=n_clusters) == 0).nonzero()[:, 0]:
            # A center that lost all its points goes to the point that is worst off, if its cluster can spare it.
            spare = torch.bincount(nearest, minlength=n_clusters)[nearest] > 1
            far = squares.gather(1, nearest[:, None])[:, 0].masked_fill(~spare, -1.0).argmax()
            nearest[far] = cluster
            squares[far, cluster] = 0.0
        if torch.equal(nearest, assigned):
            break
        assigned = nearest
        counts = torch.bincount(assigned, minlength=n_clusters)[:, None]
        centers = torch.zeros_like(centers).index_add_(0, assigned, points) / counts
    return assigned


def _seeds(points: Tensor, n_clusters: int, key: tuple[int, ...]) -> Tensor:
    chosen = [int(_uniform("k-means", *key, 0) * len(points))]
    squares = torch.full((len(points),), torch.inf, dtype=points.dtype)
    for draws in range(1, n_clusters):
        squares = torch.minimum(squares, (points - points[chosen[-1]]).square().sum(1))
        heights = squares.cumsum(0)
        place = int(torch.searchsorted(heights, _uniform("k-means", *key, draws) * heights[-1], right=True))
        # Rounding may lead past the end, onto a point that is a seed already.
        chosen.append(min(place, int(squares.nonzero()[-1])))
    return points[chosen]


def _uniform(*key: int | str) -> float:
    """Return a number in [0, 1), uniformly distributed, decided by `key` alone, as `draw` is."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    # 53 bits are what a float holds: more would round up to one.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
