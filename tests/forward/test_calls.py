"""Networks that are not called as `module(x)`: the line that runs is found, or proposed before the first batch."""

import math
import re

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader

from interaction_monitor import InteractionMonitor, Probe, outputs
from interaction_monitor.players import ImagePatches


class Base(L.LightningModule):
    def training_step(self, batch, batch_idx):
        return self.step(batch)

    def validation_step(self, batch, batch_idx):
        loss = self.step(batch)
        self.log("val_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Flattens(Base):
    """Lightning's first example."""

    line = "module.model(x.flatten(1))"

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(64, 10)

    def forward(self, x):
        return self.model(x)

    def step(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self.model(x.view(x.size(0), -1)), y)


class Itself(Flattens):
    line = "module(x.flatten(1))"

    def step(self, batch):
        return nn.functional.cross_entropy(self(batch[0].reshape(-1, 64)), batch[1])


class NoForward(Base):
    line = "module.head[1](module.encoder(x.flatten(1)).relu())"

    def __init__(self):
        super().__init__()
        self.encoder, self.head, self.loss = nn.Linear(64, 8), nn.ModuleList([nn.Identity(), nn.Linear(8, 10)]), None
        self.loss = nn.CrossEntropyLoss()

    def step(self, batch):
        return self.loss(self.head[1](torch.relu(self.encoder(batch[0].flatten(1)))), batch[1])


class TakesTheBatch(Flattens):
    line = "module((x, None,))"

    def forward(self, batch):
        x, _ = batch
        return self.model(x.flatten(1))

    def step(self, batch):
        return nn.functional.cross_entropy(self((batch[0], batch[1])), batch[1])


class OtherKeys(Flattens):
    line = 'module.model(inputs["picture"].flatten(1))'

    def step(self, batch):
        return nn.functional.nll_loss(self.model(batch["picture"].flatten(1)).log_softmax(1), batch["label"])


class PastItsCall(OtherKeys):
    """Calls its own forward directly, and has a loss that nobody knows."""

    line = 'module(inputs["picture"])'

    def __init__(self):
        super().__init__()
        self.loss = nn.MultiMarginLoss()

    def forward(self, x):
        return self.model(x.flatten(1))

    def step(self, batch):
        return self.loss(self.forward(batch["picture"]), batch["label"])


class TakesTheDict(OtherKeys):
    """Takes all inputs as one, puts its own results among them, and names what it gives."""

    line = "module(inputs)['digit']"

    def forward(self, inputs):
        inputs["hidden"] = inputs["picture"].flatten(1)
        return {"digit": self.model(inputs["hidden"]), "width": inputs["hidden"].mean(1)}

    def step(self, batch):
        return nn.functional.cross_entropy(self(batch)["digit"], batch["label"])


class OneHot(NoForward):
    """Makes its codes one-hot in the step, and calls its parts past `module(x)`."""

    line = "module.head[1](module.encoder(torch.nn.functional.one_hot(x.flatten(1).long(), 2).float()).mean(1))"

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(2, 8)

    def step(self, batch):
        codes = nn.functional.one_hot(batch[0].flatten(1).long(), 2).float()
        return self.loss(self.head[1](self.encoder(codes).mean(1)), batch[1])


class Unclear(NoForward):
    line = None

    def step(self, batch):
        hidden = self.encoder(batch[0].flatten(1)) * torch.linspace(0.5, 2, 8)
        return self.loss(self.head[1](hidden), batch[1])


class Reconstructs(Base):
    """An autoencoder that gives its loss the target first, and keeps no images."""

    line = "module(x.flatten(1))"

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(64, 4), nn.Linear(4, 64)

    def forward(self, x):
        return self.decoder(self.encoder(x).relu())

    def step(self, batch):
        x = batch[0].flatten(1)
        return nn.functional.mse_loss(x, self(x))


class ReconstructsImages(Reconstructs):
    def forward(self, x):
        return super().forward(x.flatten(1)).view(x.shape)

    def step(self, batch):
        return nn.functional.mse_loss(self(batch[0]), batch[0])


class OfEachRow(Base):
    """Tells for each row of an image whether it is bright: logits (B, rows, 2)."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(x[:, 0])

    def step(self, batch):
        return nn.functional.cross_entropy(self(batch[0]).flatten(0, 1), batch[1].flatten())


class OfEachPixel(OfEachRow):
    """Tells it for each pixel: logits (B, 2, height, width)."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x):
        return self.head(x)

    def step(self, batch):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])


class Marks(OfEachPixel):
    """Takes images and masks under names of its own, and says of each pixel whether it belongs: logits (B, 1, ...)."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(1, 1, 3, padding=1)

    def step(self, batch):
        logits, marks = self.forward(batch["image"]), batch["mask"]
        return 1 - (logits.sigmoid() * marks).sum() / (logits.sigmoid() + marks).sum()


class Pair(Base):
    """Draws and judges, with two optimizers of its own and no step for validation."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.draws, self.judges = nn.Linear(3, 64), nn.Sequential(nn.Flatten(), nn.Linear(64, 1))

    def forward(self, z):
        return self.draws(z)

    def training_step(self, batch, batch_idx):
        for optimizer, sign in zip(self.optimizers(), (1, -1), strict=True):
            optimizer.zero_grad()
            self.manual_backward(sign * self.judges(self(torch.randn(len(batch[0]), 3))).mean())
            optimizer.step()

    validation_step = L.LightningModule.validation_step

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.draws, self.judges)]


KINDS = [Flattens, Itself, NoForward, TakesTheBatch, OtherKeys, PastItsCall, TakesTheDict, OneHot]
PATCHES = ImagePatches(grid=4, margin=0, n_players=3)


def run(net, data, make_trainer, **options):
    collate = None
    if isinstance(net, OtherKeys):

        def collate(items):
            return {"picture": torch.stack([x for x, _ in items]), "label": torch.stack([y for _, y in items])}

    loaders = [DataLoader(part, batch_size=50, collate_fn=collate) for part in data]
    monitor = InteractionMonitor(PATCHES, n_samples=5, **options)
    make_trainer(monitor, max_epochs=1, logger=False, enable_checkpointing=False).fit(net, *loaders)
    return monitor


@pytest.mark.parametrize("kind", KINDS)
def test_the_call_of_the_validation_step_is_taken(kind, digits, make_trainer, capsys):
    torch.manual_seed(0)
    found = run(kind(), digits, make_trainer).observer.history
    said = capsys.readouterr().out
    name = "inputs" if "inputs" in kind.line else "x"
    line = f"forward_func=lambda module, {name}: {kind.line}"
    assert line in said
    # The very line that is said gives the same as a user's own.
    torch.manual_seed(0)
    given = eval(line.removeprefix("forward_func="))
    asked = run(kind(), digits, make_trainer, forward_func=given).observer.history
    assert [row.mean_order for row in found] == [row.mean_order for row in asked]
    assert len(found) == 2


def test_what_is_unclear_is_refused_before_the_first_batch(digits, make_trainer):
    net = Unclear()
    before = net.encoder.weight.clone()
    with pytest.raises(
        MisconfigurationException, match=r"validation_step calls module\.encoder\(.*forward_func=lambda"
    ):
        run(net, digits, make_trainer)
    assert torch.equal(net.encoder.weight, before)


def test_a_forward_func_that_fails_is_refused_before_the_first_batch(digits, make_trainer):
    with pytest.raises(
        MisconfigurationException, match=r"forward_func= fails on the samples: AttributeError.*classify"
    ):
        run(Flattens(), digits, make_trainer, forward_func=lambda module, x: module.classify(x))


def of_rows(data):
    return [[(x, (x[0].mean(1) > 0.3).long()) for x, _ in part] for part in data]


def of_pixels(data):
    return [[(x, (x[0] > 0.3).long()) for x, _ in part] for part in data]


@pytest.mark.parametrize(
    ("kind", "labelled", "own_inputs"),
    [
        (Reconstructs, list, True),
        (ReconstructsImages, list, True),
        (OfEachRow, of_rows, False),
        (OfEachPixel, of_pixels, False),
    ],
)
def test_the_output_that_a_refusal_proposes_works(kind, labelled, own_inputs, digits, make_trainer):
    data = labelled(digits)
    with pytest.raises(MisconfigurationException) as refused:
        run(kind(), data, make_trainer)
    line, *_ = re.findall(r"output=(?:.*such as )?(lambda \w+, targets: .*?)(?:$|; or |, or )", str(refused.value))
    options = {"output": eval(line, {"torch": torch, "outputs": outputs})}
    if own_inputs:
        assert "probe=Probe(x, x) of x = Probe.from_loader(val_loader).inputs" in str(refused.value)
        x = Probe.from_loader(DataLoader(data[1], batch_size=50), 5).inputs
        options |= {"probe": Probe(x, x)}
    if kind is Reconstructs:  # whose step cannot be tried on images for targets
        options |= {"forward_func": lambda module, x: module(x.flatten(1))}
    history = run(kind(), data, make_trainer, on_error="raise", **options).observer.history
    assert len(history) == 2
    assert history[-1].mean_order >= 1


def test_a_mask_under_a_name_of_its_own_is_told_of_and_the_lines_that_are_proposed_work(digits, make_trainer):
    data = [[{"image": x, "mask": (x > 0.3).float()} for x, _ in part] for part in digits]
    with pytest.raises(MisconfigurationException, match="needs targets, and the samples have none") as refused:
        run(Marks(), data, make_trainer)
    batch = next(iter(DataLoader(data[1], batch_size=5)))
    probe = eval(str(refused.value).split("probe=")[-1], {"Probe": Probe, "batch": batch})
    with pytest.raises(MisconfigurationException, match="values for each position are a segmentation's") as refused:
        run(Marks(), data, make_trainer, probe=probe)
    output = eval(str(refused.value).split("such as ")[-1], {"torch": torch})
    assert output(torch.zeros(2, 1, 3, 3), torch.ones(2, 1, 3, 3)).tolist() == pytest.approx([-math.log(2)] * 2)
    assert len(run(Marks(), data, make_trainer, probe=probe, output=output, on_error="raise").observer.history) == 2


def test_a_part_that_takes_the_samples_is_proposed_where_no_step_shows_a_call(digits, make_trainer):
    ones = [[(x, y % 2) for x, y in part] for part in digits]
    line = "forward_func=lambda module, x: module.judges(x)"
    with pytest.raises(MisconfigurationException, match=f"Give {re.escape(line)}$"):
        run(Pair(), ones, make_trainer)
    given = eval(line.removeprefix("forward_func="))
    assert len(run(Pair(), ones, make_trainer, forward_func=given, on_error="raise").observer.history) == 2
