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
        command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(request.param)]


@pytest.mark.parametrize("kind", ["input", "layer"])
def test_each_process_has_the_outputs_of_the_whole_network(ranks, kind):
    # Buffers differ between processes; those of rank zero are what a checkpoint holds.
    assert max(ranks[0][f"{kind} watched"]["differences"]) < 1e-12
    for seen in ranks:
        assert seen[f"{kind} watched"]["orders"] == ranks[0][f"{kind} watched"]["orders"]
        assert seen[f"{kind} watched"]["rounding"] is None


@pytest.mark.parametrize("kind", ["input", "layer"])
def test_training_goes_on_as_without(ranks, kind):
    for seen in ranks:
        watched, alone = seen[f"{kind} watched"], seen[f"{kind} alone"]
        for what in ("weights", "calls", "rng", "parts"):
            assert watched[what] == alone[what]
        assert watched["parts"]
        assert watched["calls"] == 3


def test_lightning_trains_it_as_without(ranks):
    for seen in ranks:
        assert seen["fit watched"]["losses"] == seen["fit alone"]["losses"]
        assert len(seen["fit alone"]["losses"]) == 4
        assert seen["fit watched"]["orders"] == ranks[0]["fit watched"]["orders"]
        assert len(seen["fit watched"]["orders"]) == 3


def test_what_shares_every_sample_is_refused_by_name(ranks):
    for seen in ranks:
        assert len(seen["refusals"]) == 2
        for said in seen["refusals"]:
            assert "split by tensor parallelism" in said
            assert "fully_shard" in said
