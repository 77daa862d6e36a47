"""What solves the samples that the splitting leaves: an interior point, and a splitting that keeps networks together.

The interior point is a Mehrotra predictor-corrector method from a strictly feasible start: all AND dividends, no noise,
no dual. Every step solves one positive definite system per sample, B D Bᵀ + E with diagonal D and E. Its entries depend
on the intersection and the union of two coalitions alone, so it is written down by doubling blocks instead of
multiplied. Some 15 steps reach 1%, some 30 a millionth, whatever the sample; each costs a Cholesky factorisation of 2^n
rows.

The bounded splitting is for samples on which the splits of several networks come too far apart. The split of a network,
less v(∅)/2, is G x + Z₁ c with G = [Z, -Z_or]/2: an effect of order one may stand on either side, and c moves it there
at no charge. Added to the variables of `splitting` are h (free, the common split) and s (clipped at the bound, the own
part), and the equations G x + Z₁ c = h + s. h takes up the mean of these equations over the networks whole, so they
concern the deviations from the mean alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from interaction_monitor.functional._solver.problem import (
    Atoms,
    Problem,
    complete_outputs,
    complete_splits,
    lower_bound,
    meet_splits,
    members_of,
    splits,
)
from interaction_monitor.functional._solver.projection import Metric, symmetry
from interaction_monitor.functional._solver.splitting import shrink_together

_LIFT = 1e-14  # of the largest diagonal entry, added to all: keeps rounding from making the matrix indefinite
_TO_BOUNDARY = 0.99  # share of the way to the boundary that a step may go

_METRIC = Metric(0.6, 0.5)
_DUAL_STEP = 0.1  # of 0.01 to 0.3 the best for networks that are alike; half the iterations of 0.03, a quarter of 0.01
_NOISE_STEP = 2.0
_SPLIT_STEP = 2.0  # how far a split moves per unit of dual, as a noise term does
_TRANSFER_STEP = 1.0  # and an effect of order one, from OR to AND
_OVER_RELAXATION = 1.9
_AVERAGED_SHARE = 0.25


class InteriorPoint:
    """The state of the method for a batch of samples of one network.

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
