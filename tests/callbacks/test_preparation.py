"""What keeps a network from being called again and again is said before training."""

import re
import warnings

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from networks import Classifier
from torch import nn
from transformers_runs import positions, trained

from interaction_monitor import InteractionMonitor
from interaction_monitor.players import ImagePatches


class Recurrent(Classifier):
    """Goes on from the hidden state of the batch before, as in truncated backpropagation through time."""

    def __init__(self, hidden=None):
        super().__init__()
        self.cell, self.head, self.hidden = nn.GRU(8, 4, batch_first=True), nn.Linear(4, 10), hidden

    def forward(self, x):
        out, hidden = self.cell(x.flatten(1).unflatten(1, (8, 8)), self.hidden)
        self.hidden = hidden.detach()
        return self.head(out[:, -1])


def monitor(**options):
    return InteractionMonitor(ImagePatches(grid=4, margin=0, n_players=3), n_samples=3, interactions="and", **options)


def fresh(module, x):
    module.hidden = None
    return module(x)


@pytest.mark.parametrize("checks", [0, 2])
def test_a_net_that_goes_on_from_its_hidden_state_is_told_what_makes_it_measurable(loaders, make_trainer, checks):
    trainer = make_trainer(monitor(), max_epochs=1, logger=False, num_sanity_val_steps=checks)
    with pytest.raises(MisconfigurationException, match=r"hidden.*forward_func=.*None"):
        trainer.fit(Recurrent(), *loaders)


def test_what_it_is_told_makes_it_measurable(loaders, make_trainer):
    watch, net = monitor(forward_func=fresh), Recurrent()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="InteractionMonitor")
        make_trainer(watch, max_epochs=2, logger=False).fit(net, *loaders)
    assert watch.observer.history.epochs.tolist() == [0, 1, 2]
    assert net.hidden.shape == (1, 50, 4)  # as validation left it


class Wrapped(Classifier):
    def __init__(self, hidden):
        super().__init__()
        self.parts = nn.Sequential(Recurrent(hidden))

    def forward(self, x):
        return self.parts(x)


@pytest.mark.parametrize(("kind", "path"), [(Recurrent, "module.hidden"), (Wrapped, "module.parts[0].hidden")])
def test_a_hidden_state_of_one_size_from_the_start_is_named(loaders, make_trainer, kind, path):
    told = rf"\({re.escape(path)}\) fits no batch .* does {re.escape(path)} = None"
    with pytest.raises(MisconfigurationException, match=told):
        make_trainer(monitor(), max_epochs=1, logger=False).fit(kind(torch.zeros(1, 50, 4)), *loaders)


class NeedsLabels(nn.Module):
    """Computes its loss itself and cannot do without labels; what it has inside can."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(44, 8), nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask, labels):
        logits = self.head(self.table(input_ids).mean(1))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def embedded(model, inputs):
    return model.head(model.table(inputs["input_ids"]).mean(1))


def test_a_model_of_transformers_is_called_as_its_step_calls_it(tmp_path, capsys):
    trainer, watcher = trained(tmp_path, model=NeedsLabels(), num_train_epochs=1)
    line = 'forward_func=lambda module, inputs: module.head(module.table(inputs["input_ids"]).mean(1))'
    assert f"model(**inputs) does not run on the samples, so it is called so: {line}" in capsys.readouterr().out
    assert positions(watcher) == [(0, 0), (1, 3)]
    with torch.no_grad():
        logits = embedded(trainer.model, watcher.observer.probe.inputs).double()
    right = logits.gather(1, watcher.observer.probe.targets[:, None])[:, 0]
    torch.testing.assert_close(watcher.observer.last.v[:, -1], 2 * right - logits.sum(1), rtol=1e-5, atol=1e-5)


def test_a_forward_func_that_fails_is_refused_before_the_first_step(tmp_path):
    def forward_func(model, inputs):
        raise RuntimeError("no such key")

    with pytest.raises(ValueError, match=r"forward_func= fails on the samples: RuntimeError: no such key"):
        trained(tmp_path, callback={"forward_func": forward_func})
