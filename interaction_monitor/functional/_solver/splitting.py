"""Douglas-Rachford splitting of the sparsest AND-OR problem, batched over samples, with averaged iterates.

Each iteration shrinks the coefficients and clips the noise terms (that is all the objective asks), then projects
on the outputs (that is all the constraint asks), every network and sample on its own. The coefficients of one pattern
in several networks shrink together: what is charged is the largest among the networks, and α times each. The iterates
circle around the solution; their running average lies far inside the circle, and reaches a gap of 1% in a third of
the iterations.

How far coefficients, noise terms and the dual vector should move against each other differs between samples by
orders of magnitude: the outputs of an untrained network take large coefficients of both signs, and where the whole
sample's output is near the empty one's there is no room for noise. So each sample's steps are set anew, by how far
these parts have come, at iterations fixed in advance.

Every iteration is the same map for every sample and commutes with permutations of the players, so the answer
depends on the sample alone.

Where the splits of several networks come too far apart, they join in. The split of a network, less v(∅)/2, is
G x + Z₁ c with G = [Z, -Z_or]/2: an effect of order one may stand on either side, and c moves it there at no charge.
Added to the variables are h (free, the common split) and s (clipped at the bound, the own part), and the equations
G x + Z₁ c = h + s. h takes up the mean of these equations over the networks whole, so they concern the deviations from
the mean alone.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from interaction_monitor.functional._solver.problem import (
    Atoms,
    Problem,
    complete_outputs,
    complete_splits,
    largest_sums,
    lower_bound,
    meet_splits,
    members_of,
    splits,
)
from interaction_monitor.functional._solver.projection import (
    NETWORKS,
    Metric,
    SymmetricInverse,
    Workspace,
    projection_of,
)

_UNIT = 0.03  # of coefficients against the dual vector, before anything is known of a sample
_NOISE_STEP = 2.0  # and of noise terms
_OVER_RELAXATION = 1.9
_AVERAGED_SHARE = 0.25
_AVERAGE_EVERY = 5  # neighbouring iterates say nearly the same
# The steps are set anew after 25 iterations, 50, 100 and so on, from 200 on starting again from the average.
# Chosen, as the share and the 0.9, on networks before, during and after training, and on functions made by hand.
_SET_STEPS = 25
_RESTART = 200
_UNIT_PER_DISTANCE = 0.9
# Where the splits join in the steps stay.
_DUAL_STEP = 0.1  # of 0.01 to 0.3 the best for networks that are alike; half the iterations of 0.03, a quarter of 0.01
_SPLIT_STEP = 2.0  # how far a split moves per unit of dual, as a noise term does
_TRANSFER_STEP = 1.0  # and an effect of order one, from OR to AND


class Splitting:
    """The state of the iteration for a batch of samples.

    Coefficients, noise terms and outputs are held in a unit of each sample's own, which is the step of the dual vector,
    and the coefficients in units of their steps, so that the correlations with the dual vector add to them as they are.
    Networks and samples share an axis, network by network.
    """

    def __init__(self, problem: Problem, metric: Metric, dtype: torch.dtype) -> None:
        self.problem, self.metric, self.dtype = problem, metric, dtype
        self._networks, zeta = len(problem.u), problem.zeta
        self._projection = projection_of(problem.atoms.n, metric, dtype, zeta.device)
        self._unit = torch.full_like(zeta[0, :, 0], _UNIT)
        self._noise_step = torch.full_like(self._unit, _NOISE_STEP)
        self._moves = self._projection.fields(self._projection.steps[None])  # (2H, 1, L) the steps of the atoms
        self._together = self._projection.fields(problem.charges[None]).to(dtype)
        self._each = problem.alpha * self._together
        self._most = self._together + self._each
        self._least = -self._most
        start = torch.zeros_like(self._lay_out(problem.u), dtype=dtype)
        self._state, self._noise = start.repeat(2, 1, 1), start
        self._average = start.repeat(4, 1, 1)  # coefficients, dual vector and noise terms
        self._iterations = self._averaged = 0
        self._prepare()

    def answer(self) -> Tensor:
        """Give (m, S, 2, 2^n) coefficients that fulfil the problem's constraints."""
        unit = self._unit.repeat(self._networks)[:, None]
        x = self._parts(self._average)[0].double() * self._moves * unit
        return complete_outputs(self.problem, self._by_network(self._projection.samples(x)))

    def bound(self) -> Tensor:
        """Give (S,) bounds that no coefficients can beat."""
        dual = self._projection.samples(self._parts(self._average)[1].double())
        return lower_bound(self.problem, self._by_network(dual)[..., 0, :])

    def advance(self, iterations: int = 50) -> None:
        """Run so many iterations: enough between two checks that checking costs little."""
        for _ in range(iterations):
            self._iterations += 1
            self._iterate()
            doublings, rest = divmod(self._iterations, _SET_STEPS)
            if not rest and doublings & (doublings - 1) == 0:
                if self._iterations >= _RESTART:
                    self._averaged = 0
                    self._projected.copy_(self._average)
                self._set_steps()

    def _iterate(self) -> None:
        state, noise, clipped, delta = self._state, self._noise, self._clipped, self._delta
        coefficients, last = self._coefficients, self._last
        self._clip(state, clipped)
        torch.clamp(noise, self._lowest, self._zeta, out=delta)
        torch.add(state, clipped, alpha=-2, out=coefficients)
        torch.add(self._u, noise, out=last).sub_(delta, alpha=2)
        self._workspace.project()
        coefficients.sub_(clipped)
        if self._iterations % _AVERAGE_EVERY == 0:
            self._averaged += 1
            x, dual, of_noise = self._parts(self._projected)
            torch.sub(state, clipped, out=x).add_(coefficients)
            dual.copy_(last)
            of_noise.copy_(delta)
            self._average.lerp_(self._projected, 1 / max(1.0, _AVERAGED_SHARE * self._averaged))
        state.add_(coefficients, alpha=_OVER_RELAXATION)
        # projected noise: 2δ - noise + step·dual
        noise.lerp_(delta, _OVER_RELAXATION).addcmul_(last, self._noise_moves, value=_OVER_RELAXATION)

    def restrict_to(self, samples: Tensor) -> None:
        """Go on with some of the samples."""
        self.problem = self.problem.select(samples)
        self._unit, self._noise_step = self._unit[samples], self._noise_step[samples]
        columns = samples.repeat(self._networks)
        for name in ("_state", "_noise", "_average"):
            setattr(self, name, getattr(self, name)[:, columns])
        self._prepare()

    def _parts(self, fields: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Part (4H, samples, L) into coefficients, dual vector and noise terms."""
        height = self._projection.height
        return fields[: 2 * height], fields[2 * height : 3 * height], fields[3 * height :]

    def _clip(self, state: Tensor, out: Tensor) -> None:
        """Take from the state what shrinking takes from the coefficients."""
        if self._networks == 1:
            torch.clamp(state, self._least, self._most, out=out)
            return
        each = state.clamp(-self._each, self._each)
        of_networks = self._by_network((state - each).transpose(0, 1)).transpose(1, 2)
        shrunk = shrink_together(of_networks, self._together).movedim(0, 1).flatten(1, 2)
        torch.sub(state, shrunk, out=out)

    def _set_steps(self) -> None:
        """Set each sample's steps by how far the averages have come from zero, and go on from this point."""
        x, dual, delta = self._parts(self._average.double())
        noise_distance, noise_of_dual = self._total(delta.square()), self._total(dual.square())
        distance = self._total(x.square() * self._moves)
        of_dual = self._total(self._correlations(dual).square() * self._moves)
        wanted = (noise_distance / noise_of_dual / (distance / of_dual)).sqrt() / _UNIT_PER_DISTANCE
        noise_step = wanted.nan_to_num(_NOISE_STEP).clamp(self.metric.least_noise, self.metric.most_noise)
        change = (distance + noise_distance / noise_step) / (of_dual + noise_step * noise_of_dual)
        change = _UNIT_PER_DISTANCE * change.sqrt()
        change = change.where(change.isfinite() & (change > 0), 1.0)
        self._unit, self._noise_step = self._unit * change, noise_step
        columns = change.repeat(self._networks)[:, None]
        self._average = torch.cat((x / columns, dual, delta / columns)).to(self.dtype)
        x, dual, delta = self._parts(self._projected.double())
        self._state = (x / columns + self._correlations(dual)).to(self.dtype)
        step = noise_step.repeat(self._networks)[:, None]
        self._noise = (delta / columns + step * dual).to(self.dtype)
        self._prepare()

    def _prepare(self) -> None:
        """Bring outputs and bounds into each sample's units, and take the memory."""
        dtype, width = self.dtype, self._projection.width
        unit, step = (x.repeat(self._networks)[:, None] for x in (self._unit, self._noise_step))
        self._u = (self._lay_out(self.problem.u) / unit).to(dtype)
        self._zeta = (self.problem.zeta.flatten(0, 1) / unit).to(dtype).expand(-1, width).contiguous()
        self._lowest = -self._zeta
        self._noise_moves = step.to(dtype).expand(-1, width).contiguous()
        self._workspace = Workspace(self._projection, step.squeeze(-1))
        self._coefficients, self._last = self._workspace.fields.tensor_split((len(self._state),))
        self._projected, self._clipped = torch.empty_like(self._average), torch.empty_like(self._state)
        self._delta = torch.empty_like(self._noise)

    def _lay_out(self, u: Tensor) -> Tensor:
        return self._projection.fields(u.flatten(0, 1)[:, None])

    def _correlations(self, dual: Tensor) -> Tensor:
        met = self.problem.atoms.correlations(self._projection.samples(dual)[:, 0])
        return self._projection.fields(met)

    def _total(self, fields: Tensor) -> Tensor:
        return self._by_network(fields.sum((0, 2))).sum(0)

    def _by_network(self, columns: Tensor) -> Tensor:
        return columns.reshape(self._networks, -1, *columns.shape[1:])


class BoundedSplitting:
    """The state of the iteration in which the networks' splits join, for a batch of samples."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        atoms = problem.atoms
        self._steps = NETWORKS.steps(atoms)
        self._members, self._mean_inverse, self._inverse = _systems(atoms)
        self._noise = torch.zeros_like(problem.u)
        self._dual, self._own, self._split_dual = (torch.zeros_like(problem.u) for _ in range(3))
        self._state = self._noise.unsqueeze(-2).repeat(1, 1, 2, 1)
        self._x = torch.zeros_like(self._state)
        self._moved = torch.zeros_like(problem.u[..., : atoms.n])
        self._transfer = torch.zeros_like(self._moved)
        self._iterations = 0
        self._together = _DUAL_STEP * self._steps * problem.charges
        self._each = problem.alpha * self._together

    def answer(self) -> Tensor:
        """Give (m, S, 2, 2^n) coefficients that fulfil the problem's constraints."""
        return complete_splits(self.problem, complete_outputs(self.problem, self._x), self._transfer)

    def bound(self) -> Tensor:
        """Give (S,) bounds that no coefficients can beat."""
        return lower_bound(self.problem, self._dual / _DUAL_STEP, self._split_dual / _DUAL_STEP)

    def advance(self, iterations: int = 50) -> None:
        """Run so many iterations."""
        atoms, problem, members = self.problem.atoms, self.problem, self._members
        state, noise, own, moved = self._state, self._noise, self._own, self._moved
        for _ in range(iterations):
            self._iterations += 1
            x = shrink_together(state - state.clamp(-self._each, self._each), self._together)
            delta = noise.clamp(-problem.zeta, problem.zeta)
            bounded = own.clamp(-problem.share_bound, problem.share_bound)
            reflected = 2 * x - state
            missed = problem.u - atoms.outputs(reflected) - (2 * delta - noise)
            apart = 2 * bounded - own - splits(atoms, reflected) - moved @ members.T
            mean = missed.mean(0)
            deviations = torch.stack((missed - mean, apart - apart.mean(0)), -2)
            dual, split_dual = self._inverse.solve(deviations).unbind(-2)
            dual = dual + self._mean_inverse.solve(mean.unsqueeze(-2)).squeeze(-2)
            correlations = atoms.correlations(dual) + meet_splits(atoms, split_dual)
            projected = reflected.addcmul_(self._steps, correlations)
            state = torch.add(state, projected - x, alpha=_OVER_RELAXATION)
            noise = noise + _OVER_RELAXATION * (delta - noise + _NOISE_STEP * dual)
            own = own + _OVER_RELAXATION * (bounded - own - _SPLIT_STEP * split_dual)
            moved = moved + _OVER_RELAXATION * _TRANSFER_STEP * (split_dual @ members)
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


@lru_cache(maxsize=2)
def _systems(atoms: Atoms) -> tuple[Tensor, SymmetricInverse, SymmetricInverse]:
    """Give which player is in which coalition, and invert the outputs' equations, and these and the splits'."""
    steps, device = NETWORKS.steps(atoms), atoms.weights.device
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
        of_both = torch.stack((atoms.outputs(moved) + _NOISE_STEP * values[:, 0], of_splits), -2)
        return of_both * (1 - empty) + values * empty

    return members, SymmetricInverse(outputs, atoms.n, 1, device), SymmetricInverse(both, atoms.n, 2, device)


def shrink_together(x: Tensor, threshold: Tensor) -> Tensor:
    """Lower the largest of (m, ...) magnitudes by a (...) threshold in all: the step that max_i |x^(i)| asks for.

    It is x less its projection on the ball of Σ_i |x^(i)| ≤ threshold, so a clip to the height at which the
    part above sums to the threshold: the largest (Σ of the largest j, less the threshold) / j.
    """
    sums = largest_sums(x) - threshold
    height = sums[0]
    for count, sum_of_largest in enumerate(sums[1:], start=2):
        height = torch.maximum(height, sum_of_largest / count)
    height = height.clamp_min(0)
    return x.clamp(-height, height)
