"""Trains with several processes and writes down what each saw; run by test_distributed.py, under its time limit."""

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint
from networks import Convolutional
from torch import nn
from torch.distributed.nn import functional as differentiable
from torch.utils.data import DataLoader, TensorDataset

from interaction_monitor import InteractionMonitor, measure
from interaction_monitor.phases import PhaseTracker
from interaction_monitor.players import FeaturePatches
from interaction_monitor.reference import Twins


class Net(Convolutional):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Flatten(), nn.Linear(256, 10))


class Centred(Net):
    """Keeps a mean of what it has seen in a plain attribute, of which each process has its own."""

    def __init__(self):
        super().__init__()
        self.mean, self.kept = 0.0, [torch.zeros(1, 1, 8, 8)]

    def forward(self, x):
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * x.mean().item()
            self.kept = [0.5 * self.kept[0] + 0.5 * x.detach().mean(0, keepdim=True)]
        return super().forward(x - self.mean - self.kept[0])


class Gathering(Net):
    """Talks to the other processes in each forward, by each kind of call, and logs for all of them.

    If all processes run the same rows, the calls change nothing: so it is without them, `alone`.
    """

    alone = False

    def __init__(self):
        super().__init__()
        self.losses, self.seen = [], []

    def forward(self, x):
        z = self.features(x)
        level = z.mean((1, 2, 3))
        if not self.alone:
            size = dist.get_world_size()
            self.log("level", level.mean(), sync_dist=True)
            level = differentiable.all_reduce(level) / size
            total, parts = level.detach().clone(), [torch.empty_like(level) for _ in range(size)]
            dist.all_reduce(total)
            dist.all_gather(parts, total)
            level = level + (self.all_gather(total).mean(0) + parts[-1]) / size - 2 * level.detach()
            told = [None] * size
            dist.all_gather_object(told, len(x))
            dist.broadcast(total, src=0)
            dist.barrier()
            self.seen.append((told, total.sum().item()))
        return self.head(z + level[:, None, None, None])

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss


class Sending(Net):
    def forward(self, x):
        if dist.get_rank() == 0:
            dist.send(x, 1)
        else:
            dist.recv(x, 0)
        return super().forward(x)


class Detecting(PhaseTracker):
    """Finds the onset at epoch 2; on all ranks, or on one rank only."""

    def __init__(self, only_on=None):
        super().__init__()
        self.only_on = only_on

    def update(self, *, epoch, **measured):
        state = super().update(epoch=epoch, **measured)
        here = epoch >= 2 and self.only_on in (None, dist.get_rank())
        return replace(state, phase="two", onset_epoch=1, detected_epoch=2) if here else state


def failing(rank, error):
    def forward(module, x):
        if dist.get_rank() == rank and module.trainer.global_step:
            raise error
        return module(x)

    return forward


class Witness(L.Callback):
    """What each process holds after training, and what rank zero alone would have measured."""

    def __init__(self, monitor, path):
        self.monitor = monitor
        self.path = path

    def on_train_end(self, trainer, net):
        observer = self.monitor.observer if self.monitor else None
        here = {
            "epoch": trainer.current_epoch,
            "rng": torch.get_rng_state().tolist(),
            "weights": [p.detach().flatten().tolist() for p in net.parameters()],
            "buffers": [b.double().flatten().tolist() for b in net.buffers()],
            "losses": getattr(net, "losses", None),
            "seen": getattr(net, "seen", None),
            "mean": getattr(net, "mean", None),
        }
        if observer is not None:
            here["steps"] = observer.history.steps.tolist()
            here["distribution"] = observer.last.distribution.tolist()
            here["record"] = observer.record is not None
            here["stop_reason"] = self.monitor.stop_reason
            here["train_loss"] = [row.train_loss for row in observer.history]
            if observer.references is not None:
                here["twins"] = [[p.flatten().tolist() for p in n.parameters()] for n in observer.twins.networks]
                here["shares"] = observer.history.column("generalizing_share").tolist()
        seen = [None] * trainer.world_size
        dist.all_gather_object(seen, here)
        if trainer.is_global_zero:
            result = {"ranks": seen}
            if observer is not None:
                net.alone = True
                alone = measure(net, observer.probe, observer.players, forward_func=observer.settings.forward_func)
                result |= {
                    "alone": alone.distribution.tolist(),
                    "difference": (alone.v - observer.last.v).abs().max().item(),
                    "recorded": len(observer.record.history),
                }
            Path(self.path).write_text(json.dumps(result))


def fit(
    path, world, *, kind=Net, precision="64-true", monitored=True, max_epochs=2, validate_every=1, save_to=None,
    checkpoint=None, **options,
):  # fmt: skip
    L.seed_everything(0, verbose=False)
    x = torch.randn(48, 1, 8, 8)
    train, test = (TensorDataset(part, torch.arange(24) % 10) for part in (x[:24], x[24:]))
    settings = {"n_samples": 5, "every_n_epochs": 1} | options
    monitor = None
    if monitored:
        monitor = InteractionMonitor(FeaturePatches("features.2", grid=4, margin=0, n_players=3), **settings)
    trainer = L.Trainer(
        max_epochs=max_epochs, accelerator="cpu", strategy="ddp_fork", devices=world, precision=precision,
        check_val_every_n_epoch=validate_every,
        callbacks=[
            *([monitor] if monitor else []), Witness(monitor, path),
            # It is written before the measurement at the end of the epoch.
            *([ModelCheckpoint(save_to, filename="{epoch}", monitor="val_loss")] if save_to else []),
        ],
        logger=False, enable_checkpointing=save_to is not None, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=Path(path).parent / Path(path).stem,
    )  # fmt: skip
    trainer.fit(kind(), DataLoader(train, 4, shuffle=True), DataLoader(test, 8), ckpt_path=checkpoint)


def run_all(folder, only):
    broken = RuntimeError("the cable is out")
    one = {"max_epochs": 1}
    for name, world, options in [
        ("same_2", 2, {}),
        ("same_3", 3, {"validate_every": 2} | one),
        ("attributes_2", 2, {"kind": Centred} | one),
        ("few_samples_3", 3, {"n_samples": 2} | one),
        ("failure_3", 3, {"forward_func": failing(1, broken)}),
        ("raise_2", 2, {"forward_func": failing(1, broken), "on_error": "raise"} | one),
        ("misfit_2", 2, {"n_samples": 1000} | one),
        ("stop_2", 2, {"max_epochs": 5, "tracker": Detecting(), "stop_on_onset": True, "patience": 0}),
        ("stop_by_one_3", 3, {"max_epochs": 5, "tracker": Detecting(only_on=0), "stop_on_onset": True, "patience": 0}),
        ("budget_2", 2, {"max_epochs": 3, "max_overhead": 1e-6}),
        ("saved_2", 2, {"save_to": f"{folder}/saved"} | one),
        ("resumed_2", 2, {"checkpoint": f"{folder}/saved/epoch=0.ckpt"}),
        ("changed_2", 2, {"checkpoint": f"{folder}/saved/epoch=0.ckpt", "seed": 5}),
        ("undisturbed_2", 2, {"precision": "32-true"}),
        ("without_2", 2, {"precision": "32-true", "monitored": False}),
        ("gathering_2", 2, {"kind": Gathering}),
        ("gathering_without_2", 2, {"kind": Gathering, "monitored": False}),
        ("gathering_few_3", 3, {"kind": Gathering, "n_samples": 2} | one),
        ("gathering_failure_2", 2, {"kind": Gathering, "forward_func": failing(1, broken)} | one),
        ("sending_2", 2, {"kind": Sending} | one),
        ("twins_2", 2, {"precision": "32-true", "reference": Twins(Net)}),
    ]:
        if only and name not in only:
            continue
        print(f"=== {name}", flush=True)
        try:
            fit(f"{folder}/{name}.json", world, **options)
        except Exception as error:
            print(f"raised {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("always", message="InteractionMonitor")
    run_all(sys.argv[1], sys.argv[2:])
