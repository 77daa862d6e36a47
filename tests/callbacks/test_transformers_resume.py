"""Resumed runs of `transformers.Trainer`: what goes on, what branches off, and what is refused."""

import json
import shutil
import warnings

import pytest
import torch
import transformers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers_runs import VOCABULARY, positions, sentences, told, trained

from interaction_monitor import Probe
from interaction_monitor.callbacks.transformers import InteractionTrainerCallback
from interaction_monitor.players import Words
from interaction_monitor.record import Record
from interaction_monitor.settings import Thresholds

pytestmark = pytest.mark.usefixtures("undrawn")


class CrashError(Exception):
    """What ends a run in these tests."""


class CrashAt(transformers.TrainerCallback):
    """Ends a run behind a step, as a killed one ends: without `on_train_end`."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise CrashError


def crashed(folder, at, **arguments):
    """Train until a step and no further, with a checkpoint after each epoch."""
    with pytest.raises(CrashError):
        trained(folder, before=CrashAt(at), save_strategy="epoch", **arguments)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_stopped_run_goes_on_with_its_record(tmp_path):
    _, whole = trained(tmp_path / "whole", save_strategy="epoch")
    # Measured after each step, the run has come further than its newest checkpoint.
    crashed(tmp_path, at=8, callback={"every_n_steps": 1})
    assert Record.open(tmp_path / "interactions").history[-1].step > 6
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer, resumed = trained(tmp_path, save_strategy="epoch", resume=str(tmp_path / "checkpoint-6"))
    assert told(caught) == []
    assert trainer.state.global_step == 9
    assert [path.name for path in tmp_path.glob("interactions*")] == ["interactions"]
    assert [row.step for row in resumed.observer.history] == [0, 1, 2, 3, 4, 5, 6, 9]
    by_step = {row.step: row for row in resumed.observer.history}
    for before in whole.observer.history:
        assert before.distribution == by_step[before.step].distribution
    record = Record.open(tmp_path / "interactions")
    assert record.history.to_csv() == resumed.observer.history.to_csv()
    assert record.progress.finished
    events = EventAccumulator(str(tmp_path / "runs" / "interactions"), size_guidance={"tensors": 0, "scalars": 0})
    assert [event.step for event in events.Reload().Scalars("interactions/mean_order")] == [0, 1, 2, 3, 4, 5, 6, 9]


def test_a_resumed_run_has_the_phases_of_one_that_was_never_stopped(tmp_path):
    _, whole = trained(tmp_path / "whole", save_strategy="epoch")
    crashed(tmp_path, at=7)
    _, resumed = trained(tmp_path, save_strategy="epoch", resume=True)
    assert positions(resumed) == positions(whole)
    for before, after in zip(whole.observer.history, resumed.observer.history, strict=True):
        assert (before.distribution, before.phase, before.test_loss) == (
            after.distribution, after.phase, after.test_loss,
        )  # fmt: skip
    assert resumed.observer.tracker.state_dict() == whole.observer.tracker.state_dict()


def test_other_samples_of_a_loader_are_told_by_the_callback_that_measures(tmp_path):
    chosen = {"callback": {"n_samples": 5}, "save_strategy": "epoch"}
    with pytest.raises(CrashError):
        trained(tmp_path, before=CrashAt(4), **chosen)
    with pytest.warns(UserWarning, match="InteractionTrainerCallback: the loader gives other samples.*goes on with"):
        _, resumed = trained(tmp_path, resume=True, data=sentences(64)[20:40], **chosen)
    kept = Record.open(tmp_path / "interactions").probe_inputs
    assert torch.equal(resumed.observer.probe.inputs["input_ids"], kept["input_ids"])


def test_a_finished_run_that_is_resumed_from_an_earlier_checkpoint_keeps_its_record(tmp_path):
    _, whole = trained(tmp_path, save_strategy="epoch")
    before = contents(tmp_path / "interactions")
    match = "InteractionTrainerCallback: this run branches off at step 3 of one that was measured up to step 9"
    with pytest.warns(UserWarning, match=match):
        trained(tmp_path, resume=str(tmp_path / "checkpoint-3"), save_strategy="epoch", num_train_epochs=2)
    assert contents(tmp_path / "interactions") == before
    branch = Record.open(tmp_path / "interactions_branch_1")
    assert [row.position for row in branch.history] == [(0, 0), (1, 3), (2, 6)]
    assert branch.history[:2] == whole.observer.history[:2]
    # What that one saved belongs to it.
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="InteractionTrainerCallback")
        _, resumed = trained(tmp_path, resume=str(tmp_path / "checkpoint-6"))
    assert resumed.observer.record.folder.name == "interactions_branch_1"
    assert contents(tmp_path / "interactions") == before


def test_a_finished_run_can_be_made_longer(tmp_path):
    trained(tmp_path, save_strategy="epoch", num_train_epochs=2)
    _, resumed = trained(tmp_path, resume=str(tmp_path / "checkpoint-6"))
    assert [path.name for path in tmp_path.glob("interactions*")] == ["interactions"]
    assert positions(resumed) == [(0, 0), (1, 3), (2, 6), (3, 9)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run that was stopped behind its first epoch."""
    folder = tmp_path_factory.mktemp("saved")
    crashed(folder, at=4)
    return folder


def own_forward(model, inputs):
    return model(**inputs)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"output": "loss"}, r"output='log_odds', but this run has output='loss'.*resume with output='log_odds'"),
        ({"seed": 1}, r"seed=0, but this run has seed=1.*resume with seed=0"),
        ({"interactions": "and"}, r"interactions='and-or', but this run has interactions='and'"),
        ({"thresholds": Thresholds(saliency=0.1)}, r"thresholds\.saliency=0\.03, but .* thresholds\.saliency=0\.1"),
        ({"players": Words(VOCABULARY, n_players=3)}, r"players\.n_players=4, but .* players\.n_players=3"),
        ({"forward_func": own_forward}, r"forward_func=None, but this run has forward_func='own_forward'"),
        ({"n_samples": 3}, r"n_samples=5 samples, but probe= holds 3.*another name="),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_run_that_would_measure_otherwise_is_refused(saved, changed, match):
    before = contents(saved)
    n_samples, callback = changed.get("n_samples", 5), {key: changed[key] for key in changed if key != "n_samples"}
    with pytest.raises(ValueError, match=rf"(?s)InteractionTrainerCallback cannot measure this run: .*{match}"):
        trained(saved, resume=True, n_samples=n_samples, callback=callback)
    assert contents(saved) == before


def test_settings_that_the_record_of_an_earlier_version_holds_are_compared(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "interactions" / "run.json"
    run = json.loads(file.read_text())
    run["settings"] = {"players": "Words(n_players=4)", "output": "log_odds", "interactions": "and-or", "seed": 0}
    file.write_text(json.dumps(run))
    with pytest.raises(ValueError, match="seed=0, but this run has seed=2"):
        trained(tmp_path, resume=True, callback={"seed": 2})
    _, resumed = trained(tmp_path, resume=True)
    assert positions(resumed) == [(0, 0), (1, 3), (2, 6), (3, 9)]


def test_a_new_folder_gets_a_new_record_and_that_is_said(saved, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, resumed = trained(tmp_path, resume=str(saved / "checkpoint-3"))
    (message,) = told(caught)
    assert message == (
        f"InteractionTrainerCallback: there is no record to go on with in {tmp_path / 'interactions'}, so the record "
        "begins at epoch 1 (step 3)"
    )
    assert positions(resumed) == [(1, 3), (2, 6), (3, 9)]


def test_a_baseline_that_the_network_gave_stays_that_of_its_start(tmp_path):
    players = Words(VOCABULARY, n_players=4, layer="bert.embeddings.word_embeddings", baseline=lambda x: x.mean((0, 1)))
    crashed(tmp_path, at=4, callback={"players": players})
    before = Record.open(tmp_path / "interactions").players
    _, resumed = trained(tmp_path, resume=True, callback={"players": players})
    assert torch.equal(resumed.observer.players.baseline, before.baseline)
    assert torch.equal(resumed.observer.players.labels, before.labels)


def test_two_of_one_name_are_refused(tmp_path):
    probe = Probe({"input_ids": torch.stack([row["input_ids"] for row in sentences(3)])}, torch.tensor([0, 1, 0]))
    players = Words(VOCABULARY, n_players=3)
    with pytest.raises(ValueError, match=r"InteractionTrainerCallback\(name='interactions'\): another one"):
        trained(tmp_path, before=InteractionTrainerCallback(players, probe))
    _, watcher = trained(tmp_path / "both", before=InteractionTrainerCallback(players, probe, name="other"))
    assert len(Record.open(tmp_path / "both" / "other").history) == len(watcher.observer.history) == 4
