"""The atoms of AND and OR: what each adds to every output, and what they cost, as fast linear maps.

The AND atom of S is 1 on the coalitions that contain S, the OR atom of S is 1 on those that meet it, so the
matrix of all atoms is B = [Z, Z_or] with Z[T, S] = 1(S ⊆ T) and Z_or[T, S] = 1(S ∩ T ≠ ∅). Z is the n-th
Kronecker power of [[1, 0], [1, 1]]; splitting the players in two halves makes it two products with small
matrices, which beats the n stages of a butterfly on CPU and GPU alike. The patterns that miss T lie in its
complement, whose index is the mirrored one, so Z_or is Z mirrored.

Two atoms of S = ∅ and the OR atoms of order one (the same functions as the AND atoms) are left out: their
weight is infinite.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from interaction_monitor.functional.coalitions import orders

# What is missed is spread over the atoms in these proportions: less to high orders, half as much to OR atoms, which
# add to many outputs.
_SHARE_PER_ORDER = 0.6
_OR_SHARE = 0.5


class Atoms:
    """AND and OR atoms of n players, in float64 on one device.

    Coefficients are (..., 2, 2^n): AND, then OR. Outputs are (..., 2^n), the empty coalition's being 0.

    Attributes:
        weights: (2, 2^n) what a unit of an atom costs; infinite where there is no atom.
        exists: (2, 2^n) bool: which atoms there are.
        order: (2^n,) float64 order of each coalition.
    """

    def __init__(self, n: int, tie_break: float, device: torch.device) -> None:
        order = orders(n, device).double()
        self.n = n
        self._halves = [kronecker_power([[1.0, 0.0], [1.0, 1.0]], k, device) for k in (n // 2, n - n // 2)]
        self._inverse_halves = [kronecker_power([[1.0, 0.0], [-1.0, 1.0]], k, device) for k in (n // 2, n - n // 2)]
        self.order = order
        self.exists = torch.stack((order >= 1, order >= 2))
        self.weights = (1 + tie_break * (order - 1)).expand(2, -1).where(self.exists, torch.inf)
        # Z D Zᵀ and its mirror image, for D the shares, are K G Kᵀ and K G' Kᵀ with diagonal G and G'
        along, across = (2 + _SHARE_PER_ORDER / 2) ** -0.5, (_SHARE_PER_ORDER / 2) ** -0.5
        whitener = [[(along + across) / 2, (along - across) / 2], [(along - across) / 2, (along + across) / 2]]
        self._whitening_halves = [kronecker_power(whitener, k, device) for k in (n // 2, n - n // 2)]
        tilt = (_SHARE_PER_ORDER / (4 + _SHARE_PER_ORDER)) ** 0.5
        variance = (1 - tilt) ** (n - order) * (1 + tilt) ** order
        self._variance = variance + _OR_SHARE * variance.flip(-1)
        self._spreads = _SHARE_PER_ORDER**order * torch.tensor([[1.0], [-_OR_SHARE]], device=device)

    def outputs(self, coefficients: Tensor) -> Tensor:
        """Sum the atoms: B x, (..., 2, 2^n) -> (..., 2^n)."""
        contained = self.contained(coefficients)
        contained_or = contained[..., 1, :]
        return contained[..., 0, :] + contained_or[..., -1:] - contained_or.flip(-1)

    def contained(self, values: Tensor) -> Tensor:
        """Sum over subsets: Z x, (..., 2^n) -> (..., 2^n)."""
        return _apply(self._halves, values)

    def correlations(self, dual: Tensor) -> Tensor:
        """Meet every atom with a dual vector: Bᵀ ν, (..., 2^n) -> (..., 2, 2^n), 0 where there is no atom."""
        dual = torch.cat((torch.zeros_like(dual[..., :1]), dual[..., 1:]), -1)
        containing = _apply([half.T for half in self._halves], torch.stack((dual, dual.flip(-1)), -2))
        containing[..., 1, :] = containing[..., :1, 0] - containing[..., 1, :]
        return containing * self.exists

    def dividends(self, outputs: Tensor) -> Tensor:
        """Write outputs as AND atoms alone: Z⁻¹ v, (..., 2^n) -> (..., 2^n)."""
        return _apply(self._inverse_halves, outputs)

    def spread(self, outputs: Tensor) -> Tensor:
        """Write outputs as a little of every atom: (..., 2^n) -> (..., 2, 2^n), up to rounding.

        Of all x with B x = outputs about the one of least Σ x²/shares: the one among atoms that hold also the two of
        S = ∅, whose sum is 0, and order one of OR, which becomes AND. With these, everything is a Kronecker power.
        """
        whitened = _apply(self._whitening_halves, outputs)
        dual = _apply(self._whitening_halves, whitened / self._variance)
        atoms = _apply([half.T for half in self._halves], torch.stack((dual, dual.flip(-1)), -2)) * self._spreads
        single = self.exists[0] & ~self.exists[1]
        return torch.stack((atoms.where(single, 0.0).sum(-2), torch.zeros_like(outputs)), -2) + atoms.where(
            self.exists & ~single, 0.0
        )

    def covariance(self, moves: Tensor) -> Tensor:
        """Write down B D Bᵀ, for D = diag(moves): (..., 2, 2^n) -> (..., 2^n, 2^n).

        Two coalitions T, T' share the AND atoms of S ⊆ T ∩ T', and the OR atoms that miss neither: all of them, less
        those inside the complement of T, less those of T', plus those inside both complements. The empty coalition,
        which has no equation, gets a one on the diagonal, so that the matrix is invertible.
        """
        inside_and, inside_or = self.contained(moves).unbind(-2)
        missing = inside_or.flip(-1)
        matrix = by_intersection(inside_or).flip(-2, -1).add_(by_intersection(inside_and))
        matrix.sub_(missing.unsqueeze(-1)).add_((inside_or[..., -1:] - missing).unsqueeze(-2))
        matrix[..., 0, :] = matrix[..., :, 0] = 0.0
        matrix[..., 0, 0] = 1.0
        return matrix


@lru_cache(maxsize=4)
def atoms_of(n: int, tie_break: float, device: torch.device) -> Atoms:
    """Give the atoms of n players, made once."""
    return Atoms(n, tie_break, device)


def by_intersection(values: Tensor) -> Tensor:
    """Spread values over pairs: result[T, T'] = values[T ∩ T'], (..., 2^n) -> (..., 2^n, 2^n), without a gather."""
    blocks = values[..., None, None]
    while blocks.shape[-3] > 1:
        without, with_player = blocks[..., 0::2, :, :], blocks[..., 1::2, :, :]
        blocks = torch.cat((torch.cat((without, without), -1), torch.cat((without, with_player), -1)), -2)
    return blocks.squeeze(-3)


def kronecker_power(matrix: list[list[float]], k: int, device: torch.device) -> Tensor:
    factor = torch.tensor(matrix, dtype=torch.float64, device=device)
    power = torch.ones(1, 1, dtype=torch.float64, device=device)
    for _ in range(k):
        power = torch.kron(power, factor)
    return power


def _apply(halves: list[Tensor], x: Tensor) -> Tensor:
    high, low = halves
    table = x.reshape(-1, len(high), len(low))
    return (high @ (table @ low.T)).reshape(x.shape)
