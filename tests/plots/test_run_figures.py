"""What the pictures of a run show."""

import os
import subprocess
import sys
import warnings
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from rows import make_history

from interaction_monitor.history import History
from interaction_monitor.plots import charts, run_figures, tensorboard

N = 10


@pytest.fixture(scope="module")
def history():
    return make_history()


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
