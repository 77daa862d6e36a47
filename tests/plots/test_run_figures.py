"""What the pictures of a run show."""

import os
import subprocess
import sys
import warnings
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from rows import make_history

from interaction_monitor.history import History, landmarks
from interaction_monitor.plots import ONSET, charts, mark_onsets, mark_phases, run_figures, tensorboard

N = 10


@pytest.fixture(scope="module")
def history():
    return make_history()


# The choice of columns


def test_the_columns_are_the_start_phase_one_the_onset_and_later_ones(history):
    columns = landmarks.representative_measurements(history)
    assert columns[0] == 0
    assert columns[-1] == 60
    assert columns[2] == 10
    assert 0 < columns[1] < 5, "phase one is shown where ⟨k⟩ is halfway down, early in the run"
    assert 20 < columns[3] < 35 < columns[4] < 50


@pytest.mark.parametrize("last", range(12))
def test_few_measurements(last):
    columns = landmarks.representative_measurements(make_history(last))
    assert len(columns) == min(last + 1, 6)
    assert columns == sorted(set(columns))
    assert columns[0] == 0
    assert columns[-1] == last


@pytest.mark.parametrize("onset", [1, 2, 30, 55, 56])
def test_the_onset_has_a_column_wherever_it_is(onset):
    columns = landmarks.representative_measurements(make_history(onset=onset))
    assert {0, onset, 60} <= set(columns)
    assert len(columns) == 6


def test_columns_without_salient_interactions():
    rows = [row.to_primitives() | {"mean_order": float("nan")} for row in make_history(30)]
    columns = landmarks.representative_measurements(History.from_primitives(rows))
    assert len(columns) == 6
    assert columns[-1] == 30


# Single charts


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


def test_steps_are_the_axis_where_an_epoch_is_measured_several_times():
    history = make_history(same_epoch=True)
    values, unit = landmarks.positions(history)
    assert unit == "optimizer step"
    assert values[-1] == 600
    assert landmarks.onset_index(history) == int(np.argmin(history.column("mean_order")))


def test_losses_that_are_logged_now_and_then_are_joined():
    rows = make_history(20).to_primitives()
    for row in rows[::2]:
        row["test_loss"] = None
    ax = Figure().subplots()
    charts.loss_curves(ax, History.from_primitives(rows))
    train, test = ax.lines
    assert len(train.get_xdata()) == 20
    assert test.get_xdata().tolist() == list(range(1, 20, 2))


# Whole figures


@pytest.mark.parametrize("make", [*tensorboard.PICTURES.values()], ids=lambda make: make.__name__)
def test_figures_of_every_kind_of_run(make):
    runs = [
        make_history(),
        make_history(0),
        make_history(2, losses=False, n=1),
        make_history(40, 8, onset=8, n=14, same_epoch=True),
        History.from_primitives([
            row | {"distribution": [0.0] * N, "mean_order": float("nan"), "mean_order_low": float("nan")}
            for row in make_history(3).to_primitives()
        ]),
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for run in runs:
            image = run_figures.to_image(make(run))
            assert image.dtype == np.uint8
            assert image.shape[2] == 3
            assert image.std() > 5, "an empty page"


def test_what_carries_over_is_drawn_as_far_as_it_is_known(history):
    rows = [
        replace(row, persisted=tuple(0.5 * x for x in row.strength), vanished=tuple(0.25 * x for x in row.strength))
        for row in history
    ]
    axes = run_figures.carry_over(History([history[0], *rows[1:]])).axes
    tops = [part.get_paths()[0].vertices[:, 1].max() for part in axes[0].collections]
    np.testing.assert_allclose(tops, [0.4, 0.8, 1.0])
    shown = axes[1].collections[0].get_array()
    assert np.ma.getmaskarray(shown)[:, 0].all(), "the first measurement has nothing before it"
    known = ~np.ma.getmaskarray(shown)
    np.testing.assert_allclose(shown[known], 0.5)
    assert known[0, 1:].all()
    assert "not measured" in [text.get_text() for text in axes[2].texts]

    effect = (1.0, 0.5, 0.25, 0.1, *(0.0,) * 6)
    more = {"effect": effect, "train_effect": effect[::-1], "similarity": (0.5,) * N}
    axes = run_figures.carry_over(History([replace(row, **more) for row in rows])).axes
    lines = {line.get_label(): line for line in axes[2].lines}
    assert {"orders 1 to 3, probe samples", "orders 4 and above, training samples"} <= set(lines)
    heights = [line.get_ydata()[0] for line in axes[2].lines if len(line.get_xdata()) == len(rows)]
    np.testing.assert_allclose(heights, [1.75, 0.1, 0.0, 1.85])
    np.testing.assert_allclose(axes[3].collections[0].get_array(), 0.5)
    axes[0].figure.draw_without_rendering()
    for corner in axes[2].get_legend().get_window_extent().corners():
        assert axes[2].bbox.contains(*corner), "the legend of four entries lies in its panel"
    assert max(axes[0].get_yticks()) <= 1


@pytest.mark.parametrize("draw", [run_figures.story, run_figures.carry_over])
def test_no_line_at_an_epoch_runs_through_a_legend(draw, history):
    effect = (1.0, 0.5, 0.25, 0.1, *(0.0,) * 6)
    share = {"generalizing_share": 0.5, "generalizing_low": 0.4, "generalizing_high": 0.6, "overfitting_epoch": 30}
    more = share | {"effect": effect, "train_effect": effect, "similarity": (0.5,) * N}
    figure = draw(History([replace(row, **more) for row in history]))
    figure.draw_without_rendering()
    legends = [ax.get_legend().get_window_extent() for ax in figure.axes if ax.get_legend() is not None]
    upright = [
        line for ax in figure.axes for line in ax.lines if len(line.get_xdata()) == 2 == 1 + len({*line.get_xdata()})
    ]
    assert len(legends) >= 2
    assert len(upright) >= 6
    for line in upright:
        assert not any(line.get_window_extent().overlaps(box) for box in legends), line.get_label()


def test_a_figure_of_nothing_says_so():
    for make in tensorboard.PICTURES.values():
        with pytest.raises(ValueError, match="history is empty"):
            make(History())


def test_the_story_says_what_happened(history):
    figure = run_figures.story(history)
    title = figure.get_suptitle().replace("\n", " ")
    assert "epoch 10" in title
    assert title.endswith("epoch 20.")
    labels = [label for ax in figure.get_axes() for label in [ax.get_ylabel()] if label]
    assert {"order k", "mean order ⟨k⟩", "loss gap", "loss"} <= set(labels)
    # Charts over the run share their axis, so that an epoch is at the same place in each.
    lims = {ax.get_xlim() for ax in figure.get_axes() if ax.get_ylabel() in ("order k", "mean order ⟨k⟩", "loss")}
    assert lims == {(-0.5, 60.5)}


def test_a_users_style_and_pyplot_are_left_alone(history):
    with matplotlib.rc_context({"font.size": 31, "axes.titlesize": 40, "axes.facecolor": "black"}):
        dressed = run_figures.to_image(run_figures.heat_map(history))
        assert matplotlib.rcParams["font.size"] == 31
    np.testing.assert_array_equal(dressed, run_figures.to_image(run_figures.heat_map(history)))


def test_pyplot_is_never_imported():
    code = """
import sys
from interaction_monitor.plots import tensorboard
from interaction_monitor.history import History
try:
    tensorboard.PICTURES["story"](History())
except ValueError:
    pass
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"MPLBACKEND": "module://nowhere"})


# The generalizing share, where there are references


def beside_references():
    """A run whose share rises to 60% at epoch 30 and sinks from there, which is known at epoch 40."""
    rows = []
    for row in make_history(every=2):
        share = 0.2 + 0.4 * row.epoch / 30 if row.epoch <= 30 else 0.6 - 0.01 * (row.epoch - 30)
        known = {"overfitting_epoch": 30, "overfitting_step": 300} if row.epoch >= 40 else {}
        shares = {f"generalizing_{name}": share + d for name, d in (("share", 0.0), ("low", -0.1), ("high", 0.1))}
        strength = tuple(share * x for x in row.strength)
        rows.append(replace(row, **shares, **known, generalizing=strength))
    return History(rows)


def test_the_curve_is_the_share_with_its_band_and_its_onset():
    history, ax = beside_references(), Figure().subplots()
    charts.generalizing_curve(ax, history)
    curve, onset = ax.lines
    np.testing.assert_array_equal(curve.get_ydata(), history.column("generalizing_share"))
    assert onset.get_xdata()[0] == 30
    assert onset.get_label() == "over-fitting begins (epoch 30)"
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([band.min(), band.max()], [0.1, 0.7])


def test_the_story_has_a_row_for_it_only_where_it_is_known():
    titles = [
        [ax.get_title(loc="left") for ax in run_figures.story(history).axes if ax.get_title(loc="left")]
        for history in (beside_references(), make_history(every=2))
    ]
    assert titles[0][-1].startswith("4  Which part of it will hold")
    assert titles[0][:-1] == titles[1]
