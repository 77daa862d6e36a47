"""What a measurement takes is told before it is paid for, and by default it takes no longer than it must."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from interaction_monitor import Observer, Probe, assign_players, cost
from interaction_monitor.cost import Cost, cost_of, extraction_bytes, extraction_seconds, seconds_per_forward
from interaction_monitor.forward import masked_outputs
from interaction_monitor.players import ImagePatches
from interaction_monitor.schedule import Budget, Forecast, forecast
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


COSTS = Cost(10, 51_200, 1.2, 2.9), Cost(8, 12_800, 0.3, 0.52)


def test_what_is_said_at_the_start():
    assert Forecast(*COSTS, planned=(17, 30)).at_start() == (
        "a measurement takes about 4.1 s, 17 of them at most 70 s (51,200 masked forwards 1.2 s, extraction 2.9 s)"
    )
    assert Forecast(*COSTS).at_start().startswith("a measurement takes about 4.1 s (")


def said(*, trained, measured=4.1, planned=(17, 30), budget=None):
    budget = budget or Budget(1.0, spared=20)
    return Forecast(*COSTS, planned=planned).after_epoch(trained=trained, measured=measured, budget=budget)


def test_a_run_that_is_measured_for_longer_than_trained_is_told_what_helps():
    assert said(trained=0.4) == (
        "an epoch of training takes 0.4 s, a measurement 4.1 s; 17 of these 70 s, 30 epochs 12 s; n_players=8 makes a "
        "measurement about 0.8 s"
    )
    assert said(trained=3.0) is None  # each takes longer than an epoch, but not all than the run
    assert said(trained=0.01, measured=0.2) is None  # what is over in a few seconds
    assert "; n_players=8 makes a measurement about 0.8 s; after the" in said(trained=3.0, planned=None)
    assert said(trained=5.0, planned=None) is None


@pytest.mark.parametrize(("fewer", "told"), [(0.7, True), (2.0, True), (2.1, False), (4.1, False), (4.6, False)])
def test_fewer_players_are_advised_only_where_they_are_clearly_cheaper(fewer, told):
    known = Forecast(COSTS[0], Cost(8, 12_800, fewer, 0.0), (17, 30))
    text = known.after_epoch(trained=0.4, measured=4.1, budget=Budget(None))
    assert ("n_players=8" in text) == told


@pytest.mark.parametrize(
    ("planned", "budget", "put_off"),
    [
        ((17, 30), Budget(1.0, spared=20), None),  # all are spared
        ((24, 30), Budget(1.0, spared=20), "; after the first 20 they are put off to keep max_overhead=1"),
        ((17, 30), Budget(0.05), "; they are put off to keep max_overhead=0.05"),
        ((24, 30), Budget(None), None),
        (None, Budget(1.0, spared=20), "; after the first 20 they are put off to keep max_overhead=1"),
    ],
)
def test_measurements_are_said_to_be_put_off_where_they_are(planned, budget, put_off):
    text = said(trained=0.4, planned=planned, budget=budget)
    assert text.endswith(put_off) if put_off else "put off" not in text


def test_a_forecast_is_silent_and_never_fails(network, probe, players, recwarn):
    with torch.no_grad():
        network[3].weight.zero_()  # of which a measurement warns
    assert forecast(Observer(probe, players), network) is not None
    few = Observer(probe.select(torch.arange(2)), players.select(torch.arange(2)))
    assert forecast(few, network) is None
    assert forecast(Observer(probe, players, forward_func=lambda *_: 1 / 0), network) is None
    assert len(recwarn) == 0
