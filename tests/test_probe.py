import random
import re

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from interaction_monitor.probe import Probe, advice_on_targets

SORTED = TensorDataset(torch.arange(1000).float()[:, None], torch.arange(1000) // 250)


class Stream(IterableDataset):
    def __init__(self, size=1000, classes=4):
        self.size, self.classes = size, classes

    def __iter__(self):
        return iter((torch.tensor([float(i)]), i % self.classes) for i in range(self.size))


class Rows(Dataset):
    """Items as dicts, with a string among them, as text data sets have them."""

    def __init__(self, key="label", size=100):
        self.key, self.size = key, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return {"input_ids": torch.tensor([index, index]), "text": f"row {index}", self.key: index % 2}


class Noisy(Dataset):
    """Transforms that draw from each global generator."""

    def __len__(self):
        return 100

    def __getitem__(self, index):
        return torch.rand(2) + np.random.rand() + random.random(), index % 3


def same(one, other):
    return torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets)


def states():
    return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()


def assert_same_states(before):
    after = states()
    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    assert before[2] == after[2]


def test_classes_are_balanced_though_the_data_are_sorted():
    probe = Probe.from_loader(DataLoader(SORTED, batch_size=7), 40)
    assert torch.bincount(probe.targets).tolist() == [10, 10, 10, 10]
    assert torch.equal(probe.inputs[:, 0].long() // 250, probe.targets)
    assert len(probe.inputs.unique()) == 40


def test_a_rare_class_is_filled_up_by_the_others():
    targets = torch.zeros(200, dtype=torch.long)
    targets[:3] = 1
    probe = Probe.from_loader(DataLoader(TensorDataset(torch.rand(200, 2), targets)), 20)
    assert torch.bincount(probe.targets).tolist() == [17, 3]


def test_the_choice_depends_on_the_seed_alone():
    plain = Probe.from_loader(DataLoader(SORTED, batch_size=4), 12)
    for loader in (
        DataLoader(SORTED, batch_size=32, shuffle=True),
        DataLoader(SORTED, batch_size=5, num_workers=2, generator=torch.Generator().manual_seed(3)),
    ):
        torch.manual_seed(random.randrange(1000))
        assert same(Probe.from_loader(loader, 12), plain)
    assert not same(Probe.from_loader(DataLoader(SORTED, batch_size=4), 12, seed=1), plain)


def test_random_transforms_draw_from_the_seed():
    loader = DataLoader(Noisy(), batch_size=4)
    torch.manual_seed(1)
    one = Probe.from_loader(loader, 9)
    torch.manual_seed(2)
    np.random.seed(5)
    assert same(Probe.from_loader(loader, 9), one)


@pytest.mark.parametrize("dataset", [Noisy(), Stream()])
def test_choosing_draws_from_no_global_generator(dataset):
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(dataset, batch_size=4, generator=generator, shuffle=isinstance(dataset, Noisy) or None)
    before, before_generator = states(), generator.get_state()
    Probe.from_loader(loader, 9)
    assert_same_states(before)
    assert torch.equal(generator.get_state(), before_generator)


def test_generators_are_restored_when_the_data_fail():
    def batches():
        torch.rand(3)
        np.random.rand()
        random.random()
        raise OSError("disk on fire")
        yield

    before = states()
    with pytest.raises(OSError, match="fire"):
        Probe.from_loader(batches(), 3)
    assert_same_states(before)


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_streams_give_their_first_candidates_balanced(batch_size):
    probe = Probe.from_loader(DataLoader(Stream(), batch_size=batch_size), 8)
    assert probe.inputs[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert probe.targets.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_streams_are_read_no_further_than_needed():
    def batches():
        for i in range(21):
            yield torch.full((1, 1), float(i)), torch.tensor([i])
        raise AssertionError("read too far")

    assert len(Probe.from_loader(batches(), 2)) == 2


def test_a_dataset_that_makes_its_own_batches_is_read_as_batches():
    class Batches(Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            return torch.full((10, 1), float(index)), torch.arange(10)

    probe = Probe.from_loader(DataLoader(Batches(), batch_size=None), 15)
    assert torch.bincount(probe.targets, minlength=10).tolist() == [2] * 5 + [1] * 5


@pytest.mark.parametrize("key", ["labels", "label", "targets", "target", "y"])
def test_dicts_give_their_targets_and_tensors(key):
    probe = Probe.from_loader(DataLoader(Rows(key), batch_size=8), 10)
    assert set(probe.inputs) == {"input_ids"}
    assert torch.equal(probe.inputs["input_ids"][:, 0] % 2, probe.targets)
    assert torch.bincount(probe.targets).tolist() == [5, 5]


def test_inputs_and_targets_may_be_dict_and_tensor():
    batches = [({"a": torch.rand(4, 2), "labels": torch.rand(4)}, torch.arange(4))]
    probe = Probe.from_loader(batches, 4)
    assert set(probe.inputs) == {"a", "labels"}
    assert probe.targets.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("batch", [torch.rand(6, 2), [torch.rand(6, 2)], {"x": torch.rand(6, 2)}])
def test_batches_without_targets_work(batch):
    assert Probe.from_loader([batch], 5).targets is None


@pytest.mark.parametrize("targets", [torch.tensor([0.5, 1.5, 0.1]), torch.eye(3), torch.tensor([torch.nan, 1.0, 1.0])])
def test_targets_that_are_no_classes_are_taken_as_they_come(targets):
    probe = Probe.from_loader([(torch.arange(3.0)[:, None], targets)], 2)
    assert probe.inputs[:, 0].tolist() == [0.0, 1.0]
    assert probe.targets.shape == (2, *targets.shape[1:])


def test_the_collate_function_pads_the_chosen_together():
    class Sentences(Dataset):
        def __len__(self):
            return 30

        def __getitem__(self, index):
            return torch.ones(index + 1), index % 2

    def pad(items):
        rows = torch.nn.utils.rnn.pad_sequence([row for row, _ in items], batch_first=True)
        return rows, torch.tensor([label for _, label in items])

    probe = Probe.from_loader(DataLoader(Sentences(), collate_fn=pad), 6)
    lengths = probe.inputs.sum(1)
    assert probe.inputs.shape == (6, int(lengths.max()))


def test_the_probe_owns_its_memory():
    data = torch.rand(20, 2)

    def view(rows):
        return (data[: len(rows)],)

    for loader in (DataLoader(TensorDataset(data), collate_fn=view), [data]):
        probe = Probe.from_loader(loader, 5)
        before = probe.inputs.clone()
        data += 1
        assert torch.equal(probe.inputs, before)


def test_samples_are_taken_apart():
    probe = Probe({"a": torch.arange(6).reshape(3, 2), "b": torch.arange(3)}, torch.tensor([5, 6, 7]))
    assert probe.inputs_of(1)["a"].tolist() == [[2, 3]]
    assert probe.target_of(2).tolist() == [7]
    chosen = probe.select([2, 0, 2])
    assert chosen.inputs["b"].tolist() == [2, 0, 2]
    assert chosen.targets.tolist() == [7, 5, 7]
    assert len(probe.to("cpu")) == 3
    assert Probe(torch.rand(2, 3)).target_of(0) is None


def test_the_masked_entry_is_found():
    one = Probe({"pixel_values": torch.rand(2, 3)})
    assert one.entry()[0] == "pixel_values"
    two = Probe({"a": torch.zeros(2), "b": torch.ones(2)})
    assert two.entry("b")[1].tolist() == [1, 1]
    for key in (None, "c"):
        with pytest.raises(ValueError, match="must be one of the probe's inputs: 'a', 'b'"):
            two.entry(key)
    with pytest.raises(ValueError, match="are a tensor, not a dict"):
        Probe(torch.rand(2, 3)).entry("a")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1, 2],), TypeError, "must be a tensor or a dict of tensors, got list of 2: int: 1"),
        (({},), TypeError, "got dict with none"),
        (({"a": "text"},), TypeError, "got dict with 'a'"),
        ((torch.rand(2, 3), [0, 1]), TypeError, "targets must be a tensor"),
        ((torch.rand(2, 3), torch.arange(3)), ValueError, r"batches of \[2, 3\]"),
        ((torch.rand(0, 3),), ValueError, "at least one sample"),
        ((torch.tensor(1.0),), ValueError, "at least one sample"),
    ],
)
def test_probes_that_are_none_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Probe(*arguments)


@pytest.mark.parametrize(
    ("loader", "n_samples", "error", "message"),
    [
        (DataLoader(TensorDataset(torch.rand(0, 2))), 5, ValueError, "the loader is empty"),
        ([], 5, ValueError, "the loader is empty"),
        (SORTED, 5, TypeError, r"loader=.*TensorDataset.*give a loader, DataLoader\(dataset"),
        (None, 5, TypeError, r"loader=NoneType.*give a loader, DataLoader\(dataset"),
        (DataLoader(SORTED), 2000, ValueError, "n_samples=2000, but the loader has only 1000 samples; ask for 1000"),
        (DataLoader(Stream(30)), 50, ValueError, "n_samples=50, but the loader has only 30"),
        (DataLoader(SORTED), 0, ValueError, "n_samples=0 must be at least 1"),
        ([(torch.rand(2, 1), torch.rand(2), torch.rand(2))], 2, TypeError, "got tuple of 3"),
        ([("text", torch.rand(2))], 2, TypeError, "got str: text"),
        ([torch.rand(2, 3), torch.rand(2, 4)], 4, ValueError, "different shapes"),
    ],
)
def test_bad_loaders_are_refused(loader, n_samples, error, message):
    with pytest.raises(error, match=message):
        Probe.from_loader(loader, n_samples)


X, C, Y = torch.rand(4, 3), torch.rand(4, 2), torch.arange(4)


@pytest.mark.parametrize(
    ("batch", "called"),
    [
        (([X, C], Y), lambda x: (x,)),
        (((X, C), Y), lambda x: (tuple(x),)),
        ((X, C, Y), lambda x: tuple(x)),
    ],
)
def test_several_inputs_are_refused_with_the_very_lines_that_take_them(batch, called):
    with pytest.raises(TypeError, match="make the probe yourself") as caught:
        Probe.from_batch(batch)
    text = str(caught.value)
    probe = eval(text[text.index("Probe({") : text.index(", with forward_func")], {"Probe": Probe, "batch": batch})
    assert torch.equal(probe.targets, Y)
    assert [torch.equal(found, one) for found, one in zip(probe.inputs.values(), (X, C), strict=True)] == [True, True]
    forward_func = eval(text[text.index("lambda") : text.index(", and players")])
    given = forward_func(lambda *args: args, probe.inputs)
    expected = called([probe.inputs["x0"], probe.inputs["x1"]])
    assert type(given[0]) is type(expected[0])
    assert [id(one) for one in tree_leaves(given)] == [id(one) for one in tree_leaves(expected)]
    assert 'input_key="x0"' in text


def test_views_of_one_sample_are_told_of_as_such():
    with pytest.raises(TypeError, match="views of one sample") as caught:
        Probe.from_batch([[X, X + 1], Y])
    line = re.search(r"called with one, (Probe\(.*?\)), else", str(caught.value))[1]
    assert torch.equal(eval(line, {"Probe": Probe, "batch": [[X, X + 1], Y]}).inputs, X)
    with pytest.raises(TypeError) as caught:
        Probe.from_batch([[X, C[:, :1]], Y])
    assert "views" not in str(caught.value)


@pytest.mark.parametrize("targets", [{"name": "a", "label_x": Y}, [Y, C]])
def test_several_targets_are_refused_with_the_very_line_that_takes_one(targets):
    with pytest.raises(TypeError, match="targets must be a tensor or None") as caught:
        Probe.from_batch((X, targets))
    text = str(caught.value)
    probe = eval(text[text.index("Probe(") :], {"Probe": Probe, "batch": (X, targets)})
    assert torch.equal(probe.targets, Y)


def test_a_target_under_an_unknown_key_is_advised_on_where_just_one_input_can_be_it():
    batch = {"image": X, "cls": Y}
    with pytest.raises(ValueError, match="input_key=None must be one of") as caught:
        Probe.from_batch(batch).entry()
    text = str(caught.value)
    probe = eval(text[text.index("Probe(") :], {"Probe": Probe, "batch": batch})
    assert torch.equal(probe.entry()[1], X)
    assert torch.equal(probe.targets, Y)
    for plain in ({"a": X, "b": C}, {"a": X, "one": Y, "two": Y}, {"a": X, "b": C, "one": Y, "label": Y}):
        assert advice_on_targets(Probe.from_batch(plain)) == ""
    assert advice_on_targets(Probe(X)) == advice_on_targets(Probe({"a": Y})) == ""
    several = advice_on_targets(Probe({"a": X, "b": C, "one": Y}))
    assert several.endswith("probe=Probe({'a': batch['a'], 'b': batch['b']}, batch['one'])")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
def test_samples_that_suit_are_preferred_and_classes_take_turns_among_them(stream, labelled):
    x = torch.arange(120)[:, None].float()
    data = TensorDataset(x, (torch.arange(120) // 3) % 2) if labelled else TensorDataset(x)
    loader = DataLoader(data, 10)
    loader = list(loader) if stream else loader
    few = Probe.from_loader(loader, 12, suits=lambda probe: probe.inputs[:, 0] % 3 == 0)
    assert (few.inputs % 3 == 0).all()
    assert not (Probe.from_loader(loader, 12).inputs % 3 == 0).all()
    if labelled:
        assert few.targets.bincount().tolist() == [6, 6]
    # Where too few suit, others fill up.
    most = Probe.from_loader(loader, 12, suits=lambda probe: (probe.inputs[:, 0] % 40 == 0).tolist())
    assert (len(most), int((most.inputs[:, 0] % 40 == 0).sum())) == (12, 3)
