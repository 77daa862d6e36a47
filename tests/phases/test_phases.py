from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from interaction_monitor.functional import generalizing_share
from interaction_monitor.phases import OverfittingTracker

RISE = 0.75 - 0.45 * np.exp(-np.arange(36) / 4)  # learning: up to 0.75, and there it stays
SINKS = RISE - np.clip((np.arange(36) - 18) * 0.02, 0, None)


def measurements(path, generator, *, samples=25, jitter=0.02, own=0.05, drift=0.0):
    """Shares that follow the path: the network's jitter, each sample's own level, noise, and wandering."""
    weight, level = generator.lognormal(0, 0.5, samples), 0.12 * generator.standard_normal(samples)
    wandering = np.zeros(samples)
    for share in path:
        wandering = wandering + drift * generator.standard_normal(samples)
        strength = weight * generator.lognormal(0, 0.1, samples)
        noise = jitter * generator.standard_normal() + own * generator.standard_normal(samples)
        yield torch.tensor(strength * np.clip(share + level + wandering + noise, 0, 1)), torch.tensor(strength)


def track(path, generator, *, tracker=None, **arguments):
    tracker = tracker or OverfittingTracker()
    for epoch, (generalizing, strength) in enumerate(measurements(path, generator, **arguments)):
        tracker.update(epoch=epoch, generalizing=generalizing, strength=strength)
    return tracker.state


NULLS = {
    "flat from the start": (np.full(36, 0.6), {}),
    "rises and stays": (RISE, {"jitter": 0.04}),
    "rises, few samples": (RISE, {"samples": 6}),
    "rises, the samples wander": (RISE, {"drift": 0.03}),
    "sinks by less than matters": (RISE - np.clip((np.arange(36) - 12) * 0.002, 0, 0.04), {}),
}


@pytest.mark.parametrize("name", NULLS)
def test_false_onsets_are_no_more_often_than_alpha(name):
    path, arguments = NULLS[name]
    generator = np.random.default_rng(0)
    found = [track(path, generator, **arguments).onset_epoch for _ in range(20)]
    assert sum(onset is not None for onset in found) <= 1


def test_a_share_that_sinks_is_found_where_it_begins_to():
    generator = np.random.default_rng(1)
    states = [track(SINKS, generator) for _ in range(12)]
    assert all(state.onset_epoch is not None for state in states)
    assert abs(np.median([state.onset_epoch for state in states]) - 18) <= 1
    assert np.mean([state.earliest_epoch <= 18 <= state.latest_epoch for state in states]) >= 0.75
    # a tenth of the highest share is lost after four measurements
    assert np.median([state.detected_epoch for state in states]) <= 26
    assert all(state.onset_epoch < state.detected_epoch for state in states)
    assert all(state.share < 0.6 < 0.7 < state.highest_share for state in states)


@pytest.mark.parametrize(
    ("test", "change"),
    [
        ("jitter", lambda monkeypatch: monkeypatch.setattr(
            "interaction_monitor.phases.change_tests._pooled_jitter", lambda *_: (0.0, 5))),
        ("samples", lambda monkeypatch: monkeypatch.setattr(
            "interaction_monitor.phases.change_tests.Curve._paired", lambda *_: (math.inf, 1.0, 5))),
    ],
)  # fmt: skip
def test_without_either_test_there_are_false_onsets(test, change, monkeypatch):
    change(monkeypatch)
    arguments = {"jitter": {"jitter": 0.06}, "samples": {"samples": 4, "drift": 0.06, "jitter": 0.0}}[test]
    generator = np.random.default_rng(0)
    found = [track(RISE, generator, tracker=OverfittingTracker(min_drop=0.05), **arguments) for _ in range(10)]
    assert sum(state.onset_epoch is not None for state in found) >= 3


def test_the_onset_stays_and_nothing_is_said_early():
    generator = np.random.default_rng(2)
    tracker, states = OverfittingTracker(), []
    path = np.concatenate((SINKS, np.full(10, 0.75)))
    for epoch, (generalizing, strength) in enumerate(measurements(path, generator)):
        states.append(tracker.update(epoch=2 * epoch, step=20 * epoch, generalizing=generalizing, strength=strength))
    first = next(i for i, state in enumerate(states) if state.onset_epoch is not None)
    assert states[first].detected_epoch == 2 * first
    assert states[first].detected_step == 20 * first
    assert states[first].onset_step == 10 * states[first].onset_epoch
    assert {(s.onset_epoch, s.earliest_epoch, s.latest_epoch) for s in states[first:]} == {
        (states[first].onset_epoch, states[first].earliest_epoch, states[first].latest_epoch)
    }
    # a drop right at the start, before anything has been learnt, is none
    assert track(np.concatenate(([0.6, 0.4], RISE)), np.random.default_rng(3)).onset_epoch is None


FALLS = 0.4 + 1.6 * np.exp(-np.arange(36) / 4)
LOSSES = {
    "falls and stays": (FALLS, 0.03),
    "falls on": (FALLS - 0.004 * np.arange(36), 0.01),
    "jitters by more than matters": (FALLS, 0.1),
    "rises by less than matters": (FALLS + np.clip((np.arange(36) - 20) * 0.0015, 0, None), 0.005),
}


def follow(path, jitter, generator, **arguments):
    """Track a share that stays, beside the loss of twins that follows the path."""
    tracker = OverfittingTracker(**arguments)
    for epoch, (generalizing, strength) in enumerate(measurements(RISE, generator)):
        loss = None if epoch == 0 else path[epoch] + jitter * generator.standard_normal()
        tracker.update(epoch=epoch, generalizing=generalizing, strength=strength, unseen_loss=loss)
    return tracker.state


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_does_not_rise_is_no_onset(name):
    generator = np.random.default_rng(0)
    states = [follow(*LOSSES[name], generator) for _ in range(20)]
    assert sum(state.onset_epoch is not None for state in states) <= 1


def test_a_loss_that_rises_is_an_onset_where_the_share_stays():
    generator = np.random.default_rng(1)
    path = FALLS + np.clip((np.arange(36) - 16) * 0.02, 0, None)
    states = [follow(path, 0.01, generator) for _ in range(10)]
    assert all(state.onset_epoch is not None for state in states)
    assert abs(np.median([state.onset_epoch for state in states]) - 16) <= 2
    assert np.median([state.detected_epoch for state in states]) <= 24
    assert all(
        state.earliest_epoch <= state.onset_epoch <= state.latest_epoch < state.detected_epoch for state in states
    )
    # neither matters where as much again has to be lost
    assert follow(path, 0.01, generator, min_loss_rise=2.0).onset_epoch is None


def test_losses_that_are_rarer_than_measurements_give_the_epoch_of_the_measurement():
    path = FALLS + np.clip((np.arange(36) - 16) * 0.02, 0, None)
    tracker, generator = OverfittingTracker(), np.random.default_rng(1)
    for epoch, (generalizing, strength) in enumerate(measurements(RISE, generator)):
        loss = path[epoch] + 0.002 * generator.standard_normal() if epoch % 2 else None
        before = tracker.state
        state = tracker.update(epoch=epoch, generalizing=generalizing, strength=strength, unseen_loss=loss)
        # what is known comes with a loss, never between two
        assert loss is not None or state.onset_epoch == before.onset_epoch
    assert abs(state.onset_epoch - 16) <= 2
    assert state.earliest_epoch <= state.onset_epoch <= state.latest_epoch < state.detected_epoch


def test_a_rise_that_was_over_before_anything_may_be_said_is_not_known_from_an_old_loss():
    tracker, ones = OverfittingTracker(), torch.ones(5)
    losses = [1.0, 0.9, 0.8, 0.7, 0.6, 2.0, 2.01, None, None, 2.0]
    known = [
        tracker.update(epoch=epoch, generalizing=0.5 * ones, strength=ones, unseen_loss=loss).detected_epoch
        for epoch, loss in enumerate(losses)
    ]
    assert known == [None] * 9 + [9]


def test_the_share_has_half_of_the_level_where_losses_are_watched_too():
    def known(seed, alpha, losses):
        tracker, generator = OverfittingTracker(alpha=alpha), np.random.default_rng(seed)
        for epoch, (generalizing, strength) in enumerate(measurements(SINKS, generator, jitter=0.04, own=0.1)):
            loss = 2.0 - 0.01 * epoch if losses else None
            tracker.update(epoch=epoch, generalizing=generalizing, strength=strength, unseen_loss=loss)
        return tracker.state.detected_epoch

    seeds = range(8)
    beside = [known(seed, 0.8, True) for seed in seeds]
    assert beside == [known(seed, 0.4, False) for seed in seeds]
    assert beside != [known(seed, 0.8, False) for seed in seeds]


def test_the_share_is_that_of_all_samples():
    generator = np.random.default_rng(4)
    generalizing, strength = next(measurements([0.5], generator))
    state = OverfittingTracker().update(epoch=0, generalizing=generalizing, strength=strength)
    assert state.share == pytest.approx(generalizing_share(generalizing[:, None], strength[:, None]).share)
    assert state.share == state.highest_share
    assert state.onset_epoch is state.detected_epoch is None


def test_unknown_samples_and_measurements_are_passed_over():
    generator = np.random.default_rng(5)
    tracker, zero = OverfittingTracker(), torch.zeros(25)
    for epoch, (generalizing, strength) in enumerate(measurements(SINKS, generator)):
        generalizing[7] = math.nan if epoch % 5 else 0.0
        tracker.update(epoch=epoch, generalizing=generalizing, strength=strength)
        tracker.update(epoch=epoch, generalizing=zero, strength=zero)  # nothing salient says nothing
    assert abs(tracker.state.onset_epoch - 18) <= 3


def test_resuming_goes_on_exactly():
    generator = np.random.default_rng(6)
    whole, resumed = OverfittingTracker(), OverfittingTracker()
    for epoch, (generalizing, strength) in enumerate(measurements(SINKS, generator)):
        fresh = OverfittingTracker()
        fresh.load_state_dict(json.loads(json.dumps(resumed.state_dict())))
        resumed = fresh
        arguments = {"epoch": epoch, "step": epoch, "generalizing": generalizing, "strength": strength}
        arguments["unseen_loss"] = 0.5 + 0.01 * epoch if epoch % 3 else None
        assert resumed.update(**arguments) == whole.update(**arguments)
    assert whole.state.onset_epoch is not None
    # what is kept does not grow with samples times measurements
    assert len(whole.state_dict()["curve"]["linear"]) <= 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 5}, "alpha must lie between 0 and 1, but is 5"),
        ({"min_drop": 15}, "min_drop must lie between 0 and 1, but is 15; 0.1 is a tenth"),
        ({"min_loss_rise": -1}, "min_loss_rise must be at least 0, but is -1; 0.1 is a tenth"),
        ({"persistence": 0}, "persistence must be at least 1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        OverfittingTracker(**arguments)


def test_bad_measurements_are_named_and_not_taken_in():
    tracker, ones = OverfittingTracker(), torch.ones(5)
    tracker.update(epoch=3, generalizing=ones, strength=ones)
    before = tracker.state_dict()
    for epoch, strength, message in (
        (2, ones, "epoch must not fall, but is 2 after 3"),
        (4, torch.ones(5, 4), r"must be \(samples,\), summed over the orders"),
        (4, torch.ones(6), "has 6 after 5"),
    ):
        with pytest.raises(ValueError, match=message):
            tracker.update(epoch=epoch, generalizing=strength, strength=strength)
    assert tracker.state_dict() == before
