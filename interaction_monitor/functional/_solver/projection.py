"""Inverses of what treats all players alike, for all samples together, without a matrix of 2^n rows.

Each step of the splitting needs (B D Bᵀ + c I)⁻¹ between B and Bᵀ. With steps D that fall or rise by a factor with
each order, B D and Bᵀ are Kronecker powers but for the atoms that do not exist; the inverse treats all players alike,
so in the product of two chain bases it is a few small blocks. The change of basis is merged with B D and
Bᵀ, and each block is kept as eigenvectors and eigenvalues, so that every sample may have a c of its own.

Why blocks: split the players into two halves. An operator that commutes with every permutation of the players commutes
with those within each half. In the chain basis of a half such operators act on the levels alone: take the functions on
level k that the lowering operator kills, and raise each through the levels k to h - k. So in the product of the two
bases the operator is block diagonal, one block of (h₁ - 2k₁ + 1)(h₂ - 2k₂ + 1) rows for each pair (k₁, k₂), the same
for every pair of chains: 36 rows at most for n = 10, 81 for n = 16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import comb

import torch
from torch import Tensor

from interaction_monitor.functional._solver.problem import Atoms, atoms_of, kronecker_power
from interaction_monitor.functional.interactions import orders

_CPU = torch.device("cpu")  # made once per n, in a moment


@dataclass(frozen=True)
class Block:
    """The rows of one pair (k₁, k₂) in the product of the two chain bases."""

    rows: Tensor  # (levels, copies) indices into the product basis, high half times low half
    high: Tensor  # one chain of the high half, (its levels, 2^(n//2))
    low: Tensor  # one chain of the low half, (its levels, 2^(n - n//2))

    def representatives(self) -> Tensor:
        """(levels, 2^n) this pair of chains, as functions of coalitions."""
        return torch.kron(self.high, self.low)


def chain_basis(h: int) -> tuple[Tensor, list[tuple[int, int, int]]]:
    """Make an orthonormal basis of the functions on the coalitions of h players, chain by chain; h may be 0.

    The rows are by k, then level, then chain. With them come first row, levels and chains of each k.
    """
    order = orders(h, _CPU)
    index = torch.arange(2**h, device=_CPU)
    raising = torch.zeros(2**h, 2**h, dtype=torch.float64, device=_CPU)
    for player in range(h):
        having = index[(index >> player & 1) == 1]
        raising[having, having ^ (1 << player)] = 1.0
    rows, chains, first = [], [], 0
    for k in range(h // 2 + 1):
        level = (order == k).nonzero().squeeze(1)
        count = comb(h, k) - (comb(h, k - 1) if k else 0)
        functions = torch.zeros(count, 2**h, dtype=torch.float64, device=_CPU)
        if k:
            lowering = raising.T[order == k - 1][:, level]
            functions[:, level] = torch.linalg.svd(lowering).Vh[len(level) - count :]
        else:
            functions[0, 0] = 1.0
        levels = h - 2 * k + 1
        for _ in range(levels):
            rows.append(functions / functions.norm(dim=1, keepdim=True))
            functions = functions @ raising.T
        chains.append((first, levels, count))
        first += levels * count
    return torch.cat(rows), chains


def symmetry(n: int) -> tuple[Tensor, Tensor, list[Block]]:
    """Give the chain bases of the high and of the low half of n players, and the blocks that they make."""
    (high, high_chains), (low, low_chains) = chain_basis(n // 2), chain_basis(n - n // 2)
    blocks = []
    for high_first, high_levels, high_count in high_chains:
        for low_first, low_levels, low_count in low_chains:
            high_rows = torch.arange(high_first, high_first + high_levels * high_count, device=_CPU)
            low_rows = torch.arange(low_first, low_first + low_levels * low_count, device=_CPU)
            rows = len(low) * high_rows.view(high_levels, 1, -1, 1) + low_rows.view(1, low_levels, 1, -1)
            rows = rows.reshape(high_levels * low_levels, -1)
            blocks.append(Block(rows, high[high_rows[::high_count]], low[low_rows[::low_count]]))
    return high, low, blocks


class SymmetricInverse:
    """The inverse of an operator, positive definite and treating players alike, on vectors over coalitions."""

    def __init__(self, apply: Callable[[Tensor], Tensor], n: int, vectors: int, device: torch.device) -> None:
        high, low, blocks = symmetry(n)
        self._high, self._low = high.to(device), low.to(device)
        self._blocks = []
        for block in blocks:
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


@dataclass(frozen=True)
class Metric:
    """How far atoms and noise terms move per unit of dual."""

    per_order: float  # atoms by per_order^|S| times a constant
    or_share: float  # and OR atoms by so much of that
    least_noise: float  # noise terms by at least
    most_noise: float  # and at most

    def unit(self, n: int) -> float:
        """The constant: steps of the middle orders are near one whatever n, so that one dual step suits every n."""
        return float(self.per_order ** (-0.4 * n))

    def steps(self, atoms: Atoms) -> Tensor:
        """(2, 2^n) the steps; 0 where there is no atom."""
        steps = self.unit(atoms.n) * self.per_order**atoms.order
        return torch.stack((steps, self.or_share * steps)).where(atoms.exists, 0.0)


# Steps that suit networks: less for high orders. Chosen on outputs of small CNNs before, during and after training,
# where ±50% of any of them changes the number of iterations by less than 20%.
NETWORKS = Metric(per_order=0.6, or_share=0.5, least_noise=0.003, most_noise=4.0)
# Steps for what is all in the high orders: the AND or OR of all players, parity, randomness.
HIGH_ORDERS = Metric(per_order=1.6, or_share=1.0, least_noise=0.01, most_noise=100.0)


class Projection:
    """The matrices of the projection on the outputs' equations, for n players, a metric, a dtype and a device.

    Fields are (3·2^(n//2), samples, 2^(n - n//2)): AND, OR, and a vector over coalitions, the high half of the players
    first. So every product is one with a small matrix.

    Attributes:
        into: (H, 3H) and (3, L, L) factors from the fields' r, r and q to Uᵀ(q - B D r).
        back: (3H, H) and (3, L, L) factors from the basis to Bᵀν and ν.
        blocks: of each block first row, levels and copies in the rows' order, and (levels, levels) eigenvectors.
        values: (2^n,) eigenvalues of B D Bᵀ in the rows' order, float64.
        rows: (2^n,) which row of the product basis stands where.
        single: order-one coalitions of the high and of the low half.
    """

    def __init__(self, atoms: Atoms, metric: Metric, dtype: torch.dtype) -> None:
        n, device = atoms.n, atoms.weights.device
        high, low = n // 2, n - n // 2
        high_basis, low_basis, blocks = symmetry(n)
        unit = metric.unit(n)
        moves_high, moves_low = (kronecker_power([[1.0, 0.0], [1.0, metric.per_order]], k, _CPU) for k in (high, low))
        inside_high, inside_low = (kronecker_power([[1.0, 0.0], [1.0, 1.0]], k, _CPU) for k in (high, low))

        def ready(matrix: Tensor) -> Tensor:
            return matrix.to(device, dtype).contiguous()

        self.height, self.width = 2**high, 2**low
        # the OR atoms' constant 1 is left to the blocks of the symmetric part, see `_between`
        of_or = metric.or_share * unit * high_basis @ moves_high.flip(0)
        self.into_high = ready(torch.cat((-unit * high_basis @ moves_high, of_or, high_basis), 1))
        self.into_low = ready(torch.stack((low_basis @ moves_low, low_basis @ moves_low.flip(0), low_basis)).mT)
        back_high = (high_basis @ inside_high, -high_basis @ inside_high.flip(0), high_basis)
        self.back_high = ready(torch.cat([matrix.T for matrix in back_high]))
        self.back_low = ready(torch.stack((low_basis @ inside_low, low_basis @ inside_low.flip(0), low_basis)))
        self.steps = metric.steps(atoms)
        self.single = [1 << torch.arange(k, device=device) for k in (high, low)]
        self.blocks: list[tuple[int, int, int, Tensor]] = []
        values, first = [], 0
        for block in blocks:
            levels, copies = block.rows.shape
            functions = block.representatives()
            reached = atoms.outputs(self.steps * atoms.correlations(functions.to(device))).cpu()
            matrix = reached @ functions.T
            of_block, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
            if first == 0:
                vectors = _between(vectors, functions)
            self.blocks.append((first, levels, copies, ready(vectors)))
            values.append(of_block.clamp_min(0).repeat_interleave(copies))
            first += levels * copies
        self.values = torch.cat(values).to(device)
        self.rows = torch.cat([block.rows.flatten() for block in blocks]).to(device)

    def fields(self, values: Tensor) -> Tensor:
        """Lay (samples, k, 2^n) out as (k·H, samples, L)."""
        count = values.shape[1]
        return values.reshape(-1, count * self.height, self.width).transpose(0, 1).contiguous()

    def samples(self, fields: Tensor) -> Tensor:
        """Lay (k·H, samples, L) out as (samples, k, 2^n)."""
        return fields.transpose(0, 1).reshape(fields.shape[1], -1, self.height * self.width)


class Workspace:
    """A projection with the memory for so many samples, each with its noise step.

    Attributes:
        fields: (3H, samples, L) what to project, and after it what comes out.
    """

    def __init__(self, projection: Projection, noise_step: Tensor) -> None:
        """Take the memory; `noise_step` is (samples,) float64, the c of each."""
        self._projection = projection
        samples, height, width = len(noise_step), projection.height, projection.width
        like = projection.into_high
        self.fields = like.new_empty(3 * height, samples, width)
        self._products = like.new_empty(3 * height, samples, width)
        self._basis, self._ordered = like.new_empty(2, height * samples * width)
        places = (projection.rows // width) * samples * width + projection.rows % width
        self._order = (places[:, None] + width * torch.arange(samples, device=places.device)).flatten()
        self._back = torch.empty_like(self._order)
        self._back[self._order] = torch.arange(len(self._order), device=places.device)
        self._gain = (1 / (projection.values[:, None] + noise_step)).to(like.dtype).flatten()
        self._to_values, self._from_values = [], []
        for first, levels, copies, vectors in projection.blocks:
            part = slice(first * samples, (first + levels * copies) * samples)
            basis, ordered = self._basis[part].view(levels, -1), self._ordered[part].view(levels, -1)
            self._to_values.append((vectors.T, ordered, basis))
            self._from_values.append((vectors, basis, ordered))
        self._table, self._tall = self._basis.view(height, -1), self._products.view(3 * height, -1)
        self._kinds, self._low_products = self.fields.view(3, -1, width), self._products.view(3, -1, width)
        high, low = projection.single
        # the empty one, and OR's singles
        rows = torch.cat((height * torch.arange(3, device=high.device), height + high))
        columns = torch.arange(samples, device=high.device)
        absent = (rows[:, None] * samples + columns) * width, (height * samples + columns[:, None]) * width + low
        self._absent = torch.cat([places.flatten() for places in absent])

    def project(self) -> None:
        """Turn r, r and q of the fields, in place, into Bᵀν and ν for ν = (B D Bᵀ + c I)⁻¹ (q - B D r).

        0 for the atoms that do not exist and for the empty coalition.
        """
        torch.bmm(self._kinds, self._projection.into_low, out=self._low_products)
        torch.mm(self._projection.into_high, self._tall, out=self._table)
        torch.index_select(self._basis, 0, self._order, out=self._ordered)
        _multiply(self._to_values)
        self._basis.mul_(self._gain)
        _multiply(self._from_values)
        torch.index_select(self._ordered, 0, self._back, out=self._basis)
        torch.mm(self._projection.back_high, self._table, out=self._tall)
        torch.bmm(self._low_products, self._projection.back_low, out=self._kinds)
        self.fields.view(-1).index_fill_(0, self._absent, 0)


def _multiply(products: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    for left, right, out in products:
        torch.mm(left, right, out=out)


def _between(vectors: Tensor, functions: Tensor) -> Tensor:
    r"""Put (I - e 1ᵀ) behind the eigenvectors of the symmetric functions, e being 1 on the empty coalition.

    An OR atom is 1 less what misses it: 1(S ∩ T ≠ ∅) = 1 - 1(S ⊆ N\T). The 1 is what the product without it gives at
    the empty coalition, and so is taken off there, on the way in and on the way back.
    """
    empty, ones = functions[:, 0], functions.sum(1)
    return vectors - torch.outer(empty, ones @ vectors)


@lru_cache(maxsize=8)
def projection_of(n: int, metric: Metric, dtype: torch.dtype, device: torch.device) -> Projection:
    """Give the projection for n players, made once."""
    return Projection(atoms_of(n, 0.0, device), metric, dtype)
