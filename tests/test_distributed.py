"""Several processes measure as one would, fail together, stop together and never wait for each other in vain."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from interaction_monitor.distributed import Ranks

SCRIPT = Path(__file__).parent / "distributed_script.py"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Name of a run to what it printed and wrote down; a run that hung, and all after it, are missing."""
    if not hasattr(os, "fork"):
        pytest.skip("the processes are forked")
    folder = tmp_path_factory.mktemp("distributed")
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=420)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, _ = process.communicate()
    found = {}
    for part in output.split("=== ")[1:]:
        name, _, said = part.partition("\n")
        path = folder / f"{name}.json"
        found[name] = said, json.loads(path.read_text()) if path.exists() else None
    assert found, output
    return found


@pytest.fixture
def result(runs):
    def of(name):
        said, found = runs[name]
        assert found is not None, said
        return found, said

    return of


def assert_the_same(found, without, *more):
    for rank, alone in zip(found["ranks"], without["ranks"], strict=True):
        for name in ("weights", "buffers", "rng", "epoch", *more):
            assert rank[name] == alone[name], name


@pytest.mark.parametrize(("name", "world", "recorded"), [("same_2", 2, 3), ("same_3", 3, 2), ("few_samples_3", 3, 2)])
def test_sharing_the_samples_changes_nothing(result, name, world, recorded):
    found, _ = result(name)
    assert len(found["ranks"]) == world
    if name == "same_3":  # each process has running statistics of its own until a validation, and rank zero's count
        assert found["ranks"][0]["buffers"] != found["ranks"][1]["buffers"]
    assert found["difference"] < 1e-9
    for rank in found["ranks"]:
        assert rank["distribution"] == pytest.approx(found["alone"], abs=1e-9)
        assert rank["steps"] == found["ranks"][0]["steps"]
    assert [rank["record"] for rank in found["ranks"]] == [True] + [False] * (world - 1)
    assert found["recorded"] == recorded


def test_all_measure_what_rank_zero_keeps_in_attributes(result):
    found, _ = result("attributes_2")
    means = [rank["mean"] for rank in found["ranks"]]
    assert means[0] != means[1]  # and so they stay
    assert found["difference"] < 1e-9


def test_a_failure_on_one_rank_is_one_warning_and_no_deadlock(result):
    found, output = result("failure_3")
    assert [rank["epoch"] for rank in found["ranks"]] == [2, 2, 2]
    assert [rank["steps"] for rank in found["ranks"]] == [[0], [0], [0]]
    assert output.count("InteractionMonitor: the measurement at epoch 1 failed and training goes on") == 1
    assert "what failed after epoch 0: " in output


def test_a_failure_that_is_to_be_raised_ends_all_ranks(runs):
    said, found = runs["raise_2"]
    assert found is None
    assert "raised ProcessRaisedException" in said
    assert "the cable is out" in said


def test_what_does_not_fit_is_said_on_all_ranks(runs):
    said, found = runs["misfit_2"]
    assert found is None
    assert "raised ProcessRaisedException" in said
    assert "MisconfigurationException: InteractionMonitor cannot measure this run" in said
    assert "n_samples=1000" in said


@pytest.mark.parametrize(("scenario", "world"), [("stop_2", 2), ("stop_by_one_3", 3)])
def test_all_stop_together(result, scenario, world):
    found, _ = result(scenario)
    assert [rank["epoch"] for rank in found["ranks"]] == [2] * world
    assert all(rank["stop_reason"] for rank in found["ranks"])


def test_all_put_off_the_same_measurements(result):
    found, _ = result("budget_2")
    assert [rank["steps"] for rank in found["ranks"]] == [[0, 9]] * 2


def test_all_take_up_what_one_had_recorded(result):
    first, _ = result("saved_2")
    found, _ = result("resumed_2")
    # The checkpoint lacks the measurement at the end of its epoch; the record has it, and all processes take it up.
    assert [rank["steps"] for rank in first["ranks"]] == [[0, 3]] * 2
    assert [rank["steps"] for rank in found["ranks"]] == [[0, 3, 6]] * 2
    assert found["recorded"] == 3


def test_other_settings_are_refused_on_all_ranks(runs):
    said, found = runs["changed_2"]
    assert found is None
    assert "raised ProcessRaisedException" in said
    assert "measured with seed=0, but this run has seed=5" in said


def test_training_with_several_processes_is_undisturbed(result):
    found, _ = result("undisturbed_2")
    without, _ = result("without_2")
    assert_the_same(found, without)


def test_twins_are_the_same_on_all_processes_and_the_run_is_undisturbed(result):
    found, _ = result("twins_2")
    without, _ = result("without_2")
    first, second = found["ranks"]
    assert_the_same(found, without)
    assert first["twins"] == second["twins"]
    assert first["twins"][0] != first["twins"][1]
    assert first["shares"] == second["shares"]
    assert all(0 <= share <= 1 for share in first["shares"])


@pytest.mark.parametrize(("name", "world"), [("gathering_2", 2), ("gathering_few_3", 3)])
def test_a_forward_that_holds_collectives_is_measured_and_no_process_waits(result, name, world):
    found, _ = result(name)
    # The shares are unequal, and one of three processes has no sample.
    assert len(found["ranks"]) == world
    assert found["difference"] < 1e-9
    for rank in found["ranks"]:
        assert rank["distribution"] == pytest.approx(found["alone"], abs=1e-9)


def test_a_training_with_collectives_in_forward_is_undisturbed(result):
    found, _ = result("gathering_2")
    without, _ = result("gathering_without_2")
    assert_the_same(found, without, "losses", "seen")


def test_losses_are_averaged_over_processes(result):
    ranks = result("gathering_2")[0]["ranks"]
    first, second = (rank["losses"] for rank in ranks)
    assert first != second
    epochs = [(sum(first[part]) + sum(second[part])) / 6 for part in (slice(0, 3), slice(3, 6))]
    for rank in ranks:
        assert rank["train_loss"] == [None, *map(pytest.approx, epochs)]


def test_a_failure_on_one_rank_of_a_forward_with_collectives_is_one_warning(result):
    found, output = result("gathering_failure_2")
    assert [rank["steps"] for rank in found["ranks"]] == [[0], [0]]
    assert output.count("InteractionMonitor: the measurement at epoch 1 failed and training goes on") == 1
    assert "what failed after epoch 0: " in output


def test_a_forward_that_sends_from_one_process_to_another_is_refused(runs):
    said, found = runs["sending_2"]
    assert found is None
    assert "MisconfigurationException: InteractionMonitor cannot measure this run" in said
    assert "talks to other processes by send" in said
    assert "give forward_func=" in said


@pytest.mark.parametrize("n_samples", [1, 2, 5, 50])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_each_sample_has_one_process(n_samples, size):
    shares = [Ranks(size=size, rank=rank).share_of(n_samples) for rank in range(size)]
    assert [sample for share in shares for sample in share] == list(range(n_samples))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
