"""A Lightning run is seen as it is: its steps, the losses of its batches, and keys that other callbacks monitor."""

import copy
import pickle
import warnings

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from interaction_monitor import InteractionMonitor
from interaction_monitor.batches import BatchLosses
from interaction_monitor.callbacks import worst
from interaction_monitor.players import ImagePatches
from interaction_monitor.stopping import StopRule


class Net(L.LightningModule):
    """Trained by hand, by an optimizer that the trainer does not know of unless told otherwise."""

    def __init__(self, *, known=False, returns=False, every=1, manual=True, zero=False, warmup=0):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        if zero:
            nn.init.zeros_(self.net[1].weight)
            nn.init.zeros_(self.net[1].bias)
        self.automatic_optimization = not manual
        self.known, self.returns, self.every, self.warmup = known, returns, every, warmup
        self.own = torch.optim.SGD(self.net.parameters(), lr=0.1)
        self.seen = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.seen.append((float(loss), len(batch[0])))
        if self.automatic_optimization:
            return {"loss": loss}
        optimizer = self.optimizers() if self.known else self.own
        loss.backward()
        if (batch_idx + 1) % self.every == 0 and self.current_epoch >= self.warmup:
            optimizer.step()
            optimizer.zero_grad()
        return loss if self.returns else None

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1) if self.known or self.automatic_optimization else None


def monitor(**overrides):
    return InteractionMonitor(
        **{"players": ImagePatches(grid=2, margin=0, n_players=3), "n_samples": 3, "interactions": "and"} | overrides
    )


class TestSteps:
    def test_batches_are_counted_where_the_optimizer_is_not_the_trainers(self, loaders, make_trainer):
        watch = monitor()
        trainer = make_trainer(watch, max_epochs=3, logger=False)
        trainer.fit(Net(), *loaders)
        assert trainer.global_step == 0
        assert watch.observer.history.steps.tolist() == [0, 4, 8, 12]

    def test_they_are_where_measurements_come_by_steps_too(self, loaders, make_trainer):
        watch = monitor(every_n_train_steps=3)
        make_trainer(watch, max_epochs=2, logger=False).fit(Net(), *loaders)
        assert watch.observer.history.steps.tolist() == [0, 3, 6, 8]

    @pytest.mark.parametrize("every", [1, 2])
    def test_steps_of_the_trainers_optimizers_are_counted_as_ever(self, loaders, make_trainer, every):
        watch = monitor(every_n_train_steps=2)
        make_trainer(watch, max_epochs=2, logger=False).fit(Net(known=True, every=every), *loaders)
        assert watch.observer.history.steps.tolist() == list(range(0, 8 // every + 1, 2))

    def test_a_run_that_counts_batches_is_resumed(self, loaders, make_trainer, tmp_path):
        first = make_trainer(monitor(), max_epochs=2)
        first.fit(Net(), *loaders)
        first.save_checkpoint(tmp_path / "two.ckpt")
        watch = monitor()
        make_trainer(watch, max_epochs=4).fit(Net(), *loaders, ckpt_path=tmp_path / "two.ckpt")
        assert watch.observer.history.steps.tolist() == [0, 4, 8, 12, 16]

    def test_the_same_trainer_goes_on(self, loaders, make_trainer):
        watch = monitor()
        trainer = make_trainer(watch, max_epochs=1, logger=False)
        net = Net()
        trainer.fit(net, *loaders)
        trainer.fit_loop.max_epochs = 2
        trainer.fit(net, *loaders)
        assert watch.observer.history.steps.tolist() == [0, 4, 8]


class TwoOptimizers(Net):
    """One for the weights and one for the biases, as adversarial networks have two."""

    def __init__(self):
        super().__init__(known=True)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self):
        return [torch.optim.SGD([parameter], lr=0.1) for parameter in self.net.parameters()]


def test_with_several_optimizers_the_points_lie_on_the_steps_of_the_losses(loaders, make_trainer):
    watch = monitor()
    trainer = make_trainer(watch, max_epochs=2)
    trainer.fit(TwoOptimizers(), *loaders)
    assert watch.observer.history.steps.tolist() == [0, 8, 16]  # each optimizer's count
    events = EventAccumulator(trainer.log_dir).Reload()
    losses = [event.step for event in events.Scalars("val_loss")]
    assert [event.step for event in events.Scalars("interactions/mean_order")] == [0, *losses] == [0, 3, 7]


@pytest.mark.parametrize(
    "options", [{"val_check_interval": 1}, {"check_val_every_n_epoch": None, "val_check_interval": 3}]
)
def test_limits_and_validations_within_an_epoch_change_no_count_of_batches(loaders, make_trainer, options):
    watch = monitor()
    trainer = make_trainer(watch, max_epochs=3, limit_train_batches=2, logger=False, **options)
    trainer.fit(Net(), *loaders)
    assert trainer.global_step == 0
    assert watch.observer.history.steps.tolist() == [0, 2, 4, 6]
    assert watch.observer.history.epochs.tolist() == [0, 1, 2, 3]


def mean(seen):
    losses, samples = np.array(seen).T
    return float(losses @ samples / samples.sum())


class TestLosses:
    @pytest.mark.parametrize("options", [{"manual": False}, {"returns": True}], ids=["automatic", "by hand"])
    def test_a_module_that_logs_none_has_the_mean_over_the_epoch(self, loaders, make_trainer, options):
        watch, net = monitor(), Net(**options)
        make_trainer(watch, max_epochs=2, logger=False).fit(net, *loaders)
        expected = [mean(net.seen[:4]), mean(net.seen[4:])]
        np.testing.assert_allclose(watch.observer.history.column("train_loss")[1:], expected, rtol=1e-6)

    def test_accumulated_gradients_change_no_loss(self, loaders, make_trainer):
        watch, net = monitor(), Net(manual=False)
        make_trainer(watch, max_epochs=1, accumulate_grad_batches=2, logger=False).fit(net, *loaders)
        assert watch.observer.history[-1].train_loss == pytest.approx(mean(net.seen))

    def test_by_steps_it_is_the_mean_since_the_last_measurement(self, loaders, make_trainer):
        watch, net = monitor(every_n_train_steps=3), Net(manual=False)
        make_trainer(watch, max_epochs=2, logger=False).fit(net, *loaders)
        expected = [mean(net.seen[:3]), mean(net.seen[3:6]), mean(net.seen[6:])]
        np.testing.assert_allclose(watch.observer.history.column("train_loss")[1:], expected, rtol=1e-6)

    def test_a_run_resumed_within_an_epoch_has_the_mean_of_all_of_it(self, loaders, make_trainer, tmp_path):
        watch, net = monitor(), Net(manual=False)
        save = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1)
        make_trainer(watch, save, max_epochs=1).fit(net, *loaders)
        again = monitor()
        make_trainer(again, max_epochs=1).fit(Net(manual=False), *loaders, ckpt_path=tmp_path / "epoch=0-step=2.ckpt")
        assert again.observer.history[-1].train_loss == pytest.approx(watch.observer.history[-1].train_loss, rel=0.2)
        assert again.state_dict()["run"]["loss"]["samples"] == watch.state_dict()["run"]["loss"]["samples"]

    def test_batches_without_a_finite_loss_are_left_out(self):
        losses = BatchLosses()
        assert losses.mean() is None
        for value in (1.0, float("nan"), float("inf"), 4.0):
            losses.add(torch.tensor(value), [torch.zeros(2 if value == 4 else 4, 3)])
        assert losses.mean() == pytest.approx((4 * 1.0 + 2 * 4.0) / 6)
        again = BatchLosses()
        again.load_state_dict(losses.state_dict())
        assert again.mean() == losses.mean()

    def test_a_rule_that_can_never_stop_the_run_says_so_at_the_start(self, loaders, make_trainer):
        with pytest.warns(UserWarning, match=r"HighOrdersAndGap\(.*can never stop this run.*has no validation"):
            make_trainer(monitor(stop_on_onset=True), max_epochs=1, limit_val_batches=0, logger=False).fit(
                Net(manual=False), *loaders
            )
        with pytest.warns(UserWarning, match=r"can never stop this run.*logged \['val_loss'\], but no val/objective"):
            make_trainer(
                monitor(stop_on_onset=True, test_loss="val/objective"), max_epochs=1, logger=False,
                num_sanity_val_steps=1,
            ).fit(Net(manual=False), *loaders)  # fmt: skip

    def test_one_that_can_says_nothing(self, loaders, make_trainer):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer = make_trainer(monitor(stop_on_onset=True), max_epochs=1, logger=False, num_sanity_val_steps=1)
            trainer.fit(Net(manual=False), *loaders)
        assert not [warning for warning in caught if "can never" in str(warning.message)]


class Now(StopRule):
    """Stops at once, and for ever."""

    def reason(self, history):
        return "it said so"


class TestKeys:
    @pytest.mark.parametrize("key", ["mean_order", "loss_gap", "persisted_share", "onset_epoch"])
    def test_a_key_that_is_monitored_is_never_missing_or_nan(self, loaders, make_trainer, tmp_path, key):
        # The head is zero and stays so for three epochs: no output, no interaction, no mean order.
        stop = EarlyStopping(f"interactions/{key}", patience=10, check_on_train_epoch_end=True)
        best = ModelCheckpoint(tmp_path, monitor=f"interactions/{key}", mode="max", save_on_train_epoch_end=True)
        watch = monitor(interactions="and-or")
        trainer = make_trainer(watch, stop, best, max_epochs=5, logger=False)
        trainer.fit(Net(zero=True, warmup=3, known=True), *loaders)
        assert trainer.current_epoch == 5
        assert np.isnan(watch.observer.history.column("mean_order")[0])
        assert all(torch.isfinite(torch.as_tensor(value)) for value in trainer.callback_metrics.values())
        if key == "mean_order":
            assert float(stop.best_score) == pytest.approx(np.nanmin(watch.observer.history.column(key)))

    def test_they_are_there_within_the_first_epoch(self, loaders, make_trainer):
        stop = EarlyStopping("interactions/mean_order", patience=99)
        trainer = make_trainer(monitor(), stop, max_epochs=1, val_check_interval=2, logger=False)
        trainer.fit(Net(manual=False), *loaders)
        assert trainer.current_epoch == 1

    def test_they_are_there_where_measuring_fails(self, loaders, make_trainer):
        def forward_func(module, inputs):
            if len(inputs) > 1:  # one sample is what a run is refused for
                raise RuntimeError("no")
            return module(inputs)

        stop = EarlyStopping("interactions/mean_order", patience=99)
        trainer = make_trainer(monitor(forward_func=forward_func), stop, max_epochs=2, logger=False)
        with pytest.warns(UserWarning, match="training goes on"):
            trainer.fit(Net(manual=False), *loaders)
        assert trainer.current_epoch == 2

    def test_a_key_that_does_not_exist_is_still_refused(self, loaders, make_trainer):
        trainer = make_trainer(monitor(), EarlyStopping("interactions/mean_ordre"), max_epochs=1, logger=False)
        with pytest.raises(RuntimeError, match="not available"):
            trainer.fit(Net(manual=False), *loaders)

    def test_the_worst_is_worse_than_any(self):
        assert worst("mean_order_low", "max", 8) == 0 < 1 <= 8 == worst("mean_order_low", "min", 8)
        assert worst("loss_gap", "max", 8) == -worst("loss_gap", "min", 8) < -1000


def test_a_run_that_must_go_on_says_once_why_it_should_not_and_is_measured_as_scheduled(loaders, make_trainer, capsys):
    watch = monitor(stop=Now(), every_n_epochs=2)
    trainer = make_trainer(watch, max_epochs=9, min_epochs=5, logger=False)
    trainer.fit(Net(manual=False), *loaders)
    assert trainer.current_epoch == 5
    assert watch.observer.history.epochs.tolist() == [0, 2, 4, 5]
    assert capsys.readouterr().out.count("stopping the run") == 1


def test_a_monitor_is_copied_and_pickled_after_its_run(loaders, make_trainer):
    watch = monitor()
    make_trainer(watch, max_epochs=1).fit(Net(manual=False), *loaders)
    for again in (pickle.loads(pickle.dumps(watch)), copy.deepcopy(watch)):
        assert again.observer.history == watch.observer.history
        make_trainer(again, max_epochs=1, logger=False).fit(Net(manual=False), *loaders)


def test_a_monitor_with_a_lambda_is_pickled_by_cloudpickle_after_its_run(loaders, make_trainer):
    cloudpickle = pytest.importorskip("cloudpickle")
    watch = monitor(forward_func=lambda module, x: module(x))
    make_trainer(watch, max_epochs=1).fit(Net(manual=False), *loaders)
    again = pickle.loads(cloudpickle.dumps(watch))
    assert again.observer.history == watch.observer.history
    make_trainer(again, max_epochs=1, logger=False).fit(Net(manual=False), *loaders)
    assert len(again.observer.history) == 2
