"""Training without Lightning's trainer: a loop of one's own, and `transformers.Trainer`."""

import lightning as L
import torch
import transformers
from torch import nn
from ways.loading import Counting, Drawing
from ways.run import WIDTH, Map, item, way

from interaction_monitor import Observer, Probe, assign_players
from interaction_monitor.callbacks.transformers import InteractionTrainerCallback
from interaction_monitor.players import Columns


def observed(run, net, loader):
    """Make an observer of a network, or None."""
    if not run.monitored:
        return None
    probe = Probe.from_loader(loader, n_samples=3)
    return Observer(probe, assign_players(net, Columns(n_players=3), probe), interactions="and")


def layers():
    return nn.Sequential(nn.Linear(WIDTH, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 2))


@way()
def a_plain_loop(run):
    net, loader, test = layers(), run.loader(Drawing(), shuffle=True), run.loader(Counting())
    observer = observed(run, net, test)
    optimizer, losses = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), []
    for epoch in range(3):
        net.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x.float()), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if observer:
            observer.observe(net, epoch=epoch, step=len(losses))
        net.eval()
        losses += [nn.functional.cross_entropy(net(x.float()), y).item() for x, y in test]
    assert not run.monitored or len(observer.history) == 3
    return net, loader, test, optimizer.state_dict(), losses, net.training


@way()
def a_plain_loop_measured_in_the_midst_of_a_step(run):
    net, loader = layers(), run.loader(shuffle=True)
    observer = observed(run, net, loader)
    optimizer, losses = torch.optim.Adam(net.parameters()), []
    for step, (x, y) in enumerate(loader):
        loss = nn.functional.cross_entropy(net(x), y)
        if observer:  # the graph of the loss is still to be gone through
            observer.observe(net, epoch=2 * step, step=2 * step)
        loss.backward()
        if observer:
            observer.observe(net, epoch=2 * step + 1, step=2 * step + 1)
        optimizer.step()
        losses.append(loss.item())
    assert not run.monitored or len(observer.history) == 8
    return net, optimizer.state_dict(), losses


@way()
def lightning_fabric(run):
    fabric = L.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    net = layers()
    net, optimizer = fabric.setup(net, torch.optim.Adam(net.parameters()))
    loader = fabric.setup_dataloaders(run.loader(Drawing(), shuffle=True))
    observer, losses = observed(run, net, loader), []
    for epoch in range(2):
        for x, y in loader:
            loss = nn.functional.cross_entropy(net(x.float()), y)
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            losses.append(loss.item())
        if observer:
            observer.observe(net, epoch=epoch, step=len(losses))
    assert not run.monitored or len(observer.history) == 2
    return net.module, optimizer.state_dict(), losses


class Classifier(nn.Module):
    """Returns what `transformers.Trainer` wants, with dropout and a state of its own."""

    def __init__(self):
        super().__init__()
        self.layers, self.calls = layers(), 0

    def forward(self, x, labels=None):
        self.calls += 1
        logits = self.layers(x) * (1 + self.calls % 3)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


class Named(Map):
    def __getitem__(self, index):
        x, y = item(index)
        return {"x": x, "labels": y}


def by_transformers(run, net=None, **options):
    net = net or Classifier()
    given = {"num_train_epochs": 2, "per_device_train_batch_size": 5, "logging_steps": 1, "eval_strategy": "epoch"}
    arguments = transformers.TrainingArguments(
        str(run.folder), report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no", **{**given, **options}
    )
    probe = Probe({"x": torch.stack([item(index)[0] for index in range(3)])}, torch.tensor([0, 1, 0]))
    watch = InteractionTrainerCallback(Columns(n_players=3), probe, interactions="and", on_error="raise")
    trainer = transformers.Trainer(
        net, arguments, train_dataset=Named(), eval_dataset=Named(), callbacks=[watch] if run.monitored else []
    )
    trainer.train()
    assert not run.monitored or len(watch.observer.history) == 3
    told = ("loss", "grad_norm", "learning_rate", "eval_loss", "epoch", "step")
    logged = [{key: entry[key] for key in told if key in entry} for entry in trainer.state.log_history]
    optimizer = trainer.optimizer.optimizer if hasattr(trainer.optimizer, "optimizer") else trainer.optimizer
    return net, [entry for entry in logged if len(entry) > 2], optimizer.state_dict()


@way()
def transformers_trainer(run):
    return by_transformers(run)


@way()
def transformers_trainer_that_accumulates_in_bf16(run):
    return by_transformers(run, gradient_accumulation_steps=2, bf16=True, max_grad_norm=0.1)


class Uncounted(Classifier):
    """Is told of the items of a step, and does not look."""

    def forward(self, x, labels=None, **_):
        return super().forward(x, labels)


@way()
def transformers_trainer_whose_model_counts_no_items(run):
    return by_transformers(run, net=Uncounted(), gradient_accumulation_steps=2)
