"""Patches of an inner feature map as players."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from interaction_monitor._describe import describe
from interaction_monitor.players._grid import channel_baseline, check_grid, draw_cells
from interaction_monitor.players.base import Baseline, PlayerMap, Players
from interaction_monitor.probe import Probe


@dataclass(frozen=True, kw_only=True)
class FeaturePatches(Players):
    """Patches of an inner layer's feature map: the papers' players for images [Ren et al. 2024, F.3].

    The layers before the masked one run once per sample, not once per coalition.

    Args:
        layer: the dotted name of the module whose output (B, C, H, W) is masked, as `named_modules()` gives
            it. The papers take the second ReLU of a VGG, the first of LeNet and AlexNet. It must be called
            once per forward.
        grid: the map is cut into grid x grid cells, as even as whole positions allow; 8 is the papers'
            choice, 7 for LeNet.
        margin: so many rings of cells at the border are never players; they hold little of the object.
        n_players: how many cells are drawn per sample; 2**n_players masked forwards follow for each.
        baseline: what absent patches are replaced by: a number (zero is what a ReLU gives where it sees
            nothing); a tensor such as one value per channel, (C,) or (C, 1, 1); or a callable (maps (S, C, H,
            W)) -> number or tensor, evaluated once, with the network as it is when the players are drawn.

    Raises:
        ValueError: if there are more players than cells.
        TypeError: if a number is not whole.

    Example:
        >>> import torch
        >>> players = FeaturePatches("features.1", grid=4, n_players=3)
        >>> drawn = players.assign(Probe(torch.rand(2, 3, 32, 32)), torch.rand(1, 16, 16, 16), seed=0)
        >>> drawn.layer, drawn.labels.shape
        ('features.1', torch.Size([2, 16, 16]))
    """

    layer: str = field(kw_only=False)
    grid: int = 8
    margin: int = 1
    n_players: int = 10
    baseline: Baseline = 0.0

    def __post_init__(self) -> None:
        check_grid(self)

    def assign(self, probe: Probe, activation: Tensor | None, *, seed: int = 0) -> PlayerMap:
        """Draw the patches of each sample.

        Args:
            probe: the samples.
            activation: (1, C, H, W) what `layer` gives on the first, or (S, C, H, W) on all of them.
            seed: decides the draw.

        Returns:
            The players, with positions (H, W).

        Raises:
            ValueError: if the layer does not give maps, or smaller ones than the grid.
        """
        if activation is None or activation.ndim != 4:
            raise ValueError(
                f"FeaturePatches needs a layer that gives maps (batch, channels, height, width), but layer="
                f"{self.layer!r} gives {describe(activation)}; name a convolution, normalisation or "
                "activation layer"
            )
        return PlayerMap(
            labels=draw_cells(self, len(probe), activation.shape[2:], seed=seed),
            n_players=self.n_players,
            axes=(2, 3),
            baseline=channel_baseline(self.baseline, activation, n_samples=len(probe)),
            layer=self.layer,
        )
