"""What kinds of players have in common: how they are drawn, what stands for the absent, and planes cut into cells."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from interaction_monitor._checks import describe
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe, require_probe

Baseline = float | Tensor | Callable[[Tensor], "Tensor | float"]
_COLOURS = (1, 3, 4)
# How far the proportions of a map may be from those of the image: borders that convolutions cut off, odd sizes.
_ALIKE = math.log(1.6)
_EQUAL = math.log(1.05)


class Players(ABC):
    """A kind of input variables: knows how to draw the players of given samples.

    Attributes:
        n_players: how many players each sample gets.
        layer: the dotted name of the module whose output is masked, or None for the model's input.
        input_key: which entry of a dict of inputs is masked; None where there is but one.
        baseline: a number, a tensor or a callable, see `resolve_baseline`.
    """

    n_players: int
    layer: str | None = None
    input_key: str | None = None
    baseline: Baseline = 0.0

    @abstractmethod
    def assign(self, probe: Probe, activation: Tensor | None, *, seed: int) -> PlayerMap:
        """Draw the players of each sample.

        Args:
            probe: the samples.
            activation: the output of `layer`, (1, ...) on the first sample, or (S, ...) on all if the
                baseline is a callable; None if the input is masked.
            seed: decides the draw.

        Returns:
            Which player each position of each sample belongs to, and what takes the place of those that are absent.
        """

    def suits(self, probe: Probe) -> Tensor:
        """Tell which samples have enough parts to choose from; a monitor that draws samples prefers these.

        Args:
            probe: the samples.

        Returns:
            (S,) bool; all True where only `assign` can know, as of parts at an inner layer.

        Examples:
            >>> from interaction_monitor.players import Words
            >>> words = Words(["[PAD]", "[MASK]", "film", "charm"], n_players=2)
            >>> words.suits(Probe(torch.tensor([[2, 3], [2, 0]])))
            tensor([ True, False])
        """
        return torch.ones(len(probe), dtype=torch.bool)

    def _masked(self, probe: Probe, activation: Tensor | None) -> tuple[str | None, Tensor | None]:
        """Return what is masked, and its key if it is an entry of a dict of inputs."""
        return (None, activation) if self.layer else probe.entry(self.input_key)

    def _map(
        self,
        labels: Tensor,
        axes: tuple[int, ...],
        masked: Tensor,
        *,
        key: str | None = None,
        baseline: Baseline | None = None,
        names: Sequence[tuple[str, ...]] | None = None,
    ) -> PlayerMap:
        """Return the players that these labels are; `baseline` stands in for what the kind has by that name."""
        given = self.baseline if baseline is None else baseline
        return PlayerMap(
            labels=labels,
            n_players=self.n_players,
            axes=axes,
            baseline=resolve_baseline(given, masked, n_samples=len(labels)),
            layer=self.layer,
            input_key=key,
            names=None if names is None else tuple(names),
        )


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


def image_is_channels_last(image: Tensor) -> bool:
    """Tell whether images (S, ., ., .) have as many channels as colours on the last axis, and not on the second."""
    return image.shape[3] in _COLOURS and image.shape[1] not in _COLOURS


def image_size(probe: Probe) -> tuple[int, int] | None:
    """Return height and width of the images among the inputs; None if there are none, or of several sizes."""
    inputs = probe.inputs.values() if isinstance(probe.inputs, dict) else [probe.inputs]
    sizes = {
        (x.shape[1], x.shape[2]) if image_is_channels_last(x) else (x.shape[2], x.shape[3])
        for x in inputs
        if x.ndim == 4
    }
    return sizes.pop() if len(sizes) == 1 else None


def map_is_channels_last(maps: Tensor, image: tuple[int, int] | None) -> bool | None:
    """Find out whether maps are (B, H, W, C) and not (B, C, H, W): their proportions are those of the image.

    Args:
        maps: (B, ., ., .).
        image: height and width of the image; None takes maps to be square.

    Returns:
        None where neither is likely. Where both are, channels come first, as in torch, unless the proportions are the
        image's with channels last alone.
    """
    first, last = (_distortion(maps.shape[a], maps.shape[a + 1], image or (1, 1)) for a in (2, 1))
    if image is None:
        return False if first <= last or last > 0 else None
    if min(first, last) > _ALIKE:
        return None
    return first > _ALIKE or last < _EQUAL < first


def _distortion(height: int, width: int, image: tuple[int, int]) -> float:
    return abs(math.log(image[0] / height) - math.log(image[1] / width))


def plane_of(n_tokens: int, image: tuple[int, int]) -> tuple[int, int] | None:
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


def cell_index(size: int, grid: int) -> Tensor:
    """Return which of `grid` intervals each of `size` positions is in: interval i begins at i*size//grid.

    Examples:
        >>> cell_index(7, 3)
        tensor([0, 0, 1, 1, 2, 2, 2])
    """
    starts = [i * size // grid for i in range(grid + 1)]
    return torch.repeat_interleave(torch.arange(grid), torch.tensor(starts).diff())
