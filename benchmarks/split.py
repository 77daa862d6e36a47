"""A network in parts: what a measurement costs for one, two and three processes on this machine.

Each process has one thread. On a machine with fewer cores than processes they wait for each other; what processors have
worked in all tells the cost then, and on a machine that others use.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from interaction_monitor import Probe, assign_players, measure
from interaction_monitor.players import Words

WORDS, SAMPLES, PLAYERS = 32, 12, 8


class Encoder(nn.Module):
    """Four layers of a transformer over word vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 128)
        layers = [nn.TransformerEncoderLayer(128, 4, 512, batch_first=True) for _ in range(4)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(128, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return logits (S, 2)."""
        return self.head(self.layers(self.embed(input_ids) * attention_mask[..., None]).mean(1))


def _seconds(*, split: bool) -> dict[str, float]:
    torch.manual_seed(0)
    words = torch.randint(4, 1000, (SAMPLES, WORDS))
    probe = Probe({"input_ids": words, "attention_mask": torch.ones_like(words)}, torch.arange(SAMPLES) % 2)
    vocabulary = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(996))]
    model = Encoder()
    players = assign_players(model, Words(vocabulary, n_players=PLAYERS), probe)
    if split:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    measure(model, probe, players)
    started = time.process_time()
    measurement = measure(model, probe, players)
    return {"forward": measurement.forward_seconds, "cpu": time.process_time() - started}


def _measured(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store_{world}", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    found = _seconds(split=True)
    Path(folder, f"{world}_{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def main() -> None:
    """Print a line for the whole network and one for each number of processes."""
    torch.set_num_threads(1)
    print(f"{SAMPLES} samples, {PLAYERS} players, {os.cpu_count()} cores")
    whole = _seconds(split=False)
    print(
        f"{'whole, one process':>20}: {whole['forward']:.2f} s of forwards, {whole['cpu']:.2f} s of processors in all"
    )
    with tempfile.TemporaryDirectory() as folder:
        for world in (1, 2, 3):
            torch.multiprocessing.start_processes(_measured, (world, folder), world, start_method="fork")
            found = [json.loads(Path(folder, f"{world}_{rank}.json").read_text()) for rank in range(world)]
            seconds, cpu = found[0]["forward"], sum(each["cpu"] for each in found)
            print(
                f"{f'{world} in parts':>20}: {seconds:.2f} s, {seconds / whole['forward']:.2f}x, "
                f"{cpu:.2f} s of processors in all, {cpu / whole['cpu']:.2f}x"
            )
