"""Networks of which each process holds a part only."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

if not torch.distributed.is_available():
    pytest.skip("needs torch.distributed", allow_module_level=True)
pytest.importorskip("torch.distributed.fsdp", reason="needs fully_shard")


def seen_by(script, size, folder):
    """Run a script on so many processes; return what each saw."""
    command = [sys.executable, Path(__file__).parent / script, folder, str(size)]
    paths = os.pathsep.join([*map(str, Path(__file__).parents[:2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=420, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(size)]


@pytest.fixture(scope="module", params=[3])
def ranks(request, tmp_path_factory):
    """What each process of a run saw; five samples are not the same number for each."""
    return seen_by("sharded_script.py", request.param, tmp_path_factory.mktemp("split"))


@pytest.fixture(scope="module")
def zero_ranks(tmp_path_factory):
    """What each process of a run with DeepSpeed saw."""
    pytest.importorskip("deepspeed")
    return seen_by("zero_script.py", 2, tmp_path_factory.mktemp("zero"))


ways = pytest.mark.parametrize("way", ["fully_shard", "wrapped"])
kinds = pytest.mark.parametrize("kind", ["input", "layer"])


@ways
@kinds
def test_each_process_has_the_outputs_of_the_whole_network(ranks, way, kind):
    # Buffers differ between processes; those of rank zero are what a checkpoint holds.
    assert max(ranks[0][f"{way} {kind} watched"]["differences"]) < 1e-12
    for seen in ranks:
        assert seen[f"{way} {kind} watched"]["orders"] == ranks[0][f"{way} {kind} watched"]["orders"]
        assert seen[f"{way} {kind} watched"]["rounding"] is None


@ways
@kinds
def test_training_goes_on_as_without(ranks, way, kind):
    for seen in ranks:
        watched, alone = seen[f"{way} {kind} watched"], seen[f"{way} {kind} alone"]
        for what in ("weights", "calls", "rng", "parts"):
            assert watched[what] == alone[what]
        assert watched["parts"]
        assert watched["calls"] == 3


@pytest.mark.parametrize("way", ["data", "wrapped"])
def test_lightning_trains_it_as_without(ranks, way):
    for seen in ranks:
        watched, alone = seen[f"fit {way} watched"], seen[f"fit {way} alone"]
        assert watched["losses"] == alone["losses"]
        assert len(alone["losses"]) == 4
        assert watched["orders"] == ranks[0][f"fit {way} watched"]["orders"]
        assert len(watched["orders"]) == 3
        # All processes run the training samples of the first, whatever batches they have of their own.
        assert watched["evaluated"] == ranks[0][f"fit {way} watched"]["evaluated"]
        assert None not in watched["evaluated"][1:]


@pytest.mark.parametrize(("version", "kind"), [(1, "FullyShardedDataParallel"), (2, "FSDPModule")])
def test_the_trainer_of_transformers_trains_it_as_without(ranks, version, kind):
    pytest.importorskip("transformers")
    for seen in ranks:
        watched, alone = seen[f"trainer {version} watched"], seen[f"trainer {version} alone"]
        assert watched["kind"] == alone["kind"] == kind
        assert watched["weights"] == alone["weights"]
        assert watched["losses"] == alone["losses"]
        assert len(watched["orders"]) == 3
        # One way to split gives what the other gives.
        assert watched["orders"] == pytest.approx(ranks[0]["trainer 2 watched"]["orders"], rel=1e-4)


def test_what_shares_every_sample_is_refused_by_name(ranks):
    for seen in ranks:
        assert len(seen["refusals"]) == 2
        for said in seen["refusals"]:
            assert "split by tensor parallelism" in said
            assert "fully_shard" in said


stages = pytest.mark.parametrize("stage", [1, 2, 3])


@stages
@kinds
def test_a_network_that_zero_trains_is_measured_as_a_whole_one(zero_ranks, stage, kind):
    for seen in zero_ranks:
        watched, alone = seen[f"{stage} {kind} watched"], seen[f"{stage} {kind} alone"]
        # Buffers differ between processes. Those that hold parts take the ones of rank zero.
        together = zero_ranks[0][f"{stage} {kind} watched"] if stage == 3 else watched
        assert max(together["differences"]) < 1e-5
        assert watched["orders"] == together["orders"]
        for what in ("weights", "calls", "rng", "held"):
            assert watched[what] == alone[what]
        assert (watched["held"] == 0) == (stage == 3)
        assert watched["calls"] == 3
        assert len(watched["orders"]) == 3


@stages
def test_lightning_trains_with_zero_as_without_a_monitor(zero_ranks, stage):
    for seen in zero_ranks:
        watched, alone = seen[f"{stage} fit watched"], seen[f"{stage} fit alone"]
        assert watched["losses"] == alone["losses"]
        assert len(alone["losses"]) == 6
        assert watched["orders"] == zero_ranks[0][f"{stage} fit watched"]["orders"]
        # Each stage begins with the same network.
        assert watched["orders"][0] == pytest.approx(seen["1 fit watched"]["orders"][0], rel=1e-4)
        assert len(watched["orders"]) == 3
        assert None not in watched["evaluated"][1:]


@stages
def test_the_trainer_of_transformers_trains_with_zero_as_without_a_monitor(zero_ranks, stage):
    pytest.importorskip("transformers")
    for seen in zero_ranks:
        watched, alone = seen[f"{stage} trainer watched"], seen[f"{stage} trainer alone"]
        assert watched["kind"] == alone["kind"] == "DeepSpeedEngine"
        assert watched["weights"] == alone["weights"]
        assert watched["losses"] == alone["losses"]
        assert watched["orders"] == zero_ranks[0][f"{stage} trainer watched"]["orders"]
        assert watched["orders"][0] == pytest.approx(seen["1 trainer watched"]["orders"][0], rel=1e-4)
        assert len(watched["orders"]) == 3
        assert (None not in watched["shares"]) == (stage == 2)  # which has twins beside it


def test_experts_on_several_processes_are_refused_by_name(zero_ranks):
    for seen in zero_ranks:
        (said,) = seen["refusals"]
        assert "split by DeepSpeed's MoE" in said
        assert "interaction_monitor.Observer" in said
