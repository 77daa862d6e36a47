"""Operators on coalitions that treat all players alike, as small blocks instead of a 2^n x 2^n matrix.

Split the players into two halves. An operator that commutes with every permutation of the players commutes with those
within each half. In the chain basis of a half such operators act on the levels alone: take the functions on level k
that the lowering operator kills, and raise each through the levels k to h - k. So in the product of the two bases
the operator is block diagonal, one block of (h₁ - 2k₁ + 1)(h₂ - 2k₂ + 1) rows for each pair (k₁, k₂), the same for
every pair of chains: 36 rows at most for n = 10, 81 for n = 16.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor

from interaction_monitor.functional.coalitions import orders

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


@dataclass(frozen=True)
class ChainBasis:
    """An orthonormal basis of the functions on the coalitions of h players, chain by chain."""

    matrix: Tensor  # (2^h, 2^h) rows: by k, then level, then chain
    chains: tuple[tuple[int, int, int], ...]  # of each k: first row, levels, chains


def chain_basis(h: int) -> ChainBasis:
    """Make the chain basis of h players; h may be 0."""
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
    return ChainBasis(torch.cat(rows), tuple(chains))


@dataclass(frozen=True)
class Symmetry:
    """The chain bases of both halves of n players, and the blocks that they make."""

    n: int
    high: Tensor  # (2^(n//2), 2^(n//2)) orthonormal rows
    low: Tensor  # (2^(n - n//2), 2^(n - n//2)) orthonormal rows
    blocks: tuple[Block, ...]


def symmetry(n: int) -> Symmetry:
    """Make the blocks of n players."""
    high, low = chain_basis(n // 2), chain_basis(n - n // 2)
    blocks = []
    for high_first, high_levels, high_count in high.chains:
        for low_first, low_levels, low_count in low.chains:
            high_rows = high_first + torch.arange(high_levels * high_count, device=_CPU).reshape(
                high_levels, 1, high_count, 1
            )
            low_rows = low_first + torch.arange(low_levels * low_count, device=_CPU).reshape(
                1, low_levels, 1, low_count
            )
            rows = (high_rows * len(low.matrix) + low_rows).reshape(high_levels * low_levels, -1)
            first_high = high.matrix[high_first : high_first + high_levels * high_count : high_count]
            first_low = low.matrix[low_first : low_first + low_levels * low_count : low_count]
            blocks.append(Block(rows, first_high, first_low))
    return Symmetry(n, high.matrix, low.matrix, tuple(blocks))
