"""Patches of a vision transformer's tokens as players."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from interaction_monitor._describe import describe
from interaction_monitor.players._channels import image_size
from interaction_monitor.players._grid import check_grid, draw_cells
from interaction_monitor.players.base import Baseline, PlayerMap, Players, require_whole, resolve_baseline
from interaction_monitor.probe import Probe

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

    Example:
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
            plane = _plane_of(n_tokens - before, image or (1, 1))
            if plane is not None:
                return before, plane
        shape = "a square" if image is None else f"a plane with the proportions of the {image[0]}x{image[1]} image"
        raise ValueError(
            f"layer={self.layer!r} gives {n_tokens} tokens, which are not {shape} "
            f"and up to {max(numbers)} class tokens before it; give plane=(height, width), in tokens"
        )


def _plane_of(n_tokens: int, image: tuple[int, int]) -> tuple[int, int] | None:
    """Return the height and width of so many tokens in the proportions of the image, if there are such."""
    # Square patches of some size, side by side; what is left over at the border is cut off.
    for patch in range(1, min(image) + 1):
        plane = image[0] // patch, image[1] // patch
        if n_tokens == plane[0] * plane[1]:
            return plane
    # Patches that overlap, or several pictures of one size.
    divisor = math.gcd(*image)
    high, wide = image[0] // divisor, image[1] // divisor
    side = math.isqrt(max(n_tokens, 0) // (high * wide))
    return (side * high, side * wide) if side and side * side * high * wide == n_tokens else None


def _names(cells: Tensor, n_players: int) -> tuple[str, ...]:
    firsts = [(cells == player).nonzero()[0].tolist() for player in range(n_players)]
    return tuple(f"tokens from row {row}, column {column}" for row, column in firsts)
