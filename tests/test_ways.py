"""Many ways to train, each with the monitor and without it: all that is left behind is the same, to the bit."""

import copy

import lightning as L
import pytest
import torch
from ways import elsewhere, loading, neighbours, networks, outside, training  # noqa: F401  # each puts its ways into the table
from ways.compare import differences
from ways.run import WAYS, Run, everything

from interaction_monitor.reference import Twins


@pytest.mark.parametrize("name", WAYS)
def test_a_run_is_the_same_with_the_monitor(name, tmp_path):
    _, measured, refused = WAYS[name]
    folder = tmp_path / "run"
    alone, _ = everything(name, folder, monitored=False)
    if folder.exists():
        folder.rename(tmp_path / "alone")
    watched, monitors = everything(name, folder, monitored=True)
    if refused:
        assert refused in str(watched[1])
        assert "train" not in dict(watched[0][0].losses)  # it was before the first batch
        return
    assert differences(alone, watched) == []
    for monitor in monitors:
        rows = len(monitor.observer.history) if monitor.observer else 0
        assert rows >= measured


@pytest.mark.parametrize(
    "name",
    [
        *("logging_in_forward", "a_cache_of_what_was_drawn", "batch_norm_and_dropout", "layers_that_thaw"),
        *("bf16_mixed", "averages_of_weights", "fitted_twice_by_one_trainer", "a_plateau"),
    ],
)
def test_a_run_is_the_same_with_twins(name, monkeypatch, tmp_path):
    watch, fit, given = Run.watch, L.Trainer.fit, []

    def fitted(trainer, net, *args, **kwargs):
        if net._trainer is None:
            given.append(copy.deepcopy(net))
        return fit(trainer, net, *args, **kwargs)

    def untrained():
        net = copy.deepcopy(given[-1])
        for parameter in net.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape)
        return net

    monkeypatch.setattr(L.Trainer, "fit", fitted)
    monkeypatch.setattr(Run, "watch", lambda run, **options: watch(run, reference=Twins(untrained), **options))
    alone, _ = everything(name, tmp_path, monitored=False)
    watched, monitors = everything(name, tmp_path, monitored=True)
    assert differences(alone, watched) == []
    assert all(monitor.observer.twins.failure is None for monitor in monitors)
    assert all(monitor.observer.history[-1].generalizing_share is not None for monitor in monitors)


class Careless(L.Callback):
    """Looks at each network and at its data, and puts nothing back."""

    def on_train_epoch_end(self, trainer, module):
        with torch.no_grad():
            module(next(iter(trainer.train_dataloader))[0])


def test_the_comparison_notices_a_careless_callback(monkeypatch, tmp_path):
    monkeypatch.setattr(Run, "watch", lambda run, **_: [Careless()] if run.monitored else [])
    for name in (
        "a_dataset_that_counts",
        "a_deque",
        "a_restless_callback_behind_the_monitor",
        "batch_norm_and_dropout",
    ):
        alone, disturbed = (everything(name, tmp_path, monitored=watched)[0] for watched in (False, True))
        assert differences(alone, disturbed), name
