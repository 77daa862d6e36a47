"""Trains with DeepSpeed's ZeRO on processes of a CPU, and writes down what each saw; run by test_sharded.py."""

import json
import os
import sys
import warnings
from datetime import timedelta
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DeepSpeedStrategy
from sharded_script import PLAYERS, TRANSFORMERS, Net, network
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from interaction_monitor import InteractionMonitor, Observer, Probe, assign_players, masked_outputs, measure
from interaction_monitor.players import FeaturePatches
from interaction_monitor.reference import Twins

STAGES = (1, 2, 3)
PLAYERS_OF = {"input": PLAYERS["input"], "layer": FeaturePatches("layers.1", grid=4, margin=0, n_players=5)}


def config(stage):
    """Return what DeepSpeed is told; without the threshold small weights would stay whole in stage 3."""
    zero = {"stage": stage, "stage3_param_persistence_threshold": 0}
    return {"zero_optimization": zero, "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}


class Borrowing(nn.Module):
    """Computes with a weight of another module, which stage 3 gathers where it is asked for."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers
        self.bias = nn.Parameter(torch.ones(10))

    def forward(self, x):
        return self.layers(x) @ self.layers[4].weight @ self.layers[4].weight.T + self.bias


def state_of(model):
    """Return the whole state of a network, on all processes."""
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        return {name: value.detach().clone() for name, value in model.state_dict().items()}


def whole(model, state):
    copy = Borrowing(network().float())
    copy.load_state_dict(state)
    copy.layers[3].calls = model.layers[3].calls
    return copy


def trained(stage, kind, *, watched):
    """Train for three steps, measuring before each; return the weights, and how far outputs are from a whole one's."""
    torch.manual_seed(1)
    probe = Probe(torch.rand(5, 1, 8, 8), torch.arange(5))
    model = Borrowing(network().float())
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    told = config(stage) | {"train_micro_batch_size_per_gpu": 4}
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=told)
    observer = Observer(probe, assign_players(model, PLAYERS_OF[kind], probe)) if watched else None
    generator = torch.Generator().manual_seed(dist.get_rank())  # each process has batches of its own
    differences = []
    for step in range(3):
        if observer is not None:
            observer.observe(engine.module, epoch=step, step=step)
            alone = measure(whole(model, state_of(model)), probe, observer.players)
            differences.append((alone.v - observer.last.v).abs().max().item())
        engine.backward(engine(torch.rand(4, 1, 8, 8, generator=generator)).square().mean())
        engine.step()
    return {
        "weights": {name: value.flatten().tolist() for name, value in state_of(model).items()},
        "calls": model.layers[3].calls,
        "rng": torch.get_rng_state().tolist(),
        "differences": differences,
        "held": sum(parameter.numel() for parameter in model.parameters()),
        "orders": [] if observer is None else [row.mean_order for row in observer.history],
    }


class OnCpu(DeepSpeedStrategy):
    """Lightning's strategy on the CPU, where Lightning itself refuses it."""

    @property
    def root_device(self):
        """Have an index, of which DeepSpeed is told."""
        return torch.device("cpu", 0)

    def setup_environment(self):
        self.accelerator.setup_device(self.root_device)
        self.setup_distributed()

    def setup_distributed(self):
        self.set_world_ranks()


def fitted(stage, folder, *, watched):
    """Train by Lightning's strategy; return the losses and what was measured."""
    L.seed_everything(0, verbose=False)
    size = dist.get_world_size()
    data = TensorDataset(torch.randn(24, 1, 8, 8), torch.arange(24) % 10)
    monitor = InteractionMonitor(PLAYERS["layer of Lightning"], n_samples=5, every_n_epochs=1, on_error="raise")
    trainer = L.Trainer(
        accelerator="cpu", devices=size, max_epochs=2, callbacks=[monitor] if watched else [], logger=False,
        strategy=OnCpu(config=config(stage), process_group_backend="gloo"), plugins=[LightningEnvironment()],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        default_root_dir=folder,
    )  # fmt: skip
    net = Net("zero")
    trainer.fit(net, DataLoader(data, 4), DataLoader(data, 8))
    rows = list(monitor.observer.history) if watched else []
    evaluated = [row.evaluated_train_loss for row in rows]
    return {"losses": net.losses, "orders": [row.mean_order for row in rows], "evaluated": evaluated}


def by_trainer(stage, folder, *, watched):
    """Train by the Trainer of transformers with DeepSpeed; return what it logs, and what was measured."""
    import transformers
    from transformers_runs import VOCABULARY, sentences

    from interaction_monitor.callbacks.transformers import InteractionTrainerCallback
    from interaction_monitor.players import Words

    arguments = transformers.TrainingArguments(
        folder, num_train_epochs=2, per_device_train_batch_size=8, learning_rate=1e-3, eval_strategy="epoch",
        logging_strategy="epoch", save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
        deepspeed=config(stage) | {"train_micro_batch_size_per_gpu": "auto"},
    )  # fmt: skip
    torch.manual_seed(0)
    shape = transformers.BertConfig(
        vocab_size=44, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, num_labels=2,
    )  # fmt: skip

    def model():
        return transformers.BertForSequenceClassification(shape)

    twins = (
        Twins(model, optimizer=lambda network: torch.optim.AdamW(network.parameters(), 1e-3)) if stage == 2 else None
    )
    trainer = transformers.Trainer(
        model(), arguments, train_dataset=sentences(64)[:48], eval_dataset=sentences(64)[48:]
    )
    kind = Words(VOCABULARY, n_players=4)
    monitor = InteractionTrainerCallback(kind, n_samples=5, reference=twins, on_error="raise")
    if watched:
        trainer.add_callback(monitor)
    trainer.train()
    return {
        "kind": type(trainer.model_wrapped).__name__,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "weights": {name: value.flatten().tolist() for name, value in state_of(trainer.model).items()},
        "orders": [row.mean_order for row in monitor.observer.history] if watched else [],
        "shares": [row.generalizing_share for row in monitor.observer.history] if watched else [],
    }


def refusals():
    """Return what is said of networks whose processes share each sample."""
    from deepspeed.moe.layer import MoE

    said = []
    torch.manual_seed(0)
    experts = MoE(64, nn.Linear(64, 64), num_experts=2, ep_size=dist.get_world_size())
    probe = Probe(torch.rand(5, 1, 8, 8), torch.arange(5))
    try:
        masked_outputs(nn.Sequential(nn.Flatten(), experts), probe, assign_players(experts, PLAYERS["input"], probe))
    except NotImplementedError as error:
        said.append(str(error))
    return said


def run(folder):
    result = {}
    for stage in STAGES:
        for watched in (True, False):
            name = "watched" if watched else "alone"
            for kind in PLAYERS_OF:
                result[f"{stage} {kind} {name}"] = trained(stage, kind, watched=watched)
            result[f"{stage} fit {name}"] = fitted(stage, f"{folder}/{stage}_fit_{name}", watched=watched)
            if TRANSFORMERS:
                result[f"{stage} trainer {name}"] = by_trainer(stage, f"{folder}/{stage}_{name}", watched=watched)
    result["refusals"] = refusals()
    Path(folder, f"rank_{dist.get_rank()}.json").write_text(json.dumps(result))


def main(rank, world, folder):
    warnings.filterwarnings("error", message=".*interaction|.*cannot be put back")
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}  # DeepSpeed asks for them, and leaves the group be
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=240))
    # It would compile a faster way for processes of one machine to talk.
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
    run(folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.start_processes(main, (int(sys.argv[2]), sys.argv[1]), int(sys.argv[2]), start_method="fork")
