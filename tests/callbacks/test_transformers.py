import inspect
import json
import math
import re
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
import transformers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers_runs import VOCABULARY, mixed_sentences, positions, sentences, told, trained

import interaction_monitor.outputs
from interaction_monitor import InteractionMonitor, Probe
from interaction_monitor.callbacks.transformers import InteractionTrainerCallback
from interaction_monitor.language_models import last_token_logits, most_probable
from interaction_monitor.losses import why_losses_are_sums
from interaction_monitor.players import Words
from interaction_monitor.plots import run_figures
from interaction_monitor.record import Record
from interaction_monitor.settings import Thresholds
from interaction_monitor.stopping import StopRule

# The run that all share has its pictures.
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, *trained(folder)


def test_the_training_is_the_same_to_the_bit(run, tmp_path):
    _, watched, _ = run
    alone, _ = trained(tmp_path, watch=False)
    for name, value in alone.model.state_dict().items():
        assert torch.equal(value, watched.model.state_dict()[name]), name
    losses = [[entry.get("loss") for entry in trainer.state.log_history] for trainer in (alone, watched)]
    assert losses[0] == losses[1]
    assert watched.model.training == alone.model.training


def test_each_epoch_is_measured_with_its_own_losses(run):
    _, trainer, watcher = run
    assert positions(watcher) == [(0, 0), (1, 3), (2, 6), (3, 9)]
    logged = trainer.state.log_history
    train = [entry["loss"] for entry in logged if "loss" in entry]
    test = [entry["eval_loss"] for entry in logged if "eval_loss" in entry]
    assert [row.train_loss for row in watcher.observer.history][1:] == pytest.approx(train)
    assert [row.test_loss for row in watcher.observer.history] == [None, *test]


def test_the_record_and_the_panels_hold_the_run(run):
    folder, _, watcher = run
    record = Record.open(folder / "interactions")
    assert record.history.to_csv() == watcher.observer.history.to_csv()
    assert torch.equal(record.players.labels, watcher.observer.players.labels)
    assert torch.equal(record.measurements[-1].v, watcher.observer.last.v)
    events = EventAccumulator(str(folder / "runs" / "interactions"), size_guidance={"images": 0, "scalars": 0}).Reload()
    orders = events.Scalars("interactions/mean_order")
    assert [event.step for event in orders] == [0, 3, 6, 9]
    assert [event.value for event in orders] == pytest.approx([row.mean_order for row in record.history])
    assert [event.step for event in events.Scalars("interactions/test_loss")] == [3, 6, 9]
    assert (
        events.Images("interactions/story")[-1].width
        == run_figures.to_image(run_figures.story(record.history)).shape[1]
    )


def test_evaluations_carry_the_latest_numbers(tmp_path):
    trainer, watcher = trained(
        tmp_path,
        metric_for_best_model="eval_interactions/mean_order",
        greater_is_better=False,
        load_best_model_at_end=True,
        save_strategy="epoch",
    )
    # The untrained model is no checkpoint.
    assert trainer.state.best_metric == min(row.mean_order for row in watcher.observer.history[1:])
    assert positions(watcher) == [(0, 0), (1, 3), (2, 6), (3, 9)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"eval_strategy": "no", "logging_strategy": "no"}, [(0, 0), (0, 2), (1, 4), (1, 5)]),
        ({"eval_strategy": "steps", "eval_steps": 2, "logging_strategy": "no"}, [(0, 0), (0, 2), (1, 4), (1, 5)]),
        ({"eval_strategy": "no", "logging_strategy": "steps", "logging_steps": 1}, [(0, 0), (0, 2), (1, 4), (1, 5)]),
    ],
    ids=["nothing else", "evaluations", "logs"],
)
def test_steps_are_counted_whatever_else_is_due(tmp_path, arguments, expected):
    _, watcher = trained(tmp_path, callback={"every_n_steps": 2}, max_steps=5, **arguments)
    assert positions(watcher) == expected


def test_a_causal_model_is_measured_by_steps(tmp_path):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=44, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    model = transformers.LlamaForCausalLM(config)
    texts = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in sentences(32)]
    probe = most_probable(model, Probe({"input_ids": torch.stack([row["input_ids"] for row in texts[:4]])}))
    watcher = InteractionTrainerCallback(
        Words(VOCABULARY, n_players=4),
        probe,
        every_n_steps=1,
        output="next_token_log_odds",
        forward_func=last_token_logits,
    )
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=3, logging_steps=1, report_to=[], disable_tqdm=True, use_cpu=True
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=texts, callbacks=[watcher])
    trainer.train()
    assert [row.step for row in watcher.observer.history] == [0, 1, 2, 3]
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert [row.train_loss for row in watcher.observer.history][1:] == pytest.approx(logged)
    with torch.no_grad():
        logits = model.eval()(**probe.inputs).logits[:, -1].double()
    targets = probe.targets[:, None]
    others = logits.scatter(1, targets, -torch.inf).logsumexp(dim=1)
    expected = logits.gather(1, targets)[:, 0] - others
    torch.testing.assert_close(watcher.observer.last.v[:, -1], expected, rtol=1e-4, atol=1e-4)


def test_another_runs_record_is_left_alone(tmp_path):
    trained(tmp_path, num_train_epochs=1)
    before = (tmp_path / "interactions" / "history.csv").read_bytes()
    trained(tmp_path, num_train_epochs=1)
    assert (tmp_path / "interactions" / "history.csv").read_bytes() == before
    assert len(Record.open(tmp_path / "interactions_1").history) == 2


def test_it_stops_the_run_and_says_why(tmp_path, capsys):
    class Hasty:
        """A tracker that sees phase two at epoch 1."""

        def __init__(self):
            from interaction_monitor.phases import PhaseTracker

            self.tracker = PhaseTracker()

        def update(self, *, epoch, **measured):
            from dataclasses import replace

            state = self.tracker.update(epoch=epoch, **measured)
            return state if epoch < 1 else replace(state, phase="two", onset_epoch=0, detected_epoch=1)

        def state_dict(self):
            return self.tracker.state_dict()

        def load_state_dict(self, state):
            self.tracker.load_state_dict(state)

    trainer, watcher = trained(
        tmp_path, callback={"tracker": Hasty(), "stop_on_onset": True, "patience": 1}, num_train_epochs=5
    )
    assert (trainer.state.global_step, positions(watcher)[-1]) == (6, (2, 6))
    assert watcher.stop_reason
    assert f"stopping the run, because {watcher.stop_reason}" in capsys.readouterr().out


def test_a_stop_rule_that_fails_is_one_warning_and_the_training_goes_on(tmp_path):
    class Broken(StopRule):
        def reason(self, history):
            raise IndexError("no such row")

    with pytest.warns(UserWarning, match="stop rule Broken failed.*no such row"):
        trainer, _ = trained(tmp_path, callback={"stop": Broken()})
    assert trainer.state.global_step == 9


def test_a_failure_is_one_warning_and_the_training_goes_on(tmp_path):
    modes, start = [], []

    def fails_later(model, inputs):
        modes.append(model.training)
        weight = model.classifier.weight.detach().clone()
        start.append(weight)
        if not torch.equal(weight, start[0]):
            raise RuntimeError("no room")
        return model(**inputs)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer, watcher = trained(tmp_path, callback={"forward_func": fails_later})
    (message,) = told(caught)
    assert message.startswith("InteractionTrainerCallback: ")
    assert "no room" in message
    assert trainer.state.global_step == 9
    assert not any(modes)
    assert positions(watcher) == [(0, 0)]


def test_players_that_do_not_fit_are_refused_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match=r"layer='embeddings\.words'"):
        trained(tmp_path, callback={"players": Words(VOCABULARY, n_players=4, layer="embeddings.words")})
    assert not list(tmp_path.glob("interactions*"))


@pytest.mark.parametrize(
    ("argument", "match"),
    [
        ({"every_n_epochs": 0}, r"every_n_epochs=0.*at least 1"),
        ({"patience": -1}, r"patience=-1"),
        ({"on_error": "ignore"}, r"on_error='ignore'"),
        ({"max_overhead": 2.0}, r"max_overhead=2\.0"),
        ({"thresholds": 0.1}, r"thresholds=0\.1"),
        ({"tracker": 3}, r"tracker=3"),
        ({"name": "a/b"}, r"name='a/b'"),
        ({"seed": "a"}, r"seed='a'\): give a whole number"),
        ({"train_loss": 3}, r"train_loss=3\): give the name of a logged metric"),
        ({"test_loss": 3}, r"test_loss=3\)"),
    ],
)
def test_arguments_out_of_range_are_named(argument, match):
    with pytest.raises(ValueError, match=rf"InteractionTrainerCallback\({match}"):
        InteractionTrainerCallback(Words(VOCABULARY), Probe(torch.ones(1, 3, dtype=torch.long)), **argument)


@pytest.mark.parametrize("given", ["swapped", "items"])
def test_what_is_no_probe_or_no_players_is_refused(given):
    players, probe = Words(VOCABULARY), Probe(torch.ones(1, 3, dtype=torch.long))
    arguments, match = {
        "swapped": ((probe, players), r"players=<?Probe.*give a kind of players"),
        "items": ((players, sentences(5)), r"probe=<list>\): give Probe\(inputs, targets\) or Probe\.from_loader"),
    }[given]
    with pytest.raises(ValueError, match=rf"InteractionTrainerCallback\({match}"):
        InteractionTrainerCallback(*arguments)


def test_who_lacks_transformers_is_told_what_to_install():
    code = (
        "import sys, lightning.pytorch, interaction_monitor.callbacks.lightning\n"
        "assert 'interaction_monitor.callbacks.transformers' not in sys.modules\n"
        "sys.modules['transformers'] = None\n"
        "try:\n    import interaction_monitor.callbacks.transformers\n"
        "except ImportError as error:\n    print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 'pip install "interaction-monitor[transformers]"' in said


def test_the_settings_are_in_the_record(run):
    folder, _, _ = run
    settings = json.loads((folder / "interactions" / "run.json").read_text())["settings"]
    assert settings["output"] == "log_odds"
    assert settings["players"]["n_players"] == 4


BEST = {
    "metric_for_best_model": "eval_interactions/mean_order",
    "greater_is_better": False,
    "load_best_model_at_end": True,
    "save_strategy": "epoch",
}


@pytest.mark.parametrize("place", ["before", "after"])
def test_early_stopping_finds_the_metric_wherever_the_watcher_stands(tmp_path, place, caplog):
    stop = transformers.EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=100)
    trainer, watcher = trained(tmp_path, **{place: stop}, num_train_epochs=5, **BEST)
    # Nothing is better by 100, so that the second evaluation ends the run.
    assert trainer.state.global_step == 6
    assert positions(watcher) == [(0, 0), (1, 3), (2, 6)]
    assert "did not find" not in caplog.text


def test_an_undefined_number_leaves_no_key_out(tmp_path):
    def constant(model, inputs):
        return torch.zeros(len(inputs["input_ids"]), 2)

    with pytest.warns(UserWarning, match="masking changes no output"):
        trainer, watcher = trained(tmp_path, callback={"forward_func": constant}, **BEST)
    assert all(math.isnan(row.mean_order) for row in watcher.observer.history)
    assert trainer.state.global_step == 9
    assert trainer.state.best_metric == 4  # the worst that there is, of four players


def test_a_measurement_that_fails_leaves_no_key_out(tmp_path):
    def failing(model, inputs):
        if len(inputs["input_ids"]) > 1:  # one sample is what a run is refused for
            raise RuntimeError("no")
        return model(**inputs)

    with pytest.warns(UserWarning, match="training goes on"):
        trainer, _ = trained(tmp_path, callback={"forward_func": failing}, **BEST)
    assert trainer.state.best_metric == 4


@pytest.mark.parametrize(("named", "counts"), [(None, "a"), ("eval_b_loss", "b")])
def test_of_several_data_sets_one_counts(tmp_path, named, counts):
    data = {"a": sentences(64)[48:56], "b": sentences(64)[56:]}
    stop = transformers.EarlyStoppingCallback(early_stopping_patience=2, early_stopping_threshold=100)
    probe = Probe({"input_ids": torch.stack([row["input_ids"] for row in data["a"][:3]])}, torch.tensor([0, 1, 0]))
    callback = {"probe": probe, "n_samples": 3, "test_loss": named}
    trainer, watcher = trained(tmp_path, callback=callback, data=data, after=stop, num_train_epochs=5, **BEST)
    logged = [entry[f"eval_{counts}_loss"] for entry in trainer.state.log_history if f"eval_{counts}_loss" in entry]
    assert [row.test_loss for row in watcher.observer.history][1:] == logged
    # A key that were among the metrics of both would be counted twice, and the run end an epoch sooner.
    assert trainer.state.global_step == 9


def test_losses_are_averaged_where_nothing_is_logged(run, tmp_path):
    _, _, watcher = run
    _, silent = trained(tmp_path, logging_strategy="no")
    expected = [row.train_loss for row in watcher.observer.history][1:]
    assert [row.train_loss for row in silent.observer.history][1:] == pytest.approx(expected)


def test_by_steps_the_loss_is_the_mean_since_the_last_measurement(tmp_path):
    trainer, watcher = trained(
        tmp_path, callback={"every_n_steps": 2}, max_steps=6, eval_strategy="no", logging_strategy="steps",
        logging_steps=1, gradient_accumulation_steps=2, per_device_train_batch_size=4,
    )  # fmt: skip
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    expected = [sum(losses[i : i + 2]) / 2 for i in (0, 2, 4)]
    assert [row.train_loss for row in watcher.observer.history][1:] == pytest.approx(expected)


def test_it_draws_samples_of_its_own_and_disturbs_nothing(run, tmp_path):
    _, watched, _ = run
    trainer, watcher = trained(tmp_path, callback={"n_samples": 4, "n_train_samples": 3}, save_strategy="epoch")
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, watched.model.state_dict()[name]), name
    losses = [[entry.get("eval_loss") for entry in each.state.log_history] for each in (trainer, watched)]
    assert losses[0] == losses[1]
    inputs = {tuple(row["input_ids"].tolist()) for row in sentences(64)[48:]}
    assert {tuple(ids) for ids in watcher.observer.probe.inputs["input_ids"].tolist()} <= inputs
    assert len(watcher.observer.probe) == 4
    assert watcher.observer.history.column("high_order_gap").shape == (4,)
    _, resumed = trained(
        tmp_path, callback={"n_samples": 4, "n_train_samples": 3}, resume=str(tmp_path / "checkpoint-9"),
        num_train_epochs=4,
    )  # fmt: skip
    assert positions(resumed)[-1] == (4, 12)
    with pytest.raises(ValueError, match=r"n_train_samples=3, but this run has n_train_samples=2"):
        trained(
            tmp_path, callback={"n_samples": 4, "n_train_samples": 2}, resume=str(tmp_path / "checkpoint-9"),
            num_train_epochs=4,
        )  # fmt: skip


def test_more_players_than_the_extraction_takes_are_refused_at_the_start(tmp_path):
    with pytest.raises(ValueError, match=r"n_players=17 is more than the 16"):
        trained(tmp_path, callback={"players": Words(VOCABULARY, n_players=17)})


def test_a_rule_that_can_never_stop_the_run_says_so_at_the_start(tmp_path):
    with pytest.warns(UserWarning, match=r"HighOrdersAndGap\(.*can never stop this run.*eval_strategy is 'no'"):
        trained(tmp_path, callback={"stop_on_onset": True}, eval_strategy="no", num_train_epochs=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trained(tmp_path / "can", callback={"stop_on_onset": True}, num_train_epochs=1)
    assert told(caught) == []


def test_it_takes_the_arguments_of_the_lightning_callback():
    given = {name: each.default for name, each in inspect.signature(InteractionTrainerCallback).parameters.items()}
    expected = {name: each.default for name, each in inspect.signature(InteractionMonitor).parameters.items()}
    expected["every_n_steps"] = expected.pop("every_n_train_steps")
    assert given == expected


def test_sentences_with_enough_words_are_preferred(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, watcher = trained(tmp_path, callback={"n_samples": 5}, data=mixed_sentences(), max_steps=1)
    assert watcher.observer.players.complete.tolist() == [True] * 5
    assert not [warning for warning in caught if "left out" in str(warning.message)]
    assert len(watcher.observer.history) == 2


def translated(folder, callback=None):
    """Train a tiny encoder and decoder that repeats three words, and generates at each evaluation."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 44, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(**sizes, decoder_start_token_id=0, pad_token_id=0)
    )
    rows = [{**row, "labels": row["input_ids"][:3].clone()} for row in sentences(32)]
    arguments = transformers.Seq2SeqTrainingArguments(
        str(folder), num_train_epochs=2, per_device_train_batch_size=8, eval_strategy="epoch", save_strategy="no",
        report_to=[], disable_tqdm=True, use_cpu=True, predict_with_generate=True, generation_max_length=5,
    )  # fmt: skip
    trainer = transformers.Seq2SeqTrainer(
        model, arguments, train_dataset=rows[:24], eval_dataset=rows[24:], callbacks=[callback] if callback else [],
        compute_metrics=lambda found: {"generated": float(found.predictions.sum())},
    )  # fmt: skip
    trainer.train()
    told = [[entry.get(key) for key in ("eval_generated", "eval_loss")] for entry in trainer.state.log_history]
    return model.state_dict(), told


def test_an_encoder_and_a_decoder_are_measured_by_the_line_that_is_proposed_and_generate_as_without(tmp_path):
    def callback(**given):
        return InteractionTrainerCallback(Words(VOCABULARY, n_players=4), n_samples=4, **given)

    with pytest.raises(ValueError, match="explain the first token") as refused:
        translated(tmp_path / "refused", callback())
    forward_func, output = re.search(r"give forward_func=(.*) and output=(.*)$", str(refused.value)).groups()
    names = {"interaction_monitor": interaction_monitor}
    watch = callback(forward_func=eval(forward_func), output=eval(output, names))  # as one would write it
    weights, told = translated(tmp_path / "watched", watch)
    alone, told_alone = translated(tmp_path / "alone")
    assert positions(watch) == [(0, 0), (1, 3), (2, 6)]
    assert all(torch.equal(weights[name], alone[name]) for name in alone)
    assert told == told_alone


# Resumed runs: what goes on, what branches off, and what is refused


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


def test_a_branch_keeps_the_training_samples_of_its_start(tmp_path):
    options = {"save_strategy": "epoch", "callback": {"n_train_samples": 2}}
    trained(tmp_path, **options)
    with pytest.warns(UserWarning, match="branches off at step 3"):
        _, branch = trained(tmp_path, resume=str(tmp_path / "checkpoint-3"), num_train_epochs=2, **options)
    kept = Record.open(branch.observer.record.folder / "training").probe_inputs["input_ids"]
    assert torch.equal(kept, branch.observer.train[0].inputs["input_ids"])
    _, resumed = trained(tmp_path, resume=str(tmp_path / "checkpoint-6"), **options)
    assert resumed.observer.record.folder.name == "interactions_branch_1"
    assert positions(resumed) == [(0, 0), (1, 3), (2, 6), (3, 9)]


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


class Ignoring(torch.nn.Module):
    """Takes whatever it is told of a step, and does not look at it."""

    def __init__(self, **options):
        super().__init__()
        self.embedding, self.head = torch.nn.Embedding(44, 8), torch.nn.Linear(8, 2)
        vars(self).update(options, config=transformers.PretrainedConfig())

    def forward(self, input_ids, attention_mask=None, labels=None, **kwargs):
        logits = self.head(self.embedding(input_ids).mean(1))
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


class Counting(Ignoring):
    def forward(self, input_ids, attention_mask=None, labels=None, num_items_in_batch=None, **kwargs):
        result = super().forward(input_ids, labels=labels)
        if num_items_in_batch is not None:
            result["loss"] = result["loss"] * len(labels) / num_items_in_batch
        return result


@pytest.mark.parametrize(
    ("model", "times", "options"),
    [
        (Ignoring, 3, {}),
        (lambda: Ignoring(accepts_loss_kwargs=False), 1, {}),
        (lambda: None, 3, {}),  # a BERT, which hands what it is told on to parts without a loss
        (lambda: Counting(), 1, {}),
        (Ignoring, 1, {"label_smoothing_factor": 0.01}),
    ],
)
def test_a_training_loss_that_is_a_sum_over_batches_is_told_of(tmp_path, model, times, options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, watcher = trained(tmp_path, model=model(), gradient_accumulation_steps=3, **options)
    row = watcher.observer.history[1]
    assert row.train_loss == pytest.approx(times * row.test_loss, rel=0.2)
    said = [text for text in told(caught) if "is a sum over 3 batches" in text]
    assert len(said) == (times == 3)


def test_a_loss_of_ones_own_is_read_before_it_is_called_a_sum(tmp_path):
    class Weighted(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            raise AssertionError("it must not be run")

    class Divided(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    class DividedByHand(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            return super().compute_loss(model, inputs, return_outputs) / self.args.gradient_accumulation_steps

    def why(kind, steps):
        arguments = transformers.TrainingArguments(str(tmp_path), gradient_accumulation_steps=steps, use_cpu=True)
        return why_losses_are_sums(
            kind(Ignoring(), arguments), Probe({"input_ids": torch.ones(2, 3, dtype=torch.long)})
        )

    assert "Weighted.compute_loss does not use num_items_in_batch" in why(Weighted, 4)
    assert [why(kind, steps) for kind, steps in ((Weighted, 1), (Divided, 4), (DividedByHand, 4))] == [None] * 3
