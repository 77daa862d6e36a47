"""Columns of a table, or groups of them, as players."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interaction_monitor._checks import describe, require_whole, to_float64
from interaction_monitor.loading import draw
from interaction_monitor.players.base import Baseline, Players, resolve_baseline
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe


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
        if self.columns is not None:
            _require_columns(self.columns)
        if self.n_players == 0:
            # Others read how many players there are before they are drawn.
            object.__setattr__(self, "n_players", 10 if self.columns is None else len(self.columns))
        if isinstance(self.baseline, str) and self.baseline not in ("mean", "median", "most frequent"):
            raise ValueError(
                f'baseline={self.baseline!r} must be "mean", "median", "most frequent", a number, a tensor or a '
                "callable"
            )
        if self.columns is not None:
            named = [column for group in _groups(self.columns) for column in group]
            if len(named) != len(set(named)) or min(named, default=0) < 0 or not all(_groups(self.columns)):
                raise ValueError(
                    f"columns={self.columns} must name columns from 0 on, each once, in groups of one or more"
                )
        if self.n_players < 1 or (self.columns is not None and self.n_players > len(self.columns)):
            raise ValueError(
                f"n_players={self.n_players} must be from 1 to the "
                f"{'' if self.columns is None else len(self.columns)} columns or groups to choose from"
            )

    def assign(self, probe: Probe, activation: Tensor | None = None, *, seed: int = 0) -> PlayerMap:
        """Draw the columns.

        Args:
            probe: samples with a table (S, F).
            activation: not used.
            seed: decides the draw, if there is one.

        Returns:
            The players, with positions (F,).

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
        if max(max(group) for group in groups) >= width:
            raise ValueError(f"columns={self.columns} go beyond the {width} columns of the table (0 to {width - 1})")
        if self.names is not None and len(self.names) != width:
            raise ValueError(f"names has {len(self.names)} entries for the {width} columns of the table")
        chosen = [groups[place] for place in sorted(draw(len(groups), self.n_players, seed, "columns"))]
        labels = torch.full((width,), -1, dtype=torch.int64)
        for player, group in enumerate(chosen):
            labels[list(group)] = player
        called = [" + ".join(self.names[c] if self.names else f"column {c}" for c in group) for group in chosen]
        return PlayerMap(
            labels=labels.repeat(len(probe), 1),
            n_players=self.n_players,
            axes=(1,),
            baseline=resolve_baseline(self._statistic(table), table, n_samples=len(probe)),
            input_key=key,
            names=(tuple(called),) * len(probe),
        )

    def _statistic(self, table: Tensor) -> Baseline:
        name = self.baseline
        if name is None:
            name = "mean" if table.is_floating_point() else "most frequent"
        if not isinstance(name, str):
            return name
        if name == "most frequent":
            return _most_frequent(table)
        values = to_float64(table)
        statistic = values.mean(0) if name == "mean" else values.quantile(0.5, dim=0)
        # Codes and counts are replaced by a value that the table can hold.
        return statistic.to(table.dtype) if table.is_floating_point() else statistic.round().to(table.dtype)


def _most_frequent(table: Tensor) -> Tensor:
    """Return the most frequent value of each column, (F,); of several, the smallest."""
    found = [torch.unique(column, return_counts=True) for column in table.unbind(1)]
    return torch.stack([values[counts.argmax()] for values, counts in found])


def _require_columns(columns: Any) -> None:
    try:
        _groups(columns)
    except TypeError:
        raise TypeError(
            f"Columns(columns={columns!r}): give numbers of columns, or groups of them, such as [0, 1, (2, 3)]; a "
            "number of players is n_players="
        ) from None


def _groups(columns: Sequence[int | Sequence[int]]) -> list[tuple[int, ...]]:
    return [tuple(map(_number, column)) if isinstance(column, Sequence) else (_number(column),) for column in columns]


def _number(column: Any) -> int:
    if isinstance(column, bool):
        raise TypeError("a truth value is no column")
    return operator.index(column)
