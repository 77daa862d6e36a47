"""When a run is measured: after which epochs, how much of its time that may take, and what is said of it."""

import pytest

from interaction_monitor.cost import Cost
from interaction_monitor.schedule import (
    DEFAULT,
    Budget,
    Every,
    Forecast,
    LogSpaced,
    budget_of,
    most_measurements,
)


@pytest.mark.parametrize("per_doubling", range(1, 9))
def test_the_logarithmic_axis_is_divided_evenly(per_doubling):
    schedule = LogSpaced(per_doubling)
    places = {round(2 ** (k / per_doubling)) for k in range(11 * per_doubling + 1)}
    assert [n for n in range(1, 2049) if schedule(n)] == sorted(places)


def test_the_default_measures_each_of_the_first_eight_epochs():
    assert [n for n in range(1, 33) if DEFAULT(n)] == [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16, 19, 23, 27, 32]
    assert LogSpaced() == DEFAULT


def test_a_budget_is_a_share_of_the_time_of_training_alone():
    now = [0.0]
    budget = Budget(0.5, clock=lambda: now[0])
    budget.start()
    now[0] = 6.0
    with budget.measuring():
        now[0] += 4.0
        assert budget.share() == 4 / 6  # the present one counts
    assert budget.trained() == 6.0
    now[0] = 19.0  # trained for 15 s, of which another one like the last would make 8 / 15
    assert not budget.allows_another()
    with budget.apart():
        now[0] += 100.0
    assert not budget.allows_another()
    now[0] += 1.0
    assert budget.allows_another()
    resumed = budget.anew()
    resumed.load_state_dict(budget.state_dict())
    now[0] += 1000.0  # between the two runs
    resumed.start()
    assert (resumed.trained(), resumed.share(), resumed.allows_another()) == (16.0, 0.25, True)
    with resumed.measuring():
        now[0] += 4.0
    assert not resumed.allows_another()


@pytest.mark.parametrize(
    ("overhead", "given", "most", "spared"),
    [(None, None, 1.0, 20), (None, 1, None, 0), (0.05, None, 0.05, 0), (0.05, 3, 0.05, 0)],
)
def test_what_is_given_explicitly_means_what_it_says(overhead, given, most, spared):
    budget = budget_of(overhead, given)
    assert (budget.most, budget.spared) == (most, spared)
    assert (budget.anew().most, budget.anew().spared) == (most, spared)


def test_a_budget_spares_the_first_measurements_also_across_a_resume():
    now = [0.0]
    budget = Budget(0.1, spared=2, clock=lambda: now[0])
    budget.start()
    for _ in range(2):
        assert budget.allows_another()
        with budget.measuring():
            now[0] += 5.0
    assert not budget.allows_another()
    resumed = budget.anew()
    resumed.load_state_dict(budget.state_dict())
    assert not resumed.allows_another()


def test_setting_up_takes_time_of_the_budget_but_is_no_measurement():
    now = [0.0]
    budget = Budget(0.13, spared=2, clock=lambda: now[0])
    budget.load_state_dict({"elapsed": 100.0, "spent": 1.0, "last": 1.0, "taken": 1})
    budget.start()
    with budget.preparing():
        now[0] += 10.0
    assert budget.state_dict() == {"elapsed": 110.0, "spent": 11.0, "last": 1.0, "taken": 1}
    assert budget.allows_another()  # as the second that is spared
    budget.spared = 0
    assert budget.allows_another()  # one more like the last makes 12 s of 99


def test_measurements_are_counted_only_where_no_function_of_the_users_is_asked():
    assert most_measurements(Every(2), 60) == 31
    assert most_measurements(Every(7), 10) == 3  # the start, epoch 7 and the end
    assert most_measurements(LogSpaced(4), None) is None
    assert most_measurements(LogSpaced(4), -1) is None
    assert most_measurements(lambda epoch: 1 // 0 > 0, 10) is None


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
