"""Single charts, against the numbers that they show."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from rows import make_history

from interaction_monitor.history import History
from interaction_monitor.plots import ONSET, charts, mark_onsets, mark_phases

N = 10


@pytest.fixture(scope="module")
def history():
    return make_history()


def test_order_bars_show_shares():
    ax = Figure().subplots()
    charts.order_bars(ax, [4.0, 3.0, 1.0])
    assert [bar.get_height() for bar in ax.patches] == [0.5, 0.375, 0.125]
    colours = [sum(bar.get_facecolor()[:3]) for bar in ax.patches]
    assert colours[0] > colours[1] > colours[2], "simple orders are light, complex ones dark"


def test_order_bars_of_theory_beside_the_measured_ones():
    ax = Figure().subplots()
    charts.order_bars(ax, [1.0, 1.0], [3.0, 1.0], labels=("measured", "theory"))
    heights = [[bar.get_height() for bar in bars] for bars in ax.containers]
    assert heights == [[0.5, 0.5], [0.75, 0.25]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["measured", "theory"]


def test_order_bars_of_nothing():
    ax = Figure().subplots()
    charts.order_bars(ax, [0.0, 0.0])
    assert [bar.get_height() for bar in ax.patches] == [0, 0]
    assert "nothing" in ax.texts[0].get_text()


def test_the_bar_row_marks_the_onset_alone(history):
    axes = list(Figure().subplots(1, 6, sharey=True))
    charts.bar_row(axes, history)
    titles = [ax.get_title() for ax in axes]
    assert titles[0] == "epoch 0\nstart"
    assert titles[2] == "epoch 10\nonset"
    assert [title.split("\n")[1] for title in titles[3:]] == ["phase two"] * 3
    framed = [to_hex(ax.spines["top"].get_edgecolor()).upper() == ONSET for ax in axes]
    assert framed == [False, False, True, False, False, False]


def test_the_heat_map_lays_every_measurement_at_its_epoch():
    history = make_history(every=4, onset=8)
    ax = Figure().subplots()
    mesh = charts.order_heat_map(ax, history)
    shares = np.asarray(mesh.get_array()).reshape(N, len(history))
    np.testing.assert_allclose(shares.sum(axis=0), 1)
    np.testing.assert_allclose(shares[:, 2], history.distribution[2] / N)
    assert ax.get_xlim() == (-2, 62)


def test_the_phases_meet_at_the_onset_and_the_lines_stand_there(history):
    ax = Figure().subplots()
    charts.mean_order_curve(ax, history)
    mark_phases(ax, history, names_at=0.9)
    mark_onsets(ax, history)
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches]
    assert spans == [(-0.5, 10), (10, 60.5)]
    assert [text.get_text() for text in ax.texts] == ["phase one", "phase two"]
    lines = {line.get_label(): line.get_xdata()[0] for line in ax.lines[1:]}
    assert lines == {"onset of phase two (epoch 10)": 10, "loss gap opens (epoch 20)": 20}


def test_phases_while_nothing_is_known():
    for last, spans in ((0, []), (3, [(-0.5, 3)])):
        ax = Figure().subplots()
        history = make_history(last)
        charts.mean_order_curve(ax, history)
        mark_phases(ax, history)
        mark_onsets(ax, history)
        assert [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches] == spans
        assert len(ax.lines) == 1


def test_losses_that_are_logged_now_and_then_are_joined():
    rows = make_history(20).to_primitives()
    for row in rows[::2]:
        row["test_loss"] = None
    ax = Figure().subplots()
    charts.loss_curves(ax, History.from_primitives(rows))
    train, test = ax.lines
    assert len(train.get_xdata()) == 20
    assert test.get_xdata().tolist() == list(range(1, 20, 2))
