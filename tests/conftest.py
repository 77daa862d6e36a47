"""What several test files need: a small network on real digits, and a trainer that leaves nothing behind."""

import shutil

import lightning as L
import pytest
import torch
from hypothesis import settings
from networks import SmallNet
from sklearn.datasets import load_digits
from tensorboard.summary.writer import event_file_writer
from torch.utils.data import DataLoader, TensorDataset

# TensorBoard reads a run's files by name: a whole second, then this counter as text, of which "10" sorts before "9".
event_file_writer._global_uid = event_file_writer.AtomicCounter(1000)

# The ways are imported once, by test_ways.py: each puts its own into a table. The script needs DeepSpeed.
collect_ignore = ["ways", "zero_script.py"]

# The same examples on every machine: who runs the tests of an unchanged tree twice reads the same answer twice.
settings.register_profile("repeatable", derandomize=True, deadline=None)  # how long a test takes says nothing
settings.load_profile("repeatable")


@pytest.fixture
def make_net():
    return SmallNet


@pytest.fixture
def net():
    torch.manual_seed(0)
    return SmallNet()


@pytest.fixture(scope="session")
def digits():
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    return TensorDataset(x[:200], y[:200]), TensorDataset(x[1500:1600], y[1500:1600])


@pytest.fixture
def loaders(digits):
    train, test = digits
    return DataLoader(train, batch_size=50, shuffle=True), DataLoader(test, batch_size=50)


@pytest.fixture
def make_trainer(tmp_path):
    def make(*callbacks, **overrides):
        settings = {
            "max_epochs": 2,
            "accelerator": "cpu",
            "default_root_dir": tmp_path,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
        } | overrides
        return L.Trainer(callbacks=list(callbacks), **settings)

    return make


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the pictures of a run, which take seconds."""
    monkeypatch.setattr("interaction_monitor.callbacks.loggers.Loggers.draw", lambda *_, **__: None)


@pytest.fixture
def browser():
    """A headless Chromium, where there is one."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for found in map(shutil.which, names) if found), None)
    if path is None:
        pytest.skip("no Chromium on the path")
    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=options)
        yield started
        started.close()


@pytest.fixture
def planted_run(tmp_path, make_planted_run):
    def make(folder=None, **given):
        return make_planted_run(folder or tmp_path / "run" / "interactions", **given)

    return make


@pytest.fixture(scope="session")
def make_planted_run():
    """Make the record of a run whose second phase is the theory's prediction at known noise levels.

    The last level is the final network; what comes before the levels is a phase one of rising noise.
    """
    from interaction_monitor.functional import (
        and_outputs,
        mean_order,
        or_outputs,
        order_distribution,
        order_strength,
        orders,
    )
    from interaction_monitor.history.row import summarise
    from interaction_monitor.measurement import Measurement
    from interaction_monitor.phases import PhaseState
    from interaction_monitor.players.player_map import PlayerMap
    from interaction_monitor.probe import Probe
    from interaction_monitor.record import Record
    from interaction_monitor.theory import predict_and_or

    def make(
        folder, *, levels=(0.3, 0.03, 1e-3, 0.0), n=5, samples=12, onset=2, names=None, kind="and-or",
        one_epoch=False, **more
    ):  # fmt: skip
        single = [1 << i for i in range(n)]
        generator = torch.Generator().manual_seed(0)

        def draw(scale=1.0):
            drawn = torch.randn(samples, 2**n, generator=generator, dtype=torch.float64)
            drawn = drawn * (torch.rand(drawn.shape, generator=generator) < 0.5) / 2.0 ** orders(n)
            drawn[:, 0] = 0
            return scale * drawn

        and_, or_ = draw(), draw(0.0 if kind == "and" else 1.0)
        or_[:, single] = 0
        predictions = [(p.and_, p.or_) for p in (predict_and_or(and_, or_, level) for level in levels)]
        for predicted_and, predicted_or in predictions:  # as the extraction does it, order one belongs to AND
            predicted_and[:, single] += predicted_or[:, single]
            predicted_or[:, single] = 0
        noise = torch.randn(samples, 2**n, generator=generator, dtype=torch.float64)
        pairs = [(noise, 0 * or_), (0.3 * noise + and_, or_), *predictions]
        cells = torch.stack([torch.randperm(16, generator=generator)[:n] for _ in range(samples)])
        labels = torch.full((samples, 16), -1).scatter_(1, cells, torch.arange(n).repeat(samples, 1))
        given = {
            "settings": {"output": "log_odds", "interactions": kind, "players": "ImagePatches(grid=4)"},
            "players": PlayerMap(labels.reshape(samples, 4, 4), n_players=n, axes=(2, 3), names=names),
            "probe": Probe(torch.rand(samples, 1, 8, 8, generator=generator), torch.arange(samples) % 3),
        } | more
        record = Record.create(folder, **given)
        for epoch, (and_, or_) in enumerate(pairs):
            tau = 0.03 * float((and_.sum(-1) - and_[:, 0] + or_.sum(-1)).abs().mean())
            strength = order_strength(and_, or_, tau)
            measurement = Measurement(
                v=and_outputs(and_) + or_outputs(or_), and_=and_, or_=or_, gap=torch.full((samples,), 2e-3).double(),
                valid=torch.ones(samples, dtype=torch.bool), tau=tau, strength=strength,
                distribution=order_distribution(strength), mean_order=float(mean_order(strength)),
                forward_seconds=0.1, extraction_seconds=0.2,
            )  # fmt: skip
            known = onset is not None and epoch > onset

            def known_epoch(onset, later=0, known=known):
                return (0 if one_epoch else onset + later) if known else None

            state = PhaseState(
                phase="initial" if epoch == 0 else "two" if known else "one",
                onset_epoch=known_epoch(onset),
                detected_epoch=known_epoch(onset, 1),
                gap_onset_epoch=known_epoch(onset, 1),
                gap_detected_epoch=known_epoch(onset, 1),
                fall=1.0,
                rise=1.0,
                onset_step=10 * onset if known else None,
                detected_step=10 * onset + 10 if known else None,
                gap_onset_step=10 * onset + 10 if known else None,
            )
            losses = {"train_loss": 2.0 / (1 + epoch), "test_loss": 2.1 / (1 + epoch) + 0.1 * epoch}
            record.write(
                measurement, summarise(measurement, state, epoch=0 if one_epoch else epoch, step=10 * epoch, **losses)
            )
        return record

    return make
