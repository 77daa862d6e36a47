"""The sparsest AND-OR interactions that explain all outputs of a sample, with a certificate.

Every output is written as a sum of AND and OR interactions and a small noise term,
u(T) = v(T) - v(∅) = Σ_{∅≠S⊆T} I_and(S) + Σ_{S∩T≠∅} I_or(S) + δ(T), |δ(T)| ≤ ζ, with the least Σ_S w_S (|I_and(S)| +
|I_or(S)|) (Ren et al. 2024, Eq. 11; Chen et al. 2024, Eq. 4). That is a linear program; the papers approach it by
20,000 steps of gradient descent, here it is solved, and the gap to the optimum is proven for each sample.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from interaction_monitor._float64 import to_float64
from interaction_monitor.functional._lp.atoms import atoms_of
from interaction_monitor.functional._lp.problem import Problem
from interaction_monitor.functional._lp.solve import solve
from interaction_monitor.functional.coalitions import n_players
from interaction_monitor.functional.transforms import and_outputs, or_outputs

MAX_PLAYERS = 16

# ζ as the papers take it; a gap that averages over samples do not show; a cost that settles ties and none else.
NOISE = 0.02
TOL = 0.01
TIE_BREAK = 0.01


class ToleranceNotMetWarning(UserWarning):
    """Some sample's interactions are not proven to be as close to the sparsest as was asked."""


@dataclass(frozen=True)
class SparsestAndOr:
    """AND-OR interactions with what proves them nearly the sparsest; all float64."""

    and_: Tensor  # (..., 2^n) AND interactions; [∅] = v(∅)
    or_: Tensor  # (..., 2^n) OR interactions; 0 at ∅ and at order one, which belongs to AND
    gamma: Tensor  # (..., 2^n) the split: v_and = (v - δ)/2 + γ, v_or = (v - δ)/2 - γ
    delta: Tensor  # (..., 2^n) noise terms, |δ| ≤ ζ; [∅] = 0
    objective: Tensor  # (...,) Σ w_S (|I_and(S)| + |I_or(S)|) over S ≠ ∅
    gap: Tensor  # (...,) proven bound of (objective - optimum) / objective; 0 where the objective is 0


def sparsest_and_or(
    v: Tensor, *, noise: float = NOISE, tol: float = TOL, tie_break: float = TIE_BREAK
) -> SparsestAndOr:
    """Find the sparsest AND-OR interactions that explain all outputs of each sample.

    Of all answers within `tol` of the sparsest there are many; this is one that depends on the sample alone (see
    the page on extraction in the documentation).

    Args:
        v: (..., 2^n) outputs of all coalitions, floating, finite; computed with in float64 on its own device (on
            the CPU if that has no float64).
        noise: ζ as a share of |v(N) - v(∅)|: how far the interactions may miss an output. 0.02 is the papers' value.
        tol: largest relative duality gap to stop at. Answers are up to 2.5 times closer where that costs
            little, as the choice among the sparsest settles after the gap.
        tie_break: w_S = 1 + tie_break (|S| - 1): among the sparsest, prefer the simplest; 0 is the papers' plain
            objective, whose optimum is rarely unique.

    Returns:
        The interactions, the split they come from, and the proven gap of each sample.

    Raises:
        ValueError: if the last axis is no power of two, n is above 16, `v` is not finite, `noise` or `tie_break` is
            negative, or `tol` is not positive.
        TypeError: if `v` is not floating.

    Warns:
        ToleranceNotMetWarning: if the gap of a sample stays above `tol`; it says of how many, and by how much.

    Examples:
        >>> v = torch.tensor([0.0, 5.0, 5.0, 5.0])  # 5 as soon as player 0 or player 1 is present
        >>> result = sparsest_and_or(v, noise=0.0)
        >>> result.or_.round(decimals=1).tolist()
        [0.0, 0.0, 0.0, 5.0]
        >>> bool(result.gap <= 1e-2)
        True
    """
    n = _check(v, noise, tol, tie_break)
    outputs = to_float64(v.detach()).reshape(-1, 2**n)
    empty, u = outputs[:, :1], outputs - outputs[:, :1]
    atoms = atoms_of(n, float(tie_break), outputs.device)
    scale = u.abs().mean(-1, keepdim=True)
    scale = torch.where(scale > 0, scale, 1.0)
    u = u / scale
    # where noise terms alone explain everything, there is nothing to extract
    u = u * (u.abs().amax(-1, keepdim=True) > noise * u[:, -1:].abs())
    zeta = noise * u[:, -1:].abs()
    solution = solve(Problem(atoms, u[None], zeta[None], torch.full_like(zeta[None], torch.inf), 0.0), tol)
    (x,), objective, gap = solution.x, solution.objective, solution.gap
    _warn_if_missed(gap, tol)

    explained = atoms.outputs(x)
    zeta = noise * (outputs[:, -1:] - empty).abs()
    delta = (outputs - empty - explained * scale).clamp(-zeta, zeta)
    and_, or_ = (x * scale.unsqueeze(-1)).unbind(-2)
    and_ = torch.cat((empty, and_[:, 1:]), -1)
    gamma = (and_outputs(and_) - or_outputs(or_)) / 2
    return SparsestAndOr(
        *(tensor.reshape(v.shape) for tensor in (and_, or_, gamma, delta)),
        *(tensor.reshape(v.shape[:-1]) for tensor in (objective * scale.squeeze(-1), gap)),
    )


def _check(v: Tensor, noise: float, tol: float, tie_break: float) -> int:
    n = n_players(v)
    if not v.is_floating_point():
        raise TypeError(f"v must be of a floating dtype, but is {v.dtype}; call it with v.double()")
    if n > MAX_PLAYERS:
        raise ValueError(
            f"v has n = {n} players, but the extraction takes at most {MAX_PLAYERS}; take fewer players, or AND "
            "interactions alone"
        )
    for name, value in (("noise", noise), ("tie_break", tie_break)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite number, at least 0, but is {value}")
    if not 0 < tol < math.inf:
        raise ValueError(f"tol must be a finite number above 0, but is {tol}")
    finite = torch.isfinite(v).all(-1)
    if not finite.all():
        raise ValueError(
            f"v must be finite, but {int((~finite).sum())} of {finite.numel()} samples hold NaN or Inf; leave them out"
        )
    return n


def _warn_if_missed(gap: Tensor, tol: float) -> None:
    missed = ~(gap <= tol)
    if missed.any():
        warnings.warn(
            f"the interactions of {int(missed.sum())} of {gap.numel()} samples are proven to be only within "
            f"{float(gap.max()):.1e} of the sparsest, not within tol={tol:.1e}",
            ToleranceNotMetWarning,
            stacklevel=3,
        )
