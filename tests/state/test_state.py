"""What forwards change is put back after each of them: attributes, containers, weights, generators, closures."""

import random
import warnings
from collections import Counter, OrderedDict, deque

import numpy as np
import pytest
import torch
from torch import nn

from interaction_monitor import Probe, assign_players
from interaction_monitor.forward import masked_outputs
from interaction_monitor.forward.precision import rounding
from interaction_monitor.players import FeaturePatches, ImagePatches
from interaction_monitor.state import undisturbed

CALLS = {"n": 0}


class Helper:
    __slots__ = ("total",)

    def __init__(self):
        self.total = 0


class Restless(nn.Module):
    """Changes all kinds of state in each forward."""

    shared = {"n": 0}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.head = nn.Linear(128, 3)
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("running", torch.zeros(3))
        self.mean, self.hidden, self.resized = torch.zeros(()), torch.zeros(3), torch.zeros(2)
        self.history, self.seen, self.last = [[]], Counter(), deque([0], maxlen=2)
        self.order, self.kinds, self.array = OrderedDict(a=1, b=2), {0}, np.zeros(2)
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
        "plain": (net.history, dict(net.seen), list(net.last), list(net.order), net.kinds, net.array.tolist()),
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
                masked = lambda m, a, o, s=sample, t=mask: drawn.mask(o, s, t)  # noqa: E731
                handle = net.conv.register_forward_hook(masked)
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
