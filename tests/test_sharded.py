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


@pytest.fixture(scope="module", params=[3])
def ranks(request, tmp_path_factory):
    """What each process of a run saw; five samples are not the same number for each."""
    folder = tmp_path_factory.mktemp("split")
    command = [sys.executable, Path(__file__).parent / "sharded_script.py", folder, str(request.param)]
    paths = os.pathsep.join([*map(str, Path(__file__).parents[:2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=420, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(request.param)]


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
