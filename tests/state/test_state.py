"""What forwards change is put back after each of them: attributes, containers, weights, generators, closures."""

import copy
import functools
import itertools
import multiprocessing
import random
import signal
import socket
import threading
import warnings
from collections import Counter, OrderedDict, deque

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from interaction_monitor import InteractionMonitor, Observer, Probe, assign_players, measure
from interaction_monitor.forward import masked_outputs
from interaction_monitor.forward.precision import rounding
from interaction_monitor.outputs import log_odds
from interaction_monitor.players import FeaturePatches, ImagePatches
from interaction_monitor.state import preserved_rng, undisturbed, uninterrupted

CALLS = {"n": 0}


class Helper:
    __slots__ = ("total",)

    def __init__(self):
        self.total = 0


class Restless(nn.Module):
    """Changes all kinds of state in each forward."""

    shared = {"n": 0}  # noqa: RUF012  # the class's, which is what is tested

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.head = nn.Linear(128, 3)
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("running", torch.zeros(3))
        self.mean, self.hidden, self.resized = torch.zeros(()), torch.zeros(3), torch.zeros(2)
        self.history, self.seen, self.last = [[]], Counter(), deque([7, 0], maxlen=3)
        self.order, self.kinds, self.array = OrderedDict(a=1, b=1), {0}, np.zeros(2)
        self.helper, self.late = Helper(), None
        self.generators = [torch.Generator(), np.random.default_rng(0), random.Random(0)]
        self.conv.register_forward_hook(self.counting())

    def counting(self):
        calls, values = 0, []

        def hook(module, args, output):
            nonlocal calls
            calls += 1
            values.append(output)

        self.told = lambda: (calls, len(values))
        return hook

    def forward(self, x):
        start = (self.hidden + self.mean + self.running).clone()
        self.mean = 0.9 * self.mean + x.mean()
        self.hidden += 1
        self.hidden.data.mul_(2)
        self.running.data = self.running + 1
        self.resized.resize_(5).fill_(1)
        self.scale.data.mul_(0.5)
        self.history[0].append(x)
        self.seen["calls"] += 1
        self.last.append(len(x))
        self.order.move_to_end("a")
        self.kinds.discard(0)
        self.kinds.add(len(x))
        self.array += 1
        self.helper.total += 1
        self.late = x
        CALLS["n"] += 1
        Restless.shared["n"] += 1
        torch.rand(1, generator=self.generators[0]), self.generators[1].random(), self.generators[2].random()
        return self.head(self.conv(x).flatten(1)) * (1 + start) * self.scale


def state_of(net):
    return {
        "tensors": [t.tolist() for t in (net.mean, net.hidden, net.resized, net.running, net.scale)],
        "versions": [t._version for t in (net.mean, net.hidden, net.resized, net.running, net.scale)],
        "plain": (list(net.history[0]), dict(net.seen), list(net.last), list(net.order), set(net.kinds)),
        "array": net.array.tolist(),
        "others": (net.helper.total, net.late, dict(CALLS), dict(Restless.shared), net.told()),
        "generators": (
            net.generators[0].get_state().tolist(),
            repr(net.generators[1].bit_generator.state),
            net.generators[2].getstate(),
        ),
    }


@pytest.fixture
def probe():
    torch.manual_seed(0)
    return Probe(torch.rand(3, 1, 8, 8), torch.arange(3))


@pytest.mark.parametrize("players", [ImagePatches(grid=4, margin=0, n_players=3), FeaturePatches("conv", n_players=3)])
def test_each_forward_starts_from_the_state_of_the_user(probe, players):
    net = Restless()
    same = [net.mean, net.hidden, net.resized, net.running, net.history[0], net.scale]
    before = state_of(net)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = assign_players(net, players, probe)
        v = masked_outputs(net, probe, drawn, chunk_size=4)
        rounding(net, probe, drawn, v)
    assert state_of(net) == before
    now = [net.mean, net.hidden, net.resized, net.running, net.history[0], net.scale]
    assert all(a is b for a, b in zip(now, same, strict=True))
    # As if each row had a network of its own.
    expected = torch.empty_like(v)
    for sample, y in enumerate(probe.targets.tolist()):
        for coalition in range(8):
            mask, x = torch.tensor([coalition]), probe.inputs[sample : sample + 1].clone()
            if drawn.layer is None:
                x = drawn.mask(x, sample, mask)
            else:
                handle = net.conv.register_forward_hook(lambda m, a, o, s=sample, t=mask: drawn.mask(o, s, t))
            with undisturbed(net) as kept:
                z = kept.run(lambda x=x: net(x))
            if drawn.layer is not None:
                handle.remove()
            z = z.double()[0]
            expected[sample, coalition] = z[y] - torch.logsumexp(z[[k for k in range(3) if k != y]], 0)
    torch.testing.assert_close(v, expected, rtol=0, atol=1e-5)


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.head = nn.Linear(128, 3)

    def forward(self, x):
        x -= 0.5
        x /= 0.25
        return self.head(self.conv(x).relu_().flatten(1))


class OutOfPlace(InPlace):
    def forward(self, x):
        return super().forward(x.clone())


@pytest.mark.parametrize("players", [ImagePatches(grid=4, margin=0, n_players=3), FeaturePatches("conv", n_players=3)])
def test_a_forward_may_spoil_its_input(probe, players):
    spoiling, careful = InPlace(), OutOfPlace()
    careful.load_state_dict(spoiling.state_dict())
    inputs = probe.inputs.clone()
    drawn = assign_players(spoiling, players, probe)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = masked_outputs(spoiling, probe, drawn, chunk_size=4)
    assert torch.equal(probe.inputs, inputs)
    torch.testing.assert_close(found, masked_outputs(careful, probe, drawn, chunk_size=4), rtol=0, atol=1e-6)


def test_what_cannot_be_put_back_is_named(probe, tmp_path):
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.file = (tmp_path / "log").open("w")
            self.numbers = (n for n in range(10**9))
            self.head = nn.Linear(64, 3)

        def forward(self, x):
            self.file.write("called")
            next(self.numbers)
            return self.head(x.flatten(1))

    net = Writing()
    drawn = assign_players(net, ImagePatches(n_players=2), probe)
    with net.file, pytest.warns(UserWarning, match="Writing changes 'file', 'numbers', which cannot be put back"):
        masked_outputs(net, probe, drawn)


def test_a_socket_and_an_object_of_c_are_named(probe):
    class Telling(nn.Module):
        def __init__(self, here):
            super().__init__()
            self.here, self.numbers = here, [itertools.count()]
            self.head = nn.Linear(64, 3)

        def forward(self, x):
            self.here.send(b"called")
            next(self.numbers[0])
            return self.head(x.flatten(1))

    here, there = socket.socketpair()
    with here, there:
        net = Telling(here)
        drawn = assign_players(net, ImagePatches(n_players=2), probe)
        with pytest.warns(UserWarning, match=r"Telling changes 'numbers\[0\]', 'here', which cannot be put back"):
            masked_outputs(net, probe, drawn)


def test_a_cache_that_held_something_and_grows_is_named(probe):
    @functools.lru_cache
    def ones(size):
        return torch.ones(size, 1)

    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 3)

        def forward(self, x):
            return self.head(x.flatten(1)) * ones(len(x))

    net = Cached()
    drawn = assign_players(net, ImagePatches(n_players=2), probe)
    masked_outputs(net, probe, drawn)
    assert ones.cache_info().currsize == 0
    ones(5)
    with pytest.warns(UserWarning, match="Cached changes 'ones', which cannot be put back"):
        masked_outputs(net, probe, drawn)


def test_memory_that_other_processes_may_write_to_is_named(probe):
    class Telling(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls, self.values = multiprocessing.Value("i", 0), multiprocessing.Array("d", 3)
            self.head = nn.Linear(64, 3)

        def forward(self, x):
            self.calls.value += 1
            self.values[1] += 0.5
            return self.head(x.flatten(1))

    net = Telling()
    drawn = assign_players(net, ImagePatches(n_players=2), probe)
    with pytest.warns(UserWarning, match=r"Telling changes 'calls', 'values', which cannot be put back"):
        masked_outputs(net, probe, drawn)


def test_a_slot_and_a_variable_that_held_nothing_are_emptied(probe):
    class Slotted:
        __slots__ = ("last",)

    def made():
        def keep(x):
            nonlocal late
            late = x
            return x

        def known():
            try:
                return late is not None
            except NameError:
                return None

        if False:
            late = 0
        return keep, known

    keep, known = made()

    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.slotted = nn.Linear(64, 3), Slotted()

        def forward(self, x):
            self.slotted.last = keep(x)
            return self.head(x.flatten(1))

    net = Keeping()
    masked_outputs(net, probe, assign_players(net, ImagePatches(n_players=2), probe))
    assert not hasattr(net.slotted, "last")
    assert known() is None


class Congruential(random.Random):
    """A generator of one's own, as Python's documentation has it made."""

    def random(self):
        self.last = self.last * 1103515245 % 2**31
        return self.last / 2**31

    def seed(self, seed):
        self.last = seed

    def getstate(self):
        return self.last

    def setstate(self, state):
        self.last = state


class FromBehind(list):
    def __iter__(self):
        return reversed(list(super().__iter__()))


class Key:
    hashes = 0

    def __hash__(self):
        Key.hashes += 1
        return 1


class Refusing:
    @property
    def __dict__(self):
        raise OSError("closed")


FORGOTTEN = ["a global"]


def forget():
    global FORGOTTEN
    del FORGOTTEN


@pytest.mark.parametrize(
    ("held", "change", "look"),
    [
        (Congruential(3), lambda held: held.random(), lambda held: held.last),
        (FromBehind([1, 2, 3]), lambda held: held.append(4), list.__repr__),
        ({Key(): 1}, lambda held: held.values(), lambda held: Key.hashes),
        (nn.Parameter(torch.eye(3).to_sparse()), lambda held: held.mul_(2), lambda held: (str(held), held._version)),
        (torch.eye(3).to_sparse(), lambda held: held.mul_(2), lambda held: (str(held), held._version)),
        (torch.eye(3).to_sparse_csr(), lambda held: held.mul_(2), lambda held: (str(held), held._version)),
        (Refusing(), id, id),
        (0, lambda held: forget(), lambda held: globals().get("FORGOTTEN")),
    ],
    ids=["generator", "list", "keys", "sparse weight", "sparse", "sparse rows", "refusing", "global"],
)
def test_what_has_ways_of_its_own_is_put_back(probe, held, change, look):
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.held, self.head = held, nn.Linear(64, 3)

        def forward(self, x):
            change(self.held)
            return self.head(x.flatten(1))

    net, before = Changing(), look(held)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masked_outputs(net, probe, assign_players(net, ImagePatches(n_players=2), probe))
    assert look(held) == before


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


class Scripted(nn.Module):
    """What TorchScript takes of state that a forward changes: numbers, tensors, lists and dicts of them."""

    seen: list[torch.Tensor]
    table: dict[str, int]

    def __init__(self):
        super().__init__()
        self.head, self.counted = nn.Linear(64, 3), Counted()
        self.mean, self.total = torch.zeros(64), torch.zeros(64)
        self.seen, self.table = [torch.zeros(1)], {"n": 1}

    def forward(self, x):
        x = x.flatten(1)
        self.mean = 0.9 * self.mean + x.mean(0)
        self.total += 1
        self.seen.append(x.mean(0))
        self.table["n"] += 1
        return self.head(self.counted(x) + self.mean + self.total) * len(self.seen) * self.table["n"]


@pytest.mark.parametrize("loaded", [False, True])
def test_the_attributes_of_a_scripted_module_are_put_back(probe, loaded, tmp_path):
    net = torch.jit.script(Scripted())
    net(probe.inputs)
    if loaded:
        net.save(tmp_path / "net.pt")
        net = torch.jit.load(tmp_path / "net.pt")

    def now():
        held = {name: net._c.getattr(name) for name in ("mean", "total", "seen", "table")}
        return held | {"calls": net.counted._c.getattr("calls")}

    before = now()
    first = net(probe.inputs[:1])
    for name, value in before.items():
        (net.counted if name == "calls" else net)._c.setattr(name, value)
    before["total"].sub_(1)
    expected = {name: torch.utils._pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, value)
                for name, value in before.items()}  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with undisturbed(net) as kept:
            found = [kept.run(lambda: net(probe.inputs[:1])) for _ in range(3)]
    assert all(torch.equal(one, first) for one in found)
    torch.testing.assert_close(now(), expected, rtol=0, atol=0)


def test_metrics_and_averaged_copies_that_a_forward_updates_are_put_back(probe):
    class Measuring(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 3)
            self.accuracy, self.metrics = MulticlassAccuracy(3), [MeanMetric()]  # one is a submodule, one is in a list
            self.average = AveragedModel(self.head, avg_fn=lambda mean, new, n: 0.9 * mean + 0.1 * new)

        def forward(self, x):
            logits = self.head(x.flatten(1))
            self.accuracy.update(logits, torch.zeros(len(x), dtype=torch.long))
            self.metrics[0](x.mean())
            self.average.update_parameters(self.head)
            return logits + self.average(x.flatten(1)) * self.metrics[0].update_count

    net = Measuring()
    net(probe.inputs)
    metrics = [net.accuracy, net.metrics[0]]
    values = [metric.compute() for metric in metrics]
    counts = [metric._update_count for metric in metrics]
    states = [copy.deepcopy(metric.metric_state) for metric in metrics]
    average = copy.deepcopy(net.average.state_dict())
    drawn = assign_players(net, ImagePatches(grid=4, margin=0, n_players=3), probe)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measure(net, probe, drawn)
    assert [metric.compute() for metric in metrics] == values
    assert [metric._update_count for metric in metrics] == counts
    torch.testing.assert_close([metric.metric_state for metric in metrics], states, rtol=0, atol=0)
    torch.testing.assert_close(dict(net.average.state_dict()), dict(average), rtol=0, atol=0)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head, self.hidden = nn.LSTM(8, 4, batch_first=True), nn.Linear(4, 3), None

    def forward(self, x):
        found, self.hidden = self.cell(x.flatten(1, 2), self.hidden)
        return self.head(found[:, -1])


def test_a_hidden_state_that_ties_batches_together_is_refused_with_the_line_that_clears_it(probe):
    net = nn.Sequential()
    net.recurrent = Recurrent()
    drawn = assign_players(net, ImagePatches(grid=4, margin=0, n_players=3), probe)
    with pytest.raises(ValueError, match=r"keeps 'recurrent.hidden' for the next batch.*forward_func=") as caught:
        measure(net, probe, drawn)
    line = str(caught.value).split("forward_func=")[1]
    assert line == "lambda module, x: (setattr(module.get_submodule(\"recurrent\"), 'hidden', None), module(x))[1]"
    net(probe.inputs)
    hidden = net.recurrent.hidden
    v = measure(net, probe, drawn, forward_func=eval(line)).v
    assert net.recurrent.hidden is hidden
    net.recurrent.hidden = None
    torch.testing.assert_close(v[:, -1], log_odds(net.eval()(probe.inputs), probe.targets).detach())


def test_the_generator_of_an_apple_gpu_is_put_back(monkeypatch):
    there = torch.Generator().manual_seed(3)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", there.get_state)
    monkeypatch.setattr(torch.mps, "set_rng_state", there.set_state)
    before = there.get_state()
    with preserved_rng():
        torch.rand(2, generator=there)
        assert not torch.equal(there.get_state(), before)
    assert torch.equal(there.get_state(), before)


# What a forward logs is of the training alone, with the monitor as without it


class Pressed(random.Random):
    """Puts Ctrl-C, and what else a process may be sent, into the midst of putting back."""

    sent = signal.SIGINT

    def setstate(self, state):
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(self.sent)
        super().setstate(state)


class Terminated(Pressed):
    sent = signal.SIGTERM


class Interrupted(L.LightningModule):
    def __init__(self, pressed):
        super().__init__()
        self.first, self.list = pressed(0), [0]
        self.norm, self.calls = nn.BatchNorm1d(2), 0
        self.second = pressed(0)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.list.append(self.first.random() + self.second.random())
        self.calls += 1
        self.seen += 1
        return self.norm(x) + torch.rand(1)


def what_is_in(module):
    held = module.calls, list(module.list), module.first.getstate(), module.second.getstate(), module.seen.item()
    return *held, [part.training for part in module.modules()], sorted(vars(module)), torch.get_rng_state().tolist()


@pytest.mark.parametrize("pressed", [Pressed, Terminated])
def test_who_presses_while_it_is_put_back_finds_all_as_it_was(pressed):
    told = []
    before = signal.signal(signal.SIGTERM, lambda *given: told.append(given))
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        module = Interrupted(pressed)
        state, left = what_is_in(module), None
        try:
            with undisturbed(module):
                module(torch.rand(3, 2))
        except KeyboardInterrupt as error:
            left = error
        assert what_is_in(module) == state
        assert [left is None, len(told)] == ([False, 0] if pressed is Pressed else [True, 1])
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    finally:
        signal.signal(signal.SIGTERM, before)


def end(*_):
    raise SystemExit


@pytest.fixture
def handlers():
    """Python's own for Ctrl-C, and one for SIGTERM that ends the process."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGTERM, end)
    yield lambda: (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)


def test_each_signal_is_delivered_though_another_ends_the_process(handlers):
    own = handlers()
    with pytest.raises(KeyboardInterrupt) as caught, uninterrupted():
        list(map(signal.raise_signal, (signal.SIGINT, signal.SIGTERM)))
    assert isinstance(caught.value.__context__, SystemExit)
    assert handlers() == own


def test_a_signal_that_comes_while_handlers_are_put_back_leaves_none_away(handlers, monkeypatch):
    own, install = handlers(), signal.signal

    def install_and_send(number, handler):
        install(number, handler)
        if handler is end:
            signal.raise_signal(number)

    with pytest.raises(SystemExit), uninterrupted():
        monkeypatch.setattr(signal, "signal", install_and_send)
    monkeypatch.undo()
    assert handlers() == own


def test_signals_within_each_other_wait_for_the_outermost(handlers):
    done = []

    def press_and_go_on():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
        done.append(True)

    with pytest.raises(KeyboardInterrupt), uninterrupted():
        press_and_go_on()
    assert done


@pytest.mark.parametrize("place", [signal.SIG_IGN, signal.SIG_DFL])
def test_what_python_does_not_handle_stays_as_it_is(handlers, place):
    signal.signal(signal.SIGTERM, place)
    with uninterrupted():
        assert signal.getsignal(signal.SIGTERM) is place
    assert signal.getsignal(signal.SIGTERM) is place


def test_where_python_takes_no_handler_nothing_is_lost(monkeypatch):
    """As in a program that holds Python, whose main thread is not the first that Python was asked from."""

    def refuse(*_):
        raise ValueError("signal only works in main thread of the main interpreter")

    monkeypatch.setattr(signal, "signal", refuse)
    module = Interrupted(random.Random)
    state = what_is_in(module)
    with undisturbed(module):
        module(torch.rand(3, 2))
    assert what_is_in(module) == state


def test_another_thread_puts_back_as_ever():
    module = Interrupted(Pressed)
    state, done = what_is_in(module), []

    def measure_there():
        with undisturbed(module):
            module(torch.rand(3, 2))
        done.append(True)

    thread = threading.Thread(target=measure_there)
    thread.start()
    thread.join()
    assert done
    assert what_is_in(module) == state


class Logs(L.LightningModule):
    def __init__(self, on_step):
        super().__init__()
        self.model, self.on_step = nn.Linear(16, 3), on_step

    def forward(self, x):
        assert self.log("norm", x.norm(), on_step=self.on_step, on_epoch=not self.on_step) is None
        self.log_dict({"largest": x.max()}, on_step=self.on_step, on_epoch=not self.on_step)
        return self.model(x.flatten(1))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("on_step", [False, True])
def test_a_forward_logs_what_training_gave_it_and_is_measured(make_trainer, on_step):
    def logged(*callbacks):
        L.seed_everything(0, verbose=False)
        data = TensorDataset(torch.rand(12, 1, 4, 4), torch.arange(12) % 3)
        trainer = make_trainer(*callbacks, max_epochs=2, logger=False, enable_checkpointing=False)
        trainer.fit(Logs(on_step), DataLoader(data, 6))
        return {key: trainer.callback_metrics[key].item() for key in ("norm", "largest")}

    monitor = InteractionMonitor(ImagePatches(grid=2, margin=0, n_players=4), n_samples=4, on_error="raise")
    with pytest.warns(UserWarning, match="no validation loader"):
        with_monitor = logged(monitor)
    assert with_monitor == logged()
    assert monitor.observer.history.epochs.tolist() == [0, 1, 2]


# Weights whose shapes only the first batch gives are drawn by it, as without the monitor


PATCHES = ImagePatches(grid=2, margin=0, n_players=4)


def lazy():
    return nn.Sequential(
        nn.LazyConv2d(3, 2), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.LazyLinear(3)
    )


def test_a_plain_loop_is_told_to_run_a_batch_first():
    net, probe = lazy(), Probe(torch.rand(5, 1, 4, 4), torch.arange(5) % 3)
    players = PATCHES.assign(probe, None, seed=0)
    state = torch.get_rng_state()
    for run in (measure, lambda *given: Observer(probe, players).observe(net, epoch=0, step=0)):
        with pytest.raises(ValueError, match=r"Sequential has weights without a shape, '0.weight'.*model\(inputs\)"):
            run(net, probe, players)
    assert all(torch.nn.parameter.is_lazy(parameter) for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    net(probe.inputs)
    assert measure(net, probe, assign_players(net, PATCHES, probe)).valid.all()


class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = lazy()

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("sanity", [0, 2])
def test_a_lightning_run_is_measured_from_the_first_batch_on_and_trains_the_same_weights(make_trainer, sanity, capsys):
    def trained(*callbacks):
        L.seed_everything(0, verbose=False)
        data = TensorDataset(torch.rand(12, 1, 4, 4), torch.arange(12) % 3)
        net = Net()
        trainer = make_trainer(
            *callbacks, max_epochs=2, logger=False, enable_checkpointing=False, num_sanity_val_steps=sanity
        )
        trainer.fit(net, DataLoader(data, 6, shuffle=True), DataLoader(data, 6))
        return net.state_dict(), torch.get_rng_state()

    monitor = InteractionMonitor(PATCHES, n_samples=4, on_error="raise")
    (with_monitor, state), (without, expected) = trained(monitor), trained()
    assert torch.equal(state, expected)
    assert all(torch.equal(with_monitor[name], without[name]) for name in without)
    history = monitor.observer.history
    # The sanity check of the validation loader gives the shapes before training begins.
    assert (history.steps.tolist(), history.epochs.tolist()) == ([0 if sanity else 1, 2, 4], [0, 1, 2])
    told = "measures from the first batch on, which gives 'model.0.weight', 'model.0.bias'"
    assert (told in capsys.readouterr().out) == (sanity == 0)
