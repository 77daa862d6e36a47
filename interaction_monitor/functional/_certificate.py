"""From a nearly solved problem to one exactly feasible answer and a bound that no answer can beat."""

from __future__ import annotations

import torch
from torch import Tensor

from interaction_monitor.functional._splitting import Problem


def complete(problem: Problem, x: Tensor) -> tuple[Tensor, Tensor]:
    """Spread what the coefficients miss of the outputs, beyond the noise terms, over the atoms.

    Args:
        problem: S samples.
        x: (S, 2, 2^n) coefficients.

    Returns:
        (S, 2, 2^n) coefficients that match the outputs up to noise terms within their bounds, and their (S,)
        objectives Σ w|x|.
    """
    atoms = problem.atoms
    missed = _beyond_noise(problem, x)
    x = x + atoms.spread(missed)
    # spreading leaves rounding errors, the dividends none
    x = x + torch.nn.functional.pad(atoms.dividends(_beyond_noise(problem, x)).unsqueeze(-2), (0, 0, 0, 1))
    return x, cost(problem, x)


def cost(problem: Problem, x: Tensor) -> Tensor:
    """Weigh the coefficients: Σ w|x|, (S, 2, 2^n) -> (S,)."""
    weights = problem.atoms.weights.where(problem.atoms.exists, 0.0)
    return (x.abs() * weights).sum((-2, -1))


def lower_bound(problem: Problem, dual: Tensor) -> Tensor:
    """Bound the optimum from below: scaled until |Bᵀν| ≤ w, any ν proves that it is at least uᵀν - ζ‖ν‖₁.

    Args:
        problem: S samples.
        dual: (S, 2^n) any vectors.

    Returns:
        (S,) bounds, at least 0.
    """
    excess = (problem.atoms.correlations(dual).abs() / problem.atoms.weights).amax((-2, -1))
    value = (problem.u * dual).sum(-1) - problem.zeta.squeeze(-1) * dual[..., 1:].abs().sum(-1)
    return torch.where(excess > 0, value / excess, 0.0).clamp_min(0)


def _beyond_noise(problem: Problem, x: Tensor) -> Tensor:
    missed = problem.u - problem.atoms.outputs(x)
    return missed - missed.clamp(-problem.zeta, problem.zeta)
