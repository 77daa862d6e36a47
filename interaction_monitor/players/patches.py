"""Patches as players: of the input image, of an inner feature map, or of a vision transformer's tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from interaction_monitor._checks import describe, require_whole
from interaction_monitor.players.base import (
    Baseline,
    Players,
    channel_baseline,
    check_grid,
    draw_cells,
    image_is_channels_last,
    image_size,
    map_is_channels_last,
    plane_of,
    resolve_baseline,
)
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe


@dataclass(frozen=True, kw_only=True)
class ImagePatches(Players):
    """Patches of the input image: cells of a grid, other ones in each sample.

    For a network that never saw holes in its images, masking at an inner layer (`FeaturePatches`) is gentler,
    and faster; the papers do that. Here whatever the network is, only its input is touched.

    Args:
        grid: the image is cut into grid x grid cells, as even as whole pixels allow. 8 is the papers' choice
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
        >>> import torch
        >>> players = ImagePatches(grid=4, margin=1, n_players=3)
        >>> drawn = players.assign(Probe(torch.rand(2, 3, 8, 8)), None, seed=0)
        >>> drawn.labels.shape, drawn.axes
        (torch.Size([2, 8, 8]), (2, 3))
    """

    grid: int = 8
    margin: int = 1
    n_players: int = 10
    baseline: Baseline = 0.0
    input_key: str | None = None
    channels_last: bool | None = None

    def __post_init__(self) -> None:
        check_grid(self)

    def assign(self, probe: Probe, activation: Tensor | None = None, *, seed: int = 0) -> PlayerMap:
        """Draw the patches of each sample.

        Args:
            probe: samples with images (S, C, H, W) or (S, H, W, C).
            activation: not used.
            seed: decides the draw.

        Returns:
            The players, with positions (H, W).

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
        axes = (1, 2) if last else (2, 3)
        return PlayerMap(
            labels=draw_cells(self, len(probe), [images.shape[axis] for axis in axes], seed=seed),
            n_players=self.n_players,
            axes=axes,
            baseline=channel_baseline(self.baseline, images, n_samples=len(probe), channels_last=last),
            input_key=key,
        )


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

    Examples:
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
    if activation is not None and activation.ndim > 4:
        return f"for parts of videos or volumes take Segments(labels, layer={layer!r}, axes=...)"
    if activation is None or activation.ndim != 3:
        return "name a layer whose output is a map, such as a convolution's"
    return (
        f"for tokens of an image (batch, tokens, features) take TokenPatches({layer!r}), for parts of a sequence "
        f"Spans(layer={layer!r}, axis=2) of (batch, channels, length) or axis=1 of (batch, length, features)"
    )


_MOST_CLASS_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class TokenPatches(Players):
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
    grid: int = 8
    margin: int = 1
    n_players: int = 10
    baseline: Baseline = 0.0
    plane: tuple[int, int] | None = None
    class_tokens: int | None = None
    input_key: str | None = None

    def __post_init__(self) -> None:
        check_grid(self)
        if self.class_tokens is not None:
            require_whole(self, class_tokens=self.class_tokens)
            if self.class_tokens < 0:
                raise ValueError(f"class_tokens={self.class_tokens} must be at least 0")
        if self.plane is not None and (len(self.plane) != 2 or min(self.plane) < 1):
            raise ValueError(f"plane={self.plane} must be (height, width) in tokens")

    def assign(self, probe: Probe, activation: Tensor | None = None, *, seed: int = 0) -> PlayerMap:
        """Draw the patches of each sample.

        Args:
            probe: the samples.
            activation: (1 or S, tokens, features) what `layer` gives; None if the input is masked.
            seed: decides the draw.

        Returns:
            The players, with positions (tokens,), named by row and column of their cell.

        Raises:
            ValueError: if there are no tokens of a plane, or fewer than the grid's cells.
        """
        key, tokens = (None, activation) if self.layer else probe.entry(self.input_key)
        if tokens is None or tokens.ndim != 3:
            where = "an input" if self.layer is None else f"a layer, but layer={self.layer!r} gives other than"
            raise ValueError(
                f"TokenPatches needs {where} (batch, tokens, features), got {describe(tokens)}"
                + "; for maps of four axes take FeaturePatches" * (tokens is not None and tokens.ndim == 4)
            )
        before, plane = self._plane(tokens.shape[1], image_size(probe))
        cells = draw_cells(self, len(probe), plane, seed=seed).flatten(1)
        return PlayerMap(
            labels=torch.cat([cells.new_full((len(cells), before), -1), cells], dim=1),
            n_players=self.n_players,
            axes=(1,),
            baseline=resolve_baseline(self.baseline, tokens, n_samples=len(probe)),
            layer=self.layer,
            input_key=key,
            names=tuple(_names(sample.view(plane), self.n_players) for sample in cells),
        )

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


def _names(cells: Tensor, n_players: int) -> tuple[str, ...]:
    firsts = [(cells == player).nonzero()[0].tolist() for player in range(n_players)]
    return tuple(f"tokens from row {row}, column {column}" for row, column in firsts)
