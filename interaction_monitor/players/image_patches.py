"""Patches of the input image as players."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from interaction_monitor._describe import describe
from interaction_monitor.players._channels import image_is_channels_last
from interaction_monitor.players._grid import channel_baseline, check_grid, draw_cells
from interaction_monitor.players.base import Baseline, PlayerMap, Players
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

    Example:
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
