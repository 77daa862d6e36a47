"""Killed at any moment: the record opens, and a resumed run goes on as if it had never been stopped."""

import os
import random
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from matplotlib.figure import Figure
from networks import Convolutional
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as PluginAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from interaction_monitor import InteractionMonitor
from interaction_monitor.players import FeaturePatches, ImagePatches
from interaction_monitor.probe import Probe
from interaction_monitor.record import Progress, Record
from interaction_monitor.reference import Twins
from interaction_monitor.settings import Thresholds

EPOCHS = 6


class Net(Convolutional):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(128, 4))


PATCHES = FeaturePatches("features.1", grid=4, margin=0, n_players=3)


def fit(folder, *callbacks, checkpoint=None, monitor_options=(), seed=0, **options):
    """Train, from a checkpoint if there is one; return the monitor."""
    L.seed_everything(seed, verbose=False)
    data = TensorDataset(torch.randn(16, 1, 8, 8), torch.arange(16) % 4)
    settings = {"players": PATCHES, "n_samples": 3, "interactions": "and"} | dict(monitor_options)
    monitor = InteractionMonitor(**settings)
    trainer = L.Trainer(
        callbacks=[monitor, *callbacks], accelerator="cpu", default_root_dir=folder, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False,
        **{"max_epochs": EPOCHS, "enable_checkpointing": bool(callbacks), "logger": False} | options,
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
import test_resume as tools

torch.set_num_threads(1)
folder, seed, runs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
random.seed(seed)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

def train(run, kill_after):
    child = os.fork()
    if child == 0:
        began = time.process_time()
        os.dup2(os.open(run / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        last = run / "last.ckpt"
        saving = ModelCheckpoint(run, filename="{step}", save_last=True, save_top_k=0, save_on_train_epoch_end=True)
        done = False
        if kill_after is not None:
            signal.setitimer(signal.ITIMER_PROF, kill_after)  # ends it like SIGKILL, by its own time on the processor
        try:
            tools.fit(run, saving, checkpoint=last if last.exists() else None, monitor_options={"every_n_epochs": 1})
            done = True
            (run / "seconds.txt").write_text(str(time.process_time() - began))
        finally:
            os._exit(0 if done else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

(folder / "whole").mkdir()
assert train(folder / "whole", None) == 0
seconds = float((folder / "whole" / "seconds.txt").read_text())
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
        killed += codes.count(-signal.SIGPROF)
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
            else:  # and it forgets what was logged before
                assert same_rows(observer.history, whole, losses=not measuring), checkpoint.name
            assert same_rows(Record.open(observer.record.folder).history, observer.history)
    # The run had come to its end, so each of these was another run.
    assert same_rows(Record.open(tmp_path / "interactions").history, whole)


class StopsIn(Net):
    """Is stopped by hand within the measurement of a step."""

    def forward(self, x):
        if not torch.is_grad_enabled() and not self.trainer.validating and self.trainer.global_step == self.step:
            raise KeyboardInterrupt
        return super().forward(x)


@pytest.mark.parametrize("by", [{"every_n_train_steps": 2}, {"every_n_epochs": 1}], ids=["steps", "epochs"])
def test_a_run_that_is_stopped_within_a_measurement_takes_it_when_it_goes_on(tmp_path, monkeypatch, by):
    options = {"monitor_options": by, "max_epochs": 2}
    whole = fit(tmp_path / "whole", **options).observer.history
    keep = OnExceptionCheckpoint(tmp_path, "stopped")
    monkeypatch.setattr(StopsIn, "step", 4, raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[__name__], "Net", StopsIn)
        with pytest.raises(SystemExit):
            fit(tmp_path, keep, **options)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning has left it ignored
    resumed = fit(tmp_path, checkpoint=tmp_path / "stopped.ckpt", **options).observer.history
    assert resumed.steps.tolist() == whole.steps.tolist()
    assert resumed.column("train_loss").tolist()[:3] == pytest.approx(
        whole.column("train_loss").tolist()[:3], nan_ok=True
    )


@pytest.mark.parametrize("killed", [False, True], ids=["measured", "killed before it was"])
def test_losses_of_an_epoch_are_its_own_behind_a_checkpoint_of_the_last_batch(tmp_path, killed):
    """The losses of the epoch before belong to its own measurement, which another row may hold."""

    def twins_of(make):
        loss = {"loss": lambda net, batch: nn.functional.cross_entropy(net(batch[0]), batch[1])}
        return Twins(make, **loss, optimizer=lambda net: torch.optim.SGD(net.parameters(), lr=0.1))

    options = {"monitor_options": {"every_n_epochs": 1, "reference": twins_of(Net)}, "max_epochs": 3}
    keep = ModelCheckpoint(tmp_path / "saved", filename="{step}", save_top_k=-1, every_n_train_steps=8)
    whole = fit(tmp_path / "run", keep, **options).observer.history
    if killed:
        Record.resume(tmp_path / "run" / "interactions", up_to=(1, 4))
    resumed = fit(tmp_path / "run", checkpoint=tmp_path / "saved" / "step=8.ckpt", **options).observer.history
    assert [row.step for row in whole] == [0, 4, 8, 12]
    assert [row.unseen_loss for row in resumed] == [row.unseen_loss for row in whole]
    assert [row.train_loss for row in resumed] == pytest.approx([row.train_loss for row in whole], nan_ok=True)


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
    change(saved[1], version=None, budget=None, settings=None, samples=None, train=None, shown=None)
    (saved[0].observer.record.folder / "progress.json").unlink()
    observer = fit(tmp_path, checkpoint=saved[1], max_epochs=2).observer
    assert observer.history.epochs.tolist() == [0, 1, 2]


def test_a_state_of_a_newer_version_is_refused_before_training(tmp_path, saved):
    change(saved[1], version=99)
    with pytest.raises(MisconfigurationException, match=r"version 99.*update"):
        fit(tmp_path, checkpoint=saved[1], max_epochs=2)


def test_players_that_do_not_fit_the_checkpoint_are_refused(tmp_path, saved):
    with pytest.raises(MisconfigurationException, match=r"n_samples=3 samples, but this run has n_samples=4;.* name="):
        fit(tmp_path, checkpoint=saved[1], max_epochs=2, monitor_options={"n_samples": 4})
    probe = Probe(torch.rand(2, 1, 8, 8), torch.arange(2))
    with pytest.raises(MisconfigurationException, match=r"n_samples=3 samples, but probe= holds 2;.* name="):
        fit(tmp_path, checkpoint=saved[1], max_epochs=2, monitor_options={"probe": probe})


def first(logits, targets):
    return logits[:, 0].double()


@pytest.mark.parametrize(
    ("changed", "was", "now"),
    [
        ({"interactions": "and-or"}, "interactions='and'", "interactions='and-or'"),
        ({"seed": 7}, "seed=0", "seed=7"),
        ({"output": "logit"}, "output='log_odds'", "output='logit'"),
        ({"output": first}, "output='log_odds'", "output='first'"),
        ({"forward_func": lambda net, x: net(x)}, "forward_func=None", "forward_func='<lambda>'"),
        ({"thresholds": Thresholds(saliency=0.1)}, r"thresholds\.saliency=0\.03", r"thresholds\.saliency=0\.1"),
        ({"thresholds": Thresholds(noise=0.0)}, r"thresholds\.noise=0\.02", r"thresholds\.noise=0\.0"),
        ({"players": FeaturePatches("features.0", grid=4, margin=0, n_players=3)}, "features.1", "features.0"),
        ({"players": FeaturePatches("features.1", grid=8, margin=0, n_players=3)}, "players.grid=4", "players.grid=8"),
        ({"players": FeaturePatches("features.1", grid=4, margin=0, n_players=4)}, "n_players=3", "n_players=4"),
        (
            {"players": FeaturePatches("features.1", grid=4, margin=0, n_players=3, baseline=torch.zeros(2))},
            r"players\.baseline=0\.0",
            r"players\.baseline='float32 tensor of shape \(2,\), digest",
        ),
        ({"players": ImagePatches(grid=4, margin=0, n_players=3)}, "'FeaturePatches'", "'ImagePatches'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_run_that_would_measure_otherwise_is_refused(tmp_path, saved, changed, was, now):
    files = sorted(tmp_path.rglob("*"))
    with pytest.raises(MisconfigurationException, match=f"measured with .*{was}.* but this run has .*{now}.* name="):
        fit(tmp_path, checkpoint=saved[1], max_epochs=2, monitor_options=changed)
    assert sorted(tmp_path.rglob("*")) == files  # nor has it left anything behind
    began = fit(tmp_path, checkpoint=saved[1], max_epochs=2, monitor_options=changed | {"name": "other"}).observer
    assert began.history.epochs.tolist() == [1, 2]


def test_what_does_not_change_the_meaning_may_change(tmp_path, saved):
    options = {"every_n_epochs": 2, "max_overhead": 1.0, "stop_on_onset": True, "patience": 3, "on_error": "raise"}
    assert fit(tmp_path, checkpoint=saved[1], max_epochs=2, monitor_options=options).observer.history[-1].epoch == 2


def test_a_baseline_that_is_computed_stays_that_of_the_start(tmp_path):
    options = {
        "players": FeaturePatches("features.1", grid=4, margin=0, n_players=3, baseline=lambda maps: maps.mean())
    }
    keep = ModelCheckpoint(tmp_path / "saved", filename="end")
    first = fit(tmp_path, keep, max_epochs=1, monitor_options=options).observer
    again = fit(tmp_path, checkpoint=tmp_path / "saved" / "end.ckpt", max_epochs=2, monitor_options=options).observer
    assert again.players.baseline == first.players.baseline


def test_samples_that_a_loader_does_not_give_again_come_from_the_record(tmp_path, saved):
    monitor, checkpoint = saved
    with pytest.warns(UserWarning, match="goes on with those of its record"):
        resumed = fit(tmp_path, checkpoint=checkpoint, max_epochs=2, seed=1).observer  # which draws other data
    assert torch.equal(resumed.probe.inputs, monitor.observer.probe.inputs)
    assert resumed.record.folder == monitor.observer.record.folder
    monitor.observer.record.folder.rename(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="may differ for that alone"):
        fit(tmp_path, checkpoint=checkpoint, max_epochs=2, seed=1)


def test_other_samples_that_are_given_are_refused(tmp_path, saved):
    probe = Probe(torch.rand(3, 1, 8, 8), torch.arange(3))
    with pytest.raises(MisconfigurationException, match=r"other samples than probe= holds.*name="):
        fit(tmp_path, checkpoint=saved[1], max_epochs=2, monitor_options={"probe": probe})


TRAINING = {"n_train_samples": 2, "on_error": "raise"}
COMPUTED = FeaturePatches("features.1", grid=4, margin=0, n_players=3, baseline=lambda maps: maps.mean())


def test_training_samples_that_a_loader_does_not_give_again_come_from_the_record(tmp_path):
    keep = ModelCheckpoint(tmp_path / "saved", filename="end")
    options = TRAINING | {"players": COMPUTED}
    first = fit(tmp_path, keep, max_epochs=1, monitor_options=options).observer
    checkpoint = tmp_path / "saved" / "end.ckpt"
    probe, players = first.train
    # Once goes on in the record, once in a branch, and once from the checkpoint of the branch.
    for epochs in (2, 2, 3):
        again = ModelCheckpoint(tmp_path / "again", filename="end", enable_version_counter=False)
        with pytest.warns(UserWarning, match="loader for training gives other samples.*goes on with those of its rec"):
            observer = fit(
                tmp_path, again, checkpoint=checkpoint, max_epochs=epochs, seed=1, monitor_options=options
            ).observer
        assert torch.equal(observer.train[0].inputs, probe.inputs)
        assert torch.equal(observer.train[1].labels, players.labels)
        assert observer.train[1].baseline == players.baseline
        if observer.record.folder != first.record.folder:
            checkpoint = tmp_path / "again" / "end.ckpt"
    (observer.record.folder / "training").rename(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="does not hold those training samples"):
        fit(tmp_path, checkpoint=checkpoint, max_epochs=4, seed=1, monitor_options=options)


@pytest.mark.parametrize(("before", "now"), [(2, 3), (2, 0), (0, 2)])
def test_another_number_of_training_samples_is_refused(tmp_path, before, now):
    fit(
        tmp_path, ModelCheckpoint(tmp_path / "saved", filename="end"), max_epochs=1,
        monitor_options={"n_train_samples": before},
    )  # fmt: skip
    checkpoint = tmp_path / "saved" / "end.ckpt"
    message = f"n_train_samples={before}, but this run has n_train_samples={now}; resume with .* name="
    with pytest.raises(MisconfigurationException, match=message):
        fit(tmp_path, checkpoint=checkpoint, max_epochs=2, monitor_options={"n_train_samples": now})


@pytest.mark.parametrize(
    "damage",
    [
        {"observer": {}}, {"observer": 7}, {"observer": {"labels": "x", "history": [], "tracker": {}}}, {"budget": {}},
        {"budget": 3}, {"version": "1"}, {"settings": 5}, {"shown": "x"}, {"record": 5},
        {"train": 5}, {"train": {"n_samples": "x"}},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_state_is_refused_before_training(tmp_path, saved, damage):
    change(saved[1], **damage)
    with pytest.raises(MisconfigurationException, match="checkpoint"):
        fit(tmp_path, checkpoint=saved[1], max_epochs=2)


def test_a_checkpoint_without_a_monitor_begins_anew(tmp_path, saved):
    checkpoint = torch.load(saved[1], weights_only=True)
    checkpoint["callbacks"].clear()
    torch.save(checkpoint, saved[1])
    observer = fit(tmp_path, checkpoint=saved[1], max_epochs=2).observer
    assert observer.history.epochs.tolist() == [1, 2]


@pytest.mark.parametrize("differs", ["both", "measurements", "players"])
def test_a_record_of_another_run_is_not_touched(tmp_path, saved, differs):
    players = saved[0].observer.players
    if differs == "players":  # what was measured is the same
        folder = shutil.copytree(saved[0].observer.record.folder, tmp_path / "other" / "interactions")
        with np.load(folder / "players.npz") as arrays:
            np.savez(folder / "players.npz", **dict(arrays) | {"labels": arrays["labels"][::-1]})
        other = Record.open(folder)
    else:
        seeds = {"seed": 1} if differs == "measurements" else {"monitor_options": {"seed": 5}}
        other = fit(tmp_path / "other", max_epochs=3, **seeds).observer.record
    assert torch.equal(other.players.labels, players.labels) == (differs == "measurements")
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
    with pytest.warns(UserWarning, match="a new record is begun.*It starts here: what was measured up to epoch 1"):
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


def test_a_run_that_branches_off_leaves_the_first_record_whole(tmp_path):
    keep = ModelCheckpoint(tmp_path / "saved", filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    first = fit(tmp_path, keep, max_epochs=4).observer
    files = {path: path.read_bytes() for path in first.record.folder.rglob("*") if path.is_file()}
    with pytest.warns(UserWarning, match=r"branches off at step 8 of one that was measured up to step 16\. .*branch_1"):
        branch = fit(tmp_path, checkpoint=tmp_path / "saved" / "epoch=1.ckpt", max_epochs=3, gradient_clip_val=1e-3)
    assert {path: path.read_bytes() for path in first.record.folder.rglob("*") if path.is_file()} == files
    assert branch.observer.record.folder == tmp_path / "interactions_branch_1"
    record = Record.open(tmp_path / "interactions_branch_1")
    assert same_rows(record.history, branch.observer.history)
    assert same_rows(record.history[:3], first.history[:3])
    assert not same_rows(record.history, first.history[:4])
    # Going on at the end of either is no branch.
    longer = fit(tmp_path, checkpoint=tmp_path / "saved" / "epoch=3.ckpt", max_epochs=5).observer
    assert longer.record.folder == first.record.folder
    assert Record.open(first.record.folder).history.epochs.tolist() == [0, 1, 2, 3, 4, 5]


class Stop(L.Callback):
    """What a kill leaves: no hook runs after it, and nothing is written after it."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, net, *_):
        if trainer.global_step == self.step:
            for logger in trainer.loggers:
                logger.experiment.flush()
            raise KeyboardInterrupt


def interrupted(tmp_path, **options):
    """Train up to step 14, with one checkpoint, at step 8."""
    keep = ModelCheckpoint(tmp_path / "saved", filename="{epoch}", every_n_epochs=2, save_on_train_epoch_end=True)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path, Stop(14), keep, **options)
    (checkpoint,) = (tmp_path / "saved").iterdir()
    return checkpoint


def test_a_run_that_was_stopped_goes_on_in_its_record(tmp_path):
    whole = fit(tmp_path / "whole").observer.record
    checkpoint = interrupted(tmp_path)
    folder = tmp_path / "interactions"
    assert Record.open(folder).history.epochs.tolist() == [0, 1, 2, 3]
    assert Record.open(folder).progress == Progress(checkpoint=8)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path, Stop(10), checkpoint=checkpoint)
    # It did not come as far as the first time: what that had measured is still there.
    assert Record.open(folder).history.epochs.tolist() == [0, 1, 2]
    assert Record.open(folder).waiting.epochs.tolist() == [3]
    fit(tmp_path, checkpoint=checkpoint)
    record = Record.open(folder)
    assert same_rows(record.history, whole.history)
    assert len(record.waiting) == 0
    assert record.progress == Progress(checkpoint=24, finished=True)
    assert [path.name for path in tmp_path.glob("interactions*")] == ["interactions"]


@pytest.mark.parametrize(
    "saving",
    [
        {"save_on_train_epoch_end": True, "every_n_epochs": 3},
        {"monitor": "val_loss", "every_n_epochs": 3},
        {"every_n_train_steps": 12},
        {"every_n_train_steps": 13},
    ],
    ids=["epoch end", "validation end", "last batch", "within an epoch"],
)
def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path, saving, monkeypatch):
    monkeypatch.setattr(
        "interaction_monitor.plots.tensorboard.PICTURES", {"story": lambda history: Figure(figsize=(1, 1))}
    )

    def logger(folder):
        return TensorBoardLogger(folder, name="logs", version=0)

    def shown(folder):
        """What each of TensorBoard's two readers has under each of the monitor's tags: steps, and values of some."""
        limits = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}
        folder = str(folder / "logs" / "version_0")
        events = EventAccumulator(folder, size_guidance=limits).Reload()
        found = {}
        for kind in ("Scalars", "Images", "Histograms"):
            for tag in filter(lambda tag: tag.startswith("interactions/"), events.Tags()[kind.lower()]):
                found[tag] = [event.step for event in getattr(events, kind)(tag)]
                if kind == "Scalars" and "order" in tag:
                    found[f"values of {tag}"] = [event.value for event in events.Scalars(tag)]
        plugins = PluginAccumulator(folder, size_guidance=limits, tensor_size_guidance=limits).Reload()
        new = {tag: [event.step for event in plugins.Tensors(tag)] for tag in found if not tag.startswith("values")}
        return found, new, plugins

    fit(tmp_path / "whole", logger=logger(tmp_path / "whole"))
    whole, whole_new, _ = shown(tmp_path / "whole")
    keep = ModelCheckpoint(tmp_path / "saved", filename="{step}", **saving)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path, Stop(22), keep, logger=logger(tmp_path))
    (checkpoint,) = (tmp_path / "saved").iterdir()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path, Stop(18), logger=logger(tmp_path), checkpoint=checkpoint)
    fit(tmp_path, logger=logger(tmp_path), checkpoint=checkpoint)
    resumed, resumed_new, plugins = shown(tmp_path)
    if saving == {"every_n_train_steps": 13}:  # within an epoch Lightning itself goes on with other batches
        whole, resumed = (
            {tag: steps for tag, steps in found.items() if not tag.startswith("values")} for found in (whole, resumed)
        )
    assert resumed == whole
    assert resumed_new == whole_new
    assert plugins.SummaryMetadata("interactions/phase").plugin_data.plugin_name == "scalars"
    # What is not the monitor's is left as it is.
    assert len(plugins.Tensors("train_loss")) > 6


def test_nothing_is_left_of_a_run_that_is_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match="layer"):
        fit(tmp_path, monitor_options={"players": FeaturePatches("nowhere", n_players=3)})
    with pytest.raises(MisconfigurationException, match="targets"):
        fit(tmp_path, monitor_options={"probe": Probe(torch.rand(2, 1, 8, 8))})
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_keeps_the_history_that_a_failed_setup_did_not_take_up(tmp_path, saved, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("DataLoader worker (pid 7) is killed")

    with monkeypatch.context() as patch:
        patch.setattr("interaction_monitor.callbacks.lightning_trainer.Probe.from_loader", fail)
        keep = ModelCheckpoint(tmp_path / "saved", filename="second")
        with pytest.warns(UserWarning, match="setting up failed"):
            fit(tmp_path, keep, checkpoint=saved[1], max_epochs=2)
    again = fit(tmp_path, checkpoint=tmp_path / "saved" / "second.ckpt", max_epochs=3).observer
    assert again.history.epochs.tolist() == [0, 1, 2, 3]
    assert Record.open(saved[0].observer.record.folder).history.epochs.tolist() == [0, 1, 2, 3]
