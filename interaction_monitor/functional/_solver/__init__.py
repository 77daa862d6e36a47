"""The linear programs of the sparsest and of the shared interactions, solved: by which method, and until when.

Nearly all samples are solved by the splitting, the others by the interior point, which is here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from interaction_monitor.functional._solver.problem import (
    Problem,
    complete_outputs,
    cost,
    exceeds_bound,
    lower_bound,
)
from interaction_monitor.functional._solver.projection import HIGH_ORDERS, NETWORKS
from interaction_monitor.functional._solver.splitting import BoundedSplitting, Splitting
from interaction_monitor.progress_bar import progress

_SINGLE_PRECISION_FROM = 1e-3  # relative gaps that float32 reaches
_SINGLE_PRECISION_PLAYERS = 9  # with fewer it saves nothing
_INTERIOR_POINT_BELOW = 1e-3  # the splitting slows down as 1/k², the interior point does not
_INTERIOR_POINT_PLAYERS = 12  # more would take GiB and minutes
_FEW_PLAYERS = 10  # the interior point is quick: a step takes a twentieth of a second, at 12 a second
_INTERIOR_POINT_STEPS = 60
_MATRICES = 2**24  # entries of the normal matrices held together
# The gap shrinks before the choice among the sparsest settles: go on to a part of tol, if that takes few iterations.
_CLOSER = 0.4
_SETTLING_CHECKS = 10
_FIRST_CHECKS = 16  # each after 50 iterations
_UNCHECKED = 3  # so many checks are left out from nine players on, where no answer is good enough by then
_UNCHECKED_PLAYERS = 9
_LAST_CHECKS = 100
_CHUNK = 2**16  # outputs solved together: enough to fill the processor, little enough for its cache
_LIFT = 1e-14  # of the largest diagonal entry, added to all: keeps rounding from making the matrix indefinite
_TO_BOUNDARY = 0.99  # share of the way to the boundary that a step of the interior point may go

Method = Callable[[Problem], "Splitting | BoundedSplitting | InteriorPoint"]


@dataclass(frozen=True)
class Solution:
    """The best answers found, and what proves them."""

    x: Tensor  # (m, S, 2, 2^n) coefficients
    objective: Tensor  # (S,)
    bound: Tensor  # (S,) no coefficients can beat it

    @property
    def gap(self) -> Tensor:
        """(S,) relative duality gap, 0 where the objective is 0; NaN where nothing is proven."""
        gap = (self.objective - self.bound).clamp_min(0) / self.objective
        return torch.where(self.objective > 0, gap, 0.0)


def solve(problem: Problem, tol: float) -> Solution:
    """Solve until every sample's gap is within `tol`, or no method gets it there."""
    zero = torch.zeros_like(problem.u[0, :, 0])
    solution = Solution(torch.zeros_like(problem.u).unsqueeze(-2).repeat(1, 1, 2, 1), zero, zero.clone())
    # where noise terms alone explain everything, there is nothing to extract
    left = (problem.u.abs() > problem.zeta).any(-1).any(0)
    solution.objective[left] = torch.inf
    size, end = max(1, (_CHUNK >> problem.atoms.n) // len(problem.u)), 0
    with _one_thread(), progress("extraction, samples", len(zero)) as at:
        for chunk in torch.split(torch.arange(len(zero), device=zero.device), size):
            end += len(chunk)
            improve = partial(_improve, solution, problem, tol, at, end)
            samples = chunk[left[chunk]]
            for method, checks in _methods(problem, tol):
                samples = improve(samples, method, checks)
            # what the networks' splits may differ by matters seldom, and costs much
            samples = chunk[exceeds_bound(problem.select(chunk), solution.x[:, chunk])]
            solution.objective[samples] = torch.inf
            improve(samples, BoundedSplitting, _LAST_CHECKS)
    return solution


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread of the CPU inside the block.

    The steps are thousands of small products. A second thread gains little on an idle machine, and where other programs
    take its core, as workers of a data loader do, all wait for it at every step: 100 seconds instead of two were seen.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _methods(problem: Problem, tol: float) -> Iterator[tuple[Method, int]]:
    """Give the methods in turn, each with how often its answer is looked at."""
    alone, n = len(problem.u) == 1, problem.atoms.n
    # float32 products may be rounded to TF32 or bfloat16 elsewhere, and by that setting
    single = problem.u.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    single = single and n >= _SINGLE_PRECISION_PLAYERS
    interior_point = alone and n <= _INTERIOR_POINT_PLAYERS
    if tol >= _INTERIOR_POINT_BELOW or not interior_point:
        dtype = torch.float32 if single and tol >= _SINGLE_PRECISION_FROM else torch.float64
        # every two players more take about twice the iterations
        yield partial(Splitting, metric=NETWORKS, dtype=dtype), _FIRST_CHECKS << max(0, (n - _FEW_PLAYERS + 1) // 2)
        yield partial(Splitting, metric=HIGH_ORDERS, dtype=torch.float64), _FIRST_CHECKS
        if n > _FEW_PLAYERS or not interior_point:
            yield partial(Splitting, metric=NETWORKS, dtype=torch.float64), _LAST_CHECKS
    if interior_point:
        yield InteriorPoint, _INTERIOR_POINT_STEPS


def _improve(
    solution: Solution,
    problem: Problem,
    tol: float,
    at: Callable[[int], None],
    end: int,
    samples: Tensor,
    method: Method,
    checks: int,
) -> Tensor:
    """Let a method run on these samples, tell how many up to `end` are good enough, and give those that are not."""
    left = []
    together = n_open = len(samples)
    unchecked = _UNCHECKED if problem.atoms.n >= _UNCHECKED_PLAYERS and method is not InteriorPoint else 0
    if method is InteriorPoint:
        together = max(1, _MATRICES >> 2 * problem.atoms.n)
    for part in torch.split(samples, max(1, together)):
        if not len(part):
            continue
        solver = method(problem.select(part))
        for check in range(1, checks + 1):
            solver.advance()
            if check <= unchecked:
                continue
            candidate = solver.answer()
            charged = cost(solver.problem, candidate)
            better = charged < solution.objective[part]
            solution.x[:, part] = candidate.where(better[:, None, None], solution.x[:, part])
            # fmin and fmax leave out NaN, and a gap of NaN is not small: nothing is proven by what overflowed
            solution.objective[part] = torch.fmin(solution.objective[part], charged)
            solution.bound[part] = torch.fmax(solution.bound[part], solver.bound())
            enough = tol * (_CLOSER if check < _SETTLING_CHECKS else 1)
            going = ~(solution.gap[part] <= enough)
            n_open -= len(part) - int(going.sum())
            at(end - n_open)
            if not going.all():
                part = part[going]
                if not len(part):
                    break
                solver.restrict_to(going)
        left.append(part)
    return torch.cat(left) if left else samples


class InteriorPoint:
    """A Mehrotra predictor-corrector method for a batch of samples of one network.

    It starts strictly feasible: all AND dividends, no noise, no dual. Every step solves one positive definite system
    per sample, B D Bᵀ + E with diagonal D and E. Some 15 steps reach 1%, some 30 a millionth, whatever the sample; each
    costs a Cholesky factorisation of 2^n rows.

    Attributes:
        x: (S, 2, 2^n) coefficients; with the noise terms they match the outputs up to rounding.
        dual: (S, 2^n) dual vector.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        atoms, (u,), (zeta,) = problem.atoms, problem.u, problem.zeta
        self.x = torch.stack((atoms.dividends(u), torch.zeros_like(u)), -2)
        self.dual = torch.zeros_like(u)
        self._noise = torch.zeros_like(u)
        present = (torch.arange(u.shape[-1], device=u.device) > 0) & (zeta > 0)
        exists = atoms.exists.expand(len(u), -1, -1)
        # each inequality as a pair (slack, multiplier), whose product goes to 0:
        # x = x⁺ - x⁻ with x⁺, x⁻ ≥ 0 for both kinds of atoms, and noise up to its upper and its lower bound
        self._used = torch.cat((exists, exists, present.unsqueeze(-2), present.unsqueeze(-2)), -2)
        positive = self.x.clamp_min(0) + 0.01 + 0.1 * self.x.abs().mean((-2, -1), keepdim=True)
        room = zeta.where(present, 1.0).unsqueeze(-2)
        self._slack = torch.cat((positive, positive - self.x, room, room), -2)
        weights = atoms.weights.where(atoms.exists, 1.0).expand(len(u), -1, -1)
        multiplier = torch.full_like(room, 0.1).where(present.unsqueeze(-2), 1.0)
        self._multiplier = torch.cat((weights, weights, multiplier, multiplier), -2)

    def answer(self) -> Tensor:
        """Give (1, S, 2, 2^n) coefficients that fulfil the problem's constraints."""
        return complete_outputs(self.problem, self.x[None])

    def bound(self) -> Tensor:
        """Give (S,) bounds that no coefficients can beat."""
        return lower_bound(self.problem, self.dual[None])

    def advance(self) -> None:
        """Take one predictor-corrector step."""
        used = self._used
        products = self._slack * self._multiplier
        system = self._factorise()
        slack, multiplier, *_ = self._direction(-products, *system)
        after = (self._slack + _length(self._slack, slack, 1.0) * slack) * (
            self._multiplier + _length(self._multiplier, multiplier, 1.0) * multiplier
        )
        total = (products * used).sum((-2, -1), keepdim=True)
        mean = total / used.sum((-2, -1), keepdim=True).clamp_min(1)
        centre = mean * ((after * used).sum((-2, -1), keepdim=True) / total.clamp_min(1e-300)).pow(3)
        slack, multiplier, x, noise, dual = self._direction(centre - products - slack * multiplier, *system)
        length = _length(self._slack, slack, _TO_BOUNDARY)
        self._slack = self._slack + length * slack
        self.x = self.x + length * x
        self._noise = self._noise + length.squeeze(-1) * noise
        length = _length(self._multiplier, multiplier, _TO_BOUNDARY)
        self._multiplier = self._multiplier + length * multiplier
        self.dual = self.dual + length.squeeze(-1) * dual

    def restrict_to(self, samples: Tensor) -> None:
        """Go on with some of the samples."""
        self.problem = self.problem.select(samples)
        for name in ("x", "dual", "_noise", "_used", "_slack", "_multiplier"):
            setattr(self, name, getattr(self, name)[samples])

    def _factorise(self) -> tuple[Tensor, Tensor, Tensor]:
        """Factorise the matrix of the step; with it, how far atoms and noise terms move per unit of dual."""
        ratio = (self._slack / self._multiplier).where(self._used, 0.0)
        moves = ratio[:, :2] + ratio[:, 2:4]
        noise_moves = (1 / (self._multiplier / self._slack)[:, 4:].sum(-2)).where(self._used[:, 4], 0.0)
        matrix = self.problem.atoms.covariance(moves)
        diagonal = matrix.diagonal(dim1=-2, dim2=-1)
        diagonal.add_(noise_moves + _LIFT * diagonal.amax(-1, keepdim=True))
        factor, failed = torch.linalg.cholesky_ex(matrix)
        # where rounding made the matrix indefinite all the same, that sample stays where it is
        return factor.where((failed == 0)[:, None, None], torch.nan), moves, noise_moves

    def _direction(
        self, target: Tensor, factor: Tensor, moves: Tensor, noise_moves: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Solve for the step that changes each product slack·multiplier by `target`, to first order."""
        atoms = self.problem.atoms
        target = target.where(self._used, 0.0)
        by_multiplier, by_slack = target / self._multiplier, target / self._slack
        x = by_multiplier[:, :2] - by_multiplier[:, 2:4]
        noise = (by_slack[:, 5] - by_slack[:, 4]) * noise_moves
        missed = self.problem.u[0] - atoms.outputs(self.x + x) - self._noise - noise
        dual = torch.cholesky_solve(missed.unsqueeze(-1), factor).squeeze(-1)
        # near the solution the matrix is nearly singular: refine once, which also undoes the lift
        missed = missed - atoms.outputs(moves * atoms.correlations(dual)) - noise_moves * dual
        dual = dual + torch.cholesky_solve(missed.unsqueeze(-1), factor).squeeze(-1)
        moved = dual.isfinite().all(-1)[:, None, None]
        correlations = atoms.correlations(dual)
        x = x + moves * correlations
        noise = noise + noise_moves * dual
        slack_of_noise = torch.stack((-noise, noise), -2)
        multiplier_of_noise = by_slack[:, 4:] - self._multiplier[:, 4:] / self._slack[:, 4:] * slack_of_noise
        multiplier = torch.cat((-correlations, correlations, multiplier_of_noise), -2)
        slack_of_atoms = (by_multiplier - self._slack / self._multiplier * multiplier)[:, :4]
        slack = torch.cat((slack_of_atoms, slack_of_noise), -2)
        return (
            slack.where(self._used & moved, 0.0),
            multiplier.where(self._used & moved, 0.0),
            x.where(moved, 0.0),
            noise.where(moved[:, 0], 0.0),
            dual.where(moved[:, 0], 0.0),
        )


def _length(positive: Tensor, change: Tensor, share: float) -> Tensor:
    """(S, 1, 1) the share of the way to where the first entry becomes 0, at most the whole step."""
    shrinking = (-change / positive).amax((-2, -1), keepdim=True)
    return (share / shrinking.clamp_min(1e-300)).clamp_max(1.0)
