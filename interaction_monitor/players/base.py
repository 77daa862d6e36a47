"""What all kinds of players have in common."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from interaction_monitor._checks import describe
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe, require_probe

Baseline = float | Tensor | Callable[[Tensor], "Tensor | float"]


class Players(ABC):
    """A kind of input variables: knows how to draw the players of given samples.

    Attributes:
        n_players: how many players each sample gets.
        layer: the dotted name of the module whose output is masked, or None for the model's input.
        baseline: a number, a tensor or a callable, see `resolve_baseline`.
    """

    n_players: int
    layer: str | None = None
    baseline: Baseline = 0.0

    @abstractmethod
    def assign(self, probe: Probe, activation: Tensor | None, *, seed: int) -> PlayerMap:
        """Draw the players of each sample.

        Args:
            probe: the samples.
            activation: the output of `layer`, (1, ...) on the first sample, or (S, ...) on all if the
                baseline is a callable; None if the input is masked.
            seed: decides the draw.
        """

    def suits(self, probe: Probe) -> Tensor:
        """Tell which samples have enough parts to choose from; a monitor that draws samples prefers these.

        Args:
            probe: the samples.

        Returns:
            (S,) bool; all True where only `assign` can know, as of parts at an inner layer.

        Examples:
            >>> from interaction_monitor.players import Columns, Words
            >>> probe = Probe(torch.tensor([[2, 3], [2, 0]]))
            >>> Words(["[PAD]", "[MASK]", "film", "charm"], n_players=2).suits(probe)
            tensor([ True, False])
            >>> Columns(n_players=2).suits(probe)
            tensor([True, True])
        """
        return torch.ones(len(probe), dtype=torch.bool)


def require_drawn(who: str, probe: object, players: object) -> None:
    """Raise unless these are a probe and players as they are drawn on samples.

    Raises:
        TypeError: that says what to give to `who`.
    """
    require_probe(who, probe)
    if not isinstance(players, PlayerMap):
        given = describe(players)
        raise TypeError(f"{who}(players={given}): give assign_players(model, players, probe), drawn on the samples")


def require_complete(players: PlayerMap, parts: str) -> PlayerMap:
    """Warn of samples that have too few parts to choose from, by their numbers; refuse if all have.

    Raises:
        ValueError: if no sample has all its players.
    """
    short = (~players.complete).nonzero()[:, 0].tolist()
    if len(short) == len(players):
        raise ValueError(f"no sample has n_players={players.n_players} {parts}; take fewer players, or other samples")
    if short:
        warnings.warn(
            f"samples {', '.join(map(str, short))} of the probe have fewer than n_players={players.n_players} {parts} "
            "and are left out of the measurements",
            stacklevel=3,
        )
    return players


def resolve_baseline(baseline: Baseline, masked: Tensor, *, n_samples: int) -> float | Tensor:
    """Turn what a user gave as baseline into a number or a tensor with as many axes as the masked tensor.

    Args:
        baseline: a number; a tensor that broadcasts to one sample, such as (C, 1, 1), to a batch (1, ...), or
            gives one for each sample, (S, ...); or a callable that takes `masked` and returns such a number
            or tensor.
        masked: (S or 1, ...) the tensor that will be masked.
        n_samples: S.

    Returns:
        The number, or a tensor whose every axis is 1 or that of `masked` (the first: 1 or S).

    Raises:
        ValueError: if it does not fit.
        TypeError: if it is of another kind.

    Examples:
        >>> resolve_baseline(lambda table: table.mean(0), torch.tensor([[1.0, 2.0], [3.0, 6.0]]), n_samples=2)
        tensor([[2., 4.]])
    """
    value = baseline(masked) if callable(baseline) else baseline
    if isinstance(value, (int, float)):
        if value != value or (not masked.is_floating_point() and value % 1):
            raise ValueError(f"baseline={value} does not fit the masked tensor, which holds {masked.dtype}")
        return value
    if not isinstance(value, Tensor):
        raise TypeError(f"baseline must be a number, a tensor or a callable that returns one, got {value!r}")
    fitted = value.detach()[(None,) * max(0, masked.ndim - value.ndim)]
    limits = (n_samples, *masked.shape[1:])
    if fitted.ndim != masked.ndim or any(
        size not in (1, most) for size, most in zip(fitted.shape, limits, strict=True)
    ):
        raise ValueError(
            f"baseline has the shape {tuple(value.shape)}, which does not broadcast to the masked tensor "
            f"{limits} (samples first)"
        )
    return fitted.clone()
