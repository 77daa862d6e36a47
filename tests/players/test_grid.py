"""Cells of a grid."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from interaction_monitor.players.grid import cell_index


@given(st.integers(1, 300), st.integers(1, 40))
def test_cells_are_even(size, grid):
    if size < grid:
        return
    sizes = torch.bincount(cell_index(size, grid), minlength=grid)
    assert sizes.sum() == size
    assert sizes.max() - sizes.min() <= 1
    assert (cell_index(size, grid).diff() >= 0).all()
