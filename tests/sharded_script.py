"""Trains a network that processes hold in parts, and writes down what each saw; run by test_sharded.py."""

import json
import os
import sys
import warnings
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from networks import Convolutional
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.utils.data import DataLoader, TensorDataset

from interaction_monitor import InteractionMonitor, Observer, Probe, assign_players, masked_outputs, measure
from interaction_monitor.players import FeaturePatches, ImagePatches

TRANSFORMERS = find_spec("transformers") is not None
CPU = torch.device("cpu")
PLAYERS = {
    "input": ImagePatches(grid=4, margin=0, n_players=5),
    "layer": FeaturePatches("1", grid=4, margin=0, n_players=5),
    "layer of Lightning": FeaturePatches("features.1", grid=4, margin=0, n_players=3),
}


class Counting(nn.Module):
    """Keeps a buffer and a plain number that each forward changes, in evaluation too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.calls = 0

    def forward(self, x):
        self.seen += x.abs().mean()
        self.calls += 1
        return x


def network():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.BatchNorm1d(32), nn.ReLU())
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), block, Counting(), nn.Linear(32, 10)).double()


def split(model, way):
    if way == "wrapped":
        model[2] = FullyShardedDataParallel(model[2], device_id=CPU, use_orig_params=True)
        return FullyShardedDataParallel(model, device_id=CPU, use_orig_params=True)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(model[2], mesh=mesh)
    return fully_shard(model, mesh=mesh)


def state_of(model):
    """Return the state of a whole network, which one of its parts."""
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.state_dict_type(model, StateDictType.FULL_STATE_DICT):
            return model.state_dict()
    return {k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in model.state_dict().items()}


def whole(model):
    """Return a network with the same state, all of it in this process."""
    copy = network()
    copy.load_state_dict(state_of(model))
    return copy


def trained(kind, *, watched, way="fully_shard"):
    """Train for three steps, measuring before each; return the weights, and how far outputs are from a whole one's."""
    torch.manual_seed(1)
    probe = Probe(torch.rand(5, 1, 8, 8).double(), torch.arange(5))
    model = split(network(), way)
    observer = Observer(probe, assign_players(model, PLAYERS[kind], probe)) if watched else None
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    generator = torch.Generator().manual_seed(dist.get_rank())  # each process has batches of its own
    differences = []
    for step in range(3):
        if observer is not None:
            observer.observe(model, epoch=step, step=step)
            alone = measure(whole(model), probe, observer.players)
            differences.append((alone.v - observer.last.v).abs().max().item())
        optimizer.zero_grad()
        model(torch.rand(4, 1, 8, 8, generator=generator).double()).square().mean().backward()
        optimizer.step()
    state = whole(model).state_dict()
    return {
        "weights": {name: value.flatten().tolist() for name, value in state.items()},
        "calls": model[3].calls,
        "rng": torch.get_rng_state().tolist(),
        "differences": differences,
        "parts": sum(map(held, model.parameters())) < sum(parameter.numel() for parameter in network().parameters()),
        "orders": [] if observer is None else [row.mean_order for row in observer.history],
        "rounding": None if observer is None else observer.history[-1].rounding,
    }


def held(parameter):
    """Count what this process has of a parameter."""
    return parameter.to_local().numel() if hasattr(parameter, "to_local") else parameter.numel()


class Net(Convolutional):
    """A Lightning module that is split in one way or another."""

    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(256, 12))
        self.way = way
        self.losses = []

    def configure_model(self):
        if self.way == "data":
            fully_shard(self.head, mesh=self.device_mesh["data_parallel"])
            fully_shard(self, mesh=self.device_mesh["data_parallel"])
        elif self.way == "tensor":
            parallelize_module(self.head, self.device_mesh["tensor_parallel"], {"1": ColwiseParallel()})

    def training_step(self, batch, index):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss


class Wrapper(FullyShardedDataParallel):
    """Takes no index of a device, which the CPU has not."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **(kwargs | {"device_id": CPU}))


class Wrapping(FSDPStrategy):
    """Lightning's strategy on the CPU, where Lightning itself refuses it."""

    def _setup_model(self, model):
        with patch("torch.distributed.fsdp.FullyShardedDataParallel", Wrapper):
            return super()._setup_model(model)


def fitted(way, folder, *, watched):
    """Train by Lightning's strategy for networks in parts; return the losses and what was measured."""
    L.seed_everything(0, verbose=False)
    size = dist.get_world_size()
    sizes = {"data": (size, 1), "tensor": (1, size)}
    strategy = (
        Wrapping(use_orig_params=True, auto_wrap_policy={nn.Linear})
        if way == "wrapped"
        else ModelParallelStrategy(*sizes[way])
    )
    x = torch.randn(24, 1, 8, 8)
    data = TensorDataset(x, torch.arange(24) % 10)
    monitor = InteractionMonitor(PLAYERS["layer of Lightning"], n_samples=5, every_n_epochs=1)
    trainer = L.Trainer(
        accelerator="cpu", devices=size, max_epochs=2, callbacks=[monitor] if watched else [], logger=False,
        strategy=strategy,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        default_root_dir=folder,
    )  # fmt: skip
    net = Net(way)
    trainer.fit(net, DataLoader(data, 4), DataLoader(data, 8))
    rows = list(monitor.observer.history) if watched else []
    evaluated = [row.evaluated_train_loss for row in rows]
    return {"losses": net.losses, "orders": [row.mean_order for row in rows], "evaluated": evaluated}


def by_trainer(version, folder, *, watched):
    """Train by the Trainer of transformers with FSDP; return what it logs, and what was measured."""
    import transformers
    from accelerate import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
    from transformers_runs import VOCABULARY, sentences

    from interaction_monitor.callbacks.transformers import InteractionTrainerCallback
    from interaction_monitor.players import Words

    class OnCpu(transformers.Trainer):
        """Gets FSDP from accelerate, which ignores it on the CPU and does not wrap what lies on an indexed device."""

        def create_accelerator_and_postprocess(self):
            super().create_accelerator_and_postprocess()
            plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            self.accelerator.state._shared_state |= {"fsdp_plugin": plugin, "distributed_type": DistributedType.FSDP}
            self.accelerator.state.__dict__ |= {"fsdp_plugin": plugin, "distributed_type": DistributedType.FSDP}
            for state in (self.accelerator.state, PartialState()):
                state.device = state._shared_state["device"] = CPU
            self.is_fsdp_enabled = True

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=44, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, num_labels=2,
    )  # fmt: skip
    fsdp = {"version": version, "transformer_layer_cls_to_wrap": ["BertLayer"], "sync_module_states": False}
    arguments = transformers.TrainingArguments(
        folder, num_train_epochs=2, per_device_train_batch_size=8, learning_rate=1e-3, eval_strategy="epoch",
        logging_strategy="epoch", save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, fsdp=True,
        fsdp_config=fsdp,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    trainer = OnCpu(model, arguments, train_dataset=sentences(64)[:48], eval_dataset=sentences(64)[48:])
    monitor = InteractionTrainerCallback(Words(VOCABULARY, n_players=4), n_samples=5, on_error="raise")
    if watched:
        trainer.add_callback(monitor)
    trainer.train()
    return {
        "kind": type(trainer.model).__mro__[1 if version == 2 else 0].__name__,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "weights": {name: value.flatten().tolist() for name, value in state_of(trainer.model).items()},
        "orders": [row.mean_order for row in monitor.observer.history] if watched else [],
    }


def refusals(folder):
    """Return what is said of networks that cannot be measured so."""
    probe = Probe(torch.rand(5, 1, 8, 8).double(), torch.arange(5))
    size, said = dist.get_world_size(), []
    across = parallelize_module(network(), init_device_mesh("cpu", (size,)), {"4": ColwiseParallel()})
    players = assign_players(network(), PLAYERS["input"], probe)
    try:
        masked_outputs(across, probe, players)
    except NotImplementedError as error:
        said.append(str(error))
    try:
        fitted("tensor", folder, watched=True)
    except MisconfigurationException as error:
        said.append(str(error))
    return said


def run(folder):
    result = {
        f"{way} {kind} {'watched' if watched else 'alone'}": trained(kind, watched=watched, way=way)
        for way in ("fully_shard", "wrapped")
        for kind in ("input", "layer")
        for watched in (True, False)
    }
    for watched in (True, False):
        for way in ("data", "wrapped"):
            name = f"fit {way} {'watched' if watched else 'alone'}"
            result[name] = fitted(way, f"{folder}/{name}", watched=watched)
        for version in (1, 2) if TRANSFORMERS else ():
            name = f"trainer {version} {'watched' if watched else 'alone'}"
            result[name] = by_trainer(version, f"{folder}/{name}", watched=watched)
    result["refusals"] = refusals(f"{folder}/refused")
    Path(folder, f"rank_{dist.get_rank()}.json").write_text(json.dumps(result))


def main(rank, world, folder):
    warnings.filterwarnings("error", message=".*interaction|.*cannot be put back")
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(world)}  # Lightning starts no others
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=240))
    run(folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.start_processes(main, (int(sys.argv[2]), sys.argv[1]), int(sys.argv[2]), start_method="fork")
