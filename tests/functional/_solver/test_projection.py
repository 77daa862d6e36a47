from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interaction_monitor.functional._solver.problem import atoms_of, meet_splits, members_of
from interaction_monitor.functional._solver.projection import (
    HIGH_ORDERS,
    NETWORKS,
    Metric,
    Projection,
    Workspace,
    chain_basis,
    symmetry,
)
from interaction_monitor.functional._solver.splitting import _systems
from interaction_monitor.functional.interactions import orders

CPU = torch.device("cpu")


def dense(n: int) -> Tensor:
    """B, (2^n, 2·2^n), from its definition, without the atoms that do not exist and without the empty coalition."""
    common = torch.arange(2**n)[:, None] & torch.arange(2**n)
    atoms = torch.cat((common == torch.arange(2**n), common != 0), 1).double()
    atoms[0] = 0
    return atoms * torch.cat((orders(n) >= 1, orders(n) >= 2))


@pytest.mark.parametrize("h", range(7))
def test_chain_basis_is_orthonormal_and_raising_moves_along_a_chain(h: int) -> None:
    basis, chains = chain_basis(h)
    torch.testing.assert_close(basis @ basis.T, torch.eye(2**h).double(), atol=1e-14, rtol=0)
    index = torch.arange(2**h)
    raising = sum((((index[:, None] ^ index) == 1 << i) & (index[:, None] > index)).double() for i in range(h))
    raised = basis @ (raising.T if h else torch.zeros(1, 1).double()) @ basis.T
    for first, levels, count in chains:
        for level in range(levels):
            rows = raised[first + level * count : first + (level + 1) * count]
            # every chain of one k is stretched alike, and leads to its own next function alone
            following = slice(first + (level + 1) * count, first + (level + 2) * count)
            if level + 1 < levels:
                stretch = rows[0, first + (level + 1) * count]
                assert stretch > 0
                torch.testing.assert_close(rows[:, following], stretch * torch.eye(count).double())
                rows[:, following] = 0
            torch.testing.assert_close(rows, torch.zeros_like(rows), atol=1e-13, rtol=0)


@pytest.mark.parametrize("n", range(1, 9))
def test_blocks_cover_every_row_once(n: int) -> None:
    _, _, blocks = symmetry(n)
    assert sorted(torch.cat([block.rows.flatten() for block in blocks]).tolist()) == list(range(2**n))
    assert max(len(block.representatives()) for block in blocks) == (n // 2 + 1) * (n - n // 2 + 1)


@pytest.mark.parametrize("metric", [NETWORKS, HIGH_ORDERS])
@pytest.mark.parametrize("n", range(1, 9))
def test_projection_equals_the_dense_inverse(n: int, metric: Metric) -> None:
    projection = Projection(atoms_of(n, 0.01, CPU), metric, torch.float64)
    steps = torch.tensor([2.0, 0.5, 7.0]).double()
    generator = torch.Generator().manual_seed(n)
    r = torch.randn(3, 2, 2**n, generator=generator, dtype=torch.float64) * (projection.steps > 0)
    q = torch.randn(3, 1, 2**n, generator=generator, dtype=torch.float64)
    q[..., 0] = 0
    work = Workspace(projection, steps)
    work.fields.copy_(projection.fields(torch.cat((r, q), 1)))
    work.project()
    correlations, dual = projection.samples(work.fields).split((2, 1), 1)

    b, moves = dense(n), projection.steps.flatten()
    for sample, step in enumerate(steps):
        matrix = (b * moves) @ b.T + step * torch.eye(2**n)
        missed = q[sample, 0] - b @ (moves * r[sample].flatten())
        expected = torch.linalg.solve(matrix, missed)
        for found, exact in ((dual[sample, 0], expected), (correlations[sample].flatten(), b.T @ expected)):
            # what goes in is rounded too, and steps that rise with the order make a worse conditioned matrix
            scale = float(torch.cat((exact, missed)).abs().max())
            precision = 1e-12 if metric is NETWORKS else 1e-11
            torch.testing.assert_close(found, exact, atol=precision * max(1.0, scale), rtol=0)


def test_single_precision_projects_to_its_rounding() -> None:
    n = 10
    atoms = atoms_of(n, 0.01, CPU)
    found = []
    q = torch.randn(2, 3, 2**n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q[:, :2] *= atoms.exists
    q[:, 2, 0] = 0
    for dtype in (torch.float64, torch.float32):
        projection = Projection(atoms, NETWORKS, dtype)
        work = Workspace(projection, torch.full((2,), 2.0).double())
        work.fields.copy_(projection.fields(q))
        work.project()
        found.append(projection.samples(work.fields).double())
    assert (found[0] - found[1]).abs().max() <= 1e-4 * found[0].abs().max()


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_inverse_with_the_splits_equals_the_dense_one(n: int) -> None:
    atoms = atoms_of(n, 0.01, CPU)
    size = 2**n
    identity = torch.eye(size, dtype=torch.float64)
    rows = torch.cat((atoms.correlations(identity), meet_splits(atoms, identity))).flatten(1)
    members = members_of(n, CPU)
    matrix = (rows * NETWORKS.steps(atoms).flatten()) @ rows.T
    matrix[:size, :size] += 2 * identity
    matrix[size:, size:] += 2 * identity + members @ members.T
    missed = torch.randn(2, 3, 2, size, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    missed[..., 0] = 0
    *_, inverse = _systems(atoms)
    found = inverse.solve(missed)
    expected = torch.linalg.solve(matrix, missed.flatten(-2).reshape(6, -1).T).T.reshape(missed.shape)
    torch.testing.assert_close(found[..., 1:], expected[..., 1:], atol=1e-12, rtol=1e-9)
