"""The linear program of one network or several: its atoms, feasible answers, and bounds that no answer can beat.

The AND atom of S is 1 on the coalitions that contain S, the OR atom of S is 1 on those that meet it, so the
matrix of all atoms is B = [Z, Z_or] with Z[T, S] = 1(S ⊆ T) and Z_or[T, S] = 1(S ∩ T ≠ ∅). Z is the n-th
Kronecker power of [[1, 0], [1, 1]]; splitting the players in two halves makes it two products with small
matrices, which beats the n stages of a butterfly on CPU and GPU alike. The patterns that miss T lie in its
complement, whose index is the mirrored one, so Z_or is Z mirrored.

Two atoms of S = ∅ and the OR atoms of order one (the same functions as the AND atoms) are left out: their
weight is infinite.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from interaction_monitor.functional.interactions import and_interactions, or_interactions, orders

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


@dataclass(frozen=True)
class Problem:
    """m networks on S samples, in units where the mean |u| of a sample is 1.

    Minimise Σ_S w_S (max_i |x^(i)_S| + α Σ_i |x^(i)_S|) / (1 + α) subject to B x^(i) + δ^(i) = u^(i), |δ^(i)| ≤ ζ^(i)
    and |γ^(i) - γ̄| ≤ τ^(i). Divided by 1 + α, one network is charged as when it is alone:
    Σ_S w_S |x_S|.
    """

    atoms: Atoms
    u: Tensor  # (m, S, 2^n) outputs less the empty coalition's
    zeta: Tensor  # (m, S, 1) bound of the noise terms
    share_bound: Tensor  # (m, S, 1) bound of what is a network's own of its split
    alpha: float

    @property
    def charges(self) -> Tensor:
        """(2, 2^n) w_S / (1 + α), and 0 where there is no atom."""
        return self.atoms.weights.where(self.atoms.exists, 0.0) / (1 + self.alpha)

    def select(self, samples: Tensor) -> Problem:
        """Keep some of the samples."""
        return replace(self, u=self.u[:, samples], zeta=self.zeta[:, samples], share_bound=self.share_bound[:, samples])


def cost(problem: Problem, x: Tensor) -> Tensor:
    """Weigh the coefficients, (m, S, 2, 2^n) -> (S,)."""
    sums = largest_sums(x)
    return ((sums[0] + problem.alpha * sums[-1]) * problem.charges).sum((-2, -1))


def complete_outputs(problem: Problem, x: Tensor) -> Tensor:
    """Let (m, S, 2, 2^n) coefficients match the outputs exactly, up to noise terms within their bounds.

    What they miss beyond these is spread over the atoms.
    """
    atoms = problem.atoms
    x = x + atoms.spread(_beyond_noise(problem, x))
    # spreading leaves rounding errors, the dividends none
    x[..., 0, :] += atoms.dividends(_beyond_noise(problem, x))
    return x


def _beyond_noise(problem: Problem, x: Tensor) -> Tensor:
    missed = problem.u - problem.atoms.outputs(x)
    return missed - missed.clamp(-problem.zeta, problem.zeta)


def complete_splits(problem: Problem, x: Tensor, transfer: Tensor) -> Tensor:
    """Move the splits of the networks until they differ no more than they may; the outputs stay.

    Of each effect of order one so much stands with OR where splits are compared as `transfer`, (m, S, n), says.
    """
    own = splits(problem.atoms, x) + transfer @ members_of(problem.atoms.n, x.device).T
    common, _ = _common(problem, own)
    moved = own.clamp(common - problem.share_bound, common + problem.share_bound) - own
    change = torch.stack((and_interactions(moved), -or_interactions(moved)), -2)
    change = torch.stack(
        (change.sum(-2).where(problem.atoms.weights[1].isinf(), change[..., 0, :]), change[..., 1, :]), -2
    )
    return x + change * problem.atoms.exists


def exceeds_bound(problem: Problem, x: Tensor) -> Tensor:
    """Say on which samples the splits of the networks differ more than they may, (S,) bool."""
    _, excess = _common(problem, splits(problem.atoms, x))
    return (excess > 0).any(-1)


def lower_bound(problem: Problem, dual: Tensor, split_dual: Tensor | None = None) -> Tensor:
    """Bound the optimum from below by any vectors ν and μ.

    With Σ_i μ^(i) = 0 (or the common split could profit) and Z₁ᵀ μ^(i) = 0 (or the side of order one could), scaled
    until (Bᵀν + Gᵀμ)_S lies in the dual ball of w_S (max + α Σ) for each S, they prove that the optimum is at least
    Σ_i u^(i)ᵀν^(i) - ζ^(i)‖ν^(i)‖₁ - τ^(i)‖μ^(i)‖₁. The corners of the ball of max + α Σ are the j networks of equal
    magnitude 1/(1 + jα), so the dual norm is the largest (Σ of the largest j) / (1 + jα).

    ν and μ are (m, S, 2^n); a μ of None is 0. The bounds are (S,), at least 0.
    """
    atoms, alpha = problem.atoms, problem.alpha
    met = atoms.correlations(dual)
    value = (problem.u * dual).sum((0, -1)) - (problem.zeta * dual[..., 1:].abs()).sum((0, -1))
    if split_dual is not None:
        split_dual = split_dual - split_dual.mean(0)
        members = members_of(atoms.n, dual.device)
        split_dual = split_dual - split_dual @ members @ torch.linalg.pinv(members)
        met = met + meet_splits(atoms, split_dual)
        value = value - (problem.share_bound * split_dual[..., 1:].abs()).sum((0, -1))
    sums = largest_sums(met)
    corners = 1 + alpha * torch.arange(1, len(sums) + 1, dtype=sums.dtype, device=sums.device)
    excess = (1 + alpha) * ((sums / corners[:, None, None, None]).amax(0) / atoms.weights).amax((-2, -1))
    return torch.where(excess > 0, value / excess, 0.0).clamp_min(0)


def _common(problem: Problem, own: Tensor) -> tuple[Tensor, Tensor]:
    """Give the split in the middle of what all may have, (S, 2^n), and by how much they are too far apart for it."""
    lowest = (own - problem.share_bound).amax(0)
    highest = (own + problem.share_bound).amin(0)
    return (lowest + highest) / 2, lowest - highest


def largest_sums(x: Tensor) -> Tensor:
    """Sum the largest 1, 2, ..., m magnitudes among the networks, (m, ...) -> (m, ...)."""
    size = x.abs()
    if len(x) == 1:
        return size
    largest, total = size.amax(0), size.sum(0)
    if len(x) == 2:
        return torch.stack((largest, total))
    if len(x) == 3:
        return torch.stack((largest, total - size.amin(0), total))
    return size.sort(0, descending=True).values.cumsum(0)


def splits(atoms: Atoms, x: Tensor) -> Tensor:
    """Give the split γ - v(∅)/2 = (v_and - v_or)/2 of coefficients: G x, (..., 2, 2^n) -> (..., 2^n)."""
    return atoms.outputs(torch.stack((x[..., 0, :], -x[..., 1, :]), -2)) / 2


def meet_splits(atoms: Atoms, split_dual: Tensor) -> Tensor:
    """Give Gᵀ μ, (..., 2^n) -> (..., 2, 2^n)."""
    correlations = atoms.correlations(split_dual / 2)
    return torch.stack((correlations[..., 0, :], -correlations[..., 1, :]), -2)


def members_of(n: int, device: torch.device) -> Tensor:
    """Z₁: which player is in which coalition, (2^n, n) float64."""
    return (torch.arange(2**n, device=device)[:, None] >> torch.arange(n, device=device) & 1).double()
