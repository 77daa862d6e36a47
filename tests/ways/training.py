"""Trainers: precision, accumulation, optimizers, schedulers, callbacks, resumes, and what else a run may do."""

import copy
import random

import lightning as L
import numpy as np
import pytorch_lightning
import torch
from lightning.pytorch import callbacks as of_lightning
from lightning.pytorch.tuner import Tuner
from torch import nn
from ways.run import WIDTH, Map, Net, item, way

from interaction_monitor.players import Columns


def normed():
    """Make a network with all that training modes change."""
    return nn.Sequential(nn.Linear(WIDTH, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 2))


def trained_with(name, measured=2, **options):
    """Put a run among the ways that differs by what the trainer is given; functions make it anew for each run."""

    def train(run):
        run.fit(Net(normed()), **{key: value() if callable(value) else value for key, value in options.items()})

    train.__name__ = name
    way(measured=measured)(train)


trained_with("gradients_that_accumulate", accumulate_grad_batches=3)
trained_with("gradients_clipped_by_norm", gradient_clip_val=0.1)
trained_with("gradients_clipped_by_value", gradient_clip_val=0.1, gradient_clip_algorithm="value")
trained_with("bf16_mixed", precision="bf16-mixed")
trained_with("bf16_true", precision="bf16-true")
trained_with("float64", precision="64-true")
trained_with("validation_within_epochs", val_check_interval=2)
trained_with("validation_by_batches_over_epochs", val_check_interval=3, check_val_every_n_epoch=None)
trained_with("validation_every_second_epoch", check_val_every_n_epoch=2)
trained_with("half_of_the_batches", limit_train_batches=0.5, limit_val_batches=0.5)
trained_with("two_batches", limit_train_batches=2, limit_val_batches=1)
trained_with("no_validation_batches", limit_val_batches=0)
trained_with("over_fitted_batches", overfit_batches=2)
trained_with("all_sanity_checks", num_sanity_val_steps=-1)
trained_with("no_sanity_checks", num_sanity_val_steps=0)
trained_with("a_fast_development_run", fast_dev_run=True)
trained_with("a_number_of_steps", max_steps=6, max_epochs=-1)
trained_with("a_limit_of_time", max_time="00:01:00:00")
trained_with("detected_anomalies", detect_anomaly=True)
trained_with("a_profiler", profiler="simple")
trained_with("no_inference_mode", inference_mode=False)
trained_with("deterministic_algorithms", deterministic=True)
trained_with("a_bare_trainer", barebones=True, enable_checkpointing=None, logger=None, log_every_n_steps=None)
trained_with("measured_at_each_step", watch={"every_n_train_steps": 1})
trained_with("measured_at_each_step_of_several_batches", watch={"every_n_train_steps": 1}, accumulate_grad_batches=2)
trained_with("measured_when_affordable", watch={"max_overhead": 1e-6})
trained_with("stopped_by_the_monitor_alone", watch={"stop_on_onset": True})
trained_with("stochastic_weight_averaging", callbacks=lambda: [
    of_lightning.StochasticWeightAveraging(1e-2, swa_epoch_start=1, annealing_epochs=1)])  # fmt: skip
trained_with("averages_of_weights", callbacks=lambda: [of_lightning.EMAWeightAveraging(decay=0.5)])
trained_with("accumulation_by_a_schedule", callbacks=lambda: [of_lightning.GradientAccumulationScheduler({0: 1, 1: 2})])
trained_with(
    "early_stopping", max_epochs=4, callbacks=lambda: [of_lightning.EarlyStopping("val_loss", min_delta=9, patience=1)]
)
trained_with(
    "pruning",
    callbacks=lambda: [of_lightning.ModelPruning("l1_unstructured", amount=0.3, use_lottery_ticket_hypothesis=False)],
)
trained_with("a_monitored_learning_rate", callbacks=lambda: [of_lightning.LearningRateMonitor()])


class Optimized(Net):
    """Takes its optimizers and schedulers from a function."""

    def __init__(self, configure):
        super().__init__(normed())
        self.configure = configure

    def configure_optimizers(self):
        return self.configure(self.parameters())


def optimized_by(name, configure, **options):
    def train(run):
        run.fit(Optimized(configure), **options)

    train.__name__ = name
    way()(train)


def plateau(parameters):
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


def one_cycle(parameters):
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=8)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


optimized_by("a_plateau", plateau)
optimized_by("one_cycle", one_cycle)
optimized_by("lbfgs", lambda parameters: torch.optim.LBFGS(parameters, max_iter=3))
optimized_by("amsgrad_and_foreach", lambda parameters: torch.optim.AdamW(parameters, amsgrad=True, foreach=True))
optimized_by("a_fused_optimizer", lambda parameters: torch.optim.AdamW(parameters, fused=True))


@way()
def manual_optimization(run):
    class Manual(Net):
        def __init__(self):
            super().__init__(normed())
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            self.clip_gradients(optimizer, 0.1, "norm")
            optimizer.step()

    run.fit(Manual())


@way()
def an_optimizer_that_the_trainer_does_not_know(run):
    class Own(Net):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.own = torch.optim.Adam(self.parameters(), lr=0.02)

        def training_step(self, batch, batch_idx):
            self.own.zero_grad()
            super().training_step(batch, batch_idx).backward()
            self.own.step()

        def configure_optimizers(self):
            return None

    run.fit(Own(), watch={"every_n_train_steps": 3})


@way()
def two_networks_against_each_other(run):
    class Adversarial(Net):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.generator = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Linear(6, WIDTH))
            self.fixed = torch.randn(4, 3)

        def training_step(self, batch, batch_idx):
            x, _ = batch
            first, second = self.optimizers()
            target = torch.zeros(len(x), dtype=torch.long)
            for optimizer, sign in ((first, 1.0), (second, -1.0)):
                self.toggle_optimizer(optimizer)
                made = self.generator(torch.randn(len(x), 3))
                loss = nn.functional.cross_entropy(self(made), target) * sign
                loss = loss + nn.functional.cross_entropy(self(x), target + 1)
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
                self.losses.append(loss.item())
                self.untoggle_optimizer(optimizer)

        def on_validation_epoch_end(self):
            self.losses.append(self.generator(self.fixed).sum().item())

        def configure_optimizers(self):
            parts = (self.layers, self.generator)
            return [torch.optim.Adam(part.parameters(), lr=0.01) for part in parts], []

    run.fit(Adversarial())


@way()
def steps_with_a_sharpness_aware_closure(run):
    class Sharp(Net):
        def __init__(self):
            super().__init__(normed())
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            self.loss(batch).backward()
            with torch.no_grad():
                moves = [0.05 * parameter.grad.sign() for parameter in self.parameters()]
                for parameter, move in zip(self.parameters(), moves, strict=True):
                    parameter += move
            optimizer.zero_grad()
            super().training_step(batch, batch_idx).backward()
            with torch.no_grad():
                for parameter, move in zip(self.parameters(), moves, strict=True):
                    parameter -= move
            optimizer.step()
            optimizer.zero_grad()

    run.fit(Sharp())


@way()
def batches_that_are_left_out(run):
    class Choosy(Net):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx % 2 else loss

    class Skipping(L.Callback):
        def on_train_epoch_start(self, trainer, module):
            module.skip = random.random()

    class Ending(Choosy):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 3 and self.current_epoch == 1 else None

    run.fit(Ending(), callbacks=[Skipping()])


class Restless(L.Callback):
    """Draws numbers, calls the network and registers hooks at every turn."""

    def __init__(self):
        self.drawn, self.calls = [], 0

    def state_dict(self):
        return {"drawn": self.drawn, "calls": self.calls}

    def turn(self, trainer, module, *args):
        self.drawn += [random.random(), np.random.rand(), torch.rand(1).item(), float(module.training)]
        if self.calls == 0:
            module.layers[0].register_forward_hook(self.count)
        with torch.no_grad():
            self.drawn.append(module(torch.ones(3, WIDTH)).sum().item())

    def count(self, *_):
        self.calls += 1

    on_train_start = on_train_epoch_end = on_train_end = on_validation_end = turn
    on_train_batch_end = on_validation_batch_end = turn


@way()
def a_restless_callback_behind_the_monitor(run):
    run.fit(Net(normed()), callbacks=[Restless()])


@way()
def a_restless_callback_before_the_monitor(run):
    net, data = Net(normed()), (run.loader(shuffle=True), run.loader())
    trainer = run.trainer(Restless(), *run.watch())
    run.left += [net, data, trainer]
    trainer.fit(net, *data)


@way()
def two_monitors(run):
    watch = [*run.watch(every_n_train_steps=3), *run.watch(players=Columns(n_players=2), name="interactions_2")]
    net, data = Net(normed()), (run.loader(shuffle=True), run.loader())
    trainer = run.trainer(*watch)
    run.left += [net, data, trainer]
    trainer.fit(net, *data)


@way()
def what_callbacks_monitor_of_the_interactions(run):
    # They are there in both runs; what they see differs, and they let the run go on.
    class Unmonitored(L.Callback):
        pass

    callbacks = [of_lightning.EarlyStopping("interactions/mean_order", patience=99, check_on_train_epoch_end=True)]
    net, data = Net(normed()), (run.loader(shuffle=True), run.loader())
    trainer = run.trainer(*run.watch(), *(callbacks if run.monitored else [Unmonitored()]))
    trainer.fit(net, *data)
    return net, data, trainer.global_step


@way()
def the_best_checkpoint(run):
    save = of_lightning.ModelCheckpoint(run.folder, "{epoch}", monitor="val_loss", save_last=True, save_top_k=2)
    trainer = run.fit(Net(normed()), callbacks=[save], enable_checkpointing=True)
    saved = torch.load(save.last_model_path, weights_only=False)
    trainer.validate(ckpt_path="best", dataloaders=run.loader(), verbose=False, weights_only=False)
    return {key: saved[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step")}


@way()
def a_run_that_is_resumed(run):
    save = of_lightning.ModelCheckpoint(run.folder, "{step}", every_n_train_steps=3, save_top_k=-1)
    run.fit(Net(normed()), callbacks=[save], enable_checkpointing=True, max_epochs=1)
    run.fit(Net(normed()), max_epochs=3, ckpt_path=run.folder / "step=3.ckpt")


@way()
def a_checkpoint_without_a_monitor_resumed_with_one(run):
    data = run.loader(shuffle=True), run.loader()
    first = run.trainer(max_epochs=1)
    first.fit(Net(normed()), *data)
    first.save_checkpoint(run.folder / "plain.ckpt")
    run.fit(Net(normed()), ckpt_path=run.folder / "plain.ckpt")


@way()
def fitted_twice_by_one_trainer(run):
    net, data = Net(normed()), (run.loader(shuffle=True), run.loader())
    trainer = run.fit(net, *data, max_epochs=1)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(net, *data)


@way()
def fitted_by_two_trainers(run):
    net = Net(normed())
    run.fit(net)
    run.fit(net)


@way()
def the_same_monitor_over_two_networks(run):
    watch = run.watch()
    for _ in range(2):
        net, trainer = Net(normed()), run.trainer(*watch)
        trainer.fit(net, run.loader(shuffle=True), run.loader())
        run.left += [net, trainer]


@way()
def validated_tested_and_used_around_the_training(run):
    class Used(Net):
        def test_step(self, batch, batch_idx):
            self.validation_step(batch, batch_idx)

        def predict_step(self, batch, batch_idx):
            return self(batch[0]) + torch.rand(1)

    net, data = Used(normed()), (run.loader(shuffle=True), run.loader())
    trainer = run.trainer(*run.watch())
    run.left += [net, data, trainer]
    before = trainer.validate(net, data[1], verbose=False)
    trainer.fit(net, *data)
    return before, trainer.test(net, data[1], verbose=False), trainer.predict(net, data[1])


@way(measured=0)
def validated_only(run):
    net, trainer = Net(normed()), run.trainer(*run.watch())
    run.left += [net, trainer]
    return trainer.validate(net, run.loader(), verbose=False)


class Tuned(Net):
    """What finders of a learning rate and of a batch size set."""

    def __init__(self, run):
        super().__init__(normed())
        self.lr, self.batch_size, self.loader = 0.1, 2, run.loader

    def train_dataloader(self):
        return self.loader(batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return self.loader()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


@way()
def a_tuner_of_learning_rate_and_batch_size(run):
    net, trainer = Tuned(run), run.trainer(*run.watch())
    run.left += [net, trainer]
    tuner = Tuner(trainer)
    tuner.scale_batch_size(net, max_trials=2)
    found = tuner.lr_find(net, num_training=5)
    trainer.fit(net)
    return found.results, found.suggestion(), net.lr, net.batch_size


@way()
def finders_among_the_callbacks(run):
    finders = [
        of_lightning.BatchSizeFinder(max_trials=2, steps_per_trial=1),
        of_lightning.LearningRateFinder(0.01, 0.1, 4),
    ]
    net, trainer = Tuned(run), run.trainer(*run.watch(), *finders)
    run.left += [net, trainer]
    trainer.fit(net)
    return net.lr, net.batch_size, [finder.optimal_lr.results for finder in finders[1:]]


@way()
def a_default_of_float64(run):
    torch.set_default_dtype(torch.float64)
    try:
        run.fit(Net(normed()))
    finally:
        torch.set_default_dtype(torch.float32)


@way()
def layers_that_thaw(run):
    class Thawing(of_lightning.BaseFinetuning):
        def freeze_before_training(self, module):
            self.freeze(module.layers[:2])

        def finetune_function(self, module, epoch, optimizer):
            if epoch == 1:
                self.unfreeze_and_add_param_group(module.layers[:2], optimizer)

    class Partly(Net):
        def configure_optimizers(self):
            return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=0.02)

    run.fit(Partly(normed()), callbacks=[Thawing()])


@way()
def a_run_that_is_interrupted(run):
    class Tired(L.Callback):
        def on_train_batch_end(self, trainer, module, *args):
            if trainer.global_step == 6:
                trainer.should_stop = True

    run.fit(Net(normed()), callbacks=[Tired()], max_epochs=9)


@way()
def the_other_package_of_lightning(run):
    class Other(pytorch_lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layers, self.losses = normed(), []

        forward, loss, training_step = Net.forward, Net.loss, Net.training_step
        validation_step, configure_optimizers = Net.validation_step, Net.configure_optimizers

    net = Other()
    trainer = pytorch_lightning.Trainer(
        max_epochs=2, accelerator="cpu", callbacks=run.watch(), logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=run.folder,
    )  # fmt: skip
    run.left += [net, trainer]
    trainer.fit(net, run.loader(shuffle=True), run.loader())


@way()
def hooks_of_the_module_that_draw_and_log(run):
    class Busy(Net):
        def on_train_epoch_end(self):
            self.losses.append(torch.rand(1).item())
            self.log("drawn", random.random())

        def on_before_optimizer_step(self, optimizer):
            for parameter in self.parameters():
                parameter.grad += 0.01 * torch.randn_like(parameter)

        def on_after_backward(self):
            self.log("slope", self.layers[0].weight.grad.norm())

        def on_train_end(self):
            self.losses.append(copy.deepcopy(self.layers)(torch.ones(1, WIDTH)).sum().item())

    run.fit(Busy())


@way()
def a_loss_of_another_forward_than_that_measured(run):
    class Mixed(Net):
        def training_step(self, batch, batch_idx):
            x, y = batch
            weight, order = random.betavariate(0.4, 0.4), torch.randperm(len(x))
            z = self(weight * x + (1 - weight) * x[order])
            loss = weight * nn.functional.cross_entropy(z, y) + (1 - weight) * nn.functional.cross_entropy(z, y[order])
            self.losses.append(loss.item())
            return {"loss": loss, "logits": z.detach()}

    run.fit(Mixed(normed()))


@way()
def steps_truncated_through_time(run):
    class Sequences(Map):
        def __getitem__(self, index):
            x, y = item(index)
            return x.repeat(6, 1) * torch.arange(6)[:, None], y

    class Truncated(Net):
        def __init__(self):
            super().__init__(nn.Linear(5, 2))
            self.automatic_optimization = False
            self.lstm = nn.LSTM(WIDTH, 5, batch_first=True, dropout=0.2, num_layers=2)

        def forward(self, x):
            return self.layers(self.lstm(x)[0][:, -1])

        def training_step(self, batch, batch_idx):
            x, y = batch
            state = None
            for part in x.split(2, dim=1):
                hidden, state = self.lstm(part, state)
                loss = nn.functional.cross_entropy(self.layers(hidden[:, -1]), y)
                self.optimizers().zero_grad()
                self.manual_backward(loss)
                self.optimizers().step()
                state = tuple(part.detach() for part in state)
                self.losses.append(loss.item())

    from interaction_monitor.players import Spans

    data = run.loader(Sequences(), shuffle=True), run.loader(Sequences())
    run.fit(Truncated(), *data, watch={"players": Spans(n_spans=3, n_players=3, axis=1)})
