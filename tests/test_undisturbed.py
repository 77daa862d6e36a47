"""A monitored training is the unmonitored one, bit for bit: weights, optimizer, buffers, losses, random states."""

import random
import warnings
from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import nn
from torch.utils.data import DataLoader, Dataset

from interaction_monitor import InteractionMonitor
from interaction_monitor.players import FeaturePatches, ImagePatches


class Classifier(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.losses = []

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]).float(), batch[1])
        self.losses.append(loss.item())
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]).float(), batch[1]))

    def configure_optimizers(self):
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=1e-2)


class Convolutional(Classifier):
    masked = FeaturePatches(layer="features.2", grid=4, margin=0, n_players=3)

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Flatten(), nn.Linear(256, 10))

    def forward(self, x):
        return self.head(self.features(x))


class Residual(Convolutional):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.3))

    def forward(self, x):
        x = self.features(x)
        return self.head(x + self.inner(x))


class Transformer(Classifier):
    masked = ImagePatches(grid=4, margin=0, n_players=3)

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.layer(x[:, 0]).flatten(1))


class PartlyFrozen(Residual):
    """BatchNorm stays in eval mode while the rest trains, as in fine-tuning."""

    def __init__(self):
        super().__init__()
        self.features.requires_grad_(False)

    def on_train_epoch_start(self):
        self.features.eval()
        self.inner[1].eval()


class Tied(Classifier):
    masked = FeaturePatches(layer="unfold", grid=4, margin=0, n_players=3)

    def __init__(self):
        super().__init__()
        self.unfold = nn.Unflatten(1, (1, 8, 8))
        self.encode = nn.Linear(64, 64)
        self.decode = nn.Linear(64, 64)
        self.decode.weight = self.encode.weight
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        hidden = self.unfold(self.encode(x.flatten(1)).relu()).flatten(1)
        return self.head(nn.functional.dropout(self.decode(hidden), 0.2, self.training))


class Restless(Residual):
    """Every forward draws numbers, counts in a buffer, replaces another, and a hook writes to a third."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(4), persistent=False)
        self.features.register_forward_hook(self._watch)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(10, 10))

    def _watch(self, module, args, output):
        self.seen += output.detach().float().mean((0, 2, 3))

    def forward(self, x):
        self.calls += 1
        self.last = x.detach().float().mean() + random.random() + np.random.rand()
        return self.spectral(super().forward(x)) + 0.01 * torch.rand(10) * self.calls


class Noisy(Dataset):
    """Digits with noise from each of the generators that a worker has."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        x, y = self.data[index]
        return x + 0.1 * torch.rand(1) + 0.1 * random.random() + 0.1 * np.random.rand(), y


@pytest.fixture
def train(digits, make_trainer):
    subset = partial(torch.utils.data.Subset, indices=range(40))

    def run(kind, monitored, *, workers=0, compiled=None, monitor_options=(), callbacks=list, **options):
        L.seed_everything(1, workers=True, verbose=False)
        net = kind()
        for child in net.children() if compiled else ():
            child.compile(backend=compiled)
        # The noise of a shuffled loader with workers comes from seeds that are drawn from the global state.
        train_loader = DataLoader(Noisy(subset(digits[0])), 10, shuffle=True, num_workers=workers)
        test_loader = DataLoader(Noisy(subset(digits[1])), 20)
        monitor = InteractionMonitor(kind.masked, n_samples=3, interactions="and", **dict(monitor_options))
        trainer = make_trainer(
            *([monitor] if monitored else []), *callbacks(),
            logger=False, enable_checkpointing=False, **options,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(net, train_loader, test_loader)
        return net, trainer, monitor

    return run


def everything(net, trainer):
    """All that training leaves behind, by name."""
    states = {
        f"{name}.{key}": value
        for name, of_parameter in enumerate(trainer.optimizers[0].state.values())
        for key, value in of_parameter.items()
    }
    return {
        **dict(net.named_parameters(remove_duplicate=False)),
        **dict(net.named_buffers()),
        **states,
        **{f"callback_metrics.{k}": v for k, v in trainer.callback_metrics.items() if "interactions" not in k},
        "losses": torch.tensor(net.losses, dtype=torch.float64),
        "modes": torch.tensor([module.training for module in net.modules()]),
        "hooks": torch.tensor([len(module._forward_hooks) for module in net.modules()]),
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.random.get_state()[1].astype(np.int64)),
        "python": torch.tensor(random.getstate()[1], dtype=torch.int64),
    }


def assert_same(without, with_monitor):
    assert without.keys() == with_monitor.keys()
    different = [name for name in without if not torch.equal(without[name], with_monitor[name])]
    assert different == []


def assert_undisturbed(train, kind, *, measured=3, **options):
    net, trainer, _ = train(kind, False, **options)
    alone = everything(net, trainer)
    net, trainer, monitor = train(kind, True, **options)
    assert_same(alone, everything(net, trainer))
    assert len(monitor.observer.history) == measured


KINDS = [Convolutional, Residual, Transformer, PartlyFrozen, Tied, Restless]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_network_in_each_precision(train, kind, precision):
    assert_undisturbed(train, kind, precision=precision)


@pytest.mark.parametrize("kind", [Convolutional, Transformer])
def test_compiled_networks(train, kind):
    assert_undisturbed(train, kind, compiled="aot_eager", max_epochs=1, measured=2)


def stochastic_weight_averaging():
    return [StochasticWeightAveraging(1e-2, swa_epoch_start=1, annealing_epochs=1)]


def weight_averaging():
    averaging = pytest.importorskip("lightning.pytorch.callbacks.weight_averaging")
    return [averaging.WeightAveraging(use_buffers=True)]


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 3},
        {"gradient_clip_val": 0.1},
        {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value", "precision": "bf16-mixed"},
        {"callbacks": stochastic_weight_averaging, "measured": 4},  # it trains for an epoch more
        {"callbacks": weight_averaging},
        {"val_check_interval": 2},
        {"num_sanity_val_steps": 0, "limit_val_batches": 1},
        {"workers": 1},
        {"monitor_options": {"every_n_train_steps": 3}, "measured": 4, "accumulate_grad_batches": 1},
        {"monitor_options": {"every_n_train_steps": 1}, "measured": 5, "accumulate_grad_batches": 2},
    ],
    ids=lambda options: "-".join(options),
)
def test_each_way_to_train(train, options):
    assert_undisturbed(train, Residual, **options)


class Cut:
    """A forward that breaks in the middle of the second measurement."""

    def __init__(self, error):
        self.error = error
        self.calls_left = 2

    def __call__(self, module, x):
        result = module(x)
        self.calls_left -= bool(module.losses)
        if self.calls_left < 0:
            raise self.error
        return result


@pytest.mark.parametrize("kind", [Residual, Restless])
@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), torch.cuda.OutOfMemoryError("full"), MemoryError()], ids=repr
)
def test_a_measurement_that_fails_half_way(train, kind, error):
    assert_undisturbed(train, kind, monitor_options={"forward_func": Cut(error)}, measured=1)


def test_the_comparison_notices_a_monitor_that_disturbs(train):
    class Careless(L.Callback):
        def on_train_epoch_end(self, trainer, net):
            net(torch.zeros(2, 1, 8, 8))

    net, trainer, _ = train(Convolutional, False)
    alone = everything(net, trainer)
    net, trainer, _ = train(Convolutional, False, callbacks=lambda: [Careless()])
    with pytest.raises(AssertionError, match=r"features\.0\.weight"):
        assert_same(alone, everything(net, trainer))
