"""One sample explained, and what shows itself in a notebook."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from interaction_monitor import InteractionMonitor
from interaction_monitor.history import History
from interaction_monitor.measurement import interpret
from interaction_monitor.players import ImagePatches
from interaction_monitor.plots.sample_figures import waterfall
from tests.plots.test_run_figures import make_history

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
    assert "Phase two began at epoch 10" in shown
    assert shown.count("<img") == 1
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
