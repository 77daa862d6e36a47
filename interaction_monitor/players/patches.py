"""Patches as players: of the input image, of an inner feature map, or of a vision transformer's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

from interaction_monitor._checks import describe, require_whole
from interaction_monitor.loading import draw
from interaction_monitor.players.base import (
    Baseline,
    Players,
    cell_index,
    image_is_channels_last,
    image_size,
    map_is_channels_last,
    plane_of,
)
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe

_MOST_CLASS_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class _Patches(Players):
    """What all kinds of patches are: inner cells of a grid over a plane, drawn for each sample."""

    grid: int = 8
    margin: int = 1
    n_players: int = 10
    baseline: Baseline = 0.0

    def __post_init__(self) -> None:
        grid, margin, n_players = self.grid, self.margin, self.n_players
        require_whole(self, grid=grid, margin=margin, n_players=n_players)
        if grid < 1 or margin < 0 or n_players < 1:
            raise ValueError(f"grid={grid} and n_players={n_players} must be at least 1 and margin={margin} at least 0")
        inner = max(0, grid - 2 * margin)
        if n_players > inner**2:
            raise ValueError(
                f"n_players={n_players} is more than the {inner**2} cells of the central {inner}x{inner} region "
                f"of a {grid}x{grid} grid with margin={margin}; take fewer players, a finer grid or a smaller "
                "margin"
            )

    def draw_cells(self, n_samples: int, size: Sequence[int], *, seed: int) -> Tensor:
        """Draw cells for each sample, by `draw(..., seed, sample)`, and label the positions in them in reading order.

        Args:
            n_samples: how many.
            size: height and width of the plane.
            seed: decides the draw.

        Returns:
            (n_samples, height, width) int64, -1 outside the drawn cells.

        Raises:
            ValueError: if the plane has fewer rows or columns than the grid.
        """
        height, width = size
        if min(size) < self.grid:
            raise ValueError(
                f"the map to mask is {height}x{width} (height x width), too small for a {self.grid}x{self.grid} grid; "
                f"take grid={min(size)} or less, or an earlier layer"
            )
        inner = range(self.margin, self.grid - self.margin)
        cells = [(row, column) for row in inner for column in inner]
        labels = torch.full((n_samples, self.grid, self.grid), -1, dtype=torch.int64)
        for sample in range(n_samples):
            for player, chosen in enumerate(sorted(draw(len(cells), self.n_players, seed, sample))):
                row, column = cells[chosen]
                labels[sample, row, column] = player
        return labels[:, cell_index(height, self.grid)][:, :, cell_index(width, self.grid)]

    def _of_maps(self, maps: Tensor, n_samples: int, *, channels_last: bool, key: str | None, seed: int) -> PlayerMap:
        """Draw cells of maps (S or 1, C, H, W) or (S or 1, H, W, C), of which a vector is a value per channel."""
        axes = (1, 2) if channels_last else (2, 3)
        baseline = self.baseline(maps) if callable(self.baseline) else self.baseline
        if isinstance(baseline, Tensor) and baseline.ndim == 1 and len(baseline) > 1 and not channels_last:
            baseline = baseline[:, None, None]
        labels = self.draw_cells(n_samples, [maps.shape[axis] for axis in axes], seed=seed)
        return self._map(labels, axes, maps, baseline=baseline, key=key)


@dataclass(frozen=True, kw_only=True)
class ImagePatches(_Patches):
    """Patches of the input image: cells of a grid, other ones in each sample.

    For a network that never saw holes in its images, masking at an inner layer (`FeaturePatches`) is gentler,
    and faster; the papers do that. Here whatever the network is, only its input is touched.

    Args:
        grid: the image is cut into grid x grid cells, as even as whole pixels allow; 8 is the papers' choice
            [Ren et al. 2024, F.3].
        margin: so many rings of cells at the border are never players; they hold little of the object.
        n_players: how many cells are drawn per sample; 2**n_players masked forwards follow for each.
        baseline: what absent patches are replaced by: a number; a tensor such as one value per channel, (C,)
            or (C, 1, 1), or a whole image; or a callable (images (S, C, H, W)) -> number or tensor, for
            instance the mean color. Zero is the mean of normalised images.
        input_key: which entry of a dict of inputs holds the images; needed if there are several.
        channels_last: whether the images are (B, H, W, C). None takes the axis that is 1, 3 or 4 long for the channels,
            the second where both are.

    Raises:
        ValueError: if there are more players than cells.
        TypeError: if a number is not whole.

    Examples:
        >>> players = ImagePatches(grid=4, margin=1, n_players=3)
        >>> drawn = players.assign(Probe(torch.rand(2, 3, 8, 8)), None, seed=0)
        >>> drawn.labels.shape, drawn.axes
        (torch.Size([2, 8, 8]), (2, 3))
    """

    input_key: str | None = None
    channels_last: bool | None = None

    def assign(self, probe: Probe, activation: Tensor | None = None, *, seed: int = 0) -> PlayerMap:
        """Draw the patches of images (S, C, H, W) or (S, H, W, C), with positions (H, W), as `Players.assign` says.

        Raises:
            ValueError: if the inputs are no images, or smaller than the grid.
        """
        key, images = probe.entry(self.input_key)
        if images.ndim != 4:
            hint = "; for parts of a sequence take Spans, for columns of a table Columns" * (images.ndim in (2, 3))
            hint += "; for parts of videos or volumes take Segments(labels, axes=...)" * (images.ndim > 4)
            raise ValueError(
                f"ImagePatches needs images (samples, channels, height, width), got {describe(images)}{hint}"
            )
        last = image_is_channels_last(images) if self.channels_last is None else self.channels_last
        return self._of_maps(images, len(probe), channels_last=last, key=key, seed=seed)


@dataclass(frozen=True, kw_only=True)
class FeaturePatches(_Patches):
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

    Examples:
        >>> players = FeaturePatches("features.1", grid=4, n_players=3)
        >>> drawn = players.assign(Probe(torch.rand(2, 3, 32, 32)), torch.rand(1, 16, 16, 16), seed=0)
        >>> drawn.layer, drawn.labels.shape
        ('features.1', torch.Size([2, 16, 16]))
    """

    layer: str = field(kw_only=False)
    channels_last: bool | None = None

    def assign(self, probe: Probe, activation: Tensor | None, *, seed: int = 0) -> PlayerMap:
        """Draw the patches of maps (1 or S, C, H, W) or (1 or S, H, W, C), with positions (H, W).

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
        return self._of_maps(activation, len(probe), channels_last=last, key=None, seed=seed)


def _instead(activation: Tensor | None, layer: str) -> str:
    if activation is not None and activation.ndim > 4:
        return f"for parts of videos or volumes take Segments(labels, layer={layer!r}, axes=...)"
    if activation is None or activation.ndim != 3:
        return "name a layer whose output is a map, such as a convolution's"
    return (
        f"for tokens of an image (batch, tokens, features) take TokenPatches({layer!r}), for parts of a sequence "
        f"Spans(layer={layer!r}, axis=2) of (batch, channels, length) or axis=1 of (batch, length, features)"
    )


@dataclass(frozen=True, kw_only=True)
class TokenPatches(_Patches):
    """Patches of the tokens of an image, (B, tokens, features), as a vision transformer's blocks give them.

    The tokens are those of a plane, row by row; class and register tokens come before them and are always present.

    Args:
        layer: the dotted name of the module whose output is masked, for instance the patch embedding or the first
            block; None masks the model's input.
        grid: the plane of tokens is cut into grid x grid cells, as even as whole tokens allow; 8 is the papers' choice
            for images [Ren et al. 2024, F.3].
        margin: so many rings of cells at the border are never players; they hold little of the object.
        n_players: how many cells are drawn per sample; 2**n_players masked forwards follow for each.
        baseline: what absent tokens are replaced by: a number; a vector (features,), such as a mask token; or a
            callable (tokens (S, tokens, features)) -> number or tensor, evaluated once.
        plane: (height, width) of the plane in tokens. None finds the plane with the proportions of the image (a
            square one, if no input is an image) that leaves the fewest tokens over.
        class_tokens: how many tokens come before those of the plane. None takes what the plane leaves over, up to 8.
        input_key: which entry of a dict of inputs is masked; needed if there are several.

    Raises:
        ValueError: if there are more players than cells.
        TypeError: if a number is not whole.

    Examples:
        >>> players = TokenPatches("blocks.0", grid=7, margin=0, n_players=5)
        >>> drawn = players.assign(Probe(torch.rand(2, 3, 224, 224)), torch.rand(1, 197, 192), seed=0)
        >>> drawn.labels.shape, drawn.labels[:, 0].tolist()  # 14 x 14 tokens; the class token is no player
        (torch.Size([2, 197]), [-1, -1])
    """

    layer: str | None = field(default=None, kw_only=False)
    plane: tuple[int, int] | None = None
    class_tokens: int | None = None
    input_key: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_tokens is not None:
            require_whole(self, class_tokens=self.class_tokens)
            if self.class_tokens < 0:
                raise ValueError(f"class_tokens={self.class_tokens} must be at least 0")
        if self.plane is not None and (len(self.plane) != 2 or min(self.plane) < 1):
            raise ValueError(f"plane={self.plane} must be (height, width) in tokens")

    def assign(self, probe: Probe, activation: Tensor | None = None, *, seed: int = 0) -> PlayerMap:
        """Draw patches of tokens (1 or S, tokens, features), named by row and column, with positions (tokens,).

        Raises:
            ValueError: if there are no tokens of a plane, or fewer than the grid's cells.
        """
        key, tokens = self._masked(probe, activation)
        if tokens is None or tokens.ndim != 3:
            where = "an input" if self.layer is None else f"a layer, but layer={self.layer!r} gives other than"
            raise ValueError(
                f"TokenPatches needs {where} (batch, tokens, features), got {describe(tokens)}"
                + "; for maps of four axes take FeaturePatches" * (tokens is not None and tokens.ndim == 4)
            )
        before, plane = self._plane(tokens.shape[1], image_size(probe))
        cells = self.draw_cells(len(probe), plane, seed=seed)
        firsts = [[(labels == player).nonzero()[0].tolist() for player in range(self.n_players)] for labels in cells]
        names = [tuple(f"tokens from row {row}, column {column}" for row, column in places) for places in firsts]
        return self._map(pad(cells.flatten(1), (before, 0), value=-1), (1,), tokens, key=key, names=names)

    def _plane(self, n_tokens: int, image: tuple[int, int] | None) -> tuple[int, tuple[int, int]]:
        """Return how many tokens come before the plane, and its height and width."""
        if self.plane is not None:
            before = n_tokens - self.plane[0] * self.plane[1]
            if before < 0 or self.class_tokens not in (None, before):
                said = "" if self.class_tokens is None else f" after class_tokens={self.class_tokens}"
                raise ValueError(f"plane={self.plane}{said} does not fit {n_tokens} tokens")
            return before, self.plane
        numbers = range(_MOST_CLASS_TOKENS + 1) if self.class_tokens is None else [self.class_tokens]
        for before in numbers:
            plane = plane_of(n_tokens - before, image or (1, 1))
            if plane is not None:
                return before, plane
        shape = "a square" if image is None else f"a plane with the proportions of the {image[0]}x{image[1]} image"
        raise ValueError(
            f"layer={self.layer!r} gives {n_tokens} tokens, which are not {shape} "
            f"and up to {max(numbers)} class tokens before it; give plane=(height, width), in tokens"
        )
