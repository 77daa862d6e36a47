"""A sample goes to the same half of every batch, whatever batch it is in."""

from collections import namedtuple

import pytest
import torch

from interaction_monitor.reference.batch_halves import halves, sides


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_a_sample_keeps_its_half_in_other_batches(dtype):
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(400, 3, 5, generator=generator) * 200 - (0 if dtype == torch.uint8 else 50)).to(dtype)
    if dtype == torch.bool:
        x = torch.rand(400, 3, 5, generator=generator) < 0.5
    side = sides(x)
    order = torch.randperm(400, generator=generator)
    for part in order.split(37):
        assert torch.equal(sides(x[part]), side[part])
    assert 150 < int(side.sum()) < 250


def test_halves_are_as_good_as_drawn():
    """Neighbours, zeros at the edges and single changed pixels do not decide together."""
    images = torch.zeros(1024, 28 * 28)
    images[torch.arange(1024), torch.arange(1024) % 784] = 1.0 + torch.arange(1024) // 784
    assert 430 < int(sides(images).sum()) < 594  # five standard deviations
    assert 430 < int(sides(torch.arange(1024.0)[:, None]).sum()) < 594


def test_long_samples_are_told_apart():
    x = torch.randn(200, 50_000, generator=torch.Generator().manual_seed(0))
    assert 65 < int(sides(x).sum()) < 135


Pair = namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    "make",
    [
        lambda x, y: x,
        lambda x, y: (x, y),
        lambda x, y: [x, y],
        lambda x, y: Pair(x, y),
        lambda x, y: {"x": x, "y": y},
        lambda x, y: {"image": [x, {"y": y}], "names": [str(int(i)) for i in y], "scale": 2.0, "none": None},
    ],
)
def test_every_kind_of_batch_is_divided_and_left_as_it_is(make):
    x, y = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20)
    batch = make(x, y)
    first, second = halves(batch)
    assert type(first) is type(batch)

    def samples(part):
        if isinstance(part, dict):
            part = part["image"] if "image" in part else part["x"]
        return part if isinstance(part, torch.Tensor) else part[0]

    side = sides(x)
    assert torch.equal(samples(first), x[~side])
    assert torch.equal(samples(second), x[side])
    samples(first).zero_()
    assert x.abs().min() > 0
    if isinstance(batch, dict) and "names" in batch:
        assert first["names"] == [str(int(i)) for i in y[~side]]
        assert (first["scale"], first["none"]) == (2.0, None)
        assert torch.equal(first["image"][1]["y"], y[~side])


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ([1, 2], TypeError, "must hold tensors"),
        ((torch.zeros(3, 2), torch.zeros(4)), ValueError, r"its tensors have \[3, 4\] samples"),
        ((torch.zeros(3, 2), {1, 2}), TypeError, "as it holds set"),
    ],
)
def test_what_cannot_be_divided_is_refused(batch, error, message):
    with pytest.raises(error, match=message):
        halves(batch)
