"""Parts of the positions as players: spans of a sequence, or segments that somebody drew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interaction_monitor._checks import describe, require_whole
from interaction_monitor.loading import draw
from interaction_monitor.players.base import Baseline, Players, cell_index, require_complete, resolve_baseline
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe


@dataclass(frozen=True, kw_only=True)
class Spans(Players):
    """Spans of a sequence, at the input or at a layer of a recurrent, convolutional or attention network.

    Args:
        layer: the dotted name of the module whose output is masked; None masks the model's input.
        n_spans: the sequence is cut into so many spans, as even as whole positions allow.
        n_players: how many spans are drawn per sample, the others are always present; 2**n_players masked forwards
            follow for each. 0 takes all spans.
        axis: which axis is the sequence: 1 for (batch, length) and (batch, length, features), as recurrent networks
            with `batch_first` and transformers have it; 2 for (batch, channels, length), as `Conv1d` has it. None finds
            out where only one axis is as long as `n_spans`, and asks otherwise.
        baseline: what absent spans are replaced by: a number; a tensor that broadcasts to the masked one, (channels, 1)
            or (features,); or a callable (masked tensor of all samples) -> number or tensor, evaluated once. Of token
            ids give the id that stands for none.
        input_key: which entry of a dict of inputs is masked; needed if there are several.

    Raises:
        ValueError: if there are more players than spans.
        TypeError: if a number is not whole.

    Examples:
        >>> drawn = Spans(n_spans=4).assign(Probe(torch.rand(2, 1, 8)), seed=0)
        >>> drawn.labels.tolist(), drawn.axes, drawn.names[0][0]
        ([[0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 1, 1, 2, 2, 3, 3]], (2,), 'positions 0 to 1')
    """

    layer: str | None = None
    n_spans: int = 10
    n_players: int = 0
    axis: int | None = None
    baseline: Baseline = 0.0
    input_key: str | None = None

    def __post_init__(self) -> None:
        require_whole(self, n_spans=self.n_spans, n_players=self.n_players)
        if self.n_players == 0:
            # Others read how many players there are before they are drawn.
            object.__setattr__(self, "n_players", self.n_spans)
        if not 1 <= self.n_players <= self.n_spans:
            raise ValueError(f"n_players={self.n_players} must be from 1 to n_spans={self.n_spans}")
        if self.axis is not None:
            require_whole(self, axis=self.axis)
            if self.axis < 1:
                raise ValueError(f"axis={self.axis} must be at least 1; axis 0 is the batch")

    def assign(self, probe: Probe, activation: Tensor | None = None, *, seed: int = 0) -> PlayerMap:
        """Draw the spans of each sample.

        Args:
            probe: the samples.
            activation: (1 or S, ...) what `layer` gives; None if the input is masked.
            seed: decides the draw.

        Returns:
            The players, with positions (length,), named by where they are.

        Raises:
            ValueError: if it is unclear which axis is the sequence, or it is shorter than the number of spans.
        """
        key, masked = (None, activation) if self.layer else probe.entry(self.input_key)
        assert masked is not None
        axis = self._axis(masked)
        length = masked.shape[axis]
        spans = cell_index(length, self.n_spans)
        labels = torch.full((len(probe), length), -1, dtype=torch.int64)
        names = []
        for sample in range(len(probe)):
            chosen = sorted(draw(self.n_spans, self.n_players, seed, sample))
            for player, span in enumerate(chosen):
                labels[sample, spans == span] = player
            places = [(spans == span).nonzero()[:, 0].tolist() for span in chosen]
            names.append(tuple(f"positions {place[0]} to {place[-1]}" for place in places))
        return PlayerMap(
            labels=labels,
            n_players=self.n_players,
            axes=(axis,),
            baseline=resolve_baseline(self.baseline, masked, n_samples=len(probe)),
            layer=self.layer,
            input_key=key,
            names=tuple(names),
        )

    def _axis(self, masked: Tensor) -> int:
        what = "the input" if self.layer is None else f"layer={self.layer!r}"
        long = [axis for axis in range(1, masked.ndim) if masked.shape[axis] >= self.n_spans]
        if self.axis is not None:
            if self.axis in long:
                return self.axis
            sizes = f"{masked.shape[self.axis]} positions" if self.axis < masked.ndim else "no such axis"
            raise ValueError(
                f"axis={self.axis}: {what}, {describe(masked)}, has {sizes} there for n_spans={self.n_spans}"
            )
        if not long:
            most = max(masked.shape[1:], default=0)
            raise ValueError(
                f"{what}, {describe(masked)}, has no axis of n_spans={self.n_spans} positions; "
                + (f"give n_spans={most} or less" if most > 1 else "name a layer whose output is a sequence")
            )
        if len(long) > 1:
            raise ValueError(
                f"{what} is {describe(masked)}, of which it is unclear which axis is the sequence: give axis=1 if it "
                "is (batch, length, features), as recurrent networks and transformers have it, axis=2 if it is "
                "(batch, channels, length), as Conv1d has it"
            )
        return long[0]


@dataclass(frozen=True, kw_only=True)
class Segments(Players):
    """Parts given by a label for each position, which may differ from sample to sample.

    Args:
        labels: integers, the segment at each position; negative numbers are background, which is always present.
            Either (S, *positions), one map per sample, or with as many axes as the masked tensor, such as
            (1 or S, 1 or C, H, W): that is Captum's `feature_mask`. One map (first axis 1) goes for all samples.
        n_players: how many segments are drawn per sample among its own; the others become background. 0 takes all:
            segment i is player i, and a sample without some of the segments is left out of the measurements.
        axes: which axes of the masked tensor the positions are. None finds out: the last ones if the sizes match,
            else those from 1 on.
        layer: the dotted name of a layer whose output is masked; None masks the input.
        baseline: what absent segments are replaced by: a number, a tensor, or a callable (masked tensor) -> number or
            tensor.
        input_key: which entry of a dict of inputs is masked; needed if there are several.

    Raises:
        ValueError: if there are no integer labels, or no segments.
        TypeError: if the labels are no tensor, or `n_players` is not whole.

    Examples:
        >>> halves = Segments(torch.tensor([[[0, 0, 1, 1]]]))
        >>> halves.n_players, halves.assign(Probe(torch.rand(3, 1, 1, 4)), None, seed=0).labels.shape
        (2, torch.Size([3, 1, 4]))
    """

    labels: Tensor = field(kw_only=False, repr=False)
    n_players: int = 0
    axes: tuple[int, ...] | None = None
    layer: str | None = None
    baseline: Baseline = 0.0
    input_key: str | None = None

    def __post_init__(self) -> None:
        require_whole(self, n_players=self.n_players)
        if not isinstance(self.labels, Tensor):
            raise TypeError(
                f"Segments(labels={describe(self.labels)}): give a tensor (samples, *positions) of integers; "
                "torch.as_tensor makes one"
            )
        if self.labels.is_floating_point() or self.labels.ndim < 2 or self.labels.numel() == 0 or self.labels.max() < 0:
            raise ValueError(
                f"labels must be integers of shape (samples, *positions) with some segment from 0 on, got "
                f"{self.labels.dtype} of {tuple(self.labels.shape)}"
            )
        if self.n_players < 0:
            raise ValueError(f"n_players={self.n_players} must be at least 1, or 0 for all segments")
        if self.n_players == 0:
            object.__setattr__(self, "n_players", int(self.labels.max()) + 1)
            object.__setattr__(self, "_all", True)

    @classmethod
    def from_indices(cls, indices: Sequence[Any], size: Sequence[int], **settings: Any) -> Segments:
        """Make segments from the flat positions of each player.

        Args:
            indices: for each sample, for each player, the flat indices of its positions: (S, n, any number).
            size: of the positions, for instance (height, width); index = row * width + column.
            settings: as for the class.

        Raises:
            ValueError: if two players of a sample share a position, or one lies outside.

        Examples:
            >>> Segments.from_indices([[[0, 1], [3]]], (2, 2)).labels
            tensor([[[ 0,  0],
                     [-1,  1]]])
        """
        n_positions = torch.Size(size).numel()
        labels = torch.full((len(indices), n_positions), -1, dtype=torch.int64)
        for sample, players in enumerate(indices):
            for player, places in enumerate(players):
                place = torch.as_tensor(places, dtype=torch.int64)
                if ((place < 0) | (place >= n_positions)).any():
                    raise ValueError(f"sample {sample}, player {player} lies outside of {n_positions} positions")
                if (labels[sample, place] >= 0).any():
                    raise ValueError(f"sample {sample}, player {player} shares a position with another player")
                labels[sample, place] = player
        return cls(labels.view(len(indices), *size), **settings)

    def assign(self, probe: Probe, activation: Tensor | None = None, *, seed: int = 0) -> PlayerMap:
        """Fit the labels to the samples, and draw if there is something to draw.

        Args:
            probe: the samples.
            activation: (1 or S, ...) what `layer` gives; None if the input is masked.
            seed: decides the draw.

        Returns:
            The players.

        Raises:
            ValueError: if the labels do not fit the masked tensor, or no sample has enough segments.

        Warns:
            UserWarning: if some samples have too few segments.
        """
        key, masked = (None, activation) if self.layer else probe.entry(self.input_key)
        assert masked is not None
        labels, axes = self._fit(masked)
        if len(labels) not in (1, len(probe)):
            raise ValueError(f"labels has maps for {len(labels)} samples, but the probe has {len(probe)}")
        labels = labels.expand(len(probe), *labels.shape[1:]).clone()
        if not getattr(self, "_all", False):
            labels = torch.stack([self._drawn(one, (seed, sample)) for sample, one in enumerate(labels)])
        drawn = PlayerMap(
            labels=labels,
            n_players=self.n_players,
            axes=axes,
            baseline=resolve_baseline(self.baseline, masked, n_samples=len(probe)),
            layer=self.layer,
            input_key=key,
        )
        return require_complete(drawn, "segments")

    def _fit(self, masked: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Return labels whose positions are axes of the masked tensor, and these axes."""
        labels = self.labels.detach().cpu().long().clamp(min=-1)
        sizes = tuple(masked.shape)
        if self.axes is None and labels.ndim == masked.ndim:
            # A feature_mask: what it says once for a whole axis is no position.
            shared = [axis for axis in range(1, labels.ndim) if labels.shape[axis] == 1 < sizes[axis]]
            axes = tuple(axis for axis in range(1, labels.ndim) if axis not in shared)
            labels = labels.squeeze(shared) if shared else labels
        else:
            n_axes = labels.ndim - 1
            last, first = tuple(range(masked.ndim - n_axes, masked.ndim)), tuple(range(1, n_axes + 1))
            axes = self.axes or (last if sizes[-n_axes:] == tuple(labels.shape[1:]) else first)
        if not axes or max(axes) >= masked.ndim or tuple(sizes[a] for a in axes) != tuple(labels.shape[1:]):
            raise ValueError(
                f"labels of shape {tuple(self.labels.shape)} do not fit the tensor to mask, {sizes}: their axes after "
                "the first must be axes of it (give axes=, if they are not the last ones)"
            )
        return labels, axes

    def _drawn(self, labels: Tensor, key: tuple[int, int]) -> Tensor:
        present = torch.unique(labels)
        present = present[present >= 0]
        result = torch.full_like(labels, -1)
        if len(present) >= self.n_players:
            for player, place in enumerate(sorted(draw(len(present), self.n_players, *key))):
                result[labels == present[place]] = player
        return result
