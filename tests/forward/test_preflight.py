"""A mask that is moved behind the pooling layer that follows gives what it gave before it, or it is not moved."""

import pytest
import torch
from torch import nn

import interaction_monitor.forward as engine
from interaction_monitor import Probe, assign_players
from interaction_monitor.forward import masked_outputs
from interaction_monitor.forward.preflight import try_out
from interaction_monitor.players import FeaturePatches, PlayerMap, Spans
from interaction_monitor.players.player_map import behind_pool


class Net(nn.Module):
    def __init__(self, pool, after=None, *, around=False, between=None):
        super().__init__()
        torch.manual_seed(0)
        self.before, self.pool, self.around = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()), pool, around
        self.between = between or (lambda x: x)
        self.after = after or nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))

    def forward(self, x):
        x = self.before(x)
        found = self.after(self.pool(self.between(x)))
        return found + x.mean((1, 2, 3), keepdim=True).flatten(1) if self.around else found


@pytest.fixture
def probe():
    return Probe(torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(4) % 3)


def plainly(net, probe, players):
    """One full forward for each coalition, masked at the layer by `torch.where`."""
    net.eval()
    rows = []
    for sample, y in enumerate(probe.targets.tolist()):
        handle = net.before.register_forward_hook(
            lambda m, a, o, s=sample: players.mask(o[:1], s, torch.arange(1 << players.n_players))
        )
        with torch.no_grad():
            z = net(probe.inputs_of(sample).expand(1 << players.n_players, -1, -1, -1)).double()
        handle.remove()
        rows.append(z[:, y] - z[:, [k for k in range(3) if k != y]].logsumexp(1))
    return torch.stack(rows)


def masked_at(net, probe, players, monkeypatch):
    """The outputs, and where the mask was in the end."""
    seen = []

    def tried(runner, *given):
        logits = try_out(runner, *given)
        seen.append((runner.way, runner.players.layer))
        return logits

    monkeypatch.setattr(engine, "try_out", tried)
    return masked_outputs(net, probe, players), seen[0]


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("baseline", [0.0, "mean"])
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d((2, 1), (2, 1))])
def test_it_is_moved_where_windows_lie_within_players(probe, pool, baseline, chunk_size, monkeypatch):
    net = Net(pool)
    net(probe.inputs)
    value = baseline if baseline == 0.0 else lambda x: x.mean((0, 2, 3), keepdim=True)
    players = assign_players(net, FeaturePatches("before", grid=4, margin=0, n_players=4, baseline=value), probe)
    expected = plainly(net, probe, players)
    found, where = masked_at(net, probe, players, monkeypatch)
    assert where == ("spread", "pool")
    assert (expected.std(dim=1) > 1e-4).all()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(masked_outputs(net, probe, players, chunk_size=chunk_size), expected, rtol=0, atol=2e-6)


STAYS = {
    "windows reach over players": lambda: Net(nn.MaxPool2d(3, stride=2)),
    "windows reach over the edge": lambda: Net(nn.MaxPool2d(2, padding=1)),
    "something goes around the pool": lambda: Net(nn.MaxPool2d(2), around=True),
    "something is done before the pool": lambda: Net(nn.MaxPool2d(2), between=torch.tanh),
    "the pool is used twice": lambda: Net(pool := nn.MaxPool2d(2), nn.Sequential(pool, nn.Flatten(), nn.LazyLinear(3))),
}


@pytest.mark.parametrize("why", STAYS)
def test_it_stays_where(why, probe, monkeypatch):
    net = STAYS[why]()
    net(probe.inputs)
    players = assign_players(net, FeaturePatches("before", grid=4, margin=0, n_players=4), probe)
    found, (_, layer) = masked_at(net, probe, players, monkeypatch)
    assert layer == "before"
    torch.testing.assert_close(found, plainly(net, probe, players), rtol=0, atol=2e-6)


def test_positions_that_are_replaced_by_different_numbers_stay():
    players = PlayerMap(torch.tensor([[0, 0, 1, 1]]), n_players=2, axes=(2,), layer="relu")
    assert behind_pool(players, "pool", nn.MaxPool1d(2)).layer == "pool"
    uneven = PlayerMap(players.labels, 2, (2,), baseline=torch.rand(1, 3, 4), layer="relu")
    assert behind_pool(uneven, "pool", nn.MaxPool1d(2)) is None
    even = PlayerMap(players.labels, 2, (2,), baseline=torch.rand(1, 3, 1), layer="relu")
    assert behind_pool(even, "pool", nn.AvgPool1d(2)).baseline is even.baseline
    assert behind_pool(players, "pool", nn.MaxPool2d(2)) is None


def test_signals_too(monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool1d(4), nn.Conv1d(4, 3, 3), nn.Tanh(), nn.Flatten(),
        nn.LazyLinear(3),
    )  # fmt: skip
    probe = Probe(torch.randn(3, 2, 32), torch.arange(3))
    net(probe.inputs)
    players = assign_players(net, Spans(layer="1", axis=2, n_spans=8, n_players=4), probe)
    found, where = masked_at(net, probe, players, monkeypatch)
    assert where == ("spread", "2")
    rows = []
    for sample in range(3):
        z = net[2:](players.mask(net[:2](probe.inputs_of(sample)), sample, torch.arange(16))).double().detach()
        rows.append(z[:, sample] - z[:, [k for k in range(3) if k != sample]].logsumexp(1))
    torch.testing.assert_close(found, torch.stack(rows), rtol=0, atol=2e-6)
