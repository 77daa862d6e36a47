"""The interactions of several networks on the same samples, extracted one by one and together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interaction_monitor.functional import SharedAndOr, and_interactions, shared_and_or, sparsest_and_or
from interaction_monitor.functional.sparsest import NOISE, TOL


class NotComparableError(ValueError):
    """The networks were not measured on the same samples with the same players; the message says what differs."""


@dataclass(frozen=True)
class Extraction:
    """The interactions of m networks by one method."""

    name: str
    and_: Tensor  # (m, S, 2^n) float64
    or_: Tensor  # (m, S, 2^n) float64


@dataclass(frozen=True)
class Comparison:
    """m networks on S samples of n players."""

    names: tuple[str, ...]  # (m,)
    v: Tensor  # (m, S, 2^n) float64, the masked outputs
    harsanyi: Extraction  # the AND dividends of all outputs; counted twice, to be as many as the others
    alone: Extraction  # the sparsest of each network [Chen et al. 2024, Eq. 4]
    shared: Extraction  # the sparsest shared ones [Eq. 6]
    control: Extraction | None  # as shared, but of outputs on different samples, which have nothing to share
    alpha: float
    gap: Tensor  # (S,) certified relative gap of the shared extraction
    samples: tuple[int, ...]  # (S,) which probe samples these are
    player_names: tuple[tuple[str, ...], ...] | None = None  # (S, n)

    @property
    def extractions(self) -> tuple[Extraction, ...]:
        """Harsanyi, each alone, shared, and the control if there is one."""
        return (self.harsanyi, self.alone, self.shared, *([] if self.control is None else [self.control]))

    @property
    def n_players(self) -> int:
        """Number of players n."""
        return self.v.shape[-1].bit_length() - 1

    def player_name(self, sample: int, player: int) -> str:
        """What a player of the comparison's sample is called: its word, or its number."""
        return str(player) if self.player_names is None else self.player_names[sample][player]


def compare_outputs(
    v: Tensor,
    *,
    names: Sequence[str] | None = None,
    alpha: float = 0.1,
    noise: float = NOISE,
    tol: float = TOL,
    normalize: bool = False,
    player_names: tuple[tuple[str, ...], ...] | None = None,
) -> Comparison:
    """Extract the interactions of several networks, one by one and together.

    What is extracted so as to be shared is shared more, also where there is nothing to share. So the same is done to
    a control: outputs of the networks on different samples, side by side as if they were one sample's. Only what
    exceeds its sharing is common knowledge of the networks.

    Args:
        v: (m, S, 2^n) masked outputs of m ≥ 2 networks on the same samples with the same players. Samples on which
            a network's output is not finite are left out.
        names: what the networks are called; None numbers them.
        alpha: as in `shared_and_or`.
        noise: as in `shared_and_or`, for both extractions.
        tol: as in `shared_and_or`, for both extractions.
        normalize: as in `shared_and_or`.
        player_names: (S, n) what the players of each sample are called.

    Returns:
        The comparison, on the CPU.

    Raises:
        NotComparableError: if there are fewer than two networks, the names are not as many, or no sample has finite
            outputs in all.

    Example:
        >>> result = compare_outputs(torch.rand(2, 5, 8), names=["small", "large"])
        >>> result.names, result.shared.and_.shape
        (('small', 'large'), torch.Size([2, 5, 8]))
    """
    if v.ndim != 3 or len(v) < 2:
        raise NotComparableError(
            f"v must be (networks, samples, 2^n) of at least two networks, but has shape {tuple(v.shape)}"
        )
    names = [f"network {i}" for i in range(len(v))] if names is None else list(names)
    if len(names) != len(v):
        raise NotComparableError(f"{len(names)} names are given for {len(v)} networks; give one for each")
    valid = v.isfinite().all(-1).all(0)
    if not valid.any():
        raise NotComparableError("no sample has finite outputs in all networks, so there is nothing to compare")
    v = v[:, valid].detach().double().cpu()
    kept = [int(i) for i in valid.nonzero()]
    dividends = and_interactions(v)
    singles = [sparsest_and_or(outputs, noise=noise, tol=tol) for outputs in v]

    def together(outputs: Tensor) -> SharedAndOr:
        return shared_and_or(outputs, alpha=alpha, noise=noise, tol=tol, normalize=normalize)

    shared = together(v)
    control = None
    if len(kept) >= len(v):
        apart = together(torch.stack([outputs.roll(network, 0) for network, outputs in enumerate(v)]))
        control = Extraction("control", apart.and_, apart.or_)
    return Comparison(
        names=tuple(names),
        v=v,
        harsanyi=Extraction("Harsanyi", dividends, dividends),
        alone=Extraction("each alone", *(torch.stack([getattr(r, i) for r in singles]) for i in ("and_", "or_"))),
        shared=Extraction("shared", shared.and_, shared.or_),
        control=control,
        alpha=alpha,
        gap=shared.gap,
        samples=tuple(kept),
        player_names=None if player_names is None else tuple(player_names[i] for i in kept),
    )
