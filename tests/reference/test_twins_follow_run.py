"""A sample goes to the same half of every batch, whatever batch it is in."""

from collections import namedtuple

import pytest
import torch

from interaction_monitor.reference.twins_follow_run import halves, sides


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float32, torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.int64),
        *(torch.uint8, torch.uint16, torch.bool),
    ],
)
def test_a_sample_keeps_its_half_in_other_batches(dtype):
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(400, 3, 5, generator=generator) * 200 - (0 if "uint" in str(dtype) else 50)).to(dtype)
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


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("pad", [0, 1])
def test_a_sentence_keeps_its_half_whatever_it_is_padded_to(pad, left):
    words = torch.randint(2, 30, (100, 6), generator=torch.Generator().manual_seed(0))

    def padded(more):
        parts = (words, torch.full((100, more), pad))
        ids = torch.cat(parts[::-1] if left else parts, 1)
        attended = torch.cat(
            [torch.full_like(part, number == 0) for number, part in enumerate(parts)][:: 1 - 2 * left], 1
        )
        return {"attention_mask": attended, "input_ids": ids, "labels": words}

    first, second = halves(padded(0)), halves(padded(5))
    assert 30 < len(first[0]["labels"]) < 70
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one["labels"], other["labels"])


NUMBERS = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "before",
    [
        {"labels": torch.eye(2)[torch.arange(40) % 2]},
        {"attention_mask": torch.arange(12).repeat(40, 1) < torch.arange(40)[:, None]},
        {"pixel_mask": torch.ones(40, 2), "token_type_ids": torch.zeros(40, 2)},
        {"prompt": torch.tensor([[4, 3, 2]]).repeat(40, 1)},
    ],
)
def test_what_many_samples_have_alike_decides_nothing(before):
    """Else a twin learned from some classes or lengths only, or from nothing."""
    first, second = halves({**before, "x": NUMBERS})
    side = sides(NUMBERS)
    assert torch.equal(first["x"], NUMBERS[~side])
    assert torch.equal(second["x"], NUMBERS[side])


Pair = namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    "make",
    [
        lambda x, y: x,
        lambda x, y: (x, y),
        lambda x, y: [x, y],
        lambda x, y: Pair(x, y),
        lambda x, y: Pair(y=torch.eye(2)[y % 2], x=x),
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
