"""A plain loop watches its network by an observer."""

import pytest
import torch
from torch import nn

from interaction_monitor import Observer, Probe, Record, assign_players
from interaction_monitor.players import ImagePatches, PlayerMap


@pytest.fixture
def setting():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    probe = Probe(torch.rand(3, 1, 4, 4), torch.arange(3))
    return model, probe, assign_players(model, ImagePatches(grid=4, margin=0, n_players=4), probe)


def loop(model, probe, players, folder):
    observer = Observer(probe, players, interactions="and", record=folder)
    for epoch in range(3):
        observer.observe(model, epoch=epoch, step=epoch)
    return observer


def test_a_loop_that_runs_twice_keeps_both_records(setting, tmp_path):
    first = loop(*setting, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    second = loop(*setting, str(tmp_path / "run"))
    assert (first.record.folder, second.record.folder) == (tmp_path / "run", tmp_path / "run_1")
    assert {path: path.read_bytes() for path in before} == before
    for observer in (first, second):
        record = Record.open(observer.record.folder)
        assert record.history == observer.history
        assert record.settings["interactions"] == "and"
        assert record.settings["thresholds"]["saliency"] == 0.03


def test_a_loop_that_measures_nothing_leaves_no_folder(setting, tmp_path):
    _, probe, players = setting
    assert Observer(probe, players, record=tmp_path / "run").record is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("record", [3, ["run"]])
def test_what_is_no_place_for_a_record_is_refused(setting, record):
    _, probe, players = setting
    with pytest.raises(TypeError, match=r"Observer\(record=.*give a folder, a Record, or None"):
        Observer(probe, players, record=record)


def test_too_many_players_are_refused_before_anything_is_measured():
    probe = Probe(torch.rand(2, 20), torch.arange(2))
    players = PlayerMap(torch.arange(20).repeat(2, 1), n_players=20, axes=(1,))
    with pytest.raises(ValueError, match=r"n_players=20 is more than the 16 .*interactions='and'"):
        Observer(probe, players)
    assert Observer(probe, players, interactions="and").players.n_players == 20
