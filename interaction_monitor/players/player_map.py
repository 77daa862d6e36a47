"""Which part of each sample belongs to which player, and masking by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from interaction_monitor._checks import float64_device


@dataclass(frozen=True, eq=False)
class PlayerMap:
    """Which part of each probe sample belongs to which player: drawn once, fixed for the whole run.

    Args:
        labels: the player at each position; -1 is background, which is always present.
        n_players: how many players every sample has. A sample whose labels miss some of them has no outputs:
            see `complete`.
        axes: the axes of the masked tensor (axis 0 is the batch) that the positions index: (2, 3) for the
            height and width of (B, C, H, W).
        baseline: what absent players are replaced by: a number, or a tensor with as many axes as the masked
            tensor that broadcasts to one sample, (1, ...), or to all, (S, ...).
        layer: the dotted name of the module whose output is masked; None masks the model's input.
        input_key: which entry of a dict of inputs is masked.
        names: what the players of each sample are called, for instance its words.

    Raises:
        ValueError: if the parts do not fit together.

    Examples:
        >>> pairs = PlayerMap(torch.tensor([[0, 0, 1, -1]]), n_players=2, axes=(1,), baseline=0.0)
        >>> pairs.mask(torch.tensor([[5.0, 6.0, 7.0, 8.0]]), 0, torch.tensor([0b00, 0b01, 0b10]))
        tensor([[0., 0., 0., 8.],
                [5., 6., 0., 8.],
                [0., 0., 7., 8.]])
    """

    labels: Tensor  # (S, *positions) int64
    n_players: int
    axes: tuple[int, ...]
    baseline: Tensor | float = 0.0  # scalar, (1, ...) or (S, ...)
    layer: str | None = None
    input_key: str | None = None
    names: tuple[tuple[str, ...], ...] | None = None  # (S, n)

    def __post_init__(self) -> None:
        if self.labels.dtype != torch.int64 or self.labels.ndim < 2 or not self.labels.numel():
            raise ValueError(
                f"labels must be int64 of shape (samples, *positions), got {self.labels.dtype} of "
                f"{tuple(self.labels.shape)}"
            )
        if not 1 <= self.n_players <= 62:
            raise ValueError(f"n_players={self.n_players} must be from 1 to 62")
        low, high = self.labels.min().item(), self.labels.max().item()
        if low < -1 or high >= self.n_players:
            raise ValueError(
                f"labels must be from -1 (background) to n_players-1={self.n_players - 1}, got {low} to {high}"
            )
        if len(self.axes) != self.labels.ndim - 1 or list(self.axes) != sorted(set(self.axes)) or self.axes[0] < 1:
            raise ValueError(
                f"axes={self.axes} must name, in rising order, one axis from 1 on for each of the "
                f"{self.labels.ndim - 1} position axes of labels"
            )
        if self.layer is not None and self.input_key is not None:
            raise ValueError(f"either the layer {self.layer!r} or the input {self.input_key!r} is masked, not both")
        if self.names is not None and len(self.names) != len(self.labels):
            raise ValueError(f"names are given for {len(self.names)} samples, labels for {len(self.labels)}")

    def __len__(self) -> int:
        return len(self.labels)

    def of_checkpoint(self, labels: Tensor, baseline: Tensor | float) -> PlayerMap:
        """Return the players that a checkpoint holds, drawn for the same samples and layer.

        Raises:
            ValueError: if they were drawn for others.
        """
        n_before = int(labels.max()) + 1
        if n_before != self.n_players:
            raise ValueError(
                f"the checkpoint was measured with n_players={n_before}, but this run has "
                f"n_players={self.n_players}; resume with {n_before}, or without the callback's state"
            )
        if len(labels) != len(self):
            raise ValueError(
                f"the checkpoint was measured on {len(labels)} samples, but this run's probe has {len(self)}; resume "
                "with the same samples, or without the callback's state"
            )
        if labels.shape != self.labels.shape:
            raise ValueError(
                f"the checkpoint's players have shape {tuple(labels.shape)}, but the probe and layer of this run need "
                f"{tuple(self.labels.shape)}; resume with the same data and layer"
            )
        # A baseline that is computed from the network is that of the network at the start.
        if isinstance(self.baseline, Tensor):
            fits = isinstance(baseline, Tensor) and baseline.shape == self.baseline.shape
        else:
            fits = isinstance(baseline, (int, float)) and abs(baseline) <= torch.finfo(torch.float32).max
        if not fits:
            raise ValueError("the checkpoint's baseline is of another kind or shape; resume with the same players")
        return replace(self, labels=labels, baseline=baseline)

    @property
    def complete(self) -> Tensor:
        """Which samples have all their players, (S,) bool; the others are left out of measurements."""
        flat = self.labels.flatten(1)
        found = torch.zeros(len(flat), self.n_players + 1, dtype=torch.bool, device=flat.device)
        return found.scatter_(1, flat + 1, True)[:, 1:].all(1)

    def mask(self, x: Tensor, sample: int | Tensor, coalitions: Tensor) -> Tensor:
        """Replace the absent players of each coalition by the baseline.

        A NaN in a masked part is gone, and a present part keeps its bits.

        Args:
            x: the tensor to mask: (1, ...) for one sample, or (B, ...) with a row per coalition.
            sample: which sample (that of all rows), or (B,) int64, which one for each row.
            coalitions: (B,) int64 bitmasks, bit i set = player i present.

        Returns:
            (B, ...), of the dtype of `x`.

        Raises:
            ValueError: if the positions of `x` are not those of the labels.
        """
        self.check(x)
        if x.shape[0] not in (1, len(coalitions)):
            raise ValueError(
                f"axis 0 of the tensor to mask must be the batch: for {len(coalitions)} coalitions it has "
                f"the shape {tuple(x.shape)}"
            )
        bits = torch.arange(self.n_players, device=coalitions.device)
        present = (coalitions[:, None] >> bits) & 1 == 1
        # One more column, which the label -1 finds at the end: the background is always present.
        present = torch.cat([present, present.new_ones(len(present), 1)], dim=1)
        labels = self.labels[sample]
        if isinstance(sample, int):
            keep = present[:, labels]
        else:
            keep = present.gather(1, labels.flatten(1) % (self.n_players + 1))
        shape = [size if axis in self.axes else 1 for axis, size in enumerate(x.shape)]
        shape[0] = len(coalitions)
        baseline = self._baseline_of(slice(sample, sample + 1) if isinstance(sample, int) else sample)
        # A number is made a tensor on the device, so that nothing waits for a transfer.
        absent = baseline.to(x) if isinstance(baseline, Tensor) else x.new_full((), baseline)
        return torch.where(keep.view(shape), x, absent)

    def check(self, x: Tensor) -> None:
        """Refuse a tensor to mask (batch first) that has other positions than the labels.

        Raises:
            ValueError: that names both.
        """
        positions = tuple(self.labels.shape[1:])
        if x.ndim <= self.axes[-1] or tuple(x.shape[axis] for axis in self.axes) != positions:
            raise ValueError(
                f"the players are drawn for {positions} positions on axes {self.axes}, but the tensor to mask has the "
                f"shape {tuple(x.shape)}; draw them anew for samples of this size"
            )

    def regions(self, sample: int, height: int, width: int) -> Tensor:
        """Return a picture of one sample's players: its labels enlarged to (height, width) by the nearest position.

        Args:
            sample: which sample.
            height: of the picture in pixels.
            width: of the picture in pixels.

        Returns:
            (height, width) int64, -1 where there is no player.

        Raises:
            ValueError: if the positions are not those of a plane.

        Examples:
            >>> halves = PlayerMap(torch.tensor([[[0, 1]]]), n_players=2, axes=(2, 3))
            >>> halves.regions(0, 2, 4)
            tensor([[0, 0, 1, 1],
                    [0, 0, 1, 1]])
        """
        labels = self.labels[sample]
        if labels.ndim != 2:
            raise ValueError(f"only players of a plane can be drawn, these have {labels.ndim} position axes")
        rows = torch.arange(height, device=labels.device) * labels.shape[0] // height
        columns = torch.arange(width, device=labels.device) * labels.shape[1] // width
        return labels[rows][:, columns]

    def select(self, samples: Tensor | Sequence[int]) -> PlayerMap:
        """Return the players of some of the samples, in the order given."""
        index = torch.as_tensor(samples, device=self.labels.device)
        names = None if self.names is None else tuple(self.names[i] for i in index.tolist())
        return replace(self, labels=self.labels[index], baseline=self._baseline_of(index), names=names)

    def to(self, device: torch.device | str) -> PlayerMap:
        """Return the players on `device`."""
        baseline = self.baseline
        if isinstance(baseline, Tensor):
            no_float64 = float64_device(device) != torch.device(device)
            baseline = (baseline.float() if no_float64 and baseline.dtype == torch.float64 else baseline).to(device)
        return replace(self, labels=self.labels.to(device), baseline=baseline)

    def _baseline_of(self, samples: Tensor | slice) -> Tensor | float:
        baseline = self.baseline
        if not isinstance(baseline, Tensor) or baseline.ndim == 0 or len(baseline) != len(self.labels):
            return baseline  # the same for all
        return baseline[samples.to(baseline.device) if isinstance(samples, Tensor) else samples]


def behind_pool(players: PlayerMap, name: str, pool: nn.Module) -> PlayerMap | None:
    """Return the players as they are behind a pooling layer, if each of its windows lies within one player.

    The largest or the mean of positions that come and go together does so too, and what they are replaced by is the
    same before and behind it. None where a window has positions of several, or positions differ in what replaces them.

    Examples:
        >>> halves = PlayerMap(torch.tensor([[0, 0, 1, 1]]), n_players=2, axes=(2,), layer="relu")
        >>> behind_pool(halves, "pool", nn.MaxPool1d(2)).labels
        tensor([[0, 1]])
    """
    flat = isinstance(pool, (nn.MaxPool1d, nn.AvgPool1d))
    plain = _only(0, pool.padding) and _only(1, getattr(pool, "dilation", 1)) and not pool.ceil_mode
    whole = not getattr(pool, "return_indices", False) and getattr(pool, "divisor_override", None) is None
    baseline = players.baseline
    same = not isinstance(baseline, Tensor) or baseline.ndim < 3 or all(size == 1 for size in baseline.shape[2:])
    if players.axes != ((2,) if flat else (2, 3)) or not (plain and whole and same):
        return None
    labels = players.labels[:, None].float()
    largest: Any = nn.functional.max_pool1d if flat else nn.functional.max_pool2d
    highest, lowest = (sign * largest(sign * labels, pool.kernel_size, pool.stride) for sign in (1, -1))
    return replace(players, labels=highest[:, 0].long(), layer=name) if torch.equal(highest, lowest) else None


def _only(value: int, sizes: object) -> bool:
    return all(size == value for size in (sizes if isinstance(sizes, tuple) else (sizes,)))
