"""How far something has come is shown beside other bars, and nowhere that nobody looks."""

import io
import re
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from torch import nn

from interaction_monitor import InteractionMonitor, Probe, assign_players, measure
from interaction_monitor.players import FeaturePatches, ImagePatches
from interaction_monitor.progress_bar import counted, progress, shown_by, terminal_bar, transformers_bars


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Bars:
    """Keeps what would be shown."""

    def __init__(self):
        self.opened = []
        self.done = []
        self.n_closed = 0

    def __call__(self, what, total):
        self.opened.append((what, total))
        self.done.append(0)
        return self

    def update(self, n):
        self.done[-1] += n

    def close(self):
        self.n_closed += 1


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr("interaction_monitor.progress_bar.DELAY", -1.0)


def test_what_is_over_soon_shows_nothing():
    bars = Bars()
    with shown_by(bars):
        assert list(counted("numbers", range(3))) == [0, 1, 2]
    assert bars.opened == []


def test_what_takes_long_is_shown_from_then_on(monkeypatch):
    bars, clock = Bars(), iter([0.0, 1.0, 2.5, 3.0, 4.0])
    monkeypatch.setattr("interaction_monitor.progress_bar.time.monotonic", lambda: next(clock))
    with shown_by(bars):
        seen = [(number, list(bars.done)) for number in counted("numbers", range(4))]
    assert bars.opened == [("numbers", 4)]
    assert seen == [(0, []), (1, []), (2, [2]), (3, [3])]
    assert (bars.done, bars.n_closed) == ([4], 1)


def test_a_bar_is_closed_after_a_failure(at_once):
    bars = Bars()

    def fail():
        with progress("numbers", 3) as at:
            at(1)
            raise KeyError("no")

    with shown_by(bars), pytest.raises(KeyError):
        fail()
    assert bars.n_closed == 1


@pytest.mark.parametrize("method", ["__call__", "update", "close"])
def test_a_bar_that_fails_ends_nothing(at_once, method):
    def fail(*_):
        raise BrokenPipeError("the terminal is gone")

    bars = type("Broken", (Bars,), {method: fail})()
    with shown_by(bars):
        assert list(counted("numbers", range(3))) == [0, 1, 2]


@pytest.mark.parametrize("bar", [None, TQDMProgressBar, RichProgressBar])
def test_a_line_that_nobody_can_read_ends_nothing(bar, monkeypatch, make_trainer, make_net, loaders):
    def lost(*_):
        raise BrokenPipeError("the terminal is gone")

    shown = [] if bar is None else [bar()]
    for each in shown:
        monkeypatch.setattr(each, "print", lost)
    monkeypatch.setattr("tqdm.tqdm.write", lost)
    monkeypatch.setattr("builtins.print", lost)
    players = FeaturePatches("features.1", grid=4, margin=0, n_players=3)
    monitor = InteractionMonitor(players, n_samples=3, interactions="and", on_error="raise")
    options = {"enable_progress_bar": bar is not None, "enable_model_summary": False}
    make_trainer(monitor, *shown, max_epochs=2, **options).fit(make_net(), *loaders)
    assert len(monitor.observer.history) == 3


def test_a_file_gets_nothing_and_a_terminal_a_bar_that_goes_away(monkeypatch):
    monkeypatch.setattr("interaction_monitor.progress_bar.find_spec", lambda _: None)
    assert terminal_bar("forwards", 10, file=io.StringIO()) is None
    terminal = Terminal()
    bar = terminal_bar("forwards", 10, file=terminal)
    bar.update(5)
    bar.refresh()
    assert re.search(r"forwards:  50%.*5/10", terminal.getvalue())
    bar.close()
    assert terminal.getvalue().rpartition("\r")[0].rpartition("\r")[2].strip() == "", "the line is empty"


def test_a_measurement_tells_of_its_forwards_and_its_extraction(at_once):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    probe = Probe(torch.rand(5, 1, 8, 8), torch.arange(5))
    players = assign_players(model, ImagePatches(grid=4, margin=0, n_players=4), probe)
    bars = Bars()
    with shown_by(bars):
        measure(model, probe, players)
    assert bars.opened == [("masked forwards", 5 * 16), ("extraction, samples", 5)]
    assert bars.done == [5 * 16, 5]
    assert bars.n_closed == 2


def fit(net, loaders, make_trainer, *bars, **options):
    monitor = InteractionMonitor(FeaturePatches("features.2", grid=4, margin=0, n_players=3), n_samples=3)
    make_trainer(monitor, *bars, logger=False, enable_progress_bar=bool(bars), **options).fit(net, *loaders)


def test_it_is_shown_below_the_trainers_bar(net, loaders, make_trainer, at_once, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    fit(net, loaders, make_trainer, TQDMProgressBar())
    shown = terminal.getvalue()
    assert shown.count("interactions: masked forwards:") >= 3, "at the start and after each of two epochs"
    assert "\ninteractions: masked forwards:" in shown.replace("\r", ""), "on a line of its own"
    assert "Epoch 1: 100%" in shown


def test_it_is_a_line_in_richs_display(net, loaders, make_trainer, at_once):
    terminal = Terminal()
    bar = RichProgressBar(console_kwargs={"file": terminal, "force_terminal": True, "width": 120})
    held = []
    bar.on_train_end = lambda trainer, module: held.extend(bar.progress.tasks)
    fit(net, loaders, make_trainer, bar)
    assert "interactions: masked forwards" in terminal.getvalue()
    ours = [task for task in held if task.fields.get("interaction_monitor")]
    assert [(task.visible, task.description) for task in ours] == [(False, "interactions: extraction, samples")]
    assert [task.id for task in held] == list(range(len(held))), "Lightning finds its own by their place"


@pytest.mark.parametrize("kind", ["off", "none", "a file"])
def test_where_the_trainer_shows_no_bars_neither_does_the_monitor(
    net, loaders, make_trainer, at_once, monkeypatch, kind
):
    written = io.StringIO() if kind == "a file" else Terminal()
    monkeypatch.setattr("sys.stdout", written)
    monkeypatch.setattr("sys.stderr", written)
    bars = [] if kind == "none" else [TQDMProgressBar(refresh_rate=0 if kind == "off" else 1)]
    fit(net, loaders, make_trainer, *bars)
    assert "masked forwards:" not in written.getvalue()


@pytest.mark.parametrize("off", [True, False])
def test_the_trainer_of_transformers_turns_it_off_with_its_own_bars(monkeypatch, off):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("interaction_monitor.progress_bar.find_spec", lambda _: None)
    bar = transformers_bars(SimpleNamespace(disable_tqdm=off), "interactions")("masked forwards", 10)
    assert (bar is None) == off
    assert ("interactions: masked forwards:" in terminal.getvalue()) != off
    if bar is not None:
        bar.close()
