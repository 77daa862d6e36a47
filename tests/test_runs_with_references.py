"""References in the two callbacks: told, logged, kept across a resume, and never felt by the training."""

import copy
import math
import pickle
import shutil

import pytest
import torch
import transformers
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from rows import make_row
from transformers_runs import sentences, trained

from interaction_monitor import InteractionMonitor, Probe, Record, console
from interaction_monitor.callbacks.transformers import InteractionTrainerCallback
from interaction_monitor.history import History
from interaction_monitor.language_models import last_token_logits
from interaction_monitor.players import FeaturePatches
from interaction_monitor.reference import Twins
from interaction_monitor.reference.twins import optimizer_like
from interaction_monitor.stopping import GeneralizingShare

PATCHES = FeaturePatches(layer="features.2", grid=8, margin=1, n_players=4)


pytestmark = pytest.mark.usefixtures("undrawn")


def monitor(**arguments):
    return InteractionMonitor(PATCHES, n_samples=6, every_n_epochs=1, on_error="raise", **arguments)


def other(make_net):
    torch.manual_seed(5)
    return make_net()


def fit(trainer, net, loaders, **arguments):
    torch.manual_seed(1)
    trainer.fit(net, *loaders, **arguments)


def test_the_training_is_the_same_to_the_bit_and_the_share_is_logged(loaders, make_trainer, make_net, net, tmp_path):
    alone = copy.deepcopy(net)
    fit(make_trainer(logger=False), alone, loaders)
    reference = other(make_net)
    watching = monitor(reference=reference)
    trainer = make_trainer(watching)
    fit(trainer, net, loaders)
    for name, value in alone.state_dict().items():
        assert torch.equal(value, net.state_dict()[name]), name
    rows = watching.observer.history
    assert len(rows) == 3
    assert all(0 < row.generalizing_share < 1 for row in rows)
    logged = trainer.callback_metrics
    assert float(logged["interactions/generalizing_share"]) == pytest.approx(rows[-1].generalizing_share)
    by_order = rows[-1].generalizing_by_order
    assert float(logged["interactions/generalizing_share_order_1"]) == pytest.approx(by_order[1])
    assert set(logged) >= {f"interactions/generalizing_share_order_{order}" for order in by_order}


def test_the_record_of_an_earlier_run_is_a_reference(loaders, make_trainer, make_net, net, capsys):
    first = monitor()
    fit(make_trainer(first), other(make_net), loaders)
    second = monitor(reference=first.observer.record.folder)
    fit(make_trainer(second), net, loaders)
    assert all(0 < row.generalizing_share < 1 for row in second.observer.history)
    shown = f"generalizes {second.observer.history[-1].generalizing_share:.0%}"
    assert shown in capsys.readouterr().out
    recorded = Record.open(second.observer.record.folder)
    assert recorded.settings["reference"][0].startswith("record version_0/interactions")
    assert recorded.history[-1].generalizing_share == second.observer.history[-1].generalizing_share


def test_a_resumed_run_goes_on_with_its_references(loaders, make_trainer, make_net, net, tmp_path):
    straight = monitor(reference=other(make_net))
    fit(make_trainer(straight, max_epochs=3), copy.deepcopy(net), loaders)
    saving = ModelCheckpoint(tmp_path / "saved", save_top_k=-1, save_on_train_epoch_end=True)
    fit(make_trainer(monitor(reference=other(make_net)), saving, max_epochs=1), copy.deepcopy(net), loaders)
    changed = other(make_net)
    torch.nn.init.zeros_(changed.head[2].weight)  # it is not measured again
    resumed = monitor(reference=changed)
    fit(make_trainer(resumed, max_epochs=2), net, loaders, ckpt_path=saving.best_model_path)
    assert len(resumed.observer.history) == 3
    known = resumed.observer.references.measured[0]
    assert torch.equal(known.and_, straight.observer.references.measured[0].and_)
    assert resumed.observer.history[0].generalizing_share == straight.observer.history[0].generalizing_share
    with pytest.raises(MisconfigurationException, match=r"measured with reference=\['network SmallNet'\], but this"):
        fit(make_trainer(monitor(), max_epochs=2), net, loaders, ckpt_path=saving.best_model_path)


def test_what_is_no_reference_is_refused_before_the_first_batch(loaders, make_trainer, make_net, net):
    with pytest.raises(MisconfigurationException, match=r"InteractionMonitor\(reference=3\): give the folder"):
        monitor(reference=3)
    with pytest.raises(MisconfigurationException, match=r"InteractionMonitor\(reference=.*\): give the folder"):
        monitor(reference=[make_net(), None])
    with pytest.raises(ValueError, match=r"InteractionTrainerCallback\(reference='nowhere'\): give a folder or file"):
        InteractionTrainerCallback(PATCHES, None, reference="nowhere")
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(MisconfigurationException, match="holds the very weights that are trained"):
        fit(make_trainer(monitor(reference=net), logger=False), net, loaders)
    with pytest.raises(MisconfigurationException, match="has the same weights"):
        fit(make_trainer(monitor(reference=copy.deepcopy(net)), logger=False), net, loaders)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_rule_that_looks_at_references_needs_them(make_net):
    with pytest.raises(MisconfigurationException, match="give reference= too"):
        monitor(stop=GeneralizingShare())
    assert monitor(stop=GeneralizingShare(), reference=make_net()).stop == GeneralizingShare()


def test_transformers_runs_have_references_too(tmp_path):
    trained(tmp_path / "first", learning_rate=1e-2)
    reference = tmp_path / "first" / "interactions"
    _, watcher = trained(tmp_path / "second", callback={"reference": reference})
    assert all(0 < row.generalizing_share <= 1 for row in watcher.observer.history)


def bert():
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=44, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=16, num_labels=2,
        )
    )  # fmt: skip


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_an_optimizer_of_other_parameters_makes_none_for_a_twin():
    model = torch.nn.Linear(2, 2)
    flat = torch.optim.SGD([torch.nn.Parameter(torch.zeros(6))], 0.1)
    with pytest.raises(ValueError, match="holds other parameters than the model"):
        optimizer_like(flat, model, torch.nn.Linear(2, 2))


def test_a_transformers_run_with_twins_is_the_same_to_the_bit_and_goes_on_with_them(tmp_path, capsys):
    alone, _ = trained(tmp_path / "alone", watch=False)
    saving = {"save_strategy": "epoch", "save_total_limit": 5}
    twins = {"callback": {"reference": Twins(bert), "on_error": "raise"}}
    trainer, watcher = trained(tmp_path / "run", **twins, **saving)
    kept = weights(trainer.model)
    assert all(torch.equal(value, kept[name]) for name, value in alone.model.state_dict().items())
    assert "two twins are trained in step" in capsys.readouterr().out
    known = watcher.observer.twins
    assert (known.steps, known.failure) == (9, None)
    assert all(0 <= row.generalizing_share <= 1 for row in watcher.observer.history)
    assert not trainer.model._forward_pre_hooks
    fresh = Twins(bert).networks()
    for made, now in zip(fresh, known.networks, strict=True):
        assert any(not torch.equal(value, now.state_dict()[name]) for name, value in made.state_dict().items())
    groups = [[len(g["params"]) for g in each.param_groups] for each in (trainer.optimizer, known.optimizers[0][0])]
    assert groups[0] == groups[1]
    # From the second epoch's checkpoint it comes to the same twins.
    _, again = trained(tmp_path / "run", resume=str(tmp_path / "run" / "checkpoint-6"), **twins, **saving)
    for one, other in zip(known.networks, again.observer.twins.networks, strict=True):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


class Weighted(transformers.Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **_):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = torch.nn.functional.cross_entropy(outputs.logits, labels, weight=torch.tensor([0.2, 0.8]))
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize(("kind", "smoothing"), [(transformers.Trainer, 0.3), (Weighted, 0.0)])
def test_twins_learn_where_the_model_never_sees_the_labels(kind, smoothing, tmp_path):
    given = {"kind": kind, "label_smoothing_factor": smoothing, "learning_rate": 0.1}
    alone, _ = trained(tmp_path / "alone", watch=False, **given)
    twins = {"callback": {"reference": Twins(bert), "on_error": "raise"}}
    trainer, watcher = trained(tmp_path / "run", **twins, **given)
    assert all(torch.equal(value, weights(trainer.model)[name]) for name, value in alone.model.state_dict().items())
    known = watcher.observer.twins
    assert (known.steps, known.failure) == (9, None)
    assert "compute_loss" not in vars(trainer)
    # Of answers as wrong as they can get, smoothed labels make no loss of almost nothing.
    assert all(row.unseen_loss > smoothing / 2 for row in watcher.observer.history[1:])


class BreaksOff(transformers.TrainerCallback):
    """Saves the whole model, as many do, and is stopped by hand."""

    def on_step_end(self, args, state, control, model=None, **_):
        pickle.dumps(model)
        if state.global_step == 4:
            raise KeyboardInterrupt

    def on_train_begin(self, args, state, control, model=None, **_):
        self.model = model


def test_a_model_that_is_saved_or_left_half_trained_has_nothing_of_the_twins(tmp_path):
    stopped = BreaksOff()
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, callback={"reference": Twins(bert), "on_error": "raise"}, after=stopped)
    assert not any(part._forward_pre_hooks or "forward" in vars(part) for part in stopped.model.modules())


class Direct(transformers.Trainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        model.train()
        loss = model(**self._prepare_inputs(inputs)).loss
        self.accelerator.backward(loss)
        return loss.detach()


def test_twins_that_have_nothing_to_learn_from_are_named_and_not_compared(tmp_path):
    with pytest.warns(
        UserWarning, match=r"training the twins failed .*: training_step computes no loss by self\.compute"
    ):
        _, watcher = trained(tmp_path, kind=Direct, callback={"reference": Twins(bert)})
    assert watcher.observer.twins.steps == 0
    assert [row.generalizing_share is None for row in watcher.observer.history[1:]] == [True] * 3


def test_the_loss_of_twins_is_a_mean_over_the_tokens_of_their_halves(tmp_path):
    """A language model divides by the items of the whole step where it is told of these."""

    def gpt():
        sizes = {"n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=44, **sizes))

    data = [{**row, "labels": row["input_ids"]} for row in sentences(64)]
    probe = Probe({"input_ids": torch.stack([row["input_ids"][:-1] for row in data[:4]])}, torch.tensor([2] * 4))
    callback = {
        "probe": probe, "reference": Twins(gpt), "output": "next_token_log_odds", "forward_func": last_token_logits,
        "n_samples": 4, "on_error": "raise",
    }  # fmt: skip
    _, watcher = trained(
        tmp_path, model=gpt(), data=data[48:], train=data[:48], callback=callback,
        per_device_train_batch_size=4, gradient_accumulation_steps=4, learning_rate=1e-9,
    )  # fmt: skip
    assert watcher.observer.history[-1].unseen_loss == pytest.approx(math.log(44), rel=0.05)


def test_twins_that_a_checkpoint_lacks_are_not_compared_untrained(tmp_path):
    saving = {"save_strategy": "epoch", "save_total_limit": 5, "callback": {"reference": Twins(bert)}}
    trained(tmp_path, **saving)
    (tmp_path / "checkpoint-6").rename(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="going on with the twins failed .*checkpoint-6/interactions_twins.pt"):
        _, again = trained(tmp_path, resume=str(tmp_path / "elsewhere"), **saving)
    assert [row.generalizing_share is None for row in again.observer.history] == [False, False, False, True]
    # Without the record the twins of the checkpoint are there all the same.
    shutil.rmtree(tmp_path / "interactions")
    with pytest.warns(UserWarning, match="there is no record to go on with"):
        _, again = trained(tmp_path, resume=str(tmp_path / "checkpoint-3"), **saving)
    assert again.observer.twins.steps == 9


def told(share, epoch, **changes):
    return make_row(epoch, epoch, generalizing_share=share, **changes)


def test_the_verdict_says_from_when_the_share_sinks():
    shares = [0.2, 0.4, 0.57, 0.55, 0.45, 0.36]
    known = {"overfitting_epoch": 2, "overfitting_detected_epoch": 4, "overfitting_step": 2}
    rows = [told(share, epoch, **(known if epoch >= 4 else {})) for epoch, share in enumerate(shares)]
    begins = "over-fitting began at epoch 2 (known at 4): of what the network encodes 57% generalized, now 36%; "
    assert console.verdict(rows).startswith(begins)
    begins = "of what the network encodes 55% generalized in the end, 57% at epoch 2, and it has not clearly begun to"
    assert console.verdict(rows[:4]).startswith(begins)
    assert console.overfitting(History([make_row(0, 0)])) == ""
