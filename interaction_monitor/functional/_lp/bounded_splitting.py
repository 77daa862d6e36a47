"""The splitting with the bound on the splits of several networks, for the samples that reach it.

The split of a network, less v(∅)/2, is G x + Z₁ c with G = [Z, -Z_or]/2: an effect of order one may stand on
either side, and c moves it there at no charge. Added to the variables of `splitting` are h (free, the common split) and
s (clipped at the bound, the own part), and the equations G x + Z₁ c = h + s. h takes up the mean of these equations
over the networks whole, so they concern the deviations from the mean alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from interaction_monitor.functional._lp.problem import (
    Atoms,
    Problem,
    complete_outputs,
    complete_splits,
    lower_bound,
    meet_splits,
    members_of,
    splits,
)
from interaction_monitor.functional._lp.projection import Metric, symmetry
from interaction_monitor.functional._lp.splitting import shrink_together

_METRIC = Metric(0.6, 0.5)
_DUAL_STEP = 0.03
_NOISE_STEP = 2.0
_SPLIT_STEP = 2.0  # how far a split moves per unit of dual, as a noise term does
_TRANSFER_STEP = 1.0  # and an effect of order one, from OR to AND
_OVER_RELAXATION = 1.9
_AVERAGED_SHARE = 0.25


class BoundedSplitting:
    """The state of the iteration for a batch of samples."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        atoms = problem.atoms
        self._steps = _METRIC.steps(atoms)
        self._system = _system(atoms)
        self._noise = torch.zeros_like(problem.u)
        self._dual, self._own, self._split_dual = (torch.zeros_like(problem.u) for _ in range(3))
        self._state = self._noise.unsqueeze(-2).repeat(1, 1, 2, 1)
        self._x = torch.zeros_like(self._state)
        self._moved = torch.zeros_like(problem.u[..., : atoms.n])
        self._transfer = torch.zeros_like(self._moved)
        self._iterations = 0
        threshold = (_DUAL_STEP * self._steps * atoms.weights).where(atoms.exists, 0.0)
        self._together = threshold / (1 + problem.alpha)
        self._each = threshold - self._together

    def answer(self) -> Tensor:
        """Give (m, S, 2, 2^n) coefficients that fulfil the problem's constraints."""
        return complete_splits(self.problem, complete_outputs(self.problem, self._x), self._transfer)

    def bound(self) -> Tensor:
        """Give (S,) bounds that no coefficients can beat."""
        return lower_bound(self.problem, self._dual / _DUAL_STEP, self._split_dual / _DUAL_STEP)

    def advance(self, iterations: int = 50) -> None:
        """Run so many iterations."""
        atoms, problem, system = self.problem.atoms, self.problem, self._system
        state, noise, own, moved = self._state, self._noise, self._own, self._moved
        for _ in range(iterations):
            self._iterations += 1
            x = shrink_together(state - state.clamp(-self._each, self._each), self._together)
            delta = noise.clamp(-problem.zeta, problem.zeta)
            bounded = own.clamp(-problem.share_bound, problem.share_bound)
            reflected = 2 * x - state
            missed = problem.u - atoms.outputs(reflected) - (2 * delta - noise)
            apart = 2 * bounded - own - splits(atoms, reflected) - moved @ system.members.T
            mean = missed.mean(0)
            deviations = system.both.solve(torch.stack((missed - mean, apart - apart.mean(0)), -2))
            dual, split_dual = deviations.unbind(-2)
            dual = dual + system.outputs.solve(mean.unsqueeze(-2)).squeeze(-2)
            correlations = atoms.correlations(dual) + meet_splits(atoms, split_dual)
            projected = reflected.addcmul_(self._steps, correlations)
            state = torch.add(state, projected - x, alpha=_OVER_RELAXATION)
            noise = noise + _OVER_RELAXATION * (delta - noise + _NOISE_STEP * dual)
            own = own + _OVER_RELAXATION * (bounded - own - _SPLIT_STEP * split_dual)
            moved = moved + _OVER_RELAXATION * _TRANSFER_STEP * (split_dual @ system.members)
            weight = 1 / max(1.0, _AVERAGED_SHARE * self._iterations)
            self._x.lerp_(projected, weight)
            self._dual.lerp_(dual, weight)
            self._split_dual.lerp_(split_dual, weight)
            self._transfer.lerp_(moved, weight)
        self._state, self._noise, self._own, self._moved = state, noise, own, moved

    def restrict_to(self, samples: Tensor) -> None:
        """Go on with some of the samples."""
        self.problem = self.problem.select(samples)
        for name in ("_state", "_noise", "_own", "_moved", "_x", "_dual", "_split_dual", "_transfer"):
            setattr(self, name, getattr(self, name)[:, samples])


class _SymmetricInverse:
    """The inverse of an operator, positive definite and treating players alike, on vectors over coalitions."""

    def __init__(self, apply: Callable[[Tensor], Tensor], n: int, vectors: int, device: torch.device) -> None:
        parts = symmetry(n)
        self._high, self._low = parts.high.to(device), parts.low.to(device)
        self._blocks = []
        for block in parts.blocks:
            functions = block.representatives().to(device)
            levels = len(functions)
            placed = functions.new_zeros(vectors, levels, vectors, functions.shape[-1])
            for vector in range(vectors):
                placed[vector, :, vector] = functions
            matrix = (apply(placed.flatten(0, 1)) @ functions.T).reshape(vectors * levels, vectors * levels)
            self._blocks.append((block.rows.to(device), torch.linalg.inv((matrix + matrix.T) / 2)))

    def solve(self, values: Tensor) -> Tensor:
        """Apply it, (..., vectors, 2^n) -> (..., vectors, 2^n)."""
        vectors, size = values.shape[-2:]
        table = values.reshape(-1, vectors, len(self._high), len(self._low))
        basis = (self._high @ table @ self._low.T).reshape(-1, vectors, size)
        solved = torch.empty_like(basis)
        for rows, inverse in self._blocks:
            part = basis[..., rows].flatten(1, 2)
            solved[..., rows] = (inverse @ part).unflatten(1, (vectors, -1))
        table = solved.reshape(-1, vectors, len(self._high), len(self._low))
        return (self._high.T @ table @ self._low).reshape(values.shape)


class _System:
    """The equations' inverses and which player is in which coalition."""

    def __init__(self, atoms: Atoms) -> None:
        device = atoms.weights.device
        steps = _METRIC.steps(atoms)
        members = members_of(atoms.n, device)
        empty = (atoms.order == 0).double()

        def outputs(values: Tensor) -> Tensor:
            moved = steps * atoms.correlations(values[:, 0])
            # the empty coalition has no equation
            return (atoms.outputs(moved) + _NOISE_STEP * values[:, 0]).unsqueeze(-2)

        def both(values: Tensor) -> Tensor:
            moved = steps * (atoms.correlations(values[:, 0]) + meet_splits(atoms, values[:, 1]))
            of_splits = splits(atoms, moved) + _SPLIT_STEP * values[:, 1]
            of_splits = of_splits + _TRANSFER_STEP * (values[:, 1] @ members) @ members.T
            return torch.stack((atoms.outputs(moved) + _NOISE_STEP * values[:, 0], of_splits), -2) * (1 - empty) + (
                values * empty
            )

        self.members = members
        self.outputs = _SymmetricInverse(outputs, atoms.n, 1, device)
        self.both = _SymmetricInverse(both, atoms.n, 2, device)


@lru_cache(maxsize=2)
def _system(atoms: Atoms) -> _System:
    return _System(atoms)
