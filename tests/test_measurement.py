"""What `measure`, `interpret` and the observer refuse, before any forward."""

import numpy as np
import pytest
import torch
from torch import nn

from interaction_monitor import Observer, Probe, assign_players, measure
from interaction_monitor.forward import masked_outputs
from interaction_monitor.measurement import interpret
from interaction_monitor.players import ImagePatches
from interaction_monitor.settings import Thresholds


class Counting(nn.Module):
    """A network that counts its forwards."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.head(x.flatten(1))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Counting()


@pytest.fixture
def probe():
    return Probe(torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0]))


PATCHES = ImagePatches(grid=4, margin=0, n_players=3)


@pytest.fixture
def drawn(net, probe):
    players = assign_players(net, PATCHES, probe)
    net.calls = 0
    return players


@pytest.mark.parametrize("kind", ["or", "AND", "harsanyi", None, 3])
def test_other_interactions(net, probe, drawn, kind):
    with pytest.raises(ValueError, match=r'interactions=.*: give "and-or" or "and"'):
        measure(net, probe, drawn, interactions=kind)
    with pytest.raises(ValueError, match="interactions="):
        Observer(probe, drawn, interactions=kind)
    with pytest.raises(ValueError, match="interactions="):
        interpret(torch.rand(2, 8), interactions=kind)
    assert net.calls == 0


def test_players_that_are_not_drawn_and_wrong_order(net, probe, drawn):
    for run in (measure, masked_outputs):
        name = run.__name__
        with pytest.raises(TypeError, match=rf"{name}\(players=ImagePatches.*give assign_players\(model, players"):
            run(net, probe, PATCHES)
        with pytest.raises(TypeError, match=rf"(?s){name}\(probe=PlayerMap.*give Probe\(inputs, targets\)"):
            run(net, drawn, probe)
        with pytest.raises(TypeError, match=rf"{name}\(probe=Counting"):
            run(probe, net, drawn)
        with pytest.raises(TypeError, match=rf"{name}\(probe=a tensor of shape \(4, 1, 8, 8\)\)"):
            run(net, probe.inputs, drawn)
    assert net.calls == 0


def test_thresholds_of_another_kind(net, probe, drawn):
    for run in (
        lambda: measure(net, probe, drawn, thresholds=0.03),
        lambda: Observer(probe, drawn, thresholds=0.03),
        lambda: interpret(torch.rand(2, 8), thresholds=0.03),
    ):
        with pytest.raises(TypeError, match=r"thresholds=float: 0.03: give Thresholds\("):
            run()
    assert net.calls == 0
    assert measure(net, probe, drawn, thresholds=Thresholds(saliency=0.1)).tau > 0


def test_outputs_that_are_none():
    with pytest.raises(TypeError, match=r"(?s)v=ndarray.*give a tensor"):
        interpret(np.zeros((2, 8)))
    with pytest.raises(ValueError, match=r"shape \(8,\)\): give \(samples, 2\^n\).*v\[None\]"):
        interpret(torch.rand(8))
    for shape in ((2, 6), (2, 1), (2, 0), (2, 2, 8), ()):
        with pytest.raises(ValueError, match=r"give \(samples, 2\^n\)"):
            interpret(torch.rand(shape), interactions="and")
