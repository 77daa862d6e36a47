"""What may be a baseline, and the cells of a grid."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interaction_monitor.players import ImagePatches
from interaction_monitor.players.base import cell_index, resolve_baseline
from interaction_monitor.probe import Probe

IMAGES = Probe(torch.rand(6, 3, 16, 24), torch.arange(6))


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        (0.5, 0.5),
        (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)),
        (torch.ones(3, 1, 1), torch.ones(1, 3, 1, 1)),
        (torch.ones(16, 24), torch.ones(1, 1, 16, 24)),
        (lambda x: x.mean((2, 3), keepdim=True), IMAGES.inputs.mean((2, 3), keepdim=True)),
        (lambda x: x.mean((0, 2, 3)), IMAGES.inputs.mean((0, 2, 3)).view(1, 3, 1, 1)),
        (lambda x: -1.0, -1.0),
    ],
)
def test_baselines_are_numbers_tensors_and_callables(baseline, expected):
    drawn = ImagePatches(baseline=baseline).assign(IMAGES, seed=0).baseline
    if isinstance(expected, float):
        assert drawn == expected
    else:
        assert torch.equal(drawn, expected)


@pytest.mark.parametrize(
    ("baseline", "error", "message"),
    [
        (
            torch.ones(4, 1, 1),
            ValueError,
            r"\(4, 1, 1\), which does not broadcast to the masked tensor \(6, 3, 16, 24\)",
        ),
        (torch.ones(2, 3, 16, 24), ValueError, "does not broadcast"),
        (torch.ones(1, 6, 3, 16, 24), ValueError, "does not broadcast"),
        ("zero", TypeError, "must be a number, a tensor or a callable that returns one, got 'zero'"),
        (lambda x: None, TypeError, "got None"),
        (float("nan"), ValueError, "baseline=nan"),
    ],
)
def test_bad_baselines_are_refused(baseline, error, message):
    with pytest.raises(error, match=message):
        ImagePatches(baseline=baseline).assign(IMAGES, seed=0)


def test_half_a_baseline_does_not_fit_integers():
    with pytest.raises(ValueError, match=r"baseline=0.5 does not fit .* torch.uint8"):
        resolve_baseline(0.5, torch.zeros(1, 3, dtype=torch.uint8), n_samples=1)


@given(st.integers(1, 300), st.integers(1, 40))
def test_cells_are_even(size, grid):
    if size < grid:
        return
    sizes = torch.bincount(cell_index(size, grid), minlength=grid)
    assert sizes.sum() == size
    assert sizes.max() - sizes.min() <= 1
    assert (cell_index(size, grid).diff() >= 0).all()
