"""Twins: trained in step with the run, each on its half, and never felt by it."""

import copy

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import BaseFinetuning, ModelCheckpoint
from torch import nn

from interaction_monitor import InteractionMonitor, Observer, Probe, assign_players, measure
from interaction_monitor.batches import sides
from interaction_monitor.players import FeaturePatches, ImagePatches
from interaction_monitor.reference import Twins, TwinTraining

PATCHES = ImagePatches(grid=4, margin=0, n_players=4)
FEATURES = FeaturePatches(layer="features.2", grid=8, margin=1, n_players=4)


pytestmark = pytest.mark.usefixtures("undrawn")


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Dropout(0.2), nn.Linear(12, 3))


def loss(net, batch):
    return nn.functional.cross_entropy(net(batch[0]), batch[1])


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)


def batches(count=6, size=16):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 1, 8, 8, generator=generator)
    y = torch.randint(3, (40,), generator=generator)
    return [(x[part], y[part]) for part in (torch.randperm(40, generator=generator)[:size] for _ in range(count))]


PROBE = Probe(torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(5) % 3)
PLAYERS = assign_players(network(), PATCHES, PROBE)
TWINS = Twins(network, loss=loss, optimizer=sgd)


def trained(observer=None, *, lr=None):
    """Train a network, and the twins with it; return it and what was drawn afterwards."""
    torch.manual_seed(0)
    net = network()
    optimizer = sgd(net)
    if observer is not None:
        observer.observe(net, epoch=0, step=0)
    for number, batch in enumerate(batches()):
        if lr is not None:
            optimizer.param_groups[0]["lr"] = lr / (1 + number)
        if observer is not None:
            observer.twins.step(batch, like=[optimizer])
        optimizer.zero_grad()
        loss(net, batch).backward()
        optimizer.step()
    if observer is not None:
        observer.observe(net, epoch=1, step=6)
    return net, torch.rand(3)


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_a_loop_with_twins_trains_the_same_network_to_the_bit():
    alone, drawn = trained()
    observer = Observer(PROBE, PLAYERS, reference=TWINS)
    watched, also_drawn = trained(observer)
    assert same(alone, watched)
    assert torch.equal(drawn, also_drawn)
    assert all(parameter.grad is None or not parameter.grad.isnan().any() for parameter in watched.parameters())


def test_each_twin_learns_its_half_of_every_batch_by_the_runs_learning_rate():
    """Without dropout each is a network that is trained by hand on the samples of its side."""

    def plain():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 3))

    observer = Observer(PROBE, PLAYERS, reference=Twins(plain, loss=loss, optimizer=sgd))
    by_hand = copy.deepcopy(observer.twins.networks)
    assert not same(*by_hand)
    trained(observer, lr=0.5)
    for number, net in enumerate(by_hand):
        optimizer = sgd(net)
        for step, (x, y) in enumerate(batches()):
            optimizer.param_groups[0]["lr"] = 0.5 / (1 + step)
            mine = sides(x) if number else ~sides(x)
            optimizer.zero_grad()
            loss(net, (x[mine], y[mine])).backward()
            optimizer.step()
        assert same(net, observer.twins.networks[number])


@pytest.mark.parametrize("at_least", [1, 2])
def test_the_share_counts_what_both_have_or_one(at_least):
    twins = Twins(network, loss=loss, optimizer=sgd, at_least=at_least)
    observer = Observer(PROBE, PLAYERS, reference=twins)
    net, _ = trained(observer)
    mine, theirs = measure(net, PROBE, PLAYERS), [measure(twin, PROBE, PLAYERS) for twin in observer.twins.networks]
    held = 0.0
    for kind in ("and_", "or_"):
        value = getattr(mine, kind)
        agree = sum(
            ((getattr(other, kind).abs() >= other.tau) & (getattr(other, kind) * value > 0)).int() for other in theirs
        )
        has = observer.last.held[:, ("and_", "or_").index(kind)]
        assert has[:, 1:].equal((agree >= at_least)[:, 1:])
        assert not has[:, 0].any(), "the empty set is no interaction"
        counted = has & (value.abs() >= mine.tau)
        held += float(value[:, 1:][counted[:, 1:]].abs().sum())
    row = observer.history[-1]
    assert 0 < row.generalizing_share < 1
    assert row.generalizing_share == pytest.approx(held / float(mine.strength.sum()))


def test_a_resumed_loop_goes_on_with_the_same_twins():
    straight = Observer(PROBE, PLAYERS, reference=TWINS)
    for batch in batches():
        straight.twins.step(batch)
    halted = Observer(PROBE, PLAYERS, reference=TWINS)
    for batch in batches()[:3]:
        halted.twins.step(batch)
    state = copy.deepcopy(halted.state_dict())
    torch.manual_seed(77)
    resumed = Observer(PROBE, PLAYERS, reference=TWINS)
    resumed.load_state_dict(state)
    for batch in batches()[3:]:
        resumed.twins.step(batch)
    assert all(same(*pair) for pair in zip(straight.twins.networks, resumed.twins.networks, strict=True))
    other = Twins(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), loss=loss, optimizer=sgd)
    with pytest.raises(ValueError, match="are of another kind than Twins"):
        Observer(PROBE, PLAYERS, reference=other).load_state_dict(state)


def test_a_twin_that_fails_leaves_the_run_and_its_measurements():
    def failing(net, batch):
        raise RuntimeError("no more")

    observer = Observer(PROBE, PLAYERS, reference=Twins(network, loss=failing, optimizer=sgd))
    with pytest.raises(RuntimeError, match="no more"):
        observer.twins.step(batches()[0])
    observer.twins.step(batches()[0])  # it has been said once
    row = observer.observe(network(), epoch=0, step=0)
    assert row.generalizing_share is None
    assert row.mean_order > 0


def test_a_twin_that_diverges_leaves_the_share_unknown_and_is_told_of_once():
    observer = Observer(PROBE, PLAYERS, reference=TWINS)
    nn.init.constant_(observer.twins.networks[1][1].weight, torch.nan)
    with pytest.warns(UserWarning, match="a twin has no finite output any more") as told:
        rows = [observer.observe(network(), epoch=epoch, step=epoch) for epoch in range(2)]
    assert [row.generalizing_share for row in rows] == [None, None]
    assert all(row.strength for row in rows)
    assert len([each for each in told if "no finite output" in str(each.message)]) == 1


def test_twins_that_are_copies_of_the_run_are_told_of():
    net = network()
    observer = Observer(PROBE, PLAYERS, reference=Twins(lambda: copy.deepcopy(net), loss=loss, optimizer=sgd))
    with pytest.warns(UserWarning, match="with the very weights of this run"):
        observer.observe(net, epoch=0, step=0)


def test_twins_that_are_lazily_made_get_weights_of_their_own():
    def lazy():
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(12), nn.Tanh(), nn.LazyLinear(3))

    net = lazy()
    net(PROBE.inputs)
    observer = Observer(PROBE, PLAYERS, reference=Twins(lazy, loss=loss, optimizer=sgd))
    torch.manual_seed(3)
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert 0 < observer.observe(net, epoch=0, step=0).generalizing_share < 1
    assert torch.equal(torch.rand(3), drawn)
    assert not same(*observer.twins.networks)
    observer.twins.step(batches()[0], beside=net)
    assert observer.twins.failure is None


def test_lightning_twins_are_lazily_made_too(loaders, make_trainer, make_net):
    class Lazy(make_net):
        def __init__(self):
            super().__init__()
            self.head = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))

    watching = monitor(Twins(Lazy))
    fit(make_trainer(watching, max_epochs=1, logger=False, num_sanity_val_steps=0), Lazy(), loaders)
    assert watching.observer.twins.failure is None
    assert watching.observer.twins.steps == 3  # the first batch gave the run its shapes
    assert not same(*watching.observer.twins.networks)


def beside_one_sample(others):
    """Twins that normalise over a batch, and one in which the second half has one sample and the first so many."""
    networks = Twins(lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3))).networks()
    x = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = torch.cat([x[sides(x)][:1], x[~sides(x)][:others]])
    return TwinTraining(networks, [[sgd(net)] for net in networks], loss), batch


def test_a_half_of_a_single_sample_is_left_out():
    """Normalisation over a batch fails on one sample."""
    training, batch = beside_one_sample(9)
    networks = training.networks
    before = copy.deepcopy(networks)
    training.step((batch, torch.zeros(10, dtype=torch.long)))
    assert not same(before[0], networks[0])
    assert same(before[1], networks[1])


def test_a_half_on_which_nothing_can_be_learned_leaves_the_twins_as_they_are():
    """Of a small batch each half may be one sample, which normalisation refuses, or have no loss but NaN."""
    training, batch = beside_one_sample(3)
    networks = training.networks
    before = copy.deepcopy(networks)
    training.step((batch, torch.zeros(4, dtype=torch.long)))
    training.step((batch[:2], torch.zeros(2, dtype=torch.long)))  # one each
    training.step((batch, torch.full((4,), -100)))  # cross entropy ignores these
    assert (training.failure, training.steps) == (None, 3)
    assert not same(before[0], networks[0])
    assert all(parameter.isfinite().all() for parameter in networks[0].parameters())
    assert torch.equal(before[1][2].weight, networks[1][2].weight)
    with pytest.raises(ValueError, match="more than 1 value per channel"):  # nor can the run learn from it
        training.step((batch[:1], torch.zeros(1, dtype=torch.long)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"factory": network()}, TypeError, r"Twins\(factory=Sequential\): give a function"),
        ({"factory": None}, TypeError, r"Twins\(factory=None\): give a function"),
        ({"factory": network, "loss": 3}, TypeError, r"Twins\(loss=3\): give a function"),
        ({"factory": network, "at_least": 3}, ValueError, r"Twins\(at_least=3\): give 2 or 1"),
    ],
)
def test_arguments_that_are_no_use_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Twins(**arguments)


def test_twins_that_are_none_are_refused():
    one = network()
    with pytest.raises(ValueError, match="returned the same network twice"):
        Observer(PROBE, PLAYERS, reference=Twins(lambda: one, loss=loss, optimizer=sgd))
    with pytest.raises(TypeError, match="must return a network, but returned int"):
        Observer(PROBE, PLAYERS, reference=Twins(lambda: 3, loss=loss, optimizer=sgd))
    with pytest.raises(TypeError, match="Twins alone, or the others alone"):
        Observer(PROBE, PLAYERS, reference=[TWINS, network()])
    with pytest.raises(ValueError, match="a training loop of your own must give both"):
        Observer(PROBE, PLAYERS, reference=Twins(network)).observe(network(), epoch=0, step=0)
    with pytest.raises(ValueError, match="this observer has no twins"):
        _ = Observer(PROBE, PLAYERS).twins
    narrow = Twins(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), loss=loss, optimizer=sgd)
    with pytest.raises(ValueError, match="has 5 outputs, but the network that is trained has 3"):
        Observer(PROBE, PLAYERS, reference=narrow).observe(network(), epoch=0, step=0)


def monitor(reference, **arguments):
    return InteractionMonitor(
        FEATURES, n_samples=6, every_n_epochs=1, on_error="raise", reference=reference, **arguments
    )


def fit(trainer, net, loaders, **arguments):
    torch.manual_seed(1)
    data = {"datamodule": loaders[0]} if isinstance(loaders[0], L.LightningDataModule) else {}
    trainer.fit(net, *([] if data else loaders), **data, **arguments)
    return torch.rand(3)


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 3, "gradient_clip_val": 0.5}])
def test_a_lightning_run_with_twins_is_the_same_to_the_bit(loaders, make_trainer, make_net, net, settings, capsys):
    alone = copy.deepcopy(net)
    without = make_trainer(logger=False, **settings)
    drawn = fit(without, alone, loaders)
    watching = monitor(Twins(make_net))
    trainer = make_trainer(watching, **settings)
    assert torch.equal(fit(trainer, net, loaders), drawn)
    assert same(alone, net)
    losses = {name: float(value) for name, value in without.callback_metrics.items()}
    assert {name: float(trainer.callback_metrics[name]) for name in losses} == losses
    twins = watching.observer.twins
    assert twins.failure is None
    assert twins.steps == 8
    assert not same(*twins.networks)
    fresh = Twins(make_net).networks()
    assert not any(same(*pair) for pair in zip(fresh, twins.networks, strict=True))
    assert all(row.generalizing_share is not None for row in watching.observer.history)
    assert "two twins are trained in step" in capsys.readouterr().out


def test_a_lightning_run_goes_on_with_its_twins(loaders, make_trainer, make_net, net, tmp_path):
    train = torch.utils.data.DataLoader(loaders[0].dataset, batch_size=50)  # in the same order when resumed
    torch.manual_seed(5)
    straight = monitor(Twins(make_net))
    fit(make_trainer(straight), copy.deepcopy(net), (train, loaders[1]))
    saving = ModelCheckpoint(tmp_path / "saved", save_top_k=-1, save_on_train_epoch_end=True)
    fit(make_trainer(monitor(Twins(make_net)), saving, max_epochs=1), copy.deepcopy(net), (train, loaders[1]))
    resumed = monitor(Twins(make_net))
    fit(make_trainer(resumed), net, (train, loaders[1]), ckpt_path=saving.best_model_path)
    pairs = zip(straight.observer.twins.networks, resumed.observer.twins.networks, strict=True)
    assert all(same(*pair) for pair in pairs)
    assert resumed.observer.twins.steps == straight.observer.twins.steps


class Broken:
    """Fails at one of the steps in which a twin is made."""

    def __init__(self, kind, at):
        self.kind, self.at = kind, at

    def fail(self, *_, **__):
        raise RuntimeError("no weights here")

    def __call__(self):
        network = self.fail() if self.at == "factory" else self.kind()
        setattr(network, self.at, self.fail)
        return network


@pytest.mark.parametrize(
    ("at", "told"),
    [
        (
            "factory",
            r"Twins\(factory=...\) failed with RuntimeError: no weights here; give a function without",
        ),
        ("setup", "setup or configure_model of a twin failed with RuntimeError: no weights here; let Twins"),
        ("configure_model", "setup or configure_model of a twin failed with RuntimeError: no weights here; let Twins"),
        ("configure_optimizers", "the optimizer of a twin failed with RuntimeError: no weights here; give Twins"),
    ],
)
def test_twins_that_cannot_be_made_end_the_run_before_it_trains(loaders, make_trainer, make_net, net, at, told):
    untrained = copy.deepcopy(net)
    watching = InteractionMonitor(FEATURES, n_samples=6, reference=Twins(Broken(make_net, at)))
    with pytest.raises(MisconfigurationException, match=told):
        make_trainer(watching).fit(net, *loaders)
    assert same(untrained, net)


def test_twins_follow_the_runs_schedule_and_frozen_parts(loaders, make_trainer, make_net):
    class Scheduled(make_net):
        def on_train_epoch_start(self):
            self.features[0].eval()
            self.head[2].requires_grad_(False)

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
            schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}

    watching = monitor(Twins(Scheduled))
    fit(make_trainer(watching, logger=False), Scheduled(), loaders)
    twins = watching.observer.twins
    assert twins.optimizers[0][0].param_groups[0]["lr"] == pytest.approx(0.001)
    assert not twins.networks[0].features[0].training
    assert twins.networks[0].features[1].training
    fresh = Twins(Scheduled).networks()[0]
    assert torch.equal(fresh.head[2].weight, twins.networks[0].head[2].weight)


def test_twins_thaw_with_the_run_and_go_on_thawed(loaders, make_trainer, make_net, tmp_path):
    class Thawing(BaseFinetuning):
        def freeze_before_training(self, module):
            self.freeze(module.features)

        def finetune_function(self, module, epoch, optimizer):
            if epoch == 1:
                self.unfreeze_and_add_param_group(module.features, optimizer, lr=0.02)

    class Partly(make_net):
        def configure_optimizers(self):
            return torch.optim.SGD([each for each in self.parameters() if each.requires_grad], lr=0.1)

    def run(epochs, *callbacks, **arguments):
        watching = monitor(Twins(Partly))
        torch.manual_seed(0)
        trainer = make_trainer(watching, Thawing(), *callbacks, logger=False, max_epochs=epochs)
        fit(trainer, Partly(), (torch.utils.data.DataLoader(loaders[0].dataset, 50), loaders[1]), **arguments)
        twins = watching.observer.twins
        assert twins.failure is None
        return twins.networks[0].features[0], [g["lr"] for g in twins.optimizers[0][0].param_groups]

    fresh = Twins(Partly).networks()[0].features[0]
    saving = ModelCheckpoint(tmp_path / "saved", save_top_k=-1, save_on_train_epoch_end=True)
    frozen, rates = run(1, saving)
    assert same(fresh, frozen)
    assert rates == [0.1]
    thawed, rates = run(2, saving)
    assert not same(fresh, thawed)
    assert rates == [0.1, 0.02]
    resumed, rates = run(3, ckpt_path=saving.best_model_path)
    assert rates == [0.1, 0.02]
    assert not same(fresh, resumed)


def test_twins_are_set_up_in_the_order_of_the_trainer(loaders, make_trainer, make_net):
    class Late(type(make_net())):
        def setup(self, stage):
            self.width = 512

        def configure_model(self):
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(self.width, 10))

    watching = monitor(Twins(Late))
    fit(make_trainer(watching, max_epochs=1), Late(), loaders)
    assert watching.observer.twins.failure is None
    assert watching.observer.twins.steps > 0


def test_what_twins_collect_over_an_epoch_does_not_grow(loaders, make_trainer, make_net):
    class Collecting(make_net):
        def __init__(self):
            super().__init__()
            self.losses, self.outputs = [], {"train": []}

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.losses.append(loss)
            self.outputs["train"].append(loss)
            return loss

        def on_train_epoch_end(self):
            assert len(self.losses) == len(self.outputs["train"]) == 4
            self.losses.clear()
            self.outputs["train"].clear()

    watching = monitor(Twins(Collecting))
    fit(make_trainer(watching, logger=False), Collecting(), loaders)
    assert [twin.losses + twin.outputs["train"] for twin in watching.observer.twins.networks] == [[], []]


def test_a_trial_of_one_batch_has_twins_too(loaders, make_trainer, make_net, net):
    watching = monitor(Twins(make_net))
    fit(make_trainer(watching, fast_dev_run=True), net, loaders)
    assert watching.observer.twins.steps == 1


def test_a_monitor_fits_again_with_the_twins_it_has(loaders, make_trainer, make_net, net):
    watching = monitor(Twins(make_net))
    trainer = make_trainer(watching, logger=False, max_epochs=1)
    fit(trainer, net, loaders)
    weights = copy.deepcopy(watching.observer.twins.networks[0].state_dict())
    trainer.fit_loop.max_epochs = 2
    fit(trainer, net, loaders)
    assert watching.observer.twins.steps == 8
    assert any(not torch.equal(v, weights[k]) for k, v in watching.observer.twins.networks[0].state_dict().items())


def test_a_failing_twin_is_told_of_and_training_goes_on(loaders, make_trainer, make_net, net):
    class Failing(make_net):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("no more")

    watching = InteractionMonitor(FEATURES, n_samples=6, every_n_epochs=1, reference=Twins(Failing))
    with pytest.warns(UserWarning, match="training the twins failed and training goes on: RuntimeError: no more"):
        fit(make_trainer(watching, logger=False), net, loaders)
    assert [row.generalizing_share is None for row in watching.observer.history] == [False, True, True]


def test_a_module_that_optimizes_by_itself_is_refused(loaders, make_trainer, make_net):
    class Manual(make_net):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(MisconfigurationException, match=r"give Twins\(loss=..., optimizer=...\), or another"):
        fit(make_trainer(monitor(Twins(Manual)), logger=False), Manual(), loaders)


def test_each_twin_is_asked_for_what_the_other_learns():
    networks = [nn.Linear(2, 2), nn.Linear(2, 2)]
    asked = []

    def by_hand(net, batch):
        found = nn.functional.cross_entropy(net(batch[0]), batch[1])
        asked.append((networks.index(net), net.training, torch.is_grad_enabled(), len(batch[0])))
        return found

    training = TwinTraining(networks, [[sgd(net)] for net in networks], by_hand)
    assert training.unseen_loss() is None
    generator = torch.Generator().manual_seed(3)
    expected = []
    for _ in range(3):
        batch = torch.randn(12, 2, generator=generator), torch.randint(2, (12,), generator=generator)
        sizes = [int((~sides(batch[0])).sum()), int(sides(batch[0]).sum())]
        with torch.no_grad():
            for number, half in enumerate((batch[0][~sides(batch[0])], batch[0][sides(batch[0])])):
                labels = batch[1][sides(batch[0]) == bool(number)]
                expected.append((float(nn.functional.cross_entropy(networks[1 - number](half), labels)), len(half)))
        asked.clear()
        training.step(batch)
        assert asked == [
            (1, False, False, sizes[0]),
            (0, False, False, sizes[1]),
            (0, True, True, sizes[0]),
            (1, True, True, sizes[1]),
        ]
    state = training.state_dict()
    known = training.unseen_loss()
    assert known == pytest.approx(sum(loss * size for loss, size in expected) / 36)
    assert training.unseen_loss() == known  # to ask changes nothing
    training.forget_unseen()
    assert training.unseen_loss() is None
    training.load_state_dict(state)
    assert training.unseen_loss() == known


def test_twins_go_on_where_evaluation_mode_has_no_loss():
    def only_in_training(net, batch):
        if not net.training:
            raise KeyError("no loss in evaluation mode")
        return loss(net, batch)

    observer = Observer(PROBE, PLAYERS, reference=Twins(network, loss=only_in_training, optimizer=sgd))
    trained(observer)
    assert observer.twins.failure is None
    assert observer.twins.steps == 6
    assert observer.history[-1].unseen_loss is None
    assert observer.history[-1].generalizing_share is not None


def test_a_row_has_the_twins_loss_since_the_row_before():
    observer = Observer(PROBE, PLAYERS, reference=TWINS)
    trained(observer)
    first, last = observer.history
    assert first.unseen_loss is None
    assert 0.5 < last.unseen_loss < 3
    assert observer.twins.unseen_loss() is None


def modules_that_ask_their_trainer(base):
    """Give kinds of modules that reach their weights, optimizers and schedules by `self.trainer`."""

    class Parameters(base):
        def configure_optimizers(self):
            return torch.optim.SGD(self.trainer.model.parameters(), lr=0.1)

    class OwnModule(base):
        def configure_optimizers(self):
            return torch.optim.SGD(self.trainer.lightning_module.parameters(), lr=0.1)

    class Decaying(base):
        def training_step(self, batch, batch_idx):
            for group in self.optimizers().param_groups:
                group["lr"] *= 0.9
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] *= 0.9
            return super().training_step(batch, batch_idx)

    class Scheduling(base):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)]

        def training_step(self, batch, batch_idx):
            self.lr_schedulers().step()
            return super().training_step(batch, batch_idx)

    class Forward(base):
        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.trainer.model(batch[0]), batch[1])

    class Counting(base):
        def training_step(self, batch, batch_idx):
            self.trainer.calls = getattr(self.trainer, "calls", 0) + 1
            self.trainer.datamodule.calls += 1
            return super().training_step(batch, batch_idx) / (1 + self.trainer.datamodule.calls % 3)

    return [Parameters, OwnModule, Decaying, Scheduling, Forward, Counting]


@pytest.mark.parametrize("which", range(6))
def test_a_twin_that_asks_its_trainer_finds_itself(loaders, make_trainer, make_net, which):
    kind = modules_that_ask_their_trainer(type(make_net()))[which]
    torch.manual_seed(3)
    alone, watching = kind(), monitor(Twins(kind))
    net = copy.deepcopy(alone)
    without, trainer = make_trainer(logger=False), make_trainer(watching, logger=False)
    data = [L.LightningDataModule.from_datasets(loaders[0].dataset, loaders[1].dataset, batch_size=50) for _ in "ab"]
    data[0].calls = data[1].calls = 0
    assert torch.equal(fit(without, alone, data[:1]), fit(trainer, net, data[1:]))
    assert data[0].calls == data[1].calls
    assert same(alone, net)
    assert without.optimizers[0].param_groups[0]["lr"] == trainer.optimizers[0].param_groups[0]["lr"]
    assert getattr(without, "calls", None) == getattr(trainer, "calls", None)
    twins = watching.observer.twins
    assert twins.failure is None
    fresh = Twins(kind).networks()
    assert not any(same(*pair) for pair in zip(fresh, twins.networks, strict=True))


def test_twins_that_cannot_be_trained_are_refused_with_what_to_give(loaders, make_trainer, net):
    others = list(net.parameters())
    with pytest.raises(MisconfigurationException, match=r"made a Linear, which has no training_step and no configure"):
        fit(make_trainer(monitor(Twins(lambda: nn.Linear(4, 2))), logger=False), net, loaders)
    stepping = Twins(network, loss=loss, optimizer=lambda net: torch.optim.LBFGS(net.parameters()))
    with pytest.raises(MisconfigurationException, match=r"LBFGS steps by a closure, .* Twins\(optimizer=lambda"):
        fit(make_trainer(monitor(stepping), logger=False), net, loaders)
    theirs = Twins(network, loss=loss, optimizer=lambda _: torch.optim.SGD(others, lr=0.1))
    with pytest.raises(MisconfigurationException, match=r"parameters that are not the twin's; .* Twins\(optimizer="):
        fit(make_trainer(monitor(theirs), logger=False), net, loaders)


DRAWS = torch.Generator().manual_seed(0)


def modules_that_share_what_is_outside(base):
    class Counting(base):
        calls = 0

        def training_step(self, batch, batch_idx):
            type(self).calls += 1
            return super().training_step(batch, batch_idx) / type(self).calls

    class Drawing(base):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * torch.rand((), generator=DRAWS)

    return [Counting, Drawing]


@pytest.mark.parametrize(("which", "name"), [(0, "Counting"), (1, "DRAWS")])
def test_twins_that_change_what_the_run_uses_end_and_the_run_stays_the_same(
    loaders, make_trainer, make_net, which, name
):
    def trained(*callbacks):
        kind = modules_that_share_what_is_outside(type(make_net()))[which]
        DRAWS.manual_seed(0)
        torch.manual_seed(3)
        net = kind()
        watching = [InteractionMonitor(FEATURES, n_samples=6, reference=Twins(kind))] if callbacks else []
        drawn = fit(make_trainer(*watching, logger=False), net, loaders)
        return net, drawn, watching

    alone, drawn, _ = trained()
    with pytest.warns(UserWarning, match=rf"a step of theirs changes .*{name}.*, which the run uses too"):
        net, also_drawn, (watching,) = trained("watched")
    assert torch.equal(drawn, also_drawn)
    assert same(alone, net)
    assert "which the run uses too" in watching.observer.twins.failure
