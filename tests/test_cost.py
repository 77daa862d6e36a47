"""What a measurement takes is told before it is paid for, and by default it takes no longer than it must."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from interaction_monitor import Observer, Probe, assign_players, cost
from interaction_monitor.cost import cost_of, extraction_bytes, extraction_seconds, seconds_per_forward
from interaction_monitor.forward import masked_outputs
from interaction_monitor.players import ImagePatches
from interaction_monitor.schedule import forecast
from interaction_monitor.settings import Settings


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))


@pytest.fixture
def probe():
    return Probe(torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3)


@pytest.fixture
def players(network, probe):
    return assign_players(network, ImagePatches(grid=4, margin=0, n_players=8), probe)


def test_the_time_of_a_forward_is_without_what_a_call_takes_once(network, probe, players, monkeypatch):
    now = [0.0]

    def outputs(model, probe, players, settings):
        now[0] += 0.05 + 0.001 * (len(probe) << players.n_players)

    monkeypatch.setattr(cost, "outputs_of", outputs)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    assert seconds_per_forward(network, probe, players) == pytest.approx(0.001)


def test_the_time_of_an_extraction_grows_with_the_samples_alone(monkeypatch):
    monkeypatch.setattr(cost, "_timings", lambda n, device: (0.5 + 0.2, 0.5 + 4 * 0.2))
    assert extraction_seconds(8, 50) == pytest.approx(0.5 + 50 * 0.2)
    assert extraction_seconds(8, 1) == pytest.approx(0.7)
    monkeypatch.setattr(cost, "_timings", lambda n, device: (3.0, None))
    assert extraction_seconds(12, 50) == pytest.approx(150.0)


def test_forwards_are_timed_with_the_first_players_where_the_others_are_present(network, probe, players):
    fewer = masked_outputs(network, probe, cost._with_players(players, 5))
    whole = masked_outputs(network, probe, players)
    torch.testing.assert_close(fewer, whole[:, 0b11100000:], rtol=0, atol=1e-5)


def test_forwards_are_counted_and_shared(network, probe, players, monkeypatch):
    monkeypatch.setattr(cost, "seconds_per_forward", lambda *args, **options: 0.001)
    monkeypatch.setattr(cost, "extraction_seconds", lambda n, samples, **options: samples * n)
    one, two = cost_of(network, probe, players, n_players=(6, 8), n_samples=50, n_processes=2)
    assert (one.forwards, two.forwards) == (50 * 64, 50 * 256)
    assert two.forward_seconds == pytest.approx(6.4)
    assert two.seconds == pytest.approx(6.4 + 400)
    (free,) = cost_of(network, probe, players, Settings(interactions="and"), n_players=(8,), n_samples=50)
    assert free.extraction_seconds == 0.0


def test_memory_grows_with_the_samples():
    few, more = extraction_bytes(5, 10), extraction_bytes(5, 100)
    assert 8 * 10 * 32 < few < more <= 10 * few + 10


def test_a_forecast_is_silent_and_never_fails(network, probe, players, recwarn):
    with torch.no_grad():
        network[3].weight.zero_()  # of which a measurement warns
    assert forecast(Observer(probe, players), network) is not None
    few = Observer(probe.select(torch.arange(2)), players.select(torch.arange(2)))
    assert forecast(few, network) is None
    assert forecast(Observer(probe, players, forward_func=lambda *_: 1 / 0), network) is None
    assert len(recwarn) == 0
