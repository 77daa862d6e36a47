"""Every logger gets what it can show, a logger that fails stops nothing, and both names of Lightning work."""

import csv
import json
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, IterableDataset

from interaction_monitor import InteractionMonitor
from interaction_monitor.players import FeaturePatches, ImagePatches
from interaction_monitor.record import Record


def monitor(**overrides):
    settings = {"n_samples": 3, "interactions": "and"} | overrides
    return InteractionMonitor(FeaturePatches("features.2", grid=4, margin=0, n_players=3), **settings)


def test_csv_has_a_row_for_each_measurement(net, loaders, make_trainer, tmp_path):
    watch, logger = monitor(), CSVLogger(tmp_path)
    make_trainer(watch, logger=logger).fit(net, *loaders)
    with open(f"{logger.log_dir}/metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["interactions/mean_order"]]
    assert [float(row["interactions/epoch"]) for row in rows] == [0, 1, 2]
    assert [int(row["step"]) for row in rows] == [0, 3, 7]
    assert [float(row["interactions/mean_order"]) for row in rows] == watch.observer.history.column(
        "mean_order"
    ).tolist()
    assert all(float(row["interactions/measuring_per_training"]) > 0 for row in rows[1:])
    assert rows[0]["interactions/measuring_per_training"] == "", "there is no training before the first step"


def test_wandb_offline_gets_all_over_epochs(net, loaders, make_trainer, tmp_path, monkeypatch):
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="test")
    logged, defined = [], []
    monkeypatch.setattr(logger.experiment, "log", lambda values, **_: logged.append(values))
    monkeypatch.setattr(logger.experiment, "define_metric", lambda name, **options: defined.append((name, options)))
    watch = monitor()
    make_trainer(watch, logger=logger).fit(net, *loaders)
    verdict = logger.experiment.summary["interactions/verdict"]
    wandb.finish()
    assert verdict.startswith("3 measurements may be too few"), "of the whole run"
    histograms = [values["interactions/orders"] for values in logged if "interactions/orders" in values]
    assert [histogram.histogram for histogram in histograms] == [
        list(row.distribution) for row in watch.observer.history
    ]
    assert [histogram.bins for histogram in histograms] == [[0.5, 1.5, 2.5, 3.5]] * 3
    (guide,) = [values["interactions/how_to_read"] for values in logged if "interactions/how_to_read" in values]
    assert isinstance(guide, wandb.Html)
    assert ("interactions/*", {"step_metric": "interactions/epoch"}) in defined
    epochs = [values["interactions/epoch"] for values in logged if "interactions/mean_order" in values]
    assert epochs == [0, 1, 2]
    pictures = [values["interactions/story"] for values in logged if "interactions/story" in values]
    assert isinstance(pictures[-1][0], wandb.Image)
    assert tmp_path in watch.observer.record.folder.parents


def test_mlflow_local_store_gets_numbers_pictures_and_words(net, loaders, make_trainer, tmp_path, monkeypatch):
    from lightning.pytorch.loggers import MLFlowLogger

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    try:
        logger = MLFlowLogger(save_dir=str(tmp_path / "mlruns"))
        client, run = logger.experiment, logger.run_id
    except Exception as error:
        pytest.skip(f"no local store: {error}")
    make_trainer(monitor(), logger=logger).fit(net, *loaders)
    history = client.get_metric_history(run, "interactions/mean_order")
    assert [point.step for point in history] == [0, 3, 7]
    files = {Path(file.path).name for file in client.list_artifacts(run, "interactions")}
    assert files == {"how_to_read.md", "story_step_00000007.png", "what_carries_over_step_00000007.png"}
    assert client.get_run(run).data.tags["interactions/verdict"].startswith("3 measurements may be too few")


def test_several_loggers_get_the_same(net, loaders, make_trainer, tmp_path):
    board, table = TensorBoardLogger(tmp_path), CSVLogger(tmp_path)
    with pytest.warns(UserWarning, match="CSVLogger gets the numbers, but no pictures") as caught:
        make_trainer(monitor(), logger=[board, table]).fit(net, *loaders)
    assert sum("no pictures" in str(warning.message) for warning in caught) == 1
    events = EventAccumulator(board.log_dir, size_guidance={"images": 0}).Reload()
    assert [event.step for event in events.Scalars("interactions/mean_order")] == [0, 3, 7]
    assert "interactions/story" in events.Tags()["images"]


def caught_warnings(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [str(warning.message) for warning in caught if "InteractionMonitor" in str(warning.message)]


@pytest.mark.parametrize("kind", ["CSVLogger", "TensorBoardLogger", "MLFlowLogger", "CometLogger", "AimLogger"])
def test_a_logger_that_fails_stops_no_other(kind, net, loaders, make_trainer, tmp_path, monkeypatch):
    def gone(*_):
        raise ConnectionError("the server is gone")

    class Broken(OfExperiment, L.Callback):
        def on_fit_start(self, trainer, module):  # Lightning itself has asked for it by now
            Broken.experiment = property(gone)

        def log_metrics(self, metrics, step=None):
            if any(key.startswith("interactions") for key in metrics):
                gone()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "aim", SimpleNamespace(Image=list))
    Broken.__name__ = kind
    broken, board, watch = Broken(), TensorBoardLogger(tmp_path), monitor()
    trainer = make_trainer(broken, watch, logger=[broken, board])
    said = caught_warnings(lambda: trainer.fit(net, *loaders))
    assert sum(f"writing to {kind} failed and training goes on: ConnectionError" in text for text in said) == 1
    assert trainer.current_epoch == 2
    events = EventAccumulator(board.log_dir, size_guidance={"images": 0}).Reload()
    assert len(events.Scalars("interactions/mean_order")) == 3
    assert "interactions/story" in events.Tags()["images"]
    assert len(Record.open(watch.observer.record.folder).history) == 3


def test_pictures_that_fail_cost_the_pictures_only(net, loaders, make_trainer, monkeypatch):
    def fail(history):
        raise RuntimeError("no font")

    monkeypatch.setattr("interaction_monitor.plots.tensorboard.PICTURES", {"story": fail})
    trainer = make_trainer(monitor())
    said = caught_warnings(lambda: trainer.fit(net, *loaders))
    assert sum("drawing the pictures failed and training goes on" in text for text in said) == 1
    assert len(EventAccumulator(trainer.log_dir).Reload().Scalars("interactions/mean_order")) == 3


def test_the_other_lightning(digits, tmp_path):
    import pytorch_lightning as other

    class Net(other.LightningModule):
        def __init__(self):
            super().__init__()
            self.features = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
            self.head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 10))

        def forward(self, x):
            return self.head(self.features(x))

        def training_step(self, batch, batch_idx):
            loss = torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", torch.nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    patches = FeaturePatches("features.2", grid=3, margin=0, n_players=3)
    watch = InteractionMonitor(patches, n_samples=3)
    best = other.callbacks.ModelCheckpoint(
        tmp_path, monitor="interactions/mean_order", save_on_train_epoch_end=True, save_last=True
    )
    options = {"accelerator": "cpu", "enable_progress_bar": False, "logger": other.loggers.TensorBoardLogger(tmp_path)}
    loaders = [DataLoader(part, 50) for part in digits]
    trainer = other.Trainer(max_epochs=1, callbacks=[watch, best], **options)
    trainer.fit(Net(), *loaders)
    assert best.best_model_score is not None
    assert EventAccumulator(trainer.log_dir, size_guidance={"images": 0}).Reload().Tags()["images"]
    again = InteractionMonitor(patches, n_samples=3)
    other.Trainer(max_epochs=2, callbacks=[again], **options).fit(Net(), *loaders, ckpt_path=tmp_path / "last.ckpt")
    assert again.observer.history.epochs.tolist() == [0, 1, 2]


COMMAND_LINE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import torch
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader, TensorDataset
from networks import SmallNet

class Net(SmallNet):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.rand(20, 1, 8, 8), torch.arange(20) % 10), 10)
    val_dataloader = train_dataloader

cli = LightningCLI(Net, save_config_callback=None)
print("MEASURED", [c for c in cli.trainer.callbacks if hasattr(c, "observer")][0].observer.history.epochs.tolist())
"""


def test_the_command_line_makes_a_monitor_from_yaml(tmp_path):
    players = {"class_path": "interaction_monitor.players.FeaturePatches",
               "init_args": {"layer": "features.2", "grid": 4, "margin": 0, "n_players": 3}}  # fmt: skip
    arguments = {"players": players, "n_samples": 3, "interactions": "and", "stop_on_onset": True, "every_n_epochs": 2}
    config = {"trainer": {
        "max_epochs": 3, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
        "default_root_dir": str(tmp_path), "enable_progress_bar": False,
        "callbacks": [{"class_path": "interaction_monitor.InteractionMonitor", "init_args": arguments}],
    }}  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "main.py").write_text(COMMAND_LINE)
    tests = str(Path(__file__).parents[1])  # where the networks are
    done = subprocess.run(
        [sys.executable, "main.py", tests, "fit", "--config", "config.yaml"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "MEASURED [0, 2, 3]" in done.stdout, done.stderr[-3000:]


class Stream(IterableDataset):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return (self.data[index] for index in range(40))


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"limit_val_batches": 0}, [0, 1, 2]),
        ({"overfit_batches": 2}, [0, 1, 2]),
        ({"max_steps": 3}, [0, 1]),
        ({"check_val_every_n_epoch": 2}, [0, 1, 2]),
        ({"num_sanity_val_steps": 0}, [0, 1, 2]),
        ({"limit_train_batches": 1}, [0, 1, 2]),
        ({"val_check_interval": 2}, [0, 1, 2]),
        ({"reload_dataloaders_every_n_epochs": 1}, [0, 1, 2]),
    ],
    ids=str,
)
def test_each_way_to_limit_a_run(net, loaders, make_trainer, options, epochs):
    watch = monitor()
    make_trainer(watch, logger=False, **options).fit(net, *loaders)
    assert watch.observer.history.epochs.tolist() == epochs


def test_a_fast_dev_run_measures_and_leaves_nothing(net, loaders, make_trainer, tmp_path):
    watch = monitor()
    trainer = make_trainer(watch, fast_dev_run=True)
    assert caught_warnings(lambda: trainer.fit(net, *loaders)) == []
    assert watch.observer.history.epochs.tolist() == [0, 1]
    assert not list(tmp_path.rglob("run.json"))


def test_streams_are_measured(net, digits, make_trainer):
    watch = monitor()
    loaders = [DataLoader(Stream(part), 10) for part in digits]
    make_trainer(watch, logger=False, num_sanity_val_steps=0).fit(net, *loaders)
    assert watch.observer.history.epochs.tolist() == [0, 1, 2]


def test_validating_and_testing_alone_measure_nothing(net, loaders, make_trainer):
    net.test_step = net.validation_step
    watch = monitor()
    trainer = make_trainer(watch, logger=False)
    trainer.validate(net, loaders[1], verbose=False)
    trainer.test(net, loaders[1], verbose=False)
    assert watch.observer is None
    trainer.fit(net, *loaders)
    trainer.test(net, loaders[1], verbose=False)
    assert watch.observer.history.epochs.tolist() == [0, 1, 2]


def test_tuners_are_left_alone(net, loaders, make_trainer):
    watch = monitor()
    trainer = make_trainer(watch, logger=False)
    L.pytorch.tuner.Tuner(trainer).lr_find(net, *loaders, num_training=5, attr_name="learning_rate")
    assert watch.observer is None
    trainer.fit(net, *loaders)
    assert watch.observer.history.epochs.tolist() == [0, 1, 2]


def test_several_monitors_keep_apart(net, loaders, make_trainer, tmp_path):
    one = monitor()
    two = InteractionMonitor(ImagePatches(grid=4, margin=0, n_players=2), n_samples=4, name="pixels")
    logger = CSVLogger(tmp_path)
    make_trainer(one, two, logger=logger).fit(net, *loaders)
    with open(f"{logger.log_dir}/metrics.csv") as file:
        assert {"interactions/mean_order", "pixels/mean_order"} <= set(csv.DictReader(file).fieldnames)
    folders = [watch.observer.record.folder for watch in (one, two)]
    assert [Record.open(folder).n_players for folder in folders] == [3, 2]
    assert json.dumps(one.state_dict(), default=lambda _: None) != json.dumps(two.state_dict(), default=lambda _: None)


class Experiment:
    """Takes what Comet's experiment and Aim's run take, by their signatures."""

    def __init__(self):
        self.taken = []

    def log_metrics(self, metrics, step=None, epoch=None, prefix=None):
        self.taken.append(("metrics", dict(metrics), step))

    def log_figure(self, figure_name=None, figure=None, overwrite=False, step=None):
        self.taken.append(("figure", figure_name, step))

    def log_html(self, html, clear=False):
        self.taken.append(("html", html))

    def log_other(self, key, value):
        self.taken.append(("other", key, value))

    def log_histogram_3d(self, values, name=None, step=None, epoch=None, metadata=None):
        self.taken.append(("histogram", name, np.unique(values, return_counts=True), step))

    def track(self, value, name=None, step=None, epoch=None, *, context=None):
        self.taken.append((type(value).__name__, name, value, step))


class OfExperiment(L.pytorch.loggers.logger.Logger):
    name, version, save_dir = "made-up", "0", "."

    def __init__(self):
        self.experiment = Experiment()

    def log_metrics(self, metrics, step=None):
        self.experiment.log_metrics(metrics, step=step)

    def log_hyperparams(self, *_, **__):
        pass


def fit_with(kind, net, loaders, make_trainer):
    watch, logger = monitor(on_error="raise"), type(kind, (OfExperiment,), {})()
    make_trainer(watch, logger=logger).fit(net, *loaders)
    return watch.observer.history, logger.experiment.taken


def test_comet_gets_numbers_histograms_pictures_and_words(net, loaders, make_trainer, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    history, taken = fit_with("CometLogger", net, loaders, make_trainer)
    assert [entry[1:] for entry in taken if entry[0] == "figure"] == [
        ("interactions/story", 7),
        ("interactions/what_carries_over", 7),
    ]
    assert sum("What this monitor shows" in entry[1] for entry in taken if entry[0] == "html") == 1
    last = [entry for entry in taken if entry[0] == "other"][-1]
    assert last[1] == "interactions/verdict"
    assert last[2].startswith("3 measurements may be too few")
    histograms = [entry for entry in taken if entry[0] == "histogram"]
    assert [(name, step) for _, name, _, step in histograms] == [("interactions/orders", step) for step in (0, 3, 7)]
    for (_, _, (orders, counts), _), row in zip(histograms, history, strict=True):
        shares = dict(zip(orders.tolist(), counts.tolist(), strict=True))
        for order, part in enumerate(row.distribution, start=1):
            assert shares.get(order, 0) == pytest.approx(1000 * part / 3, abs=0.5)


def test_aim_gets_numbers_distributions_pictures_and_words(net, loaders, make_trainer, monkeypatch, tmp_path):
    class Distribution:
        def __init__(self, samples=None, bin_count=64, *, hist=None, bin_range=None):
            self.hist, self.bin_range = list(hist), bin_range

    class Image:
        def __init__(self, image, caption=""):
            self.shape = image.shape

    class Text:
        def __init__(self, text):
            self.text = text

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "aim", SimpleNamespace(Distribution=Distribution, Image=Image, Text=Text))
    history, taken = fit_with("AimLogger", net, loaders, make_trainer)
    tracked = {(kind, name) for kind, name, *_ in taken if kind != "metrics"}
    assert tracked == {
        ("Distribution", "interactions/orders"),
        ("Image", "interactions/story"),
        ("Image", "interactions/what_carries_over"),
        ("Text", "interactions/how_to_read"),
        ("Text", "interactions/verdict"),
    }
    distributions = [(value.hist, value.bin_range, step) for kind, _, value, *step in taken if kind == "Distribution"]
    steps = [[0], [3], [7]]
    assert distributions == [
        (list(row.distribution), (0.5, 3.5), step) for row, step in zip(history, steps, strict=True)
    ]
    verdicts = [(value.text, step) for kind, name, value, *step in taken if name == "interactions/verdict"]
    assert verdicts[-1][0].startswith("3 measurements may be too few")
    assert verdicts[-1][1] == [7]


def test_the_last_verdict_in_tensorboard_is_that_on_the_run(net, loaders, make_trainer, tmp_path):
    board = TensorBoardLogger(tmp_path)
    make_trainer(monitor(), logger=board).fit(net, *loaders)
    texts = (
        EventAccumulator(board.log_dir, size_guidance={"tensors": 0})
        .Reload()
        .Tensors("interactions/verdict/text_summary")
    )
    assert texts[-1].tensor_proto.string_val[0].decode().startswith("3 measurements may be too few")
    steps = [event.step for event in texts]
    assert len(steps) == len(set(steps))


@pytest.mark.parametrize("kind", ["TQDMProgressBar", "RichProgressBar", None])
def test_every_line_appears_beside_any_progress_bar(net, loaders, make_trainer, kind, capsys):
    bars = [] if kind is None else [getattr(L.pytorch.callbacks, kind)()]
    watch = monitor()  # before the bar, which has not begun to show anything at the first line
    make_trainer(watch, *bars, enable_progress_bar=bool(bars), logger=False).fit(net, *loaders)
    shown = capsys.readouterr()
    shown = " ".join((shown.out + shown.err).split())
    for text in (
        "epoch 0 mean order",
        "epoch 2 mean order",
        "has no logger, so the run is only recorded",
        "interactions: recorded in ",
    ):
        assert shown.count(text) == 1, text
