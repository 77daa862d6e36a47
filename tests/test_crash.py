"""Killed at any moment: the record opens, and a resumed run goes on as if it had never been stopped."""

import os
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from interaction_monitor import InteractionMonitor
from interaction_monitor.players import FeaturePatches
from interaction_monitor.record import Record

EPOCHS = 6


class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(128, 4))

    def forward(self, x):
        return self.head(self.features(x))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def fit(folder, *callbacks, checkpoint=None, monitor_options=(), **options):
    """Train, from a checkpoint if there is one; return the monitor."""
    L.seed_everything(0, verbose=False)
    data = TensorDataset(torch.randn(16, 1, 8, 8), torch.arange(16) % 4)
    settings = {"n_samples": 3, "interactions": "and"} | dict(monitor_options)
    monitor = InteractionMonitor(FeaturePatches("features.1", grid=4, margin=0, n_players=3), **settings)
    trainer = L.Trainer(
        callbacks=[monitor, *callbacks], accelerator="cpu", logger=False, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False,
        **{"max_epochs": EPOCHS, "enable_checkpointing": bool(callbacks)} | options,
    )  # fmt: skip
    trainer.fit(Net(), DataLoader(data, 4), DataLoader(data, 8), ckpt_path=checkpoint)
    return monitor


# One process imports everything and forks the runs, so that the kills hit the training and not its imports.
# Each run gets killed twice and resumed twice; what the last one ends with is checked.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
import test_crash as tools

torch.set_num_threads(1)
folder, seed, runs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
random.seed(seed)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

def train(run, kill_after):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(run / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        last = run / "last.ckpt"
        saving = ModelCheckpoint(run, filename="{step}", save_last=True, save_top_k=0, save_on_train_epoch_end=True)
        done = False
        try:
            tools.fit(run, saving, checkpoint=last if last.exists() else None, monitor_options={"every_n_epochs": 1})
            done = True
        finally:
            os._exit(0 if done else 1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

(folder / "whole").mkdir()
began = time.monotonic()
assert train(folder / "whole", None) == 0
seconds = time.monotonic() - began
for run in range(runs):
    (folder / str(run)).mkdir()
    codes = [train(folder / str(run), random.uniform(0.02, 0.9) * seconds) for _ in range(2)]
    # What is on disk right after the kill must open, before anything repairs it.
    tools.check_opens(folder / str(run))
    codes.append(train(folder / str(run), None))
    (folder / str(run) / "codes.txt").write_text(" ".join(map(str, codes)))
"""


def check_opens(run):
    folder = run / "interactions"
    if (folder / "run.json").exists():
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning would say that a row is left out
            record = Record.open(folder)
        assert len(record.problems) <= 1
        assert len(list(record.measurements)) == len(record.history)


def same_rows(a, b, *, losses=True):
    """Whether two histories are one, but for the seconds that the measurements took."""
    drop = {"seconds"} if losses else {"seconds", "train_loss", "test_loss", "gap_onset_epoch"}
    rows = [[{k: v for k, v in row.items() if k not in drop} for row in history.to_csv()] for history in (a, b)]
    return rows[0] == rows[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes as POSIX does")
def test_a_killed_run_is_resumed_as_if_never_stopped(tmp_path):
    kill(tmp_path, runs=int(os.environ.get("INTERACTION_MONITOR_KILLS", "6")) // 2)


def kill(tmp_path, runs):
    seed = random.randrange(10**6)
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(seed), str(runs)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=60 + 30 * runs,
    )  # fmt: skip
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    whole = Record.open(tmp_path / "whole" / "interactions")
    assert whole.history.epochs.tolist() == list(range(EPOCHS + 1))
    killed = 0
    for run in range(runs):
        folder = tmp_path / str(run)
        log = (folder / "log.txt").read_text()
        codes = [int(code) for code in (folder / "codes.txt").read_text().split()]
        killed += codes.count(-signal.SIGKILL)
        assert codes[-1] == 0, f"seed {seed}, run {run}: {log}"
        records = sorted(folder.glob("interactions*"), key=lambda path: path.stat().st_mtime)
        # A run that is killed before its first checkpoint begins anew, and its record stays.
        record = Record.open(records[-1])
        assert record.problems == ()
        assert same_rows(record.history, whole.history), f"seed {seed}, run {run}: {record.history.steps}"
        for a, b in zip(record.measurements, whole.measurements, strict=True):
            assert torch.equal(a.v, b.v)
        assert torch.equal(record.players.labels, whole.players.labels)
    print(f"seed {seed}: {killed} kills in {runs} runs")
    assert killed


@pytest.mark.parametrize(
    "saving",
    [{"every_n_train_steps": 1}, {"save_on_train_epoch_end": True}, {"monitor": "val_loss", "save_top_k": -1}],
    ids=lambda saving: next(iter(saving)),
)
@pytest.mark.parametrize("measuring", [{}, {"every_n_train_steps": 3}], ids=["epochs", "steps"])
def test_every_checkpoint_of_a_run_leads_to_the_same_history(tmp_path, saving, measuring):
    options = {"monitor_options": measuring, "max_epochs": 2}
    keep = ModelCheckpoint(tmp_path / "saved", filename="{step}", **{"save_top_k": -1} | saving)
    whole = fit(tmp_path, keep, **options).observer.history
    checkpoints = sorted((tmp_path / "saved").iterdir())
    assert checkpoints
    for checkpoint in checkpoints:
        observer = fit(tmp_path, checkpoint=checkpoint, **options).observer
        if observer is not None:  # None where the checkpoint is that of the end
            if "every_n_train_steps" in saving:  # within an epoch Lightning itself goes on with other batches
                assert observer.history.epochs.tolist() == whole.epochs.tolist(), checkpoint.name
                assert observer.history.steps.tolist() == whole.steps.tolist(), checkpoint.name
            else:  # and it forgets what was logged
                assert same_rows(observer.history, whole, losses=not measuring), checkpoint.name
            recorded = Record.open(observer.record.folder).history
            # Where an earlier resume went another way, its record is another run's, and a new one is begun.
            assert same_rows(recorded, observer.history[len(observer.history) - len(recorded) :])


@pytest.fixture
def saved(tmp_path):
    keep = ModelCheckpoint(tmp_path / "saved", filename="end")
    monitor = fit(tmp_path, keep, max_epochs=1)
    return monitor, tmp_path / "saved" / "end.ckpt"


def change(path, **entries):
    """Change the monitor's state in a checkpoint."""
    checkpoint = torch.load(path, weights_only=True)
    state = checkpoint["callbacks"]["InteractionMonitor[interactions]"]
    for key, value in entries.items():
        if value is None:
            del state[key]
        else:
            state[key] = value
    torch.save(checkpoint, path)


def test_a_state_of_the_first_version_is_read(tmp_path, saved):
    change(saved[1], version=None, budget=None)
    observer = fit(tmp_path, checkpoint=saved[1], max_epochs=2).observer
    assert observer.history.epochs.tolist() == [0, 1, 2]


def test_a_state_of_a_newer_version_is_refused_before_training(tmp_path, saved):
    change(saved[1], version=99)
    with pytest.raises(MisconfigurationException, match=r"version 99.*update"):
        fit(tmp_path, checkpoint=saved[1], max_epochs=2)


def test_players_that_do_not_fit_the_checkpoint_are_refused(tmp_path, saved):
    with pytest.raises(MisconfigurationException, match=r"players have shape.*same data, layer and n_samples"):
        fit(tmp_path, checkpoint=saved[1], max_epochs=2, monitor_options={"n_samples": 4})


def test_a_checkpoint_without_a_monitor_begins_anew(tmp_path, saved):
    checkpoint = torch.load(saved[1], weights_only=True)
    checkpoint["callbacks"].clear()
    torch.save(checkpoint, saved[1])
    observer = fit(tmp_path, checkpoint=saved[1], max_epochs=2).observer
    assert observer.history.epochs.tolist() == [1, 2]


def test_a_record_of_another_run_is_not_touched(tmp_path, saved):
    other = fit(tmp_path / "other", max_epochs=3, monitor_options={"seed": 5}).observer.record
    before = {path: path.read_bytes() for path in other.folder.rglob("*") if path.is_file()}
    change(saved[1], record=str(other.folder))
    with pytest.warns(UserWarning, match=r"a new record is begun.*another run"):
        observer = fit(tmp_path, checkpoint=saved[1], max_epochs=2).observer
    assert {path: path.read_bytes() for path in other.folder.rglob("*") if path.is_file()} == before
    assert observer.record.folder != other.folder


@pytest.mark.parametrize("damage", ["gone", "broken"])
def test_a_lost_record_is_begun_anew(tmp_path, saved, damage):
    monitor, checkpoint = saved
    folder = monitor.observer.record.folder
    if damage == "gone":
        folder.rename(tmp_path / "elsewhere")
    else:
        (folder / "run.json").write_text("{")
    with pytest.warns(UserWarning, match="a new record is begun"):
        observer = fit(tmp_path, checkpoint=checkpoint, max_epochs=2).observer
    assert observer.history.epochs.tolist() == [0, 1, 2]
    assert Record.open(observer.record.folder).history.epochs.tolist() == [2]


def test_the_time_spent_is_counted_across_a_resume(tmp_path, saved):
    monitor, checkpoint = saved
    spent = monitor.budget.spent
    resumed = fit(tmp_path, checkpoint=checkpoint, max_epochs=2)
    assert resumed.budget.spent > spent
    assert np.isfinite(resumed.budget.share())


def test_the_same_trainer_may_go_on(tmp_path):
    data = TensorDataset(torch.randn(16, 1, 8, 8), torch.arange(16) % 4)
    loaders = DataLoader(data, 4), DataLoader(data, 8)
    monitor = InteractionMonitor(FeaturePatches("features.1", grid=4, margin=0, n_players=3), n_samples=3)
    options = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu", "default_root_dir": tmp_path}
    net = Net()
    trainer = L.Trainer(max_epochs=1, callbacks=[monitor], **options)
    trainer.fit(net, *loaders)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(net, *loaders)
    assert monitor.observer.history.epochs.tolist() == [0, 1, 2, 3]
    first = monitor.observer.record.folder
    # A new trainer is a new run, with a tracker that knows nothing of the old one.
    L.Trainer(max_epochs=1, callbacks=[monitor], **options).fit(Net(), *loaders)
    assert monitor.observer.history.epochs.tolist() == [0, 1]
    assert monitor.observer.record.folder != first
