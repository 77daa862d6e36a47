"""One sample explained, and what shows itself in a notebook."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rows import make_history

from interaction_monitor import InteractionMonitor
from interaction_monitor.history import History
from interaction_monitor.measurement import interpret
from interaction_monitor.players import ImagePatches
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.plots.sample_figures import strongest, waterfall
from interaction_monitor.plots.sample_inputs import steps

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


def bars(figure):
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in figure.axes[0].patches]


@pytest.mark.parametrize("kind", ["and", "and-or"])
def test_bars_lead_from_the_masked_input_to_the_input(kind):
    v = torch.randn(3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    measurement = interpret(v, interactions=kind)
    drawn = bars(waterfall(measurement, 1, n_strongest=4))
    assert len(drawn) == 5, "four strongest and the rest"
    assert drawn[0][0] == pytest.approx(float(v[1, 0]))
    assert drawn[-1][1] == pytest.approx(float(v[1, -1]))
    for (_, end), (start, _) in itertools.pairwise(drawn):
        assert start == pytest.approx(end)
    sizes = [abs(end - start) for start, end in drawn[:4]]
    assert sizes == sorted(sizes, reverse=True)
    every = torch.stack((measurement.and_[1], measurement.or_[1]))[:, 1:].abs().flatten()
    assert sizes == pytest.approx(every.topk(4).values.tolist())


def test_players_are_called_by_name():
    figure = interpret(torch.tensor([[0.0, 1.0, 2.0, 9.0]]), interactions="and").plot(names=["dog", "cat"])
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()][1:4] == ["dog ∧ cat", "cat", "dog"]


def games(seed, n_samples=2, n=4):
    return torch.randn(n_samples, 2**n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_dots_say_who_takes_part_and_in_what():
    measurement = interpret(games(2))
    bars, dots = waterfall(measurement, 1, n_strongest=9).axes
    labels = [text.get_text() for text in bars.get_yticklabels()][1:-2]
    assert {sign for sign in "∧∨" for label in labels if sign in label} == {"∧", "∨"}, "the game has both"
    drawn = dots.lines[1::2]  # behind each the dots of all players
    assert [" ".join(map(str, line.get_xdata())) for line in drawn] == [
        label.replace("∧ ", "").replace("∨ ", "") for label in labels
    ]
    assert [line.get_markerfacecolor() == "white" for line in drawn] == ["∨" in label for label in labels]
    orders = [text.get_text() for text in dots.texts][:-1]
    assert orders == [str(len(line.get_xdata())) for line in drawn]


def test_what_was_strong_before_and_is_gone_stays_in_the_list():
    before, now = (interpret(torch.zeros(1, 8).double(), interactions="and") for _ in range(2))
    before.and_[0, 0b011], before.and_[0, 0b001] = 3.0, 1.0
    now.and_[0, 0b001], now.and_[0, 0b100] = 2.0, -1.0
    shown = strongest(now, 0, 3, before=before)
    assert [(x.players, x.effect, x.before) for x in shown] == [((0,), 2.0, 1.0), ((2,), -1.0, 0.0), ((0, 1), 0.0, 3.0)]
    assert [x.players for x in strongest(now, 0, 3)] == [(0,), (2,)]
    texts = [text.get_text() for text in now.plot(before=("onset", before)).axes[0].texts]
    assert texts[texts.index("onset") :] == ["onset", "+1", "–", "+3"]


def test_what_references_have_too_is_ticked():
    measurement = interpret(games(3, 1), interactions="and")
    held = torch.zeros(1, 2, 16, dtype=torch.bool)
    first, second = (x.players for x in strongest(measurement, 0, 2))
    held[0, 0, sum(1 << player for player in second)] = True
    texts = [text.get_text() for text in waterfall(replace(measurement, held=held), n_strongest=2).axes[0].texts]
    assert texts[texts.index("shared") :] == ["shared", "–", "✓"]
    assert first != second
    assert "shared" not in [text.get_text() for text in waterfall(measurement).axes[0].texts]


def test_a_table_leads_from_the_masked_input_to_the_input():
    players = PlayerMap(torch.arange(4).repeat(2, 1), n_players=4, axes=(1,), names=(tuple("abcd"), tuple("efgh")))
    now, before = interpret(games(4)), interpret(games(5))
    table = steps(now, 1, players, before=before)
    assert [step.label for step in table[:1] + table[-2:]] == ["masked input", "the rest", "the input"]
    assert [float(step.effect) for step in (table[0], table[-1])] == pytest.approx(now.v[1, [0, -1]].tolist(), abs=5e-3)
    whole = float(now.v[1, -1] - now.v[1, 0])
    added = [float(step.effect) for step in table[1:-1] if step.effect != "–"]
    assert sum(added) == pytest.approx(whole, abs=0.5), "two digits each"
    for here, after in itertools.pairwise(table[:-1]):
        begin = after.left + (after.effect[0] == "-") * after.width
        end = here.left + (here.side == "for") * here.width
        assert begin == pytest.approx(end, abs=0.2)
    assert all(set(step.names) == {"efgh"[player] for player in step.players} for step in table)
    assert 0 <= min(step.left for step in table) <= max(step.left + step.width for step in table) <= 100.2


@pytest.mark.parametrize(("shift", "room"), [(0.0, 100), (50.0, 100)])
def test_steps_fill_the_room_however_far_the_output_lies_from_zero(shift, room):
    players = PlayerMap(torch.arange(4).repeat(2, 1), n_players=4, axes=(1,))
    outputs = games(4).abs()
    outputs[..., 0] = 0
    measurement = interpret(outputs + shift)
    table = steps(measurement, 1, players)
    ends = [end for step in table for end in (step.left, step.left + step.width)]
    assert min(ends) == pytest.approx(0, abs=0.2)
    assert max(ends) == pytest.approx(room, abs=0.2)
    verticals = [line.get_xdata()[0] for line in waterfall(measurement, 1).axes[0].lines if line.get_linewidth() == 0.8]
    assert verticals == ([] if shift else [0])


def test_shapiq_gets_the_same_numbers():
    pytest.importorskip("shapiq")
    v = torch.randn(2, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    measurement = interpret(v)
    for kind, effects in (("AND", measurement.and_), ("OR", measurement.or_)):
        values = measurement.to_shapiq(1, kind=kind)
        for coalition in range(16):
            members = tuple(player for player in range(4) if coalition >> player & 1)
            assert float(values[members]) == float(effects[1, coalition])
    # The dividends of all outputs, summed over what a coalition holds, are its output.
    dividends = interpret(v, interactions="and").to_shapiq(0)
    inside = [(), (0,), (2,), (0, 2)]
    assert sum(float(dividends[members]) for members in inside) == pytest.approx(float(v[0, 0b101]))
    with pytest.raises(ValueError, match="kind must be 'AND' or 'OR', but is 'XOR'"):
        measurement.to_shapiq(kind="XOR")


def test_a_sample_that_cannot_be_drawn_is_refused():
    measurement = interpret(torch.tensor([[0.0, 1.0], [math.nan, 1.0]]))
    with pytest.raises(ValueError, match="one of the 2 measured, 0 to 1, but is 2"):
        waterfall(measurement, 2)
    with pytest.raises(ValueError, match="sample=1 has outputs that are not finite"):
        waterfall(measurement, 1)


def test_what_has_measured_shows_itself():
    history = make_history(20)
    shown = history._repr_html_()
    assert shown.startswith("<img")
    assert shown.count("<img") == 1
    assert shown.count("Phase two began at epoch 10") == 1  # for who cannot see the picture, which says it too
    assert "Nothing was measured" in History()._repr_html_()
    monitor = InteractionMonitor(ImagePatches())
    assert "Nothing was measured" in monitor._repr_html_()
    with pytest.raises(ValueError, match="measure at least once"):
        monitor.plot()
    assert len(history.plot().axes) > 6
    assert "1 samples, 2 players" in interpret(torch.tensor([[0.0, 1.0, 2.0, 9.0]]))._repr_html_()


def test_a_history_as_a_data_frame():
    pytest.importorskip("pandas")
    history = make_history(5)
    frame = history.to_pandas()
    assert frame["epoch"].tolist() == list(range(6))
    assert frame["epoch"].dtype.kind == frame["step"].dtype.kind == "i"
    assert frame["mean_order"].tolist() == history.column("mean_order").tolist()
    assert frame["order_3"].tolist() == history.distribution[:, 2].tolist()
    assert frame["phase"].tolist()[-1] == history[-1].phase
    assert len(History().to_pandas()) == 0


def test_the_example_notebook_runs():
    pytest.importorskip("pandas")
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    namespace = {}
    shown = []
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "outputs are not committed"
            *statements, last = "".join(cell["source"]).rstrip().split("\n")
            try:  # a cell shows the value of its last line
                value = compile(last, "cell", "eval")
            except SyntaxError:
                statements, value = [*statements, last], compile("None", "cell", "eval")
            exec("\n".join(statements), namespace)
            shown.append(eval(value, namespace))
    history, table, last, figure = (value for value in shown if value is not None)
    assert len(history) == len(table) == 5
    assert "<img" in history._repr_html_() + last._repr_html_()
    # A figure shows itself where pyplot has not told the notebook how: so does each that `plot` gives.
    assert all(drawn._repr_png_().startswith(b"\x89PNG") for drawn in (figure, history.plot()))
    assert repr(last) == f"Measurement(10 samples, 6 players, mean order {last.mean_order:.2f})"
