"""The sparsest AND-OR interactions that explain all outputs, of one network or of several, with a certificate.

Every output is written as a sum of AND and OR interactions and a small noise term,
u(T) = v(T) - v(∅) = Σ_{∅≠S⊆T} I_and(S) + Σ_{S∩T≠∅} I_or(S) + δ(T), |δ(T)| ≤ ζ, with the least Σ_S w_S (|I_and(S)| +
|I_or(S)|) (Ren et al. 2024, Eq. 11; Chen et al. 2024, "Defining and extracting generalizable interaction primitives
from DNNs", Eq. 4). That is a linear program; the papers approach it by 20,000 steps of gradient descent, here it is
solved, and the gap to the optimum is proven for each sample. Networks trained for one task are explained together (Eq.
5 and 6): a pattern costs what it does in the network where it is largest, and α times as much again in each network,
so that patterns found in all of them come cheap.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from interaction_monitor._checks import describe, is_number, require_one_shape, to_float64
from interaction_monitor.functional._solver import solve
from interaction_monitor.functional._solver.problem import Problem, atoms_of
from interaction_monitor.functional.interactions import and_outputs, n_players, or_outputs, orders

MAX_PLAYERS = 16
MAX_PLAYERS_SHARED = 14

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
    n = _check(v, MAX_PLAYERS, tol, noise=noise, tie_break=tie_break)
    finite = _finite(v)
    if not finite.all():
        raise ValueError(
            f"v must be finite, but {int((~finite).sum())} of {finite.numel()} samples hold NaN, Inf or numbers whose "
            "sums are Inf; leave them out"
        )
    outputs = to_float64(v.detach()).reshape(1, -1, 2**n)
    one = torch.ones_like(outputs[..., :1])
    *found, objective, gap = _extract(
        "interactions", outputs, one, math.inf * one, noise=noise, tol=tol, tie_break=tie_break
    )
    return SparsestAndOr(
        *(tensor.reshape(v.shape) for tensor in found), *(tensor.reshape(v.shape[:-1]) for tensor in (objective, gap))
    )


@dataclass(frozen=True)
class SharedAndOr(SparsestAndOr):
    """The same of m networks, (m, S, 2^n), with what proves them nearly the sparsest shared ones.

    The objective, (S,) as the gap, is Σ w_S (max_i |I^(i)(S)| + α Σ_i |I^(i)(S)|), AND and OR, S ≠ ∅.
    """


def shared_and_or(
    v: Tensor,
    *,
    alpha: float = 0.1,
    noise: float = NOISE,
    share_bound: float = 0.5,
    tol: float = TOL,
    tie_break: float = TIE_BREAK,
    normalize: bool = False,
) -> SharedAndOr:
    """Find the sparsest AND-OR interactions of several networks that are as much as can be the same ones.

    Of each sample, Σ_S w_S (max_i |I^(i)(S)| + α Σ_i |I^(i)(S)|) over AND and OR is made least (Chen et al. 2024,
    Eq. 6), each network's interactions matching its own outputs. Two networks that hold an interaction of the same
    strength pay 1 + 2α for it, two that hold different ones 2 + 2α. One network gives the sparsest
    interactions (Eq. 4), and 1 + α times their objective. That counts in the units of the outputs, so a network whose
    outputs are ten times larger overshadows the others; `normalize=True` puts them on one footing.

    Args:
        v: (m, S, 2^n) outputs of m networks on the same samples with the same players, as in `sparsest_and_or`.
        alpha: penalty on an interaction in each network, beside that on the largest; 0 or more. 0 is Eq. 5, which
            leaves open what the networks with less than the largest do. The authors' code minimises (1 - a) max + a Σ:
            its a is a / (1 - a) here, its 0.1 is 0.111.
        noise: as in `sparsest_and_or`, of each network and sample.
        share_bound: how far each network's split γ^(i) may lie from a common one, as a share of the network's mean
            |v(N) - v(∅)| over the S samples: the only thing that ties samples together. 0.5 is the paper's value,
            seldom reached by trained networks; `math.inf` leaves it out. It holds for γ - v(∅)/2, and an effect
            of order one, which AND and OR can express alike, is put on the side where it fits.
        tol: as in `sparsest_and_or`.
        tie_break: as in `sparsest_and_or`.
        normalize: divide the outputs of each network by its mean |v(N) - v(∅)| while solving. The interactions are
            given in the networks' own units, the objective in these.

    Returns:
        The interactions of each network, the splits they come from, and the proven gap of each sample.

    Raises:
        ValueError: if `v` is not (m, S, 2^n), n is above 14, a network's outputs are not finite, `alpha`, `noise`,
            `share_bound` or `tie_break` is negative, or `tol` is not positive.
        TypeError: if `v` is not floating.

    Warns:
        ToleranceNotMetWarning: as `sparsest_and_or`.

    Examples:
        Both networks hold a pattern of players 0 and 1; the second has an effect of player 2 as well.

        >>> from interaction_monitor.functional import and_outputs
        >>> first = torch.tensor([0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0])
        >>> second = torch.tensor([0.0, 0.0, 0.0, 3.0, 1.0, 0.0, 0.0, 0.0])
        >>> v = and_outputs(torch.stack((first, second)))[:, None]  # (2, 1, 8)
        >>> result = shared_and_or(v, noise=0.0, tol=1e-4)
        >>> result.and_[:, 0, 3].round(decimals=2).tolist()
        [4.0, 3.0]
        >>> round(result.objective.item(), 2)  # 1.01·(4 + 0.1·(4 + 3)) + 1·(1 + 0.1·1)
        5.85
    """
    _check(v, MAX_PLAYERS_SHARED, tol, noise=noise, tie_break=tie_break, alpha=alpha)
    _check_networks(v, share_bound)
    outputs = to_float64(v.detach())
    change = (outputs[..., -1:] - outputs[..., :1]).abs()
    mean = change.mean(1, keepdim=True)
    unit = mean.where(mean > 0, 1.0) if normalize else torch.ones_like(mean)
    # infinity times the 0 of a network that never changes its output would be NaN
    own = torch.full_like(change, math.inf) if math.isinf(share_bound) else (share_bound * mean).expand_as(change)
    return SharedAndOr(
        *_extract("shared interactions", outputs, unit, own, alpha=alpha, noise=noise, tol=tol, tie_break=tie_break)
    )


def order_one_as_and(and_: Tensor, or_: Tensor) -> tuple[Tensor, Tensor]:
    """Move what each player does alone, and the output of nobody, from OR to AND, as the extractions here have it.

    "All of {i}" and "any of {i}" are one pattern; split over both kinds it would be counted twice, or cancel. Every
    masked output stays as it is, and a second time nothing moves.

    Args:
        and_: (..., 2^n) AND interactions.
        or_: (..., 2^n) OR interactions.

    Returns:
        Both, new tensors; OR is 0 at ∅ and at order one.

    Raises:
        ValueError: if the last axis is no power of two or the shapes differ.

    Examples:
        >>> and_, or_ = torch.tensor([0.5, 2.0, 0.0, 1.0]), torch.tensor([0.5, -1.5, 0.0, 4.0])
        >>> [x.tolist() for x in order_one_as_and(and_, or_)]
        [[1.0, 0.5, 0.0, 1.0], [0.0, 0.0, 0.0, 4.0]]
    """
    require_one_shape(and_=and_, or_=or_)
    moving = orders(n_players(and_), device=and_.device) <= 1
    return torch.where(moving, and_ + or_, and_), or_.masked_fill(moving, 0)


def _extract(
    what: str,
    outputs: Tensor,
    unit: Tensor,
    own: Tensor,
    *,
    noise: float,
    tol: float,
    tie_break: float,
    alpha: float = 0.0,
) -> list[Tensor]:
    """Give AND and OR interactions, split, noise terms, objective and gap of (m, S, 2^n) outputs.

    Networks are weighed by `unit`, and their splits may differ by `own`, (m, S, 1).
    """
    empty = outputs[..., :1]
    u = outputs - empty
    zeta = noise * u[..., -1:].abs()
    scale = (u / unit).abs().mean((0, -1), keepdim=True)
    scale = unit * scale.where(scale > 0, 1.0)
    u = u / scale
    atoms = atoms_of(n_players(outputs), float(tie_break), outputs.device)
    solution = solve(Problem(atoms, u, noise * u[..., -1:].abs(), own / scale, float(alpha)), tol)
    gap, missed = solution.gap, ~(solution.gap <= tol)
    if missed.any():
        warnings.warn(
            f"the {what} of {int(missed.sum())} of {gap.numel()} samples are proven to be only within "
            f"{float(gap.max()):.1e} of the sparsest, not within tol={tol:.1e}",
            ToleranceNotMetWarning,
            stacklevel=3,
        )
    delta = (outputs - empty - atoms.outputs(solution.x) * scale).clamp(-zeta, zeta)
    and_, or_ = (solution.x * scale.unsqueeze(-1)).unbind(-2)
    and_ = torch.cat((empty, and_[..., 1:]), -1)
    objective = (1 + alpha) * solution.objective * (scale / unit)[0, :, 0]
    return [and_, or_, (and_outputs(and_) - or_outputs(or_)) / 2, delta, objective, gap]


def _check(v: Tensor, most: int, tol: float, **numbers: float) -> int:
    if not isinstance(v, Tensor):
        raise TypeError(f"v must be a tensor, but is {describe(v)}; give torch.as_tensor(v)")
    n = n_players(v)
    if not v.is_floating_point():
        raise TypeError(f"v must be of a floating dtype, but is {v.dtype}; call it with v.double()")
    if n > most:
        raise ValueError(
            f"v has n = {n} players, but the extraction takes at most {most}; take fewer players, or AND "
            "interactions alone"
        )
    for name, value in numbers.items():
        if not (is_number(value) and 0 <= value < math.inf):
            raise ValueError(f"{name} must be a finite number, at least 0, but is {value!r}")
    if not (is_number(tol) and 0 < tol < math.inf):
        raise ValueError(f"tol must be a finite number above 0, but is {tol!r}")
    return n


def _finite(v: Tensor) -> Tensor:
    """(...,) whether a sample's outputs are finite, and no sum of 2^n of them overflows."""
    return torch.isfinite(to_float64(v.detach()) * 2 * v.shape[-1]).all(-1)


def _check_networks(v: Tensor, share_bound: float) -> None:
    if v.ndim != 3 or not v.shape[0] or not v.shape[1]:
        raise ValueError(
            f"v must be (networks, samples, 2^n), but has shape {tuple(v.shape)}; "
            "stack the outputs of the networks, each (samples, 2^n), by torch.stack"
        )
    if not (is_number(share_bound) and share_bound >= 0):
        raise ValueError(f"share_bound must be at least 0, but is {share_bound!r}; math.inf leaves the bound out")
    for network, of_network in enumerate(_finite(v)):
        if not of_network.all():
            raise ValueError(
                f"v must be finite, but v[{network}] holds NaN or Inf, or sums that are, in {int((~of_network).sum())} "
                f"of {len(of_network)} samples; leave them out for all networks: v[:, v.isfinite().all(-1).all(0)]"
            )
