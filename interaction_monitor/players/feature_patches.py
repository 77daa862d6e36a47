"""Patches of an inner feature map as players."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from interaction_monitor._describe import describe
from interaction_monitor.players._channels import image_size, map_is_channels_last
from interaction_monitor.players._grid import channel_baseline, check_grid, draw_cells
from interaction_monitor.players.base import Baseline, PlayerMap, Players
from interaction_monitor.probe import Probe


@dataclass(frozen=True, kw_only=True)
class FeaturePatches(Players):
    """Patches of an inner layer's feature map: the papers' players for images [Ren et al. 2024, F.3].

    Maps are (B, C, H, W), or (B, H, W, C) as in Swin transformers and around the norms of ConvNeXt.

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
        channels_last: whether the maps are (B, H, W, C). None finds out by their proportions, which are those of the
            image; where both ways fit equally well, channels come first.

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
    channels_last: bool | None = None

    def __post_init__(self) -> None:
        check_grid(self)

    def assign(self, probe: Probe, activation: Tensor | None, *, seed: int = 0) -> PlayerMap:
        """Draw the patches of each sample.

        Args:
            probe: the samples.
            activation: (1, C, H, W) or (1, H, W, C) what `layer` gives on the first, or (S, ...) on all of them.
            seed: decides the draw.

        Returns:
            The players, with positions (H, W).

        Raises:
            ValueError: if the layer does not give maps, or smaller ones than the grid, or their axes are unclear.
        """
        if activation is None or activation.ndim != 4:
            raise ValueError(
                f"FeaturePatches needs a layer that gives maps (batch, channels, height, width), but layer="
                f"{self.layer!r} gives {describe(activation)}; {_instead(activation, self.layer)}"
            )
        last = self.channels_last
        if last is None:
            last = map_is_channels_last(activation, image_size(probe))
        if last is None:
            raise ValueError(
                f"layer={self.layer!r} gives {describe(activation)}, of which it is unclear which axes are height and "
                "width; give channels_last=False if it is (batch, channels, height, width), channels_last=True if it "
                "is (batch, height, width, channels)"
            )
        axes = (1, 2) if last else (2, 3)
        return PlayerMap(
            labels=draw_cells(self, len(probe), [activation.shape[axis] for axis in axes], seed=seed),
            n_players=self.n_players,
            axes=axes,
            baseline=channel_baseline(self.baseline, activation, n_samples=len(probe), channels_last=last),
            layer=self.layer,
        )


def _instead(activation: Tensor | None, layer: str) -> str:
    if activation is None or activation.ndim != 3:
        return "name a layer whose output is a map, such as a convolution's"
    return (
        f"for tokens of an image (batch, tokens, features) take TokenPatches({layer!r}), for parts of a sequence "
        f"Spans(layer={layer!r}, axis=2) of (batch, channels, length) or axis=1 of (batch, length, features)"
    )
