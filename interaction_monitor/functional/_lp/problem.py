"""The problem of one network or several, exactly feasible answers to it, and bounds that no answer can beat."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from interaction_monitor.functional._lp.atoms import Atoms
from interaction_monitor.functional.transforms import and_interactions, or_interactions


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

    def select(self, samples: Tensor) -> Problem:
        """Keep some of the samples."""
        return replace(self, u=self.u[:, samples], zeta=self.zeta[:, samples], share_bound=self.share_bound[:, samples])


def cost(problem: Problem, x: Tensor) -> Tensor:
    """Weigh the coefficients, (m, S, 2, 2^n) -> (S,)."""
    sums = largest_sums(x)
    weights = problem.atoms.weights.where(problem.atoms.exists, 0.0) / (1 + problem.alpha)
    return ((sums[0] + problem.alpha * sums[-1]) * weights).sum((-2, -1))


def complete_outputs(problem: Problem, x: Tensor) -> Tensor:
    """Let the coefficients match the outputs exactly, up to noise terms within their bounds.

    What they miss beyond these is spread over the atoms.

    Args:
        problem: m networks on S samples.
        x: (m, S, 2, 2^n) coefficients.

    Returns:
        (m, S, 2, 2^n) coefficients.
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

    Args:
        problem: m networks on S samples.
        x: (m, S, 2, 2^n) coefficients.
        transfer: (m, S, n) how much of each effect of order one stands with OR where splits are compared.

    Returns:
        (m, S, 2, 2^n) coefficients.
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

    Args:
        problem: m networks on S samples.
        dual: (m, S, 2^n) ν.
        split_dual: (m, S, 2^n) μ; None is 0.

    Returns:
        (S,) bounds, at least 0.
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
