import warnings
from dataclasses import dataclass, replace

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, TensorDataset
from transformers_runs import VOCABULARY, mixed_sentences

from interaction_monitor import InteractionMonitor, Observer, Probe, assign_players
from interaction_monitor.phases import PhaseTracker
from interaction_monitor.players import FeaturePatches, ImagePatches, Words
from interaction_monitor.record import Record
from interaction_monitor.schedule import LogSpaced
from interaction_monitor.settings import Thresholds
from interaction_monitor.stopping import OnsetPatience, StopRule, TransferLoss


def monitor(**overrides):
    settings = {
        "players": FeaturePatches(layer="features.2", grid=8, n_players=4),
        "n_samples": 5,
    } | overrides
    return InteractionMonitor(**settings)


def test_run_on_digits_from_start_to_event_files(net, loaders, make_trainer, capsys):
    watch = monitor()
    trainer = make_trainer(watch, max_epochs=3)
    trainer.fit(net, *loaders)

    history = watch.observer.history
    assert history.epochs.tolist() == [0, 1, 2, 3]
    assert history.steps.tolist() == [0, 4, 8, 12]
    np.testing.assert_allclose(history.distribution.sum(axis=1), 4)
    assert np.isnan(history.column("test_loss")[0])  # the sanity check's loss is none of the run's
    assert history.column("test_loss")[3] == pytest.approx(float(trainer.callback_metrics["val_loss"]))
    assert history.column("train_loss")[3] == pytest.approx(float(trainer.callback_metrics["train_loss"]))

    record = Record.open(watch.observer.record.folder)
    assert record.history == history
    assert record.measurements[-1].v.shape == (5, 16)

    events = EventAccumulator(trainer.log_dir, size_guidance={"histograms": 0, "images": 0}).Reload()
    mean_order = events.Scalars("interactions/mean_order")
    assert [event.step for event in mean_order] == [0, 3, 7, 11]
    assert [event.value for event in mean_order] == pytest.approx(history.column("mean_order").tolist())
    losses = events.Scalars("val_loss")
    assert [event.step for event in losses] == [3, 7, 11]  # the monitor's points lie on the losses' steps
    assert len(events.Histograms(next(tag for tag in events.Tags()["histograms"]))) == 4
    assert events.Tags()["images"]

    printed = capsys.readouterr().out
    assert printed.count("mean order") >= 4
    assert str(watch.observer.record.folder) in printed


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_first_and_last_network_are_always_measured(net, loaders, make_trainer, every):
    watch = monitor(every_n_epochs=every)
    make_trainer(watch, max_epochs=5, logger=False).fit(net, *loaders)
    assert watch.observer.history.epochs.tolist() == sorted({0, 5, *range(every, 5, every)})


def test_steps_are_counted_for_runs_of_less_than_an_epoch(net, loaders, make_trainer):
    watch = monitor(every_n_train_steps=2)
    make_trainer(watch, max_steps=7, max_epochs=-1, logger=False).fit(net, *loaders)
    assert watch.observer.history.steps.tolist() == [0, 2, 4, 6, 7]


def test_steps_are_optimizer_steps_when_gradients_accumulate(net, loaders, make_trainer):
    watch = monitor(every_n_train_steps=1)
    make_trainer(watch, max_epochs=1, accumulate_grad_batches=2, logger=False).fit(net, *loaders)
    assert watch.observer.history.steps.tolist() == [0, 1, 2]


def test_training_is_bit_identical_with_and_without(make_net, loaders, make_trainer):
    def final_state(*callbacks):
        L.seed_everything(1, verbose=False)
        net = make_net()
        trainer = make_trainer(*callbacks, logger=False)
        trainer.fit(net, *loaders)
        momentum = [state["momentum_buffer"] for state in trainer.optimizers[0].state.values()]
        return [
            *net.state_dict().values(),
            *momentum,
            torch.get_rng_state(),
            trainer.callback_metrics["val_loss"],
        ]

    without, with_monitor = final_state(), final_state(monitor())
    assert all(torch.equal(a, b) for a, b in zip(without, with_monitor, strict=True))


@pytest.mark.parametrize("every", [1, 2])
def test_checkpoints_and_early_stopping_can_monitor_the_logged_keys(net, loaders, make_trainer, tmp_path, every):
    best = ModelCheckpoint(tmp_path, monitor="interactions/mean_order", save_on_train_epoch_end=True)
    stop = EarlyStopping("interactions/high_order_share", check_on_train_epoch_end=True)
    make_trainer(monitor(every_n_epochs=every), best, stop, logger=False).fit(net, *loaders)
    assert best.best_model_score is not None
    assert stop.best_score.isfinite()


class Scripted(PhaseTracker):
    """A tracker that finds the onset where the test wants it."""

    def __init__(self, detected):
        super().__init__()
        self.detected = detected

    def update(self, *, epoch, **measured):
        state = super().update(epoch=epoch, **measured)
        known = {"phase": "two", "onset_epoch": 1, "detected_epoch": self.detected}
        return replace(state, **known) if epoch >= self.detected else state


@pytest.mark.parametrize(("patience", "last_epoch"), [(0, 2), (2, 4)])
def test_stop_on_onset_waits_for_patience_and_says_why(net, loaders, make_trainer, patience, last_epoch):
    watch = monitor(tracker=Scripted(detected=2), stop_on_onset=True, patience=patience)
    trainer = make_trainer(watch, max_epochs=9, logger=False)
    trainer.fit(net, *loaders)
    assert trainer.current_epoch == last_epoch
    assert watch.stop_reason == f"phase two has been known for {patience} measurements"


def test_a_stop_rule_ends_the_run_and_says_why(net, loaders, make_trainer):
    @dataclass(frozen=True)
    class AfterThree(StopRule):
        def reason(self, history):
            return "three are enough" if len(history) >= 3 else None

    watch = monitor(stop=AfterThree())
    trainer = make_trainer(watch, max_epochs=9, logger=False)
    trainer.fit(net, *loaders)
    assert trainer.current_epoch == 2
    assert watch.stop_reason == "three are enough"


@dataclass(frozen=True)
class Broken(StopRule):
    def reason(self, history):
        return history[len(history) + 1]


def test_a_stop_rule_that_fails_is_one_warning_and_training_goes_on(net, loaders, make_trainer):
    watch = monitor(stop=Broken())
    trainer = make_trainer(watch, max_epochs=3, logger=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(net, *loaders)
    said = [str(warning.message) for warning in caught if "stop rule Broken failed" in str(warning.message)]
    assert len(said) == 1
    assert "IndexError" in said[0]
    assert watch.observer.history.epochs.tolist() == [0, 1, 2, 3]
    with pytest.raises(IndexError):
        make_trainer(monitor(stop=Broken(), on_error="raise"), logger=False).fit(net, *loaders)


def test_onset_does_not_stop_the_run_unless_asked(net, loaders, make_trainer):
    watch = monitor(tracker=Scripted(detected=1))
    trainer = make_trainer(watch, max_epochs=3, logger=False)
    trainer.fit(net, *loaders)
    assert trainer.current_epoch == 3
    assert watch.stop_reason is None


def test_resumed_run_goes_on_as_if_never_stopped(loaders, make_trainer, net, tmp_path):
    first = monitor()
    trainer = make_trainer(first, max_epochs=2, logger=False)
    trainer.fit(net, *loaders)
    checkpoint = tmp_path / "two.ckpt"
    trainer.save_checkpoint(checkpoint)
    torch.load(checkpoint, weights_only=True)  # nothing in the state needs pickle

    second = monitor()
    make_trainer(second, max_epochs=4, logger=False).fit(net, *loaders, ckpt_path=checkpoint)
    assert second.observer.history.epochs.tolist() == [0, 1, 2, 3, 4]
    assert second.observer.history[:3] == first.observer.history[:3]
    assert torch.equal(second.observer.players.labels, first.observer.players.labels)
    assert second.observer.record.folder == first.observer.record.folder
    assert Record.open(first.observer.record.folder).history == second.observer.history


def test_no_logger_means_record_only_with_a_note(net, loaders, make_trainer, capsys):
    watch = monitor()
    make_trainer(watch, logger=False).fit(net, *loaders)
    assert "no logger" in capsys.readouterr().out
    assert len(Record.open(watch.observer.record.folder).history) == 3


def test_missing_losses_are_said_plainly(net, loaders, make_trainer):
    with pytest.warns(UserWarning, match=r"test_loss='no_such_metric' is not among .*'train_loss', 'val_loss'\]"):
        make_trainer(monitor(test_loss="no_such_metric"), logger=False).fit(net, *loaders)


@pytest.mark.parametrize("settings", [{"every_n_train_steps": 2}, {"every_n_epochs": 1}])
def test_losses_that_are_yet_to_come_are_not_missed(net, loaders, make_trainer, settings, recwarn):
    make_trainer(monitor(**settings), logger=False, max_epochs=3, check_val_every_n_epoch=2).fit(net, *loaders)
    assert not [warning for warning in recwarn if "loss" in str(warning.message)]


def diverging_on(*samples):
    """A forward that gives NaN for these samples."""
    sums = [sample.sum() for sample in samples]

    def forward(module, x):
        logits = module(x)
        bad = torch.isclose(x.flatten(1).sum(1, keepdim=True), torch.stack(sums)).any(1)
        return logits.masked_fill(bad.repeat_interleave(len(logits) // len(x))[:, None], torch.nan)

    return forward


def test_samples_with_nan_are_left_out_and_counted(net, loaders, make_trainer, digits):
    x, y = digits[1][:6]
    watch = monitor(probe=Probe(x, y), forward_func=diverging_on(x[2]))
    make_trainer(watch, logger=False).fit(net, *loaders)
    assert watch.observer.history.column("n_valid").tolist() == [5, 5, 5]
    assert np.isfinite(watch.observer.history.column("mean_order")).all()


def test_measurement_without_valid_samples_is_skipped_and_training_goes_on(net, loaders, make_trainer, digits, capsys):
    x, y = digits[1][:6]
    watch = monitor(probe=Probe(x, y), forward_func=diverging_on(*x))
    trainer = make_trainer(watch, logger=False)
    with pytest.warns(UserWarning, match="all 6 probe samples have NaN.*check output=, the inputs and the forward"):
        trainer.fit(net, *loaders)
    assert trainer.current_epoch == 2
    assert len(watch.observer.history) == 0
    assert "interactions: nothing was measured, because all 6 probe samples have NaN" in capsys.readouterr().out


def test_the_last_line_tells_of_what_failed_since_the_last_measurement(net, loaders, make_trainer, capsys):
    def diverges(module, x):
        return module(x) * (float("nan") if module.current_epoch else 1.0)

    with pytest.warns(UserWarning, match="probably diverged"):
        make_trainer(monitor(forward_func=diverges), logger=False).fit(net, *loaders)
    assert "; what failed after epoch 1: all 5 probe samples have NaN" in capsys.readouterr().out


def test_one_sample_has_no_band(net, loaders, make_trainer, capsys):
    make_trainer(monitor(n_samples=1), max_epochs=1, logger=False).fit(net, *loaders)
    printed = [line for line in capsys.readouterr().out.splitlines() if "mean order" in line and "epoch" in line]
    assert len(printed) >= 2
    assert not any("(" in line for line in printed[:2])


def test_observers_need_a_probe_and_players_that_are_drawn(net, digits):
    probe, patches = Probe(digits[1][:2][0]), ImagePatches(grid=4, margin=0, n_players=3)
    with pytest.raises(
        TypeError, match=r"Observer\(players=ImagePatches.*give assign_players\(model, players, probe\)"
    ):
        Observer(probe, patches)
    with pytest.raises(TypeError, match=r"Observer\(probe=.*give Probe\(inputs, targets\)"):
        Observer(digits[1], assign_players(net, patches, probe))
    with pytest.raises(TypeError, match=r"assign_players\(model, players, probe\).*players"):
        assign_players(patches, net, probe)
    with pytest.raises(TypeError, match=r"assign_players\(probe=.*give Probe\(inputs, targets\)"):
        assign_players(net, patches, digits[1])


class Failing:
    """A forward that works for the dry run and the first measurement, then breaks."""

    def __init__(self, working_calls):
        self.calls_left = working_calls

    def __call__(self, module, x):
        self.calls_left -= 1
        if self.calls_left < 0:
            raise RuntimeError("the cable is out")
        return module(x)


def test_failing_measurement_warns_once_and_training_goes_on(net, loaders, make_trainer):
    trainer = make_trainer(monitor(forward_func=Failing(3)), max_epochs=3, logger=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(net, *loaders)
    assert sum("the cable is out" in str(warning.message) for warning in caught) == 1
    assert trainer.current_epoch == 3
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())


def test_failing_measurement_stops_training_if_asked(net, loaders, make_trainer):
    with pytest.raises(RuntimeError, match="the cable is out"):
        make_trainer(monitor(forward_func=Failing(3), on_error="raise"), logger=False).fit(net, *loaders)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"every_n_epochs": 0}, "every_n_epochs=0"),
        ({"every_n_epochs": 0.5}, "every_n_epochs=0.5.*whole number"),
        ({"every_n_train_steps": 0}, "every_n_train_steps=0"),
        ({"max_overhead": 5}, "max_overhead=5.*0.05"),
        ({"n_samples": 0}, "n_samples=0"),
        ({"patience": -1}, "patience=-1"),
        ({"stop": "soon"}, r"stop='soon'\): give a rule of interaction_monitor.stopping"),
        ({"stop": OnsetPatience(1), "patience": 3}, "neither stop_on_onset nor patience"),
        ({"interactions": "or"}, "interactions='or'"),
        ({"probe": DataLoader(TensorDataset(torch.ones(2)))}, r"probe=.*DataLoader.*Probe.from_loader\(loader\)"),
        ({"probe": (torch.ones(60, 8), torch.ones(60))}, r"probe=<tuple>\): give Probe\(inputs, targets\)"),
        ({"tracker": "x"}, r"tracker='x'\): give PhaseTracker\(...\)"),
        ({"tracker": PhaseTracker}, r"tracker=<class .*give PhaseTracker\(...\)"),
        ({"thresholds": {"saliency": 0.1}}, r"thresholds=.*give Thresholds\(...\)"),
        ({"every_n_epochs": LogSpaced}, r"every_n_epochs=.*give a schedule, LogSpaced\(\)"),
        ({"every_n_epochs": 1, "every_n_train_steps": 5}, "every_n_epochs=1.*either .*not both"),
        ({"stop_on_onset": "yes"}, r"stop_on_onset='yes'\): give True or False"),
        ({"n_train_samples": True}, r"n_train_samples=True\): give a whole number"),
        ({"max_overhead": "5%"}, r"max_overhead='5%'\): give a share"),
        ({"patience": 3}, r"patience=3\): give stop_on_onset=True"),
        ({"patience": "3", "stop_on_onset": True}, r"patience='3'\): give a whole number"),
        ({"stop": TransferLoss()}, "needs n_train_samples="),
        ({"name": ""}, r"name=''\): give a plain name"),
        ({"name": "a/b"}, "name='a/b'"),
        ({"name": "a\\b"}, "name='a"),
        ({"name": ".."}, "name='..'"),
        ({"name": 3}, "name=3"),
        ({"on_error": "ignore"}, "on_error='ignore'"),
        ({"seed": "a"}, r"seed='a'\): give a whole number"),
        ({"seed": True}, r"seed=True\): give a whole number"),
        ({"train_loss": 3}, r"train_loss=3\): give the name of a logged metric"),
        ({"test_loss": 3}, r"test_loss=3\): give the name"),
        ({"test_loss": ""}, r"test_loss=''\): give the name"),
    ],
)
def test_bad_arguments_are_named(overrides, message):
    with pytest.raises(MisconfigurationException, match=message):
        monitor(**overrides)


@pytest.mark.parametrize("name", ["saliency", "noise", "tol", "tie_break"])
@pytest.mark.parametrize("value", [-1, float("nan"), "0.1", True])
def test_thresholds_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=rf"Thresholds\({name}={value!r}\): give"):
        Thresholds(**{name: value})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"players": FeaturePatches(layer="feature.2")}, "features.2"),
        ({"players": FeaturePatches(layer="head.2")}, "maps"),
        ({"players": FeaturePatches(layer="features.2", grid=9)}, "8x8"),
        ({"n_samples": 101}, "100"),
        ({"n_train_samples": 1000}, r"n_train_samples=1000, but the loader for training has only \d+ samples"),
        ({"output": "no-such-output"}, "log_odds"),
    ],
)
def test_what_does_not_fit_stops_before_training(net, loaders, make_trainer, overrides, message):
    before = [parameter.clone() for parameter in net.parameters()]
    with pytest.raises(MisconfigurationException, match=message):
        make_trainer(monitor(**overrides), logger=False).fit(net, *loaders)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_two_monitors_need_two_names(net, loaders, make_trainer):
    with pytest.raises(RuntimeError, match=r"InteractionMonitor.*state_key"):
        make_trainer(monitor(), monitor())
    patches = ImagePatches(grid=4, margin=0, n_players=3)
    both = monitor(), monitor(name="pixels", players=patches)
    make_trainer(*both, logger=False).fit(net, *loaders)
    assert [watch.observer.players.n_players for watch in both] == [4, 3]


def test_labels_out_of_range_are_refused(net, make_trainer, digits):
    x, _ = digits[0][:20]
    wrong = DataLoader(TensorDataset(x, torch.full((20,), 10)), batch_size=10)
    fine = DataLoader(digits[0], batch_size=50)
    with pytest.raises(MisconfigurationException, match="10"):
        make_trainer(monitor(), logger=False, num_sanity_val_steps=0).fit(net, fine, wrong)


@pytest.mark.parametrize("players", ["features.2", FeaturePatches])
def test_players_of_no_kind_are_refused_at_once(players):
    with pytest.raises(MisconfigurationException, match="FeaturePatches"):
        InteractionMonitor(players)


def test_more_players_than_the_extraction_takes_are_refused_before_any_forward(net, loaders, make_trainer):
    watch = monitor(players=FeaturePatches(layer="features.2", n_players=17))
    with pytest.raises(MisconfigurationException, match=r"n_players=17 .*interactions='and'"):
        make_trainer(watch, logger=False).fit(net, *loaders)


@pytest.mark.parametrize("n_players", [3, 5])
def test_resuming_with_other_players_is_refused(net, loaders, make_trainer, tmp_path, n_players):
    trainer = make_trainer(monitor(), max_epochs=1, logger=False)
    trainer.fit(net, *loaders)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    other = monitor(players=FeaturePatches(layer="features.2", n_players=n_players))
    with pytest.raises(MisconfigurationException, match=rf"n_players=4.*n_players={n_players}"):
        make_trainer(other, max_epochs=2, logger=False).fit(net, *loaders, ckpt_path=tmp_path / "one.ckpt")


class Reader(L.LightningModule):
    """Classifies sentences by the mean of their embedded tokens."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.EmbeddingBag(44, 2)

    def forward(self, input_ids, attention_mask):
        return self.embed(input_ids)

    def training_step(self, batch, _):
        logits = self(batch["input_ids"], batch["attention_mask"])
        return torch.nn.functional.cross_entropy(logits, batch["labels"])

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class HandedOver(Reader):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return dict(batch)


@pytest.mark.parametrize("module", [Reader, HandedOver])
def test_sentences_with_enough_words_are_preferred(make_trainer, module):
    loader = DataLoader(mixed_sentences(), batch_size=4)
    watch = monitor(players=Words(VOCABULARY, n_players=4), n_train_samples=5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_trainer(watch, max_epochs=1, logger=False).fit(module(), loader, loader)
    assert watch.observer.players.complete.tolist() == [True] * 5
    assert watch.observer.train[1].complete.tolist() == [True] * 5
    assert not [warning for warning in caught if "left out" in str(warning.message)]
    assert len(watch.observer.history) == 2


class Renamed(Reader):
    """Has its targets under a key that nobody knows."""

    def training_step(self, batch, batch_idx):
        return super().training_step({**batch, "labels": batch["cls"]}, batch_idx)

    validation_step = training_step


def test_targets_under_an_unknown_key_are_refused_with_the_very_line_that_takes_them(make_trainer):
    loader = DataLoader([{"cls": row.pop("labels"), **row} for row in mixed_sentences()], batch_size=8)
    words = Words(VOCABULARY, n_players=2)
    with pytest.raises(MisconfigurationException, match=r"needs targets.*if batch\['cls'\] are the targets") as caught:
        make_trainer(monitor(players=words), max_epochs=1, logger=False).fit(Renamed(), loader, loader)
    line = str(caught.value).partition("probe=")[2]
    watch = monitor(players=words, probe=eval(line, {"Probe": Probe, "batch": next(iter(loader))}))
    make_trainer(watch, max_epochs=1, logger=False).fit(Renamed(), loader, loader)
    assert len(watch.observer.history) == 2
    assert torch.equal(watch.observer.probe.targets, torch.stack([row["cls"] for row in loader.dataset]))
