"""Spans of a sequence as players: neighbouring time steps, samples of a signal, letters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from interaction_monitor._describe import describe
from interaction_monitor._draw import draw
from interaction_monitor.players._grid import cell_index
from interaction_monitor.players.base import Baseline, PlayerMap, Players, require_whole, resolve_baseline
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

    Example:
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
