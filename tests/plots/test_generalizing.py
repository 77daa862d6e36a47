"""How the generalizing share is drawn, where there are references."""

import re
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from interaction_monitor.history import History
from interaction_monitor.plots import charts, run_figures, tensorboard
from tests.plots.test_run_figures import make_history


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


def test_a_share_by_order_is_no_chart_of_its_own():
    values = {f"run/{key}": 0.5 for key in ("generalizing_share", "generalizing_share_order_2", "order_2")}
    assert set(tensorboard.charted(values, "run")) == {"run/generalizing_share", "run/order_2"}
    assert tensorboard.charted({"run/evaluated_gap": 0.1}, "run") == {}, "one gap alone is shown, of one pair of losses"


def test_the_custom_scalars_have_a_chart_for_it_only_where_it_is_known():
    chart = "generalizing share"
    assert chart not in tensorboard.custom_scalars(3)["interactions"]
    kind, tags = tensorboard.custom_scalars(3, reference=True)["interactions"][chart]
    assert kind == "Multiline"
    assert [bool(re.match(tag, "interactions/generalizing_share")) for tag in tags] == [True]
