"""What is taken from the batches of a run: their mean loss, samples that are kept, and the same half of each."""

import math
from collections import namedtuple

import numpy as np
import pytest
import torch

from interaction_monitor import Probe
from interaction_monitor.batches import MOST_SAMPLES, BatchLosses, FixedSamples, halves, sides

VECTORS = Probe(torch.rand(5, 4), torch.arange(5))


def test_batches_whose_loss_is_not_finite_do_not_count():
    losses = BatchLosses()
    for loss in (2.0, math.nan, math.inf, 4.0):
        losses.add(torch.tensor(loss), torch.zeros(3, 5))
    assert losses.mean() == 3.0


def kept(samples):
    """The targets of all parts."""
    return [int(target) for part in samples.parts for target in part.targets]


def test_the_first_training_samples_are_kept_as_they_come():
    x, y = torch.rand(1000, 4), torch.arange(1000)
    samples, changed = FixedSamples(VECTORS), x.clone()
    for part in range(0, 1000, 30):
        samples.add((changed[part : part + 30], y[part : part + 30]))
    changed.zero_()
    assert samples.complete
    assert kept(samples) == list(range(MOST_SAMPLES))
    assert torch.equal(samples.parts[0].inputs, x[:MOST_SAMPLES])
    again = FixedSamples(VECTORS)
    again.load_state_dict(samples.state_dict())
    assert (kept(again), again.complete) == (kept(samples), True)


def test_few_training_samples_are_all_kept_once_an_epoch_is_over():
    samples = FixedSamples(VECTORS)
    samples.add((torch.rand(7, 4), torch.arange(7)))
    assert not samples.complete
    assert samples.state_dict() == {}
    samples.close()
    samples.add((torch.rand(7, 4), torch.arange(7)))
    assert (kept(samples), samples.complete) == (list(range(7)), True)


def test_test_samples_are_drawn_from_the_whole_pass_however_it_is_sorted():
    """Each of 4,000 samples has the same chance: chi square of ten parts of the pass over 40 passes."""
    counts = np.zeros(10)
    for seed in range(40):
        samples = FixedSamples(VECTORS, spread=True)
        samples._generator.manual_seed(seed)
        for part in torch.arange(4000).split(90):
            samples.add((torch.rand(len(part), 4), part))
        samples.close()
        chosen = kept(samples)
        assert len(chosen) == len(set(chosen)) == MOST_SAMPLES
        counts += np.bincount(np.array(chosen) // 400, minlength=10)
    expected = 40 * MOST_SAMPLES / 10
    assert np.square(counts - expected).sum() / expected < 27.9  # the 99.9% quantile of chi square with 9 degrees


def test_both_draws_are_the_same_in_each_run():
    draws = []
    for _ in range(2):
        torch.rand(3)  # the user's random state is of no account, and stays
        samples = FixedSamples(VECTORS, spread=True)
        for part in torch.arange(2000).split(100):
            samples.add((torch.rand(len(part), 4), part))
        draws.append(kept(samples))
    assert draws[0] == draws[1]


def test_samples_that_are_padded_to_lengths_of_their_own_are_kept_in_parts():
    like = Probe({"ids": torch.ones(2, 4, dtype=torch.long)}, torch.tensor([0, 1]))
    samples = FixedSamples(like)
    for length in (4, 6):
        samples.add({"ids": torch.ones(3, length, dtype=torch.long), "labels": torch.tensor([0, 1, 0])})
    samples.close()
    assert [part.inputs["ids"].shape for part in samples.parts] == [(3, 4), (3, 6)]
    again = FixedSamples(like)
    again.load_state_dict(samples.state_dict())
    assert kept(again) == kept(samples) == [0, 1, 0] * 2


@pytest.mark.parametrize(
    "other",
    [
        *("text", (1, 2, 3), None, torch.rand(2, 4)),
        {"x": torch.rand(2, 4), "y": torch.arange(2)},
        (torch.rand(2, 4), torch.rand(2, 5)),  # soft labels, as mixing samples makes
        (torch.rand(2, 1, 4), torch.arange(2)),
        (torch.ones(2, 4, dtype=torch.long), torch.arange(2)),
    ],
)
def test_batches_of_another_form_than_the_probe_are_of_no_use(other):
    samples = FixedSamples(VECTORS)
    samples.add((torch.rand(2, 4), torch.arange(2)))
    samples.add(other)
    samples.add((torch.rand(2, 4), torch.arange(2)))
    samples.close()
    assert (samples.parts, samples.complete) == ([], True)


def test_large_samples_are_as_few_as_the_probe_has_and_are_not_drawn():
    large = Probe(torch.zeros(3, 3, 224, 224), torch.arange(3))
    train, test = FixedSamples(large), FixedSamples(large, spread=True)
    for _ in range(8):
        for samples in (train, test):
            samples.add((torch.zeros(2, 3, 224, 224), torch.arange(2)))
    test.close()
    assert len(train) == 6  # 4 MiB hold six of them
    assert len(test) == 0


def test_samples_of_inference_mode_can_be_used_outside_it():
    samples = FixedSamples(VECTORS, spread=True)
    with torch.inference_mode():
        for _ in range(2):
            samples.add((torch.rand(600, 4), torch.arange(600)))
        samples.close()
    assert not samples.parts[0].inputs.is_inference()
    samples.parts[0].inputs.add_(1)


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
