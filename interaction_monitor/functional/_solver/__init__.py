"""The linear programs of the sparsest and of the shared interactions, solved: by which method, and until when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from interaction_monitor.functional._solver.fallbacks import BoundedSplitting, InteriorPoint
from interaction_monitor.functional._solver.problem import Problem, cost, exceeds_bound
from interaction_monitor.functional._solver.projection import Metric
from interaction_monitor.functional._solver.splitting import Splitting, Steps
from interaction_monitor.progress_bar import progress

# Steps that suit networks: less for high orders. Chosen on outputs of small CNNs before, during and after training,
# where ±50% of any of them changes the number of iterations by less than 20%.
_NETWORKS = Metric(per_order=0.6, or_share=0.5)
_NETWORKS_NOISE = (0.003, 4.0)
# Steps for what is all in the high orders: the AND or OR of all players, parity, randomness.
_HIGH_ORDERS = Metric(per_order=1.6, or_share=1.0)
_HIGH_ORDERS_NOISE = (0.01, 100.0)
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


class Solver(Protocol):
    """What improves an answer step by step."""

    problem: Problem

    def advance(self) -> None: ...
    def answer(self) -> Tensor: ...
    def bound(self) -> Tensor: ...
    def restrict_to(self, samples: Tensor) -> None: ...


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
    samples = torch.arange(problem.u.shape[1], device=problem.u.device)
    size = max(1, (_CHUNK >> problem.atoms.n) // len(problem.u))
    parts, end = [], 0
    with _one_thread(samples.device), progress("extraction, samples", len(samples)) as at:
        for chunk in torch.split(samples, size):
            end += len(chunk)
            parts.append(_solve(problem.select(chunk), tol, partial(_tell, at, end)))
    return Solution(
        torch.cat([part.x for part in parts], 1),
        *(torch.cat([getattr(p, k) for p in parts]) for k in ("objective", "bound")),
    )


def _tell(at: Callable[[int], None], end: int, n_open: int) -> None:
    at(end - n_open)


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """Compute on one thread of the CPU inside the block.

    The steps are thousands of small products. A second thread gains little on an idle machine, and where other programs
    take its core, as workers of a data loader do, all wait for it at every step: 100 seconds instead of two were seen.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _solve(problem: Problem, tol: float, tell: Callable[[int], None]) -> Solution:
    zero = torch.zeros_like(problem.u[0, :, 0])
    solution = Solution(torch.zeros_like(problem.u).unsqueeze(-2).repeat(1, 1, 2, 1), zero, zero.clone())
    # where noise terms alone explain everything, there is nothing to extract
    samples = (problem.u.abs() > problem.zeta).any(-1).any(0).nonzero().squeeze(-1)
    solution.objective[samples] = torch.inf
    for method, checks in _methods(problem, tol):
        samples = _improve(solution, samples, method, checks, problem, tol, tell)
    # what the networks' splits may differ by matters seldom, and costs much
    samples = exceeds_bound(problem, solution.x).nonzero().squeeze(-1)
    solution.objective[samples] = torch.inf
    _improve(solution, samples, BoundedSplitting, _LAST_CHECKS, problem, tol, tell)
    return solution


def _methods(problem: Problem, tol: float) -> Iterator[tuple[Callable[[Problem], Solver], int]]:
    """Give the methods in turn, each with how often its answer is looked at."""
    alone, n = len(problem.u) == 1, problem.atoms.n
    # float32 products may be rounded to TF32 or bfloat16 elsewhere, and by that setting
    single = problem.u.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    single = single and n >= _SINGLE_PRECISION_PLAYERS

    def splitting(metric: Metric, noise: tuple[float, float], dtype: torch.dtype) -> Callable[[Problem], Solver]:
        return lambda part: Splitting(part, Steps(metric, noise, dtype))

    interior_point = alone and n <= _INTERIOR_POINT_PLAYERS
    if tol >= _INTERIOR_POINT_BELOW or not interior_point:
        dtype = torch.float32 if single and tol >= _SINGLE_PRECISION_FROM else torch.float64
        # every two players more take about twice the iterations
        yield splitting(_NETWORKS, _NETWORKS_NOISE, dtype), _FIRST_CHECKS << max(0, (n - _FEW_PLAYERS + 1) // 2)
        yield splitting(_HIGH_ORDERS, _HIGH_ORDERS_NOISE, torch.float64), _FIRST_CHECKS
        if n > _FEW_PLAYERS or not interior_point:
            yield splitting(_NETWORKS, _NETWORKS_NOISE, torch.float64), _LAST_CHECKS
    if interior_point:
        yield InteriorPoint, _INTERIOR_POINT_STEPS


def _improve(
    solution: Solution,
    samples: Tensor,
    method: Callable[[Problem], Solver],
    checks: int,
    problem: Problem,
    tol: float,
    tell: Callable[[int], None],
) -> Tensor:
    """Let a method run on these samples; tell how many are not good enough yet, and give those that stay so."""
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
            tell(n_open)
            if not going.all():
                part = part[going]
                if not len(part):
                    break
                solver.restrict_to(going)
        left.append(part)
    return torch.cat(left) if left else samples
