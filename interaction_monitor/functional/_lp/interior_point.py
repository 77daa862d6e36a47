"""Primal-dual interior point for the samples on which the splitting is slow, or where much is asked.

A Mehrotra predictor-corrector method from a strictly feasible start: all AND dividends, no noise, no dual. Every
step solves one positive definite system per sample, B D Bᵀ + E with diagonal D and E. Its entries depend on the
intersection and the union of two coalitions alone, so it is written down by doubling blocks instead of multiplied.
Some 15 steps reach 1%, some 30 a millionth, whatever the sample; each costs a Cholesky factorisation of 2^n rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interaction_monitor.functional._lp.problem import Problem, complete_outputs, lower_bound

_LIFT = 1e-14  # of the largest diagonal entry, added to all: keeps rounding from making the matrix indefinite
_TO_BOUNDARY = 0.99  # share of the way to the boundary that a step may go


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
