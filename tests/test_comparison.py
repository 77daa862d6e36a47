"""Comparing networks: what it finds, what it refuses, its pictures and its command."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from interaction_monitor import Probe, cli
from interaction_monitor.comparison import Extraction, NotComparableError, compare, compare_outputs, figures, words
from interaction_monitor.functional import and_outputs, generalization_curve, or_outputs, sparsest_and_or
from interaction_monitor.history import Row
from interaction_monitor.measurement import interpret
from interaction_monitor.players.base import PlayerMap
from interaction_monitor.record import Record

N, SAMPLES = 5, 6
NAMES = tuple(tuple(f"word{player}" for player in range(N)) for _ in range(SAMPLES))


def outputs(seed: int, own: float = 1.0) -> Tensor:
    """A network with five patterns of each sample's own that all networks have, and two of the network's."""
    interactions = torch.zeros(2, SAMPLES, 2**N, dtype=torch.float64)
    for generator_seed, strength, count in ((0, 1.0, 5), (seed + 1, own, 2)):
        generator = torch.Generator().manual_seed(generator_seed)
        places = torch.rand(2, SAMPLES, 2**N, generator=generator).topk(count).indices
        effects = strength * torch.randn(2, SAMPLES, count, generator=generator, dtype=torch.float64)
        interactions.scatter_add_(2, places, effects)
    return and_outputs(interactions[0]) + or_outputs(interactions[1])


@pytest.fixture
def record(tmp_path):
    def make(name: str, *outputs_by_epoch: Tensor, settings=None, players=None, probe=None) -> Record:
        players = players or PlayerMap(torch.arange(N).repeat(SAMPLES, 1), n_players=N, axes=(1,), names=NAMES)
        probe = probe or Probe(torch.arange(SAMPLES * N).reshape(SAMPLES, N).float(), torch.arange(SAMPLES))
        made = Record.create(tmp_path / name, settings=settings or {"output": "log_odds"}, players=players, probe=probe)
        for epoch, v in enumerate(outputs_by_epoch):
            measured = interpret(v)
            row = Row(
                epoch=10 * epoch, step=epoch, distribution=tuple(measured.distribution.tolist()),
                strength=tuple(measured.strength.nanmean(0).tolist()), mean_order=measured.mean_order,
                mean_order_low=1.0, mean_order_high=2.0, high_order_share=0.1, n_salient=3.0, tau=measured.tau,
                output_change=1.0, solver_gap=0.0, seconds=0.1, n_valid=int(measured.valid.sum()), phase="one",
                onset_epoch=None, detected_epoch=None, gap_onset_epoch=None, train_loss=None, test_loss=None,
            )  # fmt: skip
            made.write(measured, row)
        return made

    return make


def test_shared_extraction_shares_more_and_the_control_less():
    result = compare_outputs(torch.stack((outputs(1), outputs(2))))
    alone, shared, control = (
        generalization_curve(extraction.and_, [5], floor=1e-3).nanmean()
        for extraction in (result.alone, result.shared, result.control)
    )
    assert shared > alone
    assert shared > control
    torch.testing.assert_close(result.alone.and_[1], sparsest_and_or(outputs(2)).and_)
    assert result.names == ("network 0", "network 1")
    assert (result.gap <= 1e-2).all()


def test_equal_networks_share_all_in_every_table():
    result = compare_outputs(outputs(1).repeat(3, 1, 1), names=["a", "b", "c"])
    ks = words.strengths_of_interest(N)
    for extraction in result.extractions[:3]:
        assert words.powers(extraction, ks) == ([1.0] * len(ks), [1.0] * len(ks))
        every, shared = words.shared_by_order(extraction)
        assert every == pytest.approx(shared)
    text = words.table(result)
    assert "1.00 / 1.00" in text
    assert "100%" in text
    assert all("nan" not in line for line in [*text.splitlines()[:6], *words.findings(result)])


def test_sign_agreement_counts_what_is_shared():
    effects = torch.tensor([[[9.0, 3.0, -2.0, 1.0]], [[9.0, 3.0, 2.0, 0.0]]])
    extraction = Extraction("", effects, torch.zeros_like(effects))
    assert words.sign_agreement(extraction, 2) == 0.5
    assert words.sign_agreement(extraction, 1) == 1.0
    nothing = Extraction("", torch.zeros(2, 1, 4), torch.zeros(2, 1, 4))
    assert math.isnan(words.sign_agreement(nothing, 2))


def test_leaves_out_samples_that_one_network_has_no_outputs_for():
    v = torch.stack((outputs(1), outputs(2)))
    v[1, 2, 3] = math.nan
    result = compare_outputs(v, player_names=NAMES)
    assert result.samples == (0, 1, 3, 4, 5)
    assert result.v.isfinite().all()
    assert result.v.shape == (2, 5, 2**N)
    with pytest.raises(NotComparableError, match="no sample has finite outputs"):
        compare_outputs(torch.full((2, 3, 8), math.nan))
    with pytest.raises(NotComparableError, match="at least two networks"):
        compare_outputs(v[:1])
    with pytest.raises(NotComparableError, match="3 names are given for 2 networks"):
        compare_outputs(v, names=["a", "b", "c"])


def test_one_sample_has_no_control():
    result = compare_outputs(torch.stack((outputs(1), outputs(2)))[:, :1])
    assert result.control is None
    assert not any("unrelated" in sentence for sentence in words.findings(result))


def test_records_give_their_last_or_the_asked_measurement(record):
    first, second = record("a", outputs(1), outputs(2)), record("b", outputs(3))
    result = compare([first, second])
    torch.testing.assert_close(result.v, torch.stack((outputs(2), outputs(3))))
    assert result.names[0].endswith("a, epoch 10")
    assert result.player_name(0, 3) == "word3"
    torch.testing.assert_close(compare([first, second], epochs=0).v[0], outputs(1))
    over_time = compare([first, first], epochs=[0, 10])
    torch.testing.assert_close(over_time.v, torch.stack((outputs(1), outputs(2))))
    with pytest.raises(NotComparableError, match="no measurement at epoch 7; there are 0, 10"):
        compare([first, second], epochs=[7, 0])
    with pytest.raises(NotComparableError, match="3 epochs are given for 2 records"):
        compare([first, second], epochs=[0, 0, 0])
    with pytest.raises(NotComparableError, match="at least two records, but there is 1"):
        compare([first])
    with pytest.raises(NotComparableError, match="holds no measurement"):
        compare([first, record("empty")])


def test_refuses_records_of_other_samples_or_players_and_says_what_differs(record):
    usual = record("usual", outputs(1))
    players = usual.players
    probe = Probe(usual.probe_inputs, usual.probe_targets)
    swapped = players.labels.flip(1)
    others = {
        "the output: log_odds and loss": record("1", outputs(2), settings={"output": "loss"}),
        "the probe samples": record("2", outputs(2), probe=Probe(probe.inputs + 1, probe.targets)),
        "the targets": record("3", outputs(2), probe=Probe(probe.inputs, probe.targets.flip(0))),
        "which positions the players have": record("4", outputs(2), players=replace(players, labels=swapped)),
        "the baseline": record("5", outputs(2), players=replace(players, baseline=1.0)),
        "the masked layer: the input and conv": record("6", outputs(2), players=replace(players, layer="conv")),
        "the number of players: 5 and 4": record(
            "7", players=PlayerMap(torch.arange(N).repeat(SAMPLES, 1) % 4, n_players=4, axes=(1,))
        ),
    }  # fmt: skip
    for what, other in others.items():
        with pytest.raises(NotComparableError, match=f"usual and .* differ in {what}"):
            compare([usual, other])


def test_pictures_show_what_the_tables_say():
    result = compare_outputs(torch.stack((outputs(1), outputs(2))), names=["small", "large"], player_names=NAMES)
    ks = words.strengths_of_interest(N)
    and_axes, or_axes = figures.generalization(result).axes
    for kind, ax in enumerate((and_axes, or_axes)):
        drawn = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
        assert drawn == {extraction.name: words.powers(extraction, ks)[kind] for extraction in result.extractions}
    assert [ax.get_title(loc="left") for ax in figures.sparsity(result).axes] == ["small", "large"]
    heights = [patch.get_height() for patch in figures.orders(result).axes[2].patches]
    shared = [sum(abs(h) for h in heights[2 * N :])]
    assert len(heights) == 4 * N
    assert shared[0] <= sum(abs(h) for h in heights[: 2 * N])
    labels = [label.get_text() for label in figures.patterns(result, 2).axes[1].get_yticklabels()]
    assert labels
    assert all("word" in label for label in labels)
    assert any(" ∧ " in label or " ∨ " in label for label in labels)


def test_pictures_stand_networks_that_share_nothing_or_do_nothing():
    apart = torch.zeros(2, 3, 8, dtype=torch.float64)
    apart[0, 1:, 1::2] = 1.0  # player 0 against player 1; the first sample is constant
    apart[1, 1:, 2::4] = apart[1, 1:, 3::4] = 1.0
    result = compare_outputs(apart)
    for picture in figures.PICTURES.values():
        picture(result).canvas.draw()
    words.table(result)
    words.findings(result)


def refused(capsys, *argv) -> str:
    assert cli.main(["compare", *map(str, argv)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_the_command_writes_tables_pictures_and_tensorboard(record, tmp_path: Path, capsys):
    first, second = record("a", outputs(1), outputs(2)), record("b", outputs(3))
    out = tmp_path / "out"
    assert cli.main(["compare", str(first.folder), "--epoch", "0", "10", "--out", str(out)]) == 0
    assert "epoch 0" in capsys.readouterr().out
    # replaces what the first wrote
    assert cli.main(["compare", str(first.folder), str(second.folder), "--out", str(out), "--sample", "1"]) == 0
    printed = capsys.readouterr().out
    assert words.table(compare([first, second])) in printed
    assert (out / "comparison.txt").read_text(encoding="utf-8").strip() in printed
    assert {path.stem for path in out.glob("*.png")} == set(figures.PICTURES)
    events = EventAccumulator(str(out)).Reload()
    assert len(events.Scalars("comparison/s_and/shared")) == len(words.strengths_of_interest(N))
    assert set(events.Tags()["images"]) == {f"comparison/{name}" for name in figures.PICTURES}


def test_the_command_says_what_to_do(record, tmp_path: Path, capsys):
    first, second = record("a", outputs(1)), record("b", outputs(3), settings={"output": "loss"})
    out = ["--out", tmp_path / "out"]
    assert "two runs or more, or one run and several --epoch" in refused(capsys, first.folder, *out)
    assert "differ in the output" in refused(capsys, first.folder, second.folder, *out)
    assert "--alpha must lie between 0 and 1, but is 2.0" in refused(capsys, first.folder, "--alpha", 2, *out)
    third = record("c", outputs(4))
    assert "no measurement at epoch 5" in refused(capsys, first.folder, third.folder, "--epoch", 5, *out)
    assert "--sample must lie between 0 and 5" in refused(capsys, first.folder, third.folder, "--sample", 6, *out)
    assert "is no folder" in refused(capsys, first.folder, tmp_path / "nowhere", *out)
