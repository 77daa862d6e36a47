"""Comparing networks: what it finds, what it refuses, its pictures and its command."""

from __future__ import annotations

import io
import itertools
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from rows import make_row
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from interaction_monitor import Probe, cli
from interaction_monitor.comparison import (
    Counting,
    Extraction,
    Measured,
    Network,
    NotComparableError,
    ablate,
    compare,
    compare_networks,
    compare_outputs,
    extract_again,
    read_published,
    require_comparable,
)
from interaction_monitor.forward import masked_outputs
from interaction_monitor.functional import (
    and_outputs,
    generalization_curve,
    matching_precision_curve,
    or_outputs,
    order_one_as_and,
    shared_and_or,
    sparsest_and_or,
)
from interaction_monitor.measurement import interpret
from interaction_monitor.players import Segments
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.plots import comparison_figures, comparison_text, sample_figures
from interaction_monitor.record import Record
from interaction_monitor.report import comparison_page

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
            row = make_row(
                10 * epoch,
                epoch,
                distribution=tuple(measured.distribution.tolist()),
                strength=tuple(measured.strength.nanmean(0).tolist()),
                mean_order=measured.mean_order,
                tau=measured.tau,
                n_valid=int(measured.valid.sum()),
            )
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
    ks = compare_outputs(torch.rand(2, 1, 2**N)).ks
    for extraction in result.extractions[:3]:
        and_, or_ = comparison_text.powers(extraction, ks)
        assert and_ == [1.0] * len(ks)
        assert or_ == [1.0] * len(ks) or extraction is result.harsanyi
        every, shared = comparison_text.shared_by_order(extraction)
        assert every == pytest.approx(shared)
    notes = [sentence for sentence in comparison_text.findings(result) if "the same network" in sentence]
    assert [note[:8] for note in notes] == ["a (numbe", "a (numbe", "b (numbe"]
    text = comparison_text.table(result)
    assert "1.00 / 1.00" in text
    assert "100%" in text
    assert all("nan" not in line for line in [*text.splitlines()[:6], *comparison_text.findings(result)])


def test_the_harsanyi_dividends_are_and_interactions_alone():
    v = torch.stack((outputs(1), outputs(2)))
    result = compare_outputs(v)
    # I(S) = Σ_{T ⊆ S} (-1)^(|S|-|T|) v(T), by the definition
    orders = [s.bit_count() for s in range(2**N)]
    signs = torch.tensor(
        [[(-1.0) ** (orders[s] - orders[t]) * (t & s == t) for t in range(2**N)] for s in range(2**N)],
        dtype=torch.float64,
    )
    torch.testing.assert_close(result.harsanyi.and_, v @ signs.T)
    size = (v @ signs.T)[..., 1:].abs()
    counted = size.where(size > 0.05 * size.amax(-1, keepdim=True), 0.0)
    of_order = torch.tensor(orders[1:])
    expected = [float(counted[..., of_order == k].sum(-1).mean()) for k in range(1, N + 1)]
    assert comparison_text.shared_by_order(result.harsanyi)[0] == pytest.approx(expected)

    and_, or_ = comparison_text.powers(result.harsanyi, result.ks)
    curves = generalization_curve(result.harsanyi.and_, result.ks, floor=1e-3)
    assert and_ == pytest.approx(curves.mean((0, 1)).tolist())
    assert all(map(math.isnan, or_))
    harsanyi = [line for line in comparison_text.table(result).splitlines() if line.startswith("Harsanyi")]
    assert harsanyi[0].split()[1:] == [cell for power in and_ for cell in (f"{power:.2f}", "/", "-")]
    curve = comparison_figures.sparsity(result).axes[1].lines[0]
    assert curve.get_label() == "Harsanyi"
    by_rank = size[1].sort(-1, descending=True).values.mean(0).clamp_min(1e-12)
    assert curve.get_ydata().tolist() == pytest.approx(by_rank.tolist())
    pooled = replace(result, counting=replace(result.counting, pooled=True))
    curve, *_, shared, line = comparison_figures.sparsity(pooled).axes[1].lines
    twice = size[1].flatten().repeat_interleave(2).sort(descending=True).values.clamp_min(1e-12)
    assert curve.get_ydata().tolist() == pytest.approx(twice.tolist())
    assert line.get_ydata()[0] == pytest.approx(0.05 * shared.get_ydata()[0])
    html = comparison_page(result, stand_ins())
    assert f"<td>Harsanyi</td><td>{and_[0]:.2f} / –</td>" in html
    assert "nan" not in html.lower().split("base64")[0]


def test_sign_agreement_counts_what_is_shared():
    effects = torch.tensor([[[9.0, 3.0, -2.0, 1.0]], [[9.0, 3.0, 2.0, 0.0]]])
    extraction = Extraction("", effects, torch.zeros_like(effects))
    assert comparison_text.sign_agreement(extraction, 2) == 0.5
    assert comparison_text.sign_agreement(extraction, 1) == 1.0
    nothing = Extraction("", torch.zeros(2, 1, 4), torch.zeros(2, 1, 4))
    assert math.isnan(comparison_text.sign_agreement(nothing, 2))


def test_what_is_asked_for_twice_or_in_no_order_is_shown_once_and_from_the_least():
    v = torch.stack((outputs(1), outputs(2)))
    assert compare_outputs(v, counting=Counting(ks=(20, 5, 5, 99))).ks == [5, 20]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ks": (5, 0)}, "ks must be at least 1, but is 0"),
        ({"ks": (5.5,)}, "ks must be a whole number, but is 5.5"),
        ({"floor": math.nan}, "floor must be at least 0 and below 1, but is nan"),
        ({"fraction": "5%"}, "fraction must be at least 0 and below 1, but is 5%"),
        ({"unit": "mean"}, "unit must be 'largest' or 'change', but is 'mean'"),
    ],
)
def test_what_cannot_be_counted_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        Counting(**given)


def test_numbers_of_players_that_cannot_be_compared_are_refused_before_any_forward():
    for n in (1, 15):
        with pytest.raises(NotComparableError, match=f"n_players={n}: networks are compared by 2 to 14; measure them"):
            compare_outputs(torch.rand(2, 2, 2**n))
    calls = []

    def counted(module, inputs):
        calls.append(inputs)
        return module(inputs)

    many = PlayerMap(torch.arange(15).repeat(SAMPLES, 1), n_players=15, axes=(1,))
    probe = Probe(torch.rand(SAMPLES, 15), torch.arange(SAMPLES) % 3)
    networks = [Network(torch.nn.Linear(15, 3), probe, many, forward_func=counted) for _ in range(2)]
    with pytest.raises(NotComparableError, match="n_players=15"):
        compare_networks(networks)
    assert not calls


def test_outputs_and_names_of_another_shape_are_refused_before_anything_is_extracted():
    for wrong in (np.zeros((2, 3, 8)), torch.zeros(2, 8), torch.zeros(1, 3, 8)):
        with pytest.raises(NotComparableError, match=r"v must be \(networks, samples, 2\^n\) of two networks or more"):
            compare_outputs(wrong)
    for names in ((("a", "b", "c"),), (("a", "b"),) * 3):
        with pytest.raises(NotComparableError, match="player_names must have 3 names for each of 3 samples"):
            compare_outputs(torch.rand(2, 3, 8), player_names=names)


def test_networks_that_do_nothing_at_all_are_refused():
    with pytest.raises(NotComparableError, match="no output changes with what is masked; train"):
        compare_outputs(torch.tensor([1.0, 2.0])[:, None, None].expand(2, 3, 8))


def test_a_dash_stands_where_no_network_has_an_or_interaction():
    result = compare_outputs(torch.stack((outputs(1), outputs(2))))
    names = ("alone", "shared", "control")
    none = {name: getattr(result, name) for name in names}
    result = replace(result, **{name: replace(of, or_=torch.zeros_like(of.or_)) for name, of in none.items()})
    repeated = extract_again(result)
    written = [
        comparison_text.table(result),
        *comparison_text.findings(result),
        comparison_text.verdict(result),
        comparison_text.ablation_table([result.shared], result.ks),
        *comparison_text.repetition_lines(repeated, result),
    ]
    assert not any("nan" in line for line in written), written
    assert "none of the OR interactions" in written[-6]
    nothing = replace(result, alone=replace(result.alone, and_=torch.zeros_like(result.alone.and_)))
    assert comparison_text.repetition_lines(repeated, nothing)[2].endswith("sample 0: no interaction")


def test_strengths_of_any_unit_keep_their_columns():
    for unit in (1e7, 1e-4):
        result = compare_outputs(unit * torch.stack((outputs(1), outputs(2))))
        lines = comparison_text.table(result).splitlines()
        cells = lines[-1].split()[1:]
        assert len(cells) == 2 * (N + 1), lines[-1]
        every = comparison_text.shared_by_order(result.extractions[-1])[0]
        assert [float(cell) for cell in cells[:-2:2]] == pytest.approx(every, rel=0.01)


def test_leaves_out_samples_that_one_network_has_no_outputs_for():
    v = torch.stack((outputs(1), outputs(2)))
    v[1, 2, 3] = math.nan
    result = compare_outputs(v, player_names=NAMES)
    assert result.samples == (0, 1, 3, 4, 5)
    assert result.v.isfinite().all()
    assert result.v.shape == (2, 5, 2**N)
    with pytest.raises(NotComparableError, match="no sample has finite outputs"):
        compare_outputs(torch.full((2, 3, 8), math.nan))
    with pytest.raises(NotComparableError, match="two networks or more, but is a tensor of shape"):
        compare_outputs(v[:1])
    with pytest.raises(NotComparableError, match="3 names are given for 2 networks"):
        compare_outputs(v, names=["a", "b", "c"])


def test_one_sample_has_no_control():
    result = compare_outputs(torch.stack((outputs(1), outputs(2)))[:, :1])
    assert result.control is None
    assert not any("unrelated" in sentence for sentence in comparison_text.findings(result))


def test_records_give_their_last_or_the_asked_measurement(record):
    first, second = record("a", outputs(1), outputs(2)), record("b", outputs(3))
    result = compare([first, second])
    torch.testing.assert_close(result.v, torch.stack((outputs(2), outputs(3))))
    assert result.names[0].endswith("a, epoch 10")
    assert result.player_name(0, 3) == "word3"
    torch.testing.assert_close(compare([first, second], epochs=0).v[0], outputs(1))
    over_time = compare([first, first], epochs=[0, 10])
    torch.testing.assert_close(over_time.v, torch.stack((outputs(1), outputs(2))))
    with pytest.raises(NotComparableError, match="no measurement at epoch 7; it was measured at epochs 0, 10"):
        compare([first, second], epochs=[7, 0])
    with pytest.raises(NotComparableError, match=r"no measurement at epoch 10; it was measured at epoch 0$"):
        compare([first, second], epochs=10)
    with pytest.raises(NotComparableError, match="3 epochs are given for 2 records"):
        compare([first, second], epochs=[0, 0, 0])
    with pytest.raises(NotComparableError, match="at least two networks, but there is 1"):
        compare([first])
    with pytest.raises(NotComparableError, match="holds no measurement"):
        compare([first, record("empty")])


def test_records_are_named_by_what_tells_them_apart(record):
    one, two = (record(f"{run}/version_0/interactions", outputs(seed)) for seed, run in enumerate(("resnet", "vgg")))
    assert compare([one, two]).names == (
        "resnet, epoch 0",
        "vgg, epoch 0",
    )
    assert compare([one, one]).names == ("version_0, epoch 0",) * 2


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
    ks = compare_outputs(torch.rand(2, 1, 2**N)).ks
    and_axes, or_axes = comparison_figures.generalization(result).axes
    for kind, ax in enumerate((and_axes, or_axes)):
        drawn = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
        assert drawn.keys() == {extraction.name for extraction in result.extractions}
        for extraction in result.extractions:
            expected = comparison_text.powers(extraction, ks)[kind]
            assert drawn[extraction.name] == pytest.approx(expected, nan_ok=True)
    assert [ax.get_title(loc="left") for ax in comparison_figures.sparsity(result).axes] == ["small", "large"]
    heights = [patch.get_height() for patch in comparison_figures.orders(result).axes[2].patches]
    shared = [sum(abs(h) for h in heights[2 * N :])]
    assert len(heights) == 4 * N
    assert shared[0] <= sum(abs(h) for h in heights[: 2 * N])
    labels = [label.get_text() for label in comparison_figures.patterns(result, 2).axes[1].get_yticklabels()]
    assert labels
    assert all("word" in label for label in labels)
    assert any(" ∧ " in label or " ∨ " in label for label in labels)


def test_pictures_stand_networks_that_share_nothing_or_do_nothing():
    apart = torch.zeros(2, 3, 8, dtype=torch.float64)
    apart[0, 1:, 1::2] = 1.0  # player 0 against player 1; the first sample is constant
    apart[1, 1:, 2::4] = apart[1, 1:, 3::4] = 1.0
    result = compare_outputs(apart)
    for picture in comparison_figures.PICTURES.values():
        assert picture(result)._repr_png_(), "a notebook shows it"
    comparison_text.table(result)
    comparison_text.findings(result)


def stand_ins() -> dict[str, bytes]:
    """Pictures of one point in the place of those that take a second each."""
    figure = Figure(figsize=(0.1, 0.1))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return dict.fromkeys(comparison_figures.PICTURES, buffer.getvalue())


def refused(capsys, *argv) -> str:
    assert cli.main(["compare", *map(str, argv)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_the_command_writes_tables_pictures_and_tensorboard(record, tmp_path: Path, capsys, monkeypatch):
    first, second = record("a", outputs(1), outputs(2)), record("b", outputs(3))
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(comparison_figures, "draw_all", lambda comparison, sample: stand_ins())
        assert cli.main(["compare", str(first.folder), "--epoch", "0", "10", "--out", str(out)]) == 0
    assert "epoch 0" in capsys.readouterr().out
    # replaces what the first wrote
    assert cli.main(["compare", str(first.folder), str(second.folder), "--out", str(out), "--sample", "1"]) == 0
    printed = capsys.readouterr().out
    assert comparison_text.table(compare([first, second])) in printed
    assert (out / "comparison.txt").read_text(encoding="utf-8").strip() in printed
    assert {path.stem for path in out.glob("*.png")} == set(comparison_figures.PICTURES)
    events = EventAccumulator(str(out)).Reload()
    assert len(events.Scalars("comparison/s_and/shared")) == len(compare_outputs(torch.rand(2, 1, 2**N)).ks)
    assert "comparison/s_and/Harsanyi" in events.Tags()["scalars"]
    assert "comparison/s_or/Harsanyi" not in events.Tags()["scalars"]
    assert set(events.Tags()["images"]) == {f"comparison/{name}" for name in comparison_figures.PICTURES}
    html = (out / "comparison.html").read_text(encoding="utf-8")
    assert html.count("data:image/png;base64,") == len(comparison_figures.PICTURES)


def test_without_jinja_the_command_writes_all_but_the_page(record, tmp_path: Path, capsys, monkeypatch):
    folder, out = record("a", outputs(1), outputs(2)).folder, tmp_path / "out"
    monkeypatch.setattr(comparison_figures, "draw_all", lambda comparison, sample: stand_ins())
    for name in [name for name in sys.modules if name.startswith("interaction_monitor.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert cli.main(["compare", str(folder), "--epoch", "0", "10", "--out", str(out)]) == 0
    assert "wrote no HTML" in capsys.readouterr().out
    assert (out / "comparison.txt").exists()
    assert not (out / "comparison.html").exists()


def test_the_command_says_what_to_do(record, tmp_path: Path, capsys):
    first, second = record("a", outputs(1)), record("b", outputs(3), settings={"output": "loss"})
    out = ["--out", tmp_path / "out"]
    assert "two runs or more, or one run and several --epoch" in refused(capsys, first.folder, *out)
    assert "differ in the output" in refused(capsys, first.folder, second.folder, *out)
    assert "--alpha must be a finite number, at least 0" in refused(capsys, first.folder, "--alpha", -1, *out)
    third = record("c", outputs(4))
    assert "no measurement at epoch 5" in refused(capsys, first.folder, third.folder, "--epoch", 5, *out)
    assert "--sample must lie between 0 and 5" in refused(capsys, first.folder, third.folder, "--sample", 6, *out)
    assert "is no folder" in refused(capsys, first.folder, tmp_path / "nowhere", *out)
    assert not (tmp_path / "out").exists()


def test_the_outputs_miss_at_most_the_noise_terms():
    result = compare_outputs(torch.stack((outputs(1), outputs(2))), names=["small", "large"])
    axes = comparison_figures.matching(result, 3).axes
    v = result.v[0, 3]
    drawn = axes[0].lines[-1].get_ydata()
    assert list(drawn) == sorted(v.tolist(), reverse=True)
    for line in axes[0].lines[:2]:
        assert abs(line.get_ydata() - drawn).max() <= 0.02 * abs(v[-1] - v[0]) + 1e-6
    curves = {line.get_label(): torch.as_tensor(line.get_ydata()) for line in axes[2].lines}
    torch.testing.assert_close(
        curves["Harsanyi"], matching_precision_curve(result.v[0], result.harsanyi.and_[0], None).mean(0)
    )
    torch.testing.assert_close(
        curves["shared"], matching_precision_curve(result.v[0], result.shared.and_[0], result.shared.or_[0]).mean(0)
    )


def test_a_page_needs_nothing_else_and_shows_names_as_text():
    v = torch.stack((outputs(1), outputs(2)))
    html = comparison_page(compare_outputs(v, names=["<script>alert(1)</script>", "large & wide"]), stand_ins())
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "large &amp; wide" in html
    assert "http" not in html.replace("http-equiv", "")
    assert html.count("data:image/png;base64,") == len(comparison_figures.PICTURES)
    result = compare_outputs(v)
    assert f"{comparison_text.powers(result.shared, [5])[0][0]:.2f} / " in html
    assert comparison_text.shared_percentages(result.shared)[-1] in html


def network(seed: int, **changed) -> Network:
    torch.manual_seed(seed)
    module = torch.nn.Sequential(torch.nn.Linear(N, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    probe = Probe(torch.arange(SAMPLES * N).reshape(SAMPLES, N) / 10, torch.arange(SAMPLES) % 3)
    players = PlayerMap(torch.arange(N).repeat(SAMPLES, 1), n_players=N, axes=(1,), names=NAMES)
    return replace(Network(module, probe, players), **changed)


def test_networks_are_measured_alike_and_compared():
    first, second = network(1, name="small"), network(2)
    result = compare_networks([first, second])
    assert result.names == ("small", "network 1")
    torch.testing.assert_close(result.v[1], masked_outputs(second.module, second.probe, second.players))
    assert result.player_name(0, 3) == "word3"


def test_refuses_networks_that_are_measured_differently():
    usual, calls = network(1), []
    other_probe = Probe(usual.probe.inputs, usual.probe.targets.flip(0))

    def counted(module, inputs):
        calls.append(inputs)
        return module(inputs)

    for changed, what in (
        ({"output": "logit"}, "the output: log_odds and logit"),
        ({"probe": other_probe}, "the targets of the probe samples"),
        ({"players": replace(usual.players, baseline=1.0)}, "the baseline"),
        ({"players": replace(usual.players, labels=usual.players.labels.clamp(max=3), n_players=4)}, "number of pl"),
    ):
        with pytest.raises(NotComparableError, match=f"network 0 and network 1 differ in .*{what}"):
            compare_networks([replace(usual, forward_func=counted), network(2, **changed)])
    assert not calls
    with pytest.raises(NotComparableError, match="at least two networks, but there is 1"):
        compare_networks([usual])


def test_says_in_which_input_networks_differ():
    measured = [
        Measured(name, PlayerMap(torch.arange(N)[None], N, (1,), 0, input_key=key), torch.zeros(1, N), None, "logit")
        for name, key in (("a", None), ("b", "input_ids"))
    ]
    message = "a and b differ in the masked input: the one tensor that is the input and entry 'input_ids'; measure"
    with pytest.raises(NotComparableError, match=message):
        require_comparable(measured)


FACTORY = """
from dataclasses import replace

import torch
from interaction_monitor import Probe
from interaction_monitor.comparison import Network
from interaction_monitor.players import Columns

def load(path):
    module = torch.nn.Linear(4, 3)
    module.load_state_dict(torch.load(path, weights_only=True))
    inputs = torch.arange(24.0).reshape(6, 4) / 10
    return Network(module, Probe(inputs, torch.arange(6) % 3), Columns(n_players=4))

def load_nothing(path):
    return torch.nn.Linear(4, 3)

def fail(path):
    raise KeyError(f"no weights in {path.name}")

def leave(path):
    raise SystemExit(3)

def odd(path):
    return replace(load(path), output="odds")

def ends(path):
    return replace(load(path), forward_func=call if path.parts[0] == "a" else broken)

def call(module, inputs):
    calls.append(len(inputs))
    assert sum(calls) < 40, "the first network is measured before the second was tried"
    return module(inputs)

def broken(module, inputs):
    raise RuntimeError("out of order")

number = 3
calls = []
"""


def test_the_command_takes_checkpoints_and_a_factory(tmp_path: Path, capsys, monkeypatch):
    (tmp_path / "factory_of_this_test.py").write_text(FACTORY)
    (tmp_path / "broken_factory_of_this_test.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    monkeypatch.setattr(comparison_figures, "draw_all", lambda comparison, sample: stand_ins())
    for folder in ("a", "b"):
        torch.manual_seed(ord(folder))
        (tmp_path / folder).mkdir()
        torch.save(torch.nn.Linear(4, 3).state_dict(), tmp_path / folder / "last.ckpt")
    checkpoints = ["a/last.ckpt", "b/last.ckpt"]
    factory = ["--factory", "factory_of_this_test:load"]
    assert cli.main(["compare", *factory, *checkpoints, "--out", "out", "--sample", "2"]) == 0
    printed = capsys.readouterr().out
    assert "0: a/last.ckpt\n1: b/last.ckpt" in printed
    assert (tmp_path / "out" / "comparison.html").exists()

    for argv, complaint in (
        ([*factory, "a/last.ckpt"], "two checkpoints or more"),
        ([*factory, *checkpoints, "--epoch", "3"], "--epoch chooses measurements of records"),
        ([*factory, *checkpoints, "--sample", "6"], "--sample must lie between 0 and 5"),
        ([*factory, "a/last.ckpt", "c.ckpt"], "there is no checkpoint c.ckpt"),
        (["--factory", "nothing", *checkpoints], "must be MODULE:FUNCTION"),
        (["--factory", "not_there:load", *checkpoints], "cannot be found from"),
        (["--factory", "factory_of_this_test:other", *checkpoints], "cannot be found from"),
        (["--factory", "factory_of_this_test:number", *checkpoints], "is no function, but int"),
        (["--factory", "factory_of_this_test:load_nothing", *checkpoints], "returned Linear for a/last.ckpt"),
        (["--factory", "factory_of_this_test:fail", *checkpoints], "failed on a/last.ckpt: KeyError: 'no weights"),
        (["--factory", "factory_of_this_test:leave", *checkpoints], "failed on a/last.ckpt: SystemExit: 3"),
        (["--factory", "factory_of_this_test.py:load", *checkpoints], "not a file: factory_of_this_test:load instead"),
        (["--factory", "./some/where.py:load", *checkpoints], "not a file: some.where:load instead"),
        ([*factory, *checkpoints, "--skip-damaged"], "leave it out with --factory"),
        (["--factory", "broken_factory_of_this_test:load", *checkpoints], "failed: ZeroDivisionError"),
        (
            ["--factory", "factory_of_this_test:odd", *checkpoints],
            "a/last.ckpt failed with ValueError: output='odds' is",
        ),
        (
            ["--factory", "factory_of_this_test:ends", *checkpoints],
            "b/last.ckpt failed with RuntimeError: out of order",
        ),
    ):
        assert complaint in refused(capsys, *argv)


def test_a_sample_without_outputs_cannot_be_drawn(record, tmp_path: Path, capsys, monkeypatch):
    v = outputs(2)
    v[1, 3] = math.nan
    first, second = record("a", outputs(1)), record("b", v)
    with monkeypatch.context() as patched:  # nothing is extracted before
        patched.setattr("interaction_monitor.comparison.compare_outputs", None)
        text = refused(capsys, first.folder, second.folder, "--sample", 1, "--out", tmp_path / "out")
    assert "--sample 1 has no finite outputs in some network; take one of 0, 2, 3, 4, 5" in text
    v[0] = math.nan
    record("first", v)
    with monkeypatch.context() as patched:
        patched.setattr(comparison_figures, "draw_all", lambda comparison, sample: stand_ins())
        assert cli.main(["compare", str(first.folder), str(tmp_path / "first"), "--out", str(tmp_path / "found")]) == 0
        assert cli.main(["compare", *[str(first.folder)] * 2, "--sample", "0", "--out", str(tmp_path / "found")]) == 0
    capsys.readouterr()
    halves = [outputs(3), outputs(4)]
    halves[0][:3], halves[1][3:] = math.nan, math.nan
    third, fourth = record("c", halves[0]), record("d", halves[1])
    text = refused(capsys, third.folder, fourth.folder, "--out", tmp_path / "out")
    assert "no sample has finite outputs in all networks" in text
    assert not (tmp_path / "out").exists()


def test_counting_by_the_change_of_output_is_that_of_the_figures_notebook():
    v = torch.stack((outputs(1), outputs(2)))
    result = compare_outputs(v, counting=Counting(fraction=0.03, unit="change"))
    for network in range(2):
        tau = 0.03 * sum(abs(float(x[-1] - x[0])) for x in v[network]) / SAMPLES
        for interactions, mask in zip((result.alone.and_, result.alone.or_), result.alone.salient, strict=True):
            expected = interactions[network].abs() > tau
            expected[:, 0] = False
            assert torch.equal(mask[network], expected)
    assert "above 0.03 of the network's mean change of output" in comparison_text.table(result)
    assert "above 0.05 of the sample's largest" in comparison_text.table(compare_outputs(v))


def test_the_command_counts_what_it_is_told_to(record, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(comparison_figures, "draw_all", lambda comparison, sample: stand_ins())
    first, second = record("a", outputs(1)), record("b", outputs(3))
    command = [str(first.folder), str(second.folder), "--out", str(tmp_path / "out")]
    options = ["--k", "3", "45%", "--floor", "0", "--salient", "0.03", "--salient-of", "change", "--pooled"]
    assert cli.main(["compare", *command, *options]) == 0
    printed = capsys.readouterr().out
    counting = Counting(ks=(3, 14), floor=0.0, fraction=0.03, unit="change", pooled=True)
    result = compare([first, second], counting=counting)
    assert result.ks == [3, 14]
    assert comparison_text.table(result) in printed
    power = generalization_curve(result.shared.and_, [14]).nanmean((0, 1)).tolist()
    assert comparison_text.powers(result.shared, [14])[0] == power
    assert "floor must be at least 0 and below 1, but is -1.0" in refused(capsys, *command, "--floor", -1)
    assert "--k must be at most 31, as many as there are, but is 32" in refused(capsys, *command, "--k", 32)
    with pytest.raises(SystemExit):
        cli.main(["compare", *command, "--k", "0%"])
    assert "must be 1 or more, or between 0% and 100%, but is 0%" in capsys.readouterr().err


def test_the_background_is_averaged_over_its_intensities():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    images = torch.rand(3, 1, 4, 4)
    parts = [[[0, 1], [5, 6], [10]], [[2, 3], [4], [15]], [[7], [8, 9], [1, 2]]]
    networks = [
        Network(
            module, Probe(images, torch.arange(3)), Segments.from_indices(parts, (4, 4)), "logit", background_levels=4
        )
        for _ in range(2)
    ]
    v = compare_networks(networks).v[0]
    for sample, players in enumerate(parts):
        for coalition in range(8):
            total = 0.0
            for level in (0.25, 0.5, 0.75, 1.0):
                image = level * images[sample].flatten()
                for player, places in enumerate(players):
                    image[places] = images[sample].flatten()[places] * float(coalition >> player & 1)
                total += float(module(image[None])[0, sample]) / 4
            assert float(v[sample, coalition]) == pytest.approx(total, abs=1e-6)
    with pytest.raises(NotComparableError, match="levels of the background: 4 and 1"):
        compare_networks([networks[0], replace(networks[1], background_levels=1)])
    with pytest.raises(ValueError, match="background_levels must be at least 1"):
        replace(networks[0], background_levels=0)
    with pytest.raises(ValueError, match="players of a floating input"):
        replace(networks[0], probe=Probe(images.long(), torch.arange(3)))


@pytest.mark.parametrize("suffix", [".npy", ".pth"])
def test_published_files_are_renumbered(tmp_path, suffix):
    # v(x_T) of a game in which every coalition's output names it: players as decimal digits
    masks = list(itertools.product((0, 1), repeat=3))  # their order: player 0 is the leftmost, highest bit
    rewards = torch.tensor([float(a * 1 + b * 10 + c * 100) for a, b, c in masks])
    file = tmp_path / f"rewards{suffix}"
    if suffix == ".npy":
        np.save(file, rewards.numpy())
    else:
        torch.save(rewards, file)
    expected = [float(sum(10**p for p in range(3) if coalition >> p & 1)) for coalition in range(8)]
    assert read_published(file).tolist() == expected
    np.save(tmp_path / "Iand_1.npy", rewards[:, None].numpy())  # a column, as the code for two BERTs saves them
    assert read_published(tmp_path / "Iand_1.npy").tolist() == expected
    with pytest.raises(ValueError, match=r"must end in \.npy"):
        read_published(tmp_path / "rewards.txt")
    torch.save({"a": rewards}, tmp_path / "several.pth")
    with pytest.raises(ValueError, match="holds a dict"):
        read_published(tmp_path / "several.pth")


@pytest.mark.parametrize("name", ["pickled.npy", "words.npy", "complex.npy", "cut.npy", "cut.pth", "array.pth"])
def test_a_published_file_that_holds_something_else_is_named(tmp_path, name):
    file = tmp_path / name
    if name == "array.pth":
        torch.save(np.arange(8.0), file)  # which torch reads by running what is in the file
    elif name.startswith("cut"):
        torch.save(torch.arange(8.0), tmp_path / "whole.pth")
        np.save(tmp_path / "whole.npy", np.arange(8.0))
        file.write_bytes((tmp_path / "whole").with_suffix(file.suffix).read_bytes()[:70])
    else:
        kinds = {"pickled": np.array([{}] * 8), "words": np.array(["a"] * 8), "complex": np.ones(8) * 1j}
        np.save(file, kinds[file.stem])
    with pytest.raises(ValueError, match=rf"{file} cannot be read as an array of numbers \(\w+\); save it anew"):
        read_published(file)


def test_a_parameter_or_other_byte_order_is_read_as_any_number(tmp_path):
    torch.save(torch.nn.Parameter(torch.arange(4.0)), tmp_path / "I_and.pth")
    np.save(tmp_path / "rewards.npy", np.arange(4).astype(">f4"))
    for name in ("I_and.pth", "rewards.npy"):
        found = read_published(tmp_path / name)
        assert found.tolist() == [0.0, 2.0, 1.0, 3.0]
        assert not found.requires_grad
    with pytest.raises(FileNotFoundError, match=r"I_or\.pth"):
        read_published(tmp_path / "I_or.pth")
    np.save(tmp_path / "masks.npy", np.float64(1))
    with pytest.raises(ValueError, match=r"masks\.npy must list each of 4 coalitions once, but is \(\)"):
        read_published(tmp_path / "rewards.npy", masks=tmp_path / "masks.npy")


def test_published_files_in_the_order_of_their_masks(tmp_path):
    expected = np.arange(8) * 10.0  # of each coalition, player 0 in the lowest bit
    by_size = sorted(range(8), key=lambda coalition: (coalition.bit_count(), -coalition))
    np.save(tmp_path / "rewards.npy", expected[by_size])
    masks = np.array([[bool(coalition >> player & 1) for player in range(3)] for coalition in by_size])
    for kind in (bool, np.float32):
        np.save(tmp_path / "masks.npy", masks.astype(kind))
        found = read_published(tmp_path / "rewards.npy", masks=tmp_path / "masks.npy")
        assert found.tolist() == expected.tolist()
    for wrong in (masks[[0, 1, 2, 3, 4, 5, 6, 6]], masks[:, :2]):
        np.save(tmp_path / "masks.npy", wrong)
        with pytest.raises(ValueError, match=r"masks\.npy must list each of 8 coalitions once"):
            read_published(tmp_path / "rewards.npy", masks=tmp_path / "masks.npy")


def test_published_raw_interactions_have_order_one_in_or_too(tmp_path):
    # v = v_and + v_or, and both kinds of interactions by their definitions over masks in the authors' order
    masks = list(itertools.product((0, 1), repeat=3))
    split = np.random.default_rng(5).normal(size=(2, 8))

    def within(mask, other):
        return all(a <= b for a, b in zip(mask, other, strict=True))

    raw = np.zeros((2, 8))
    for row, s in enumerate(masks):
        for t in (t for t in masks if within(t, s)):
            sign, rest = (-1) ** (sum(s) - sum(t)), tuple(1 - player for player in t)
            raw[0, row] += sign * split[0, masks.index(t)]
            raw[1, row] -= sign * split[1, masks.index(rest)]
    raw[1, 0] = split[1, 0]  # nobody's
    for name, saved in zip(("Iand", "Ior", "rewards"), (*raw, split.sum(0)), strict=True):
        np.save(tmp_path / f"{name}.npy", saved)
    reorganized = raw.copy()  # as I_and.pth and I_or.pth are
    for row, mask in enumerate(masks):
        if sum(mask) <= 1:
            reorganized[:, row] = raw[:, row].sum(), 0
    and_, or_ = (read_published(tmp_path / f"{name}.npy") for name in ("Iand", "Ior"))
    moved = order_one_as_and(and_, or_)
    for found, expected in zip(moved, reorganized, strict=True):
        np.save(tmp_path / "expected.npy", expected)
        assert torch.equal(found, read_published(tmp_path / "expected.npy"))
    torch.testing.assert_close(and_outputs(moved[0]) + or_outputs(moved[1]), read_published(tmp_path / "rewards.npy"))
    assert all(torch.equal(once, twice) for once, twice in zip(moved, order_one_as_and(*moved), strict=True))
    with pytest.raises(ValueError, match="and_ and or_ must have one shape"):
        order_one_as_and(and_, or_[:4])


# Other charges, and a second extraction: against extractions made one by one


@pytest.fixture(scope="module")
def comparison():
    generator = torch.Generator().manual_seed(0)
    interactions = torch.randn(2, 2, 3, 16, generator=generator, dtype=torch.float64)
    interactions *= torch.rand(interactions.shape, generator=generator) < 0.3
    return compare_outputs(and_outputs(interactions[0]) + or_outputs(interactions[1]), names=["small", "large"])


def test_each_charge_is_extracted_by_itself(comparison):
    ablation = ablate(comparison, alphas=(0.0, 0.5, 3.0))
    for alpha, extraction in zip((0.0, 0.5, 3.0), ablation, strict=True):
        assert torch.equal(extraction.or_, shared_and_or(comparison.v, alpha=alpha).or_)
    assert not torch.equal(ablation[0].and_, ablation[2].and_)
    with pytest.raises(ValueError, match=r"alphas must be finite numbers of at least 0, but are \[0.0, inf\]"):
        ablate(comparison, alphas=(0.0, math.inf))
    with pytest.raises(ValueError, match="alphas must be finite numbers of at least 0"):
        ablate(comparison, alphas=())


def test_the_table_of_charges_counts_strength_and_salient_ones(comparison):
    ablation = ablate(comparison, alphas=(0.0, 2.0))
    rows = comparison_text.ablation_table(ablation, [5]).splitlines()[1:]
    for extraction, row in zip(ablation, rows, strict=True):
        strength = salient = 0.0
        for network in range(2):
            for sample in range(3):
                both = torch.cat((extraction.and_[network, sample, 1:], extraction.or_[network, sample, 1:])).abs()
                strength += float(both.sum()) / 6
                salient += float((both > 0.05 * both.max()).sum()) / 6
        assert row.split()[-2:] == [f"{strength:.2f}", f"{salient:.1f}"]


def test_a_second_extraction_agrees_with_itself_and_not_with_noise(comparison):
    same = extract_again(comparison, k=5, change=0.0)
    assert same.and_ == same.or_ == (1.0, 1.0)
    noisy = extract_again(comparison, k=5, change=0.5)
    assert max(*noisy.and_, *noisy.or_) < 1
    lines = comparison_text.repetition_lines(same, comparison, sample=1)
    assert lines[0].startswith("Extracted again from outputs changed by a millionth, small has 100% of its 5 strongest")
    strongest = torch.stack((comparison.alone.and_, comparison.alone.or_))[:, 0, 1, 1:]
    largest = float(strongest.flatten()[strongest.abs().argmax()])
    place = int(strongest.abs().amax(0).argmax()) + 1  # as bits, which players
    players = [comparison.player_name(1, p) for p in range(N) if place >> p & 1]
    pattern = lines[2].split(": ", 1)[1]
    assert re.split(" [∧∨] ", pattern.split(": ")[0]) == players
    assert pattern.split(": ")[1].startswith(f"{largest:+.2f}, ")
    assert pattern == lines[3].split(": ", 1)[1]
    left, right = comparison_figures.patterns(comparison, 1, k=5, again=noisy.again).axes[:2]
    drawn = {
        text.get_text(): bar.get_width() for text, bar in zip(right.get_yticklabels(), right.patches, strict=False)
    }
    assert left.get_title(loc="left") == "each alone, sample 1"
    assert right.get_title(loc="left") == "again, sample 1"
    first = torch.cat((noisy.again.and_[0, 1], noisy.again.or_[0, 1])).tolist()
    # Of a player alone there are two, AND and OR, with one name; that of OR is zero.
    by_size = sorted(enumerate(first), key=lambda numbered: abs(numbered[1]))
    named = {comparison_text.pattern_name(comparison, 1, pattern): effect for pattern, effect in by_size}
    assert len(drawn) >= 5
    assert drawn == pytest.approx({name: named[name] for name in drawn})


def test_pictures_draw_each_charge_and_the_salient_interactions(comparison):
    ablation = ablate(comparison, alphas=(0.0, 1.0))
    left, middle, right = comparison_figures.ablation(ablation, [2, 5]).axes
    assert [line.get_label() for line in left.lines] == ["α = 0", "α = 1"]
    assert list(middle.lines[1].get_ydata()) == comparison_text.powers(ablation[1], [2, 5])[0]
    assert list(right.lines[0].get_ydata()) == comparison_text.powers(ablation[0], [2, 5])[1]
    ax = sample_figures.salient_matching(comparison, 2).axes[1]
    v = comparison.v[1, 2]
    by_output = v.argsort(descending=True)
    expected = []
    for coalition in by_output.tolist():
        total = float(v[0])
        for kind, mask, active in zip(
            (comparison.alone.and_, comparison.alone.or_),
            comparison.alone.salient,
            (lambda s, t: s & t == s, lambda s, t: s & t != 0),
            strict=True,
        ):
            total += sum(float(kind[1, 2, s]) for s in range(1, 16) if mask[1, 2, s] and active(s, coalition))
        expected.append(total)
    assert list(ax.lines[1].get_ydata()) == pytest.approx(expected)


def test_the_command_writes_the_variations(tmp_path, monkeypatch, capsys, make_planted_run):
    record = make_planted_run(tmp_path / "run", n=4, samples=3)
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)
    monkeypatch.setattr("interaction_monitor.plots.comparison_figures.draw_all", lambda *_: {})
    monkeypatch.setattr("interaction_monitor.plots.comparison_text.write_comparison", lambda *_, **__: None)
    monkeypatch.setattr("interaction_monitor.report.comparison_page", lambda *_: "")
    command = ["compare", str(record.folder), "--epoch", "2", "5", "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--alphas", "0", "2", "--again", "--salient-matching"]) == 0
    printed = capsys.readouterr().out
    assert "α = 2" in printed
    assert "Extracted again from outputs changed by a millionth" in printed
    drawn = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert drawn == ["ablation.png", "again.png", "salient_matching.png"]
    assert cli.main([*command, "--alphas", "-1"]) == 2
    assert "--alphas must be finite numbers, at least 0" in capsys.readouterr().err
