"""Douglas-Rachford splitting of the sparsest AND-OR problem, batched over samples, with averaged iterates.

Each iteration shrinks the coefficients and clips the noise terms (that is all the objective asks), then projects
on the outputs (that is all the constraint asks). The projection is two small matrix products and one multiplication
by an inverse that depends on n and on one of two noise steps, so that 50 samples cost hardly more than one. The
iterates circle around the solution; their running average lies far inside the circle, and reaches a gap of 1% in a
third of the iterations.

How far coefficients, noise terms and the dual vector should move against each other differs between samples by
orders of magnitude: the outputs of an untrained network take large coefficients of both signs, and where the whole
sample's output is near the empty one's there is no room for noise. So each sample's steps are set anew, by how far
these parts have come, at a few iterations fixed in advance.

Every iteration is the same map for every sample and commutes with permutations of the players, so the answer
depends on the sample alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from interaction_monitor.functional._atoms import NOISE_STEP, Atoms

_UNIT = 0.03  # of coefficients against the dual vector, before anything is known of a sample
_NOISE_STEPS = (0.01, NOISE_STEP)  # where there is little room for noise, and elsewhere
_LITTLE_ROOM = 0.2  # the noise step that would suit a sample, below which the first is taken
_OVER_RELAXATION = 1.9
_AVERAGED_SHARE = 0.25
# After these iterations the steps are set anew, at first going on from the last iterate, later from the average.
# Chosen, as the share and the 0.9, on networks before, during and after training, and on functions made by hand.
_SET_STEPS = (25, 50, 100)
_RESTART = (200, 400)
_UNIT_PER_DISTANCE = 0.9


@dataclass(frozen=True)
class Problem:
    """Samples to explain: minimise Σ w|x| subject to B x + δ = u, |δ| ≤ ζ, in units where mean |u| is 1."""

    atoms: Atoms
    u: Tensor  # (S, 2^n) outputs less the empty coalition's
    zeta: Tensor  # (S, 1) bound of the noise terms

    def select(self, samples: Tensor) -> Problem:
        """Keep some of the samples."""
        return Problem(self.atoms, self.u[samples], self.zeta[samples])


class Splitting:
    """The state of the iteration for a batch of samples.

    Coefficients, noise terms and outputs are held in a unit of each sample's own, which is the step of the dual vector.

    Attributes:
        dual: (S, 2^n) averaged dual vector.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        atoms = problem.atoms
        self._unit = torch.full_like(problem.zeta, _UNIT)
        self._noise_step = torch.full_like(problem.zeta, _NOISE_STEPS[-1])
        self._state = torch.zeros_like(problem.u).unsqueeze(-2).repeat(1, 2, 1)
        self._noise = torch.zeros_like(problem.u)
        self._x, self._delta, self.dual = self._state.clone(), self._noise.clone(), self._noise.clone()
        self._iterations = self._averaged = 0
        self._threshold = (atoms.steps * atoms.weights).where(atoms.exists, 0.0)

    @property
    def x(self) -> Tensor:
        """(S, 2, 2^n) averaged coefficients; they match the outputs up to noise terms near their bounds."""
        return self._x * self._unit.unsqueeze(-1)

    def advance(self, iterations: int = 25) -> None:
        """Run so many iterations: enough between two checks that checking costs little."""
        problem, atoms = self.problem, self.problem.atoms
        state, noise = self._state, self._noise
        u, zeta = problem.u / self._unit, problem.zeta / self._unit
        project = self._projection()
        for _ in range(iterations):
            self._iterations += 1
            self._averaged += 1
            x = state - state.clamp(-self._threshold, self._threshold)
            delta = noise.clamp(-zeta, zeta)
            reflected = 2 * x - state
            dual = project(u - atoms.outputs(reflected) - (2 * delta - noise))
            projected = reflected.addcmul_(atoms.steps, atoms.correlations(dual))
            state = torch.add(state, projected - x, alpha=_OVER_RELAXATION)
            # projected noise: 2δ - noise + step·dual
            noise = noise + _OVER_RELAXATION * (delta - noise + self._noise_step * dual)
            weight = 1 / max(1.0, _AVERAGED_SHARE * self._averaged)
            self._x.lerp_(projected, weight)
            self._delta.lerp_(delta, weight)
            self.dual.lerp_(dual, weight)
        self._state, self._noise = state, noise
        if self._iterations in _RESTART:
            self._averaged = 0
            self._set_steps(self._x, self._delta, self.dual)
        elif self._iterations in _SET_STEPS:
            self._set_steps(projected, delta, dual)

    def keep(self, samples: Tensor) -> None:
        """Go on with some of the samples."""
        self.problem = self.problem.select(samples)
        for name in ("_unit", "_noise_step", "_state", "_noise", "_x", "_delta", "dual"):
            setattr(self, name, getattr(self, name)[samples])

    def _set_steps(self, x: Tensor, delta: Tensor, dual: Tensor) -> None:
        """Set each sample's steps by how far the averages have come from zero, and go on from this point."""
        atoms = self.problem.atoms
        steps = atoms.steps.where(atoms.exists, 1.0)
        distance = (self._x.square() / steps).sum((-2, -1))
        of_dual = (atoms.correlations(self.dual).square() * atoms.steps).sum((-2, -1))
        noise_distance, noise_of_dual = self._delta.square().sum(-1), self.dual.square().sum(-1)
        wanted = (noise_distance / noise_of_dual / (distance / of_dual)).sqrt() / _UNIT_PER_DISTANCE
        little, much = (torch.full_like(wanted, step) for step in _NOISE_STEPS)
        noise_step = little.where(wanted < _LITTLE_ROOM, much)
        change = (distance + noise_distance / noise_step) / (of_dual + noise_step * noise_of_dual)
        change = _UNIT_PER_DISTANCE * change.sqrt().unsqueeze(-1)
        change = change.where(change.isfinite() & (change > 0), 1.0)
        self._unit, self._noise_step = self._unit * change, noise_step.unsqueeze(-1)
        x, delta = x / change.unsqueeze(-1), delta / change
        self._x, self._delta = self._x / change.unsqueeze(-1), self._delta / change
        self._state = x + atoms.steps * atoms.correlations(dual)
        self._noise = delta + self._noise_step * dual

    def _projection(self) -> Callable[[Tensor], Tensor]:
        """Give the map from what the outputs miss to the dual vector, for each sample's noise step."""
        inverse = self.problem.atoms.inverse
        groups = [(step, (self._noise_step == step).squeeze(-1).nonzero().squeeze(-1)) for step in _NOISE_STEPS]
        groups = [(step, samples) for step, samples in groups if len(samples)]
        if len(groups) == 1:
            return lambda missed: missed @ inverse(groups[0][0])

        def project(missed: Tensor) -> Tensor:
            dual = torch.empty_like(missed)
            for step, samples in groups:
                dual[samples] = missed[samples] @ inverse(step)
            return dual

        return project
