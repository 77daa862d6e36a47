"""Players: what an input variable is, for each kind of data.

The simplest kinds are here: columns of a table, or groups of them, and spans of a sequence.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from interaction_monitor._checks import describe, require_whole, to_float64
from interaction_monitor.loading import draw
from interaction_monitor.players.base import Baseline, Players, cell_index
from interaction_monitor.players.patches import FeaturePatches, ImagePatches, TokenPatches
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.players.segments import PointClusters, Segments
from interaction_monitor.players.words import Words
from interaction_monitor.probe import Probe

__all__ = [
    "Baseline",
    "Columns",
    "FeaturePatches",
    "ImagePatches",
    "PlayerMap",
    "Players",
    "PointClusters",
    "Segments",
    "Spans",
    "TokenPatches",
    "Words",
]


@dataclass(frozen=True, kw_only=True)
class Columns(Players):
    """Columns of a table, or groups of them such as a one-hot code; the same ones in every sample.

    Args:
        columns: the players to choose from: numbers of columns, or groups of them, (0, 1, (2, 3, 4)). None takes each
            column by itself. Columns in no player are always present.
        n_players: how many of them are drawn, for all samples alike; 2**n_players masked forwards follow for each
            sample. 0 takes all that `columns` names, or 10 if it is None.
        baseline: what absent columns are replaced by: "mean", "median" or "most frequent" value of the probe's samples;
            a number; a vector (F,) such as the training data's mean; or a callable (table (S, F)) -> number or vector.
            None takes the mean, and the most frequent value of a table of integers: those may be codes, whose mean
            says nothing.
        names: what all columns are called, in the order of the table.
        input_key: which entry of a dict of inputs holds the table; needed if there are several.

    Raises:
        ValueError: if columns are named twice or below zero, there are more players than columns named, or the
            baseline has another name.
        TypeError: if columns are no numbers or groups of them, or `n_players` is not whole.

    Examples:
        >>> table = Probe(torch.tensor([[1.0, 2.0, 3.0], [3.0, 4.0, 9.0]]))
        >>> drawn = Columns([0, (1, 2)]).assign(table, seed=0)
        >>> drawn.labels.tolist(), drawn.baseline
        ([[0, 1, 1], [0, 1, 1]], tensor([[2., 3., 6.]]))
    """

    columns: Sequence[int | Sequence[int]] | None = field(default=None, kw_only=False)
    n_players: int = 0
    baseline: Baseline | str | None = None  # type: ignore[assignment]  # a name stands for one computed from the samples
    names: Sequence[str] | None = None
    input_key: str | None = None

    def __post_init__(self) -> None:
        require_whole(self, n_players=self.n_players)
        groups = None if self.columns is None else _groups(self.columns)
        if self.n_players == 0:
            # Others read how many players there are before they are drawn.
            object.__setattr__(self, "n_players", 10 if groups is None else len(groups))
        if isinstance(self.baseline, str) and self.baseline not in ("mean", "median", "most frequent"):
            raise ValueError(
                f'baseline={self.baseline!r} must be "mean", "median", "most frequent", a number, a tensor or a '
                "callable"
            )
        named = list(chain(*groups or ()))
        if len(named) != len(set(named)) or min(named, default=0) < 0 or not all(groups or ()):
            raise ValueError(f"columns={self.columns} must name columns from 0 on, each once, in groups of one or more")
        if self.n_players < 1 or (groups is not None and self.n_players > len(groups)):
            raise ValueError(
                f"n_players={self.n_players} must be from 1 to the "
                f"{'' if groups is None else len(groups)} columns or groups to choose from"
            )

    def assign(self, probe: Probe, activation: Tensor | None = None, *, seed: int = 0) -> PlayerMap:
        """Draw the columns of a table (S, F), with positions (F,), as `Players.assign` says.

        Raises:
            ValueError: if the inputs are no table, or have too few columns.
        """
        key, table = probe.entry(self.input_key)
        if table.ndim != 2:
            raise ValueError(f"Columns needs a table (samples, columns), got {describe(table)}")
        width = table.shape[1]
        groups = _groups(range(width) if self.columns is None else self.columns)
        if self.n_players > len(groups):
            raise ValueError(
                f"n_players={self.n_players} is more than the {width} columns of the table (10 is the default): give "
                f"n_players={width} at most"
            )
        if max(chain(*groups)) >= width:
            raise ValueError(f"columns={self.columns} go beyond the {width} columns of the table (0 to {width - 1})")
        if self.names is not None and len(self.names) != width:
            raise ValueError(f"names has {len(self.names)} entries for the {width} columns of the table")
        chosen = [groups[place] for place in sorted(draw(len(groups), self.n_players, seed, "columns"))]
        labels = torch.full((width,), -1, dtype=torch.int64)
        for player, group in enumerate(chosen):
            labels[list(group)] = player
        called = tuple(" + ".join(self.names[c] if self.names else f"column {c}" for c in group) for group in chosen)
        labels, names = labels.repeat(len(probe), 1), [called] * len(probe)
        return self._map(labels, (1,), table, baseline=self._statistic(table), key=key, names=names)

    def _statistic(self, table: Tensor) -> Baseline:
        name = self.baseline
        if name is None:
            name = "mean" if table.is_floating_point() else "most frequent"
        if not isinstance(name, str):
            return name
        if name == "most frequent":
            # Of several that are as frequent the smallest, as `unique` sorts them.
            found = [torch.unique(column, return_counts=True) for column in table.unbind(1)]
            return torch.stack([values[counts.argmax()] for values, counts in found])
        values = to_float64(table)
        statistic = values.mean(0) if name == "mean" else values.quantile(0.5, dim=0)
        # Codes and counts are replaced by a value that the table can hold.
        return statistic.to(table.dtype) if table.is_floating_point() else statistic.round().to(table.dtype)


def _groups(columns: Any) -> list[tuple[int, ...]]:
    try:
        return [tuple(map(_number, group if isinstance(group, Sequence) else (group,))) for group in columns]
    except TypeError:
        raise TypeError(
            f"Columns(columns={columns!r}): give numbers of columns, or groups of them, such as [0, 1, (2, 3)]; a "
            "number of players is n_players="
        ) from None


def _number(column: Any) -> int:
    if isinstance(column, bool):
        raise TypeError("a truth value is no column")
    return operator.index(column)


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
        """Draw the spans of each sample, named by where they are, with positions (length,), as `Players.assign` says.

        Raises:
            ValueError: if it is unclear which axis is the sequence, or it is shorter than the number of spans.
        """
        key, masked = self._masked(probe, activation)
        assert masked is not None
        axis = self._axis(masked)
        spans = cell_index(masked.shape[axis], self.n_spans)
        labels = torch.full((len(probe), len(spans)), -1, dtype=torch.int64)
        names = []
        for sample in range(len(probe)):
            places = [spans == span for span in sorted(draw(self.n_spans, self.n_players, seed, sample))]
            for player, place in enumerate(places):
                labels[sample, place] = player
            ends = [place.nonzero()[[0, -1], 0].tolist() for place in places]
            names.append(tuple(f"positions {first} to {last}" for first, last in ends))
        return self._map(labels, (axis,), masked, key=key, names=names)

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
