"""The sparsest shared AND-OR problem of several networks, and a splitting that solves it, batched over samples.

As for one network (`_splitting`), each iteration shrinks the coefficients and clips the noise terms, then projects
on the outputs, every network on its own. Two things tie the networks together. The coefficients of one pattern
shrink together: what is charged is the largest among the networks, and α times each. And the splits γ of the
networks may differ only so far; that takes a second set of equations, and is left out where the bound is not reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from interaction_monitor.functional._atoms import NOISE_STEP, Atoms
from interaction_monitor.functional._shared_problem import (
    SharedProblem,
    complete_outputs,
    complete_splits,
    largest_sums,
    lower_bound,
    meet_splits,
    members_of,
    splits,
)

_DUAL_STEP = 0.03
_OVER_RELAXATION = 1.9
_AVERAGED_SHARE = 0.25
_SPLIT_STEP = 2.0  # how far a split moves per unit of dual, as NOISE_STEP for noise terms
_TRANSFER_STEP = 1.0  # and an effect of order one, from OR to AND


class SharedSplitting:
    """The state of the iteration for a batch of samples.

    Attributes:
        x: (m, S, 2, 2^n) averaged coefficients.
        dual: (m, S, 2^n) averaged dual vectors of the outputs.
    """

    def __init__(self, problem: SharedProblem) -> None:
        self.problem = problem
        atoms = problem.atoms
        self._state = torch.zeros_like(problem.u).unsqueeze(-2).repeat(1, 1, 2, 1)
        self._noise = torch.zeros_like(problem.u)
        self.x = torch.zeros_like(self._state)
        self._dual = torch.zeros_like(problem.u)
        self._iterations = 0
        threshold = (_DUAL_STEP * atoms.steps * atoms.weights).where(atoms.exists, 0.0)
        self._together = threshold / (1 + problem.alpha)
        self._each = threshold - self._together

    @property
    def dual(self) -> Tensor:
        return self._dual / _DUAL_STEP

    def answer(self) -> Tensor:
        """Give (m, S, 2, 2^n) coefficients that fulfil the problem's constraints."""
        return complete_outputs(self.problem, self.x)

    def bound(self) -> Tensor:
        """Give (S,) bounds that no coefficients can beat."""
        return lower_bound(self.problem, self.dual)

    def advance(self, iterations: int = 25) -> None:
        """Run so many iterations."""
        atoms, problem = self.problem.atoms, self.problem
        state, noise = self._state, self._noise
        for weight in self._weights(iterations):
            x = shrink_together(state - state.clamp(-self._each, self._each), self._together)
            delta = noise.clamp(-problem.zeta, problem.zeta)
            reflected = 2 * x - state
            dual = (problem.u - atoms.outputs(reflected) - (2 * delta - noise)) @ atoms.noisy_inverse
            projected = reflected.addcmul_(atoms.steps, atoms.correlations(dual))
            state = torch.add(state, projected - x, alpha=_OVER_RELAXATION)
            noise = noise + _OVER_RELAXATION * (delta - noise + NOISE_STEP * dual)
            self.x.lerp_(projected, weight)
            self._dual.lerp_(dual, weight)
        self._state, self._noise = state, noise

    def keep(self, samples: Tensor) -> None:
        """Go on with some of the samples."""
        self.problem = self.problem.select(samples)
        for name in ("_state", "_noise", "x", "_dual"):
            setattr(self, name, getattr(self, name)[:, samples])

    def _weights(self, iterations: int) -> Iterator[float]:
        """Count iterations, and give what each weighs in the running average."""
        for _ in range(iterations):
            self._iterations += 1
            yield 1 / max(1.0, _AVERAGED_SHARE * self._iterations)


class BoundedSplitting(SharedSplitting):
    """The iteration with the bound on the splits, for the samples that reach it: four times the work.

    The split of a network, less v(∅)/2, is G x + Z₁ c with G = [Z, -Z_or]/2: an effect of order one may stand on
    either side, and c moves it there at no charge. Added are variables h (free, the common split) and s (clipped at
    the bound, the own part), and the equations G x + Z₁ c = h + s. h takes up the mean of these equations over the
    networks whole, so they concern the deviations from the mean alone.
    """

    def __init__(self, problem: SharedProblem) -> None:
        super().__init__(problem)
        self._own = torch.zeros_like(problem.u)
        self._transfer = torch.zeros_like(problem.u[..., : problem.atoms.n])
        self.transfer = torch.zeros_like(self._transfer)
        self._split_dual = torch.zeros_like(problem.u)
        self._system = _system(problem.atoms)

    def answer(self) -> Tensor:
        return complete_splits(self.problem, complete_outputs(self.problem, self.x), self.transfer)

    def bound(self) -> Tensor:
        return lower_bound(self.problem, self.dual, self._split_dual / _DUAL_STEP)

    def advance(self, iterations: int = 25) -> None:
        atoms, problem, members = self.problem.atoms, self.problem, self._system.members
        state, noise, own, transfer = self._state, self._noise, self._own, self._transfer
        for weight in self._weights(iterations):
            x = shrink_together(state - state.clamp(-self._each, self._each), self._together)
            delta = noise.clamp(-problem.zeta, problem.zeta)
            bounded = own.clamp(-problem.share_bound, problem.share_bound)
            reflected = 2 * x - state
            missed = problem.u - atoms.outputs(reflected) - (2 * delta - noise)
            apart = 2 * bounded - own - splits(atoms, reflected) - transfer @ members.T
            mean = missed.mean(0)
            both = torch.cat((missed - mean, apart - apart.mean(0)), -1) @ self._system.inverse
            dual, split_dual = both.tensor_split(2, -1)
            dual = dual + mean @ atoms.noisy_inverse
            projected = reflected.addcmul_(atoms.steps, atoms.correlations(dual) + meet_splits(atoms, split_dual))
            state = torch.add(state, projected - x, alpha=_OVER_RELAXATION)
            noise = noise + _OVER_RELAXATION * (delta - noise + NOISE_STEP * dual)
            own = own + _OVER_RELAXATION * (bounded - own - _SPLIT_STEP * split_dual)
            transfer = transfer + _OVER_RELAXATION * _TRANSFER_STEP * (split_dual @ members)
            self.x.lerp_(projected, weight)
            self._dual.lerp_(dual, weight)
            self._split_dual.lerp_(split_dual, weight)
            self.transfer.lerp_(transfer, weight)
        self._state, self._noise, self._own, self._transfer = state, noise, own, transfer

    def keep(self, samples: Tensor) -> None:
        super().keep(samples)
        for name in ("_own", "_transfer", "transfer", "_split_dual"):
            setattr(self, name, getattr(self, name)[:, samples])


@dataclass(frozen=True)
class _System:
    inverse: Tensor  # (2·2^n, 2·2^n) of the equations of outputs and splits together
    members: Tensor  # (2^n, n)


@lru_cache(maxsize=2)
def _system(atoms: Atoms) -> _System:
    n, device = atoms.n, atoms.steps.device
    identity = torch.eye(2**n, dtype=torch.float64, device=device)
    members = members_of(n, device)
    rows = torch.cat((atoms.correlations(identity), meet_splits(atoms, identity))).flatten(1)
    matrix = (rows * atoms.steps.flatten()) @ rows.T
    outputs, own = slice(0, 2**n), slice(2**n, None)
    matrix[outputs, outputs] += NOISE_STEP * identity
    matrix[own, own] += _SPLIT_STEP * identity + _TRANSFER_STEP * members @ members.T
    inverse = torch.linalg.inv(matrix)
    # the empty coalition has no equation
    inverse[[0, 2**n]] = 0.0
    inverse[:, [0, 2**n]] = 0.0
    return _System(inverse, members)


def shrink_together(x: Tensor, threshold: Tensor) -> Tensor:
    """Lower the largest magnitudes among the networks by `threshold` in all: the step that max_i |x^(i)| asks for.

    It is x less its projection on the ball of Σ_i |x^(i)| ≤ threshold, so a clip to the height at which the
    part above sums to the threshold: the largest (Σ of the largest j, less the threshold) / j.

    Args:
        x: (m, ..., 2, 2^n) coefficients.
        threshold: (2, 2^n) at least 0.

    Returns:
        (m, ..., 2, 2^n).
    """
    sums = largest_sums(x) - threshold
    height = sums[0]
    for count, sum_of_largest in enumerate(sums[1:], start=2):
        height = torch.maximum(height, sum_of_largest / count)
    height = height.clamp_min(0)
    return x.clamp(-height, height)
