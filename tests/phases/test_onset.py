from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from interaction_monitor.functional import mean_order
from interaction_monitor.phases import PhaseState, PhaseTracker, change_tests
from interaction_monitor.phases.change_tests import Curve

RECORDED = Path(__file__).parents[1] / "data" / "digits_histories.npz"

# 2.6 orders are lost over 12 measurements, and a plateau is left
FALL = 1.3 + 2.6 * np.exp(-np.arange(12) / 3)
PLATEAU = np.concatenate((FALL, np.full(33, FALL[-1])))


def strengths(path, generator, *, samples=50, n=10, own=0.2, drift=0.0):
    """Measurements whose mean order follows `path`.

    Samples differ in strength and in mean order, and each has noise of its own, fresh at every measurement (`own`) or
    wandering (`drift`).
    """
    measurements = len(path)
    weight = generator.lognormal(0, 0.7, samples)
    mean = path[:, None] + 0.4 * generator.standard_normal(samples)
    mean = mean + own * generator.standard_normal((measurements, samples))
    mean = mean + drift * generator.standard_normal((measurements, samples)).cumsum(0)
    mean = mean.clip(1, n - 1e-6)
    low = np.floor(mean).astype(int)
    result = np.zeros((measurements, samples, n))
    rows, columns = np.indices(mean.shape)
    result[rows, columns, low - 1] += weight * (low + 1 - mean)
    result[rows, columns, low] += weight * (mean - low)
    return torch.tensor(result)


def track(measurements, **arguments):
    tracker = PhaseTracker(**arguments)
    for epoch, strength in enumerate(measurements):
        tracker.update(epoch=epoch, strength=strength)
    return tracker.state


def jitter(kind, generator, length):
    white = generator.standard_normal(length)
    if kind == "white":
        return white
    wander = np.zeros(length)
    for index in range(1, length):
        wander[index] = 0.9 * wander[index - 1] + 0.44 * white[index]
    return wander


NULLS = {
    "flat, noise of the samples": (np.full(40, 3.0), "white", 0.0, {}),
    "flat, noise of the network": (np.full(40, 3.0), "white", 0.3, {}),
    "flat, few samples": (np.full(40, 3.0), "white", 0.0, {"samples": 6}),
    "falling only": (1.2 + 2.7 * np.exp(-np.arange(40) / 15), "white", 0.05, {}),
    "plateau, noise of the network": (PLATEAU, "white", 0.15, {}),
    "plateau, samples wander": (PLATEAU + 3, "white", 0.0, {"drift": 0.3, "samples": 8}),
    "plateau, the network wanders": (PLATEAU, "wander", 0.05, {}),
}


@pytest.mark.parametrize("name", NULLS)
def test_false_alarms_are_no_more_often_than_alpha(name):
    path, kind, spread, arguments = NULLS[name]
    generator = np.random.default_rng(0)
    runs = 40
    false = sum(
        track(strengths(path + spread * jitter(kind, generator, len(path)), generator, **arguments)).phase == "two"
        for _ in range(runs)
    )
    assert false <= 0.05 * runs


@pytest.mark.parametrize(
    ("test", "name"),
    [("jitter", "plateau, noise of the network"), ("samples", "plateau, samples wander")],
)
def test_without_either_test_the_same_nulls_give_false_alarms(test, name, monkeypatch):
    if test == "jitter":
        monkeypatch.setattr(change_tests, "_pooled_jitter", lambda *_: (0.0, 5))
    else:
        monkeypatch.setattr(Curve, "_paired", lambda *_: (math.inf, 1.0, 5))
    path, kind, spread, arguments = NULLS[name]
    generator = np.random.default_rng(0)
    false = sum(
        track(strengths(path + spread * jitter(kind, generator, len(path)), generator, **arguments), min_rise=0.0).phase
        == "two"
        for _ in range(20)
    )
    assert false >= 5


@pytest.mark.parametrize(("slope", "slowest"), [(0.05, 12), (0.1, 9), (0.3, 5)])
def test_a_rise_is_found_where_it_is(slope, slowest):
    generator = np.random.default_rng(1)
    path = np.concatenate((FALL, FALL[-1] + slope * np.arange(1, 31)))
    states = [track(strengths(path + 0.02 * generator.standard_normal(len(path)), generator)) for _ in range(10)]
    assert all(state.phase == "two" for state in states)
    assert np.median([abs(state.onset_epoch - 11) for state in states]) <= 1
    assert max(abs(state.onset_epoch - 11) for state in states) <= 3
    assert np.median([state.detected_epoch - 11 for state in states]) <= slowest


def test_a_slight_fall_is_known_from_several_measurements():
    generator = np.random.default_rng(16)
    falls, stays = np.repeat([4.0, 3.55], [4, 26]), np.full(30, 4.0)
    phases = [
        [track(strengths(path + 0.1 * generator.standard_normal(30), generator)).phase for _ in range(20)]
        for path in (falls, stays)
    ]
    assert phases[0].count("one") >= 18
    assert phases[1].count("initial") >= 19


def test_phases_come_in_order_and_the_onset_stays():
    generator = np.random.default_rng(2)
    tracker = PhaseTracker()
    path = np.concatenate((FALL, FALL[-1] + 0.2 * np.arange(1, 12), np.full(8, 1.0)))
    states = [
        tracker.update(epoch=epoch, strength=strength) for epoch, strength in enumerate(strengths(path, generator))
    ]
    phases = [state.phase for state in states]
    assert phases == sorted(phases, key=["initial", "one", "two"].index)
    assert set(phases) == {"initial", "one", "two"}
    first_two = phases.index("two")
    assert states[first_two - 1].onset_epoch is None
    assert states[first_two].detected_epoch == first_two
    assert {(s.onset_epoch, s.detected_epoch) for s in states[first_two:]} == {
        (states[first_two].onset_epoch, first_two)
    }
    assert states[-1].fall == pytest.approx(
        float(mean_order(strengths(path, np.random.default_rng(2))[0])) - min(tracker.state_dict()["means"])
    )


def test_of_equally_low_measurements_the_last_is_the_onset():
    path = np.concatenate((FALL, FALL[-1] + 0.2 * np.arange(1, 12)))
    fall_and_rise = strengths(path, np.random.default_rng(4), own=0.0)
    assert track(fall_and_rise).onset_epoch == 11
    assert track([*fall_and_rise[:11], *[fall_and_rise[11]] * 5, *fall_and_rise[12:]]).onset_epoch == 15


def test_no_phase_two_without_phase_one():
    generator = np.random.default_rng(3)
    state = track(strengths(np.linspace(2, 6, 30), generator))
    assert state.phase == "initial"
    assert state.onset_epoch is None
    assert state.rise > 3


def test_a_fixed_network_stays_initial():
    strength = strengths(np.array([3.0]), np.random.default_rng(4))[0]
    state = track([strength] * 20)
    assert state == PhaseState("initial", None, None, None, None, 0.0, 0.0)
    assert state.lag is None


def test_one_spike_is_not_an_onset():
    generator = np.random.default_rng(5)
    path = PLATEAU.copy()
    path[25] += 2
    assert track(strengths(path, generator)).phase == "one"
    path[25:] += 2
    state = track(strengths(path, generator))
    assert state.phase == "two"
    assert state.detected_epoch <= 30


def test_a_rise_of_a_few_samples_only_is_not_believed():
    generator = np.random.default_rng(6)
    path = np.concatenate((FALL, np.full(30, FALL[-1])))
    measurements = strengths(path, generator, samples=20, own=0.02)
    lifted = measurements.clone()
    # one strong sample carries the mean order up by much more than the jitter
    lifted[14:, 0] = 0
    lifted[14:, 0, 7] = 2.0
    means = [float(mean_order(strength)) for strength in lifted]
    assert means[-1] > means[11] + 0.3
    assert track(measurements).phase == "one"
    assert track(lifted).phase == "one"


def test_invalid_samples_are_left_out_in_pairs():
    generator = np.random.default_rng(7)
    path = np.concatenate((FALL, FALL[-1] + 0.15 * np.arange(1, 20)))
    measurements = strengths(path, generator)
    measurements[generator.random(measurements.shape[:2]) < 0.1] = torch.nan
    state = track(measurements)
    assert state.phase == "two"
    assert abs(state.onset_epoch - 11) <= 2


def test_measurements_with_nothing_salient_say_nothing():
    generator = np.random.default_rng(8)
    path = np.concatenate((FALL, FALL[-1] + 0.15 * np.arange(1, 20)))
    measurements = strengths(path, generator)
    expected = track(measurements)
    tracker = PhaseTracker()
    tracker.update(epoch=0, strength=torch.zeros(50, 10))
    for epoch, strength in enumerate(measurements):
        tracker.update(epoch=epoch, strength=strength)
        state = tracker.update(epoch=epoch, strength=torch.zeros(50, 10))
        assert state == tracker.update(epoch=epoch, strength=torch.full((50, 10), torch.nan))
    assert state == expected


def loss_curves(generator, epochs=60, opens=25, noise=0.01):
    """Train loss falls to zero; test loss is for `opens` epochs alongside."""
    epoch = np.arange(epochs)
    train = 2.3 * np.exp(-epoch / 12) + noise * generator.standard_normal(epochs)
    gap = 0.01 * np.clip(epoch - opens, 0, None)
    return train, train + gap + noise * generator.standard_normal(epochs)


def watch_losses(train, test, **arguments):
    tracker = PhaseTracker(**arguments)
    nothing = torch.zeros(3, 4)
    for epoch, (a, b) in enumerate(zip(train.tolist(), test.tolist(), strict=True)):
        state = tracker.update(epoch=epoch, strength=nothing, train_loss=a, test_loss=b)
    return state


def test_the_opening_of_the_loss_gap_is_found():
    generator = np.random.default_rng(9)
    states = [watch_losses(*loss_curves(generator, noise=0.003)) for _ in range(20)]
    assert all(state.gap_onset_epoch is not None for state in states)
    assert all(state.gap_detected_epoch > 25 for state in states)
    assert np.median([state.gap_detected_epoch for state in states]) <= 45
    exact = watch_losses(*loss_curves(generator, noise=0.0, opens=0))
    assert exact.gap_onset_epoch == 0


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2])
def test_a_gap_that_only_flickers_has_not_opened(noise):
    generator = np.random.default_rng(10)
    states = [watch_losses(*loss_curves(generator, opens=99, noise=noise)) for _ in range(100)]
    assert np.mean([state.gap_onset_epoch is not None for state in states]) <= 0.05


def test_losses_that_are_missing_or_infinite_are_passed_over():
    train, test = loss_curves(np.random.default_rng(11), noise=0.003)
    expected = watch_losses(train, test)
    tracker = PhaseTracker()
    nothing = torch.zeros(3, 4)
    for epoch in range(len(train)):
        for a, b in ((None, test[epoch]), (train[epoch], None), (np.nan, 1.0), (0.1, np.inf)):
            tracker.update(epoch=epoch, strength=nothing, train_loss=a, test_loss=b)
        tracker.update(epoch=epoch, strength=nothing, train_loss=train[epoch], test_loss=test[epoch])
    assert tracker.state == expected


def test_lag_counts_from_the_onset_to_the_gap():
    assert PhaseState("two", 10, 15, 18, 22, 1.0, 0.5).lag == 8
    assert PhaseState("two", 10, 15, None, None, 1.0, 0.5).lag is None


def test_resuming_goes_on_exactly():
    generator = np.random.default_rng(12)
    path = np.concatenate((FALL, FALL[-1] + 0.1 * np.arange(1, 25)))
    measurements = strengths(path, generator)
    measurements[5, 3] = torch.nan
    train, test = loss_curves(generator, epochs=len(path), opens=8)
    whole = PhaseTracker()
    resumed = PhaseTracker()
    for epoch, strength in enumerate(measurements):
        arguments = {"epoch": epoch, "strength": strength, "train_loss": train[epoch], "test_loss": test[epoch]}
        fresh = PhaseTracker()
        fresh.load_state_dict(json.loads(json.dumps(resumed.state_dict())))
        resumed = fresh
        assert resumed.update(**arguments) == whole.update(**arguments)
    assert whole.state.phase == "two"
    assert whole.state.gap_onset_epoch is not None
    # what is kept does not grow with samples times measurements
    assert len(whole.state_dict()["linear"]) <= 20


def test_the_onset_is_known_by_step_too():
    generator = np.random.default_rng(14)
    path = np.concatenate((FALL, FALL[-1] + 0.3 * np.arange(1, 14)))
    tracker = PhaseTracker()
    for look, strength in enumerate(strengths(path, generator)):
        state = tracker.update(epoch=0, step=50 * look, strength=strength)
    assert (state.phase, state.onset_epoch, state.detected_epoch) == ("two", 0, 0)
    assert abs(state.onset_step - 50 * 11) <= 100
    assert state.onset_step < state.detected_step <= 50 * 17


def test_a_state_of_the_first_version_goes_on():
    generator = np.random.default_rng(15)
    path = np.concatenate((FALL, FALL[-1] + 0.2 * np.arange(1, 20)))
    measurements = strengths(path, generator)
    first = PhaseTracker()
    for epoch in range(13):
        first.update(epoch=epoch, strength=measurements[epoch])
    state = json.loads(json.dumps(first.state_dict()))
    # it knew neither steps nor high orders, and kept the samples of the first, the lowest and the last two measurements
    for name in ("steps", "onset_steps", "high"):
        del state[name]
    state["linear"] = [[index, values] for index, values in state["linear"] if index in (0, 11, 12)]
    resumed = PhaseTracker()
    resumed.load_state_dict(state)
    for epoch in range(13, len(path)):
        now = resumed.update(epoch=epoch, step=epoch, strength=measurements[epoch])
    assert (now.phase, now.onset_epoch, now.onset_step) == ("two", 11, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, "alpha must lie between 0 and 1"),
        ({"alpha": 5}, "alpha must lie between 0 and 1, but is 5"),
        ({"min_fall": -0.1}, "min_fall must be at least 0"),
        ({"min_rise": float("nan")}, "min_rise must be at least 0, but is nan"),
        ({"min_gap_rise": -1}, "min_gap_rise"),
        ({"persistence": 0}, "persistence must be at least 1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PhaseTracker(**arguments)


def recorded(run, kind):
    with np.load(RECORDED) as data:
        epochs, measurements, losses = (data[f"{run}_{name}"] for name in ("epochs", kind, "losses"))
    tracker = PhaseTracker()
    for epoch, strength, (train, test) in zip(epochs.tolist(), measurements, losses.tolist(), strict=True):
        state = tracker.update(epoch=epoch, strength=torch.tensor(strength), train_loss=train, test_loss=test)
    return state


# 600 of scikit-learn's digits, a small CNN, 50 test images with 10 players each, measured every 4 epochs of 100;
# "strength" from the sparsest AND-OR interactions, "dividends" from AND alone
def test_recorded_run_with_wrong_labels():
    state = recorded("noisy_labels", "strength")
    assert (state.phase, state.onset_epoch, state.gap_onset_epoch, state.lag) == ("two", 28, 40, 12)
    assert 60 <= state.detected_epoch <= 76
    state = recorded("noisy_labels", "dividends")
    assert (state.phase, state.onset_epoch, state.lag) == ("two", 32, 8)
    assert state.detected_epoch <= 48


def test_recorded_run_with_clean_labels():
    # a slow rise: known only from eight measurements together
    state = recorded("clean_labels", "strength")
    assert (state.phase, state.onset_epoch, state.gap_onset_epoch) == ("two", 24, 28)
    assert 44 <= state.detected_epoch <= 52
    state = recorded("clean_labels", "dividends")
    assert (state.phase, state.onset_epoch, state.lag) == ("two", 28, 0)
    assert state.detected_epoch <= 44


def test_recorded_run_with_random_labels_that_is_still_falling():
    state = recorded("random_labels", "dividends")
    # the gap creeps up from the start, by 0.05 in all
    assert (state.phase, state.gap_onset_epoch) == ("one", 8)


def test_bad_measurements_are_named_and_not_taken_in():
    tracker = PhaseTracker()
    tracker.update(epoch=3, strength=torch.ones(5, 4))
    before = tracker.state_dict()
    with pytest.raises(ValueError, match="epoch must not fall, but is 2 after 3"):
        tracker.update(epoch=2, strength=torch.ones(5, 4))
    with pytest.raises(ValueError, match=r"\(samples, orders\), but has shape \(4,\)"):
        tracker.update(epoch=4, strength=torch.ones(4))
    with pytest.raises(ValueError, match="6 rows after 5"):
        tracker.update(epoch=4, strength=torch.ones(6, 4))
    assert tracker.state_dict() == before


@pytest.mark.parametrize("saved", [False, True], ids=["one run", "resumed"])
def test_the_tracker_knows_the_step_at_which_the_gap_opened(saved):
    tracker = PhaseTracker()
    gaps = [0.2, 0.1, 0.02, 0.0, 0.01, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2]
    for index, gap in enumerate(gaps):
        state = tracker.update(epoch=0, step=50 * index, strength=torch.ones(4, 3), train_loss=1.0, test_loss=1.0 + gap)
        if saved:
            kept, tracker = tracker.state_dict(), PhaseTracker()
            tracker.load_state_dict(kept)
    assert state.gap_onset_step == 50 * 4, "the last before it rises"


def test_a_state_of_before_there_were_steps_of_the_gap_is_read():
    tracker = PhaseTracker()
    tracker.update(epoch=0, step=0, strength=torch.ones(4, 3), train_loss=1.0, test_loss=1.1)
    before = {
        name: value for name, value in tracker.state_dict().items() if name not in ("gap_onset_step", "gap_steps")
    }
    tracker = PhaseTracker()
    tracker.load_state_dict(before)
    assert (
        tracker.update(epoch=1, step=9, strength=torch.ones(4, 3), train_loss=1.0, test_loss=1.1).gap_onset_step is None
    )
