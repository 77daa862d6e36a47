"""Cutting a plane into cells and drawing some of them, for each sample others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from interaction_monitor._draw import draw
from interaction_monitor.players.base import Baseline, require_whole, resolve_baseline


class Patches(Protocol):
    """What the patch players have in common."""

    @property
    def grid(self) -> int: ...
    @property
    def margin(self) -> int: ...
    @property
    def n_players(self) -> int: ...


def check_grid(patches: Patches) -> None:
    """Refuse a grid whose inner cells are fewer than the players.

    Raises:
        ValueError: that says how many cells there are.
        TypeError: if one of the numbers is not whole.
    """
    grid, margin, n_players = patches.grid, patches.margin, patches.n_players
    require_whole(patches, grid=grid, margin=margin, n_players=n_players)
    if grid < 1 or margin < 0 or n_players < 1:
        raise ValueError(f"grid={grid} and n_players={n_players} must be at least 1 and margin={margin} at least 0")
    inner = max(0, grid - 2 * margin)
    if n_players > inner**2:
        raise ValueError(
            f"n_players={n_players} is more than the {inner**2} cells of the central {inner}x{inner} region "
            f"of a {grid}x{grid} grid with margin={margin}; take fewer players, a finer grid or a smaller "
            "margin"
        )


def cell_index(size: int, grid: int) -> Tensor:
    """Return which of `grid` intervals each of `size` positions is in: interval i begins at i*size//grid.

    Example:
        >>> cell_index(7, 3)
        tensor([0, 0, 1, 1, 2, 2, 2])
    """
    starts = [i * size // grid for i in range(grid + 1)]
    return torch.repeat_interleave(torch.arange(grid), torch.tensor(starts).diff())


def draw_cells(patches: Patches, n_samples: int, size: Sequence[int], *, seed: int) -> Tensor:
    """Draw cells of a grid for each sample and label the positions in them.

    The plane is cut into grid x grid cells as even as whole positions allow. Of the cells that are at least
    `margin` away from the border, `n_players` are drawn per sample (`draw(..., seed, sample)`) and numbered
    in reading order.

    Returns:
        (n_samples, height, width) int64, -1 outside the drawn cells.

    Raises:
        ValueError: if the plane has fewer rows or columns than the grid.
    """
    height, width = size
    grid = patches.grid
    if height < grid or width < grid:
        raise ValueError(
            f"the map to mask is {height}x{width} (height x width), too small for a {grid}x{grid} grid; take "
            f"grid={min(height, width)} or less, or an earlier layer"
        )
    inner = range(patches.margin, grid - patches.margin)
    cells = [(row, column) for row in inner for column in inner]
    labels = torch.full((n_samples, grid, grid), -1, dtype=torch.int64)
    for sample in range(n_samples):
        for player, chosen in enumerate(sorted(draw(len(cells), patches.n_players, seed, sample))):
            row, column = cells[chosen]
            labels[sample, row, column] = player
    return labels[:, cell_index(height, grid)][:, :, cell_index(width, grid)]


def channel_baseline(
    baseline: Baseline, maps: Tensor, *, n_samples: int, channels_last: bool = False
) -> float | Tensor:
    """Resolve a baseline of maps (S or 1, C, H, W) or (S or 1, H, W, C), where a vector has a value per channel."""
    value = baseline(maps) if callable(baseline) else baseline
    if isinstance(value, Tensor) and value.ndim == 1 and len(value) > 1 and not channels_last:
        value = value[:, None, None]
    return resolve_baseline(value, maps, n_samples=n_samples)
