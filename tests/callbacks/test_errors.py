"""What fails inside the monitor costs one warning, and what it costs in time stays within its budget."""

import gc
import os
import re
import shutil
import warnings
from pathlib import Path

import lightning as L
import pytest
import torch
from matplotlib.figure import Figure

from interaction_monitor import InteractionMonitor
from interaction_monitor.players import FeaturePatches, ImagePatches
from interaction_monitor.record import Record
from interaction_monitor.schedule import LogSpaced


def monitor(**overrides):
    settings = {"n_samples": 3, "interactions": "and"} | overrides
    return InteractionMonitor(FeaturePatches("features.2", grid=4, margin=0, n_players=3), **settings)


def warned(trainer, net, loaders):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(net, *loaders)
    return [text for text in (str(warning.message) for warning in caught) if text.startswith("InteractionMonitor: ")]


def test_a_full_disk_costs_the_record_only(net, loaders, make_trainer, monkeypatch):
    watch = monitor()
    trainer = make_trainer(watch, max_epochs=4, logger=False, enable_checkpointing=False)
    write = Record.write

    def full(record, measurement, row):
        if row.epoch in (1, 2):
            raise OSError(28, "No space left on device")
        write(record, measurement, row)

    monkeypatch.setattr(Record, "write", full)
    said = warned(trainer, net, loaders)
    assert sum("writing the record failed and training goes on: OSError" in text for text in said) == 1
    assert watch.observer.history.epochs.tolist() == [0, 1, 2, 3, 4]
    assert Record.open(watch.observer.record.folder).history.epochs.tolist() == [0, 3, 4]


def test_a_folder_that_cannot_be_written_costs_the_record_only(net, loaders, make_trainer, tmp_path):
    (tmp_path / "file").write_text("")
    watch = monitor()
    # Root may write to read-only folders, but not into a file.
    trainer = make_trainer(watch, logger=False, enable_checkpointing=False, default_root_dir=tmp_path / "file")
    said = warned(trainer, net, loaders)
    assert sum("writing the record failed and training goes on" in text for text in said) == 1
    assert watch.observer.record is None
    assert watch.observer.history.epochs.tolist() == [0, 1, 2]


def after_start(error):
    """A forward that fails once training has begun."""

    def forward(module, x):
        result = module(x)
        if module.trainer.global_step:
            raise error
        return result

    return forward


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("full"), MemoryError("full"), ValueError("odd"), TypeError("odd")], ids=repr
)
def test_any_error_after_the_start_is_one_warning(net, loaders, make_trainer, error):
    trainer = make_trainer(monitor(forward_func=after_start(error)), max_epochs=3, logger=False)
    said = warned(trainer, net, loaders)
    assert len([text for text in said if "training goes on" in text]) == 1
    assert trainer.current_epoch == 3
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks for module in net.modules())


def test_a_loader_that_fails_at_the_start_switches_the_monitor_off(net, loaders, make_trainer, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("DataLoader worker (pid 7) is killed")

    monkeypatch.setattr("interaction_monitor.callbacks.lightning_trainer.Probe.from_loader", fail)
    watch = monitor()
    trainer = make_trainer(watch, logger=False)
    said = warned(trainer, net, loaders)
    assert len(said) == 1
    assert "setting up failed and training goes on: RuntimeError: DataLoader worker" in said[0]
    assert trainer.current_epoch == 2
    assert watch.observer is None


def test_an_interrupt_inside_a_measurement_reaches_the_trainer(net, loaders, make_trainer):
    watch = monitor(forward_func=after_start(KeyboardInterrupt()))
    trainer = make_trainer(watch, logger=False)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer.fit(net, *loaders)
    assert trainer.interrupted
    assert not any(module._forward_hooks for module in net.modules())
    assert len(Record.open(watch.observer.record.folder).history) == 1


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ({"every_n_epochs": LogSpaced(1)}, [0, 1, 2, 4, 8, 9]),
        ({"every_n_epochs": lambda epoch: epoch in (3, 5)}, [0, 3, 5, 9]),
        ({"max_overhead": 1e-9}, [0, 9]),
    ],
    ids=["default", "log-spaced", "callable", "no budget"],
)
def test_schedules(net, loaders, make_trainer, options, epochs):
    watch = monitor(**options)
    make_trainer(watch, max_epochs=9, logger=False, limit_train_batches=1, enable_checkpointing=False).fit(
        net, *loaders
    )
    assert watch.observer.history.epochs.tolist() == epochs


def test_a_run_that_goes_on_counts_its_measurements_alone(net, loaders, make_trainer):
    watch = monitor()
    trainer = make_trainer(watch, max_epochs=2, logger=False, enable_checkpointing=False)
    trainer.fit(net, *loaders)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(net, *loaders)
    assert watch.observer.history.epochs.tolist() == [0, 1, 2, 3]
    assert watch.budget.state_dict()["taken"] == 4


def test_steps_may_be_scheduled_too(net, loaders, make_trainer):
    watch = monitor(every_n_train_steps=LogSpaced(1))
    make_trainer(watch, max_epochs=3, logger=False).fit(net, *loaders)
    assert watch.observer.history.steps.tolist() == [0, 1, 2, 4, 8, 12]


def test_a_measurement_is_announced_and_laid_beside_an_epoch(net, loaders, make_trainer, capsys):
    watch = InteractionMonitor(ImagePatches(grid=4, margin=0, n_players=8), n_samples=8)
    watch.budget._clock = lambda: 0.0  # no time is trained, so nothing is laid beside it
    make_trainer(watch, max_epochs=2, logger=False).fit(net, *loaders)
    lines = capsys.readouterr().out.splitlines()
    told = [line for line in lines if "masked forwards" in line]
    assert len(told) == 1
    assert re.search(r"3 of them at most [\d.]+ m?s \(2,048 masked forwards", told[0])
    assert not any("an epoch of training" in line for line in lines)
    assert [row.epoch for row in watch.observer.history] == [0, 1, 2]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory in use from /proc")
def test_many_measurements_do_not_let_memory_grow(net, loaders, make_trainer):
    watch = monitor(every_n_epochs=1)
    seen = []

    class Scale(L.Callback):
        def on_train_epoch_end(self, trainer, module):
            if trainer.current_epoch % 20 == 19:
                gc.collect()
                objects = gc.get_objects()
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                seen.append(
                    (
                        sum(issubclass(type(thing), torch.Tensor) for thing in objects),
                        len(objects),
                        pages * os.sysconf("SC_PAGE_SIZE"),
                    )
                )

    options = {"limit_train_batches": 1, "limit_val_batches": 1, "enable_checkpointing": False, "logger": False}
    make_trainer(watch, Scale(), max_epochs=60, **options).fit(net, *loaders)
    assert len(watch.observer.history) == 61
    (tensors, objects, size), _, (tensors_later, objects_later, size_later) = seen
    assert tensors_later == tensors
    assert objects_later - objects <= 3 * 40  # 40 measurements leave a row each
    assert size_later - size < 4 * 2**20


def test_pictures_are_no_part_of_the_account(net, loaders, make_trainer, monkeypatch):
    now, drawn = [0.0], []

    def slow(history):
        now[0] += 100.0
        drawn.append(len(history))
        return Figure(figsize=(1, 1))

    monkeypatch.setattr("interaction_monitor.plots.tensorboard.PICTURES", {"story": slow})
    watch = monitor(every_n_epochs=1)
    watch.budget._clock = lambda: now[0]
    make_trainer(watch, max_epochs=7, enable_checkpointing=False).fit(net, *loaders)
    assert drawn == [4, 8]  # where the run has doubled; once at the end, though it has doubled there too
    assert watch.budget.spent == watch.budget.trained() == 0


def test_a_record_that_is_removed_during_the_run_is_not_said_to_be_there(net, loaders, make_trainer, tmp_path, capsys):
    class Remove(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                shutil.rmtree(tmp_path / "interactions")

    watch = monitor(every_n_epochs=1)
    trainer = make_trainer(watch, Remove(), logger=False, enable_checkpointing=False)
    said = warned(trainer, net, loaders)
    assert sum("writing the record failed" in text for text in said) == 1
    assert watch.observer.history.epochs.tolist() == [0, 1, 2]
    folder = tmp_path / "interactions"
    assert f"recorded in {folder}, but that folder has been removed since" in capsys.readouterr().out
