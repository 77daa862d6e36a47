"""Every picture, table and sentence names the same onset and gap opening, by step where steps are known."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from rows import make_history, make_row

from interaction_monitor.console import line, phase_now, table, verdict
from interaction_monitor.history import History, landmarks
from interaction_monitor.history.landmarks import (
    ends_of_gap,
    find_detection,
    find_gap_crossing,
    find_gap_opening,
    find_onset,
    onset_index,
    places,
    positions,
    rises_below_zero,
    shown_losses,
    told_phases,
    top_of_losses,
)
from interaction_monitor.phases import gap_opening
from interaction_monitor.plots import browser_figures, charts, mark_onsets
from interaction_monitor.plots.theory_text import findings
from interaction_monitor.report import report_page, stages
from interaction_monitor.theory import fit_record

ORDERS = [3.8, 3.0, 2.4, 2.0, 1.7, 1.5, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.1, 2.2, 2.2, 1.3, 1.3]


def one_epoch(**changes):
    """Eighteen measurements within one epoch; the lowest mean order comes long after the onset."""
    known = {
        "phase": "two",
        "onset_epoch": 0,
        "detected_epoch": 0,
        "gap_onset_epoch": 0,
        "onset_step": 600,
        "detected_step": 1000,
        "gap_onset_step": 900,
        "train_loss": 0.5,
        "test_loss": 0.6,
    }
    return History(
        make_row(0, 100 * index, mean_order=order, **(known | changes if index >= 10 else {}))
        for index, order in enumerate(ORDERS)
    )


def test_all_say_the_same_step():
    history = one_epoch()
    assert verdict(history).startswith("phase two began at step 600 (known at step 1000): the mean order fell from")
    assert "fell from 3.80 to 1.40 and rose" in verdict(history)
    assert verdict(history).endswith("loss opened at step 900")
    marked = [line for line in table(history, most=4).splitlines() if "onset" in line]
    assert [line.split()[:2] for line in marked] == [["0", "600"]]
    ax = Figure().subplots()
    mark_onsets(ax, history)
    assert [line.get_xdata()[0] for line in ax.lines] == [600, 900]
    assert [line.get_label() for line in ax.lines] == ["onset of phase two (step 600)", "loss gap opens (step 900)"]
    figure = browser_figures.curves(history)
    assert [mark["x"] for mark in figure["marks"]] == [600, 900]
    values, _ = positions(history)
    assert [(values[begin], values[end]) for _, begin, end in stages(history)] == [(0, 600), (600, 1700)]


def test_a_recorded_run_of_one_epoch(planted_run):
    record = planted_run(levels=(0.3, *[0.1] * 14, 0.0), onset=6, one_epoch=True)
    assert len(record.history) == 18
    overlay = fit_record(record)
    assert overlay.turn == 6
    assert findings(overlay)[0] == "Phase two is from its onset on, step 60."
    page = report_page(record)
    assert "Onset of phase two: <b>step 60</b>, known at step 70." in page
    assert "opened at step 0; its rise begins 60 optimizer steps before the onset." in page
    assert [row.count("<td>60</td>") for row in page.split("<tr") if row.startswith(' class="onset"')] == [1]


def test_what_earlier_versions_wrote_is_found_by_its_epoch():
    rows = [
        make_row(epoch, 10 * i, mean_order=order, train_loss=0.0, test_loss=gap, **known)
        for i, (epoch, order, gap, known) in enumerate(
            [
                (0, 3.0, 0.3, {}),
                (1, 1.5, 0.2, {}),
                (1, 1.2, 0.4, {}),
                (2, 2.0, 0.9, {"phase": "two", "onset_epoch": 1, "detected_epoch": 2, "gap_onset_epoch": 1}),
            ]
        )
    ]
    history = History(rows)
    assert find_onset(history).index == 2, "where the mean order is lowest"
    assert find_gap_opening(history).index == 1, "where the gap is lowest"
    assert (find_gap_opening(history).place, find_detection(history).place) == ("step 10", "step 30")


def test_a_measurement_that_is_missing_still_has_a_place():
    history = History(row for row in one_epoch() if row.step != 600)
    assert (onset_index(history), find_onset(history).place) == (None, "step 600")
    history = History([make_row(3, 30), make_row(4, 40, phase="two", onset_epoch=2, detected_epoch=4, onset_step=20)])
    assert (find_onset(history).index, find_onset(history).place) == (None, "epoch 2")
    assert "epoch 2 (known at epoch 4)" in verdict(history)
    assert find_onset(History()) is None


def test_epochs_are_named_where_each_was_measured_once():
    history = History([make_row(0, 0), make_row(1, 10)])
    assert places(history) == ["epoch 0", "epoch 1"]
    assert "step" not in table(history).splitlines()[0]


def measured(orders, *, known_from=None, onset=None, one_from=3, gaps=None):
    """A run whose rows hold what a tracker knew at the time; the gaps stand on a training loss of 2."""
    rows = []
    for epoch, order in enumerate(orders):
        known = known_from is not None and epoch >= known_from
        gap = None if gaps is None else gaps[epoch]
        rows.append(
            make_row(
                epoch, 10 * epoch, mean_order=order,
                phase="two" if known else "one" if epoch >= one_from else "initial",
                onset_epoch=onset if known else None, onset_step=10 * onset if known else None,
                detected_epoch=known_from if known else None,
                gap_onset_epoch=0 if gap is not None and epoch >= 6 else None,
                train_loss=None if gap is None else 2.0, test_loss=None if gap is None else 2.0 + gap,
            )
        )  # fmt: skip
    return History(rows)


FALL_AND_RISE = [3.3, 2.3, 1.3, 1.5, 1.4, 1.6, 1.7, 1.9, 2.1]


def test_phases_are_told_as_they_were_and_nothing_told_before_contradicts_it():
    run = measured(FALL_AND_RISE, known_from=7, onset=2)
    assert told_phases(run) == ["one"] * 2 + ["two"] * 7
    for n in range(1, len(run) + 1):
        early = told_phases(run[:n])
        assert all(then in (None, now) for then, now in zip(early, told_phases(run), strict=False))
    assert [phase_now(run[:n]) for n in (1, 3, 5, 7, 8)] == [
        *["phase not decided yet"] * 4,  # at 5 and 7 the tracker says phase one while the mean order rises
        "phase two",
    ]
    assert phase_now(measured(FALL_AND_RISE[:3], one_from=2)) == "phase one so far"
    assert "  phase not decided yet  " in line(run[:6])
    told = table(run).splitlines()[1:]
    assert ["phase one" in row for row in told] == [True] * 2 + [False] * 7
    assert told[2].endswith("phase two  <- onset of phase two")


def test_phases_before_anything_is_known():
    assert told_phases(History()) == []
    assert told_phases(measured([3.0, 2.9])) == [None, None]
    nothing = measured([float("nan")] * 3, one_from=9)
    assert told_phases(nothing) == [None] * 3


# Training labels are partly wrong, and the logged training loss lags behind: one dip, then a rise through zero.
DIPS = [0.0, -0.05, -0.6, -0.3, -0.36, -0.33, -0.28, -0.2, -0.1, 0.1, 0.2]


def test_a_gap_that_rises_below_zero_has_not_opened_there():
    run = measured([3.0] * 11, gaps=DIPS)
    assert find_gap_opening(run).index == 4, "a single dip is not where it rises, though nothing is lower"
    assert find_gap_crossing(run).place == "epoch 9"
    assert rises_below_zero(run)
    above = measured([3.0] * 11, gaps=[0.0, 0.01, 0.0, 0.01, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert not rises_below_zero(above)
    assert find_gap_opening(above).place == "epoch 4"
    to_zero = [-0.3, -0.3, -0.31, -0.3, -0.3, -0.1, *[0.001] * 6]
    vanishing = measured([3.0] * 12, gaps=to_zero)
    assert find_gap_opening(vanishing).index == find_gap_crossing(vanishing).index - 2
    assert rises_below_zero(vanishing)
    for gaps, rises in (([*to_zero[:5], *[0.001] * 7], True), ([*to_zero[:5], *[0.4] * 7], False)):
        at_once = measured([3.0] * 12, gaps=gaps)
        assert find_gap_crossing(at_once).index == find_gap_opening(at_once).index + 1
        assert rises_below_zero(at_once) is rises, "a gap that comes up to zero and stays there is not open"
    assert find_gap_crossing(measured([3.0] * 9, gaps=DIPS[:9])) is None
    assert find_gap_crossing(measured([3.0] * 3, gaps=[0.1, 0.2, 0.3])) is None, "it never lay below"
    assert find_gap_crossing(measured([3.0] * 3)) is None


def test_a_gap_that_came_up_at_once_is_dated_as_in_the_run_and_not_to_where_it_stays():
    gaps = [0.0, -0.0317, -0.0104, -0.0067, 0.00062, 0.00052, *[0.0003] * 14]
    epochs = [0, 1, 2, 3, *range(6, 51, 3), 50]
    run = History(
        make_row(epoch, epoch, train_loss=0.7, test_loss=0.7 + gap, gap_onset_epoch=3 if epoch > 15 else None)
        for epoch, gap in zip(epochs, gaps, strict=True)
    )
    assert gap_opening([(row.epoch, row.train_loss, row.test_loss) for row in run]).epoch > 3
    assert find_gap_opening(run).place == "epoch 3"
    assert rises_below_zero(run)


def beside(run, gaps):
    """The run with losses of the measured samples, between which these gaps are."""
    return History(
        replace(row, evaluated_train_loss=2.0, evaluated_test_loss=2.0 + gap)
        for row, gap in zip(run, gaps, strict=True)
    )


FAIR = [0.0, -0.1, -0.2, -0.3, -0.3, -0.3, -0.3, -0.2, -0.1, 0.05, -0.01]


def test_every_sentence_and_picture_is_of_the_losses_that_the_run_logs():
    run = measured([*FALL_AND_RISE, 2.2, 2.3], known_from=7, onset=2, gaps=DIPS)
    both = beside(run, FAIR)
    assert shown_losses(both).of == ""
    assert find_gap_opening(both) == find_gap_opening(run)
    assert find_gap_crossing(both) == find_gap_crossing(run)
    assert verdict(both) == verdict(run)
    assert table(both) == table(run)
    for history in (both, run):
        ax = Figure().subplots()
        charts.loss_gap_curve(ax, history)
        np.testing.assert_allclose(ax.lines[0].get_ydata(), DIPS, atol=1e-12)


def test_a_run_that_logs_no_losses_has_those_of_the_measured_samples_and_says_so():
    logs_none = [
        replace(row, train_loss=None, test_loss=None)
        for row in measured([*FALL_AND_RISE, 2.2, 2.3], known_from=7, onset=2, gaps=DIPS)
    ]
    run = beside(logs_none, FAIR)
    assert find_gap_opening(run).place == "epoch 6"
    assert find_gap_crossing(run) is None, "at the last it lies below again"
    text = "the gap between test and training loss of the measured samples rises from epoch 6 on"
    assert verdict(run).endswith(f"{text}, and test loss still lies below training loss")
    assert line(run).split("loss gap ")[1].startswith("-0.010")
    assert table(run).splitlines()[-1] == "losses of the measured samples"
    assert "-0.300" in table(run)
    ax = Figure().subplots()
    charts.loss_curves(ax, run)
    assert {"train loss of the measured samples", "test loss of the measured samples"} <= set(
        ax.get_legend_handles_labels()[1]
    )


def test_headline_and_legend_say_what_the_gap_does():
    run = measured([*FALL_AND_RISE, 2.2, 2.3], known_from=7, onset=2, gaps=DIPS)
    assert verdict(run).endswith("on, and test loss lies above training loss from epoch 9 on")
    assert "opened" not in verdict(run)
    assert verdict(run[:9]).endswith("and test loss still lies below training loss")
    ax = Figure().subplots()
    mark_onsets(ax, run)
    assert ax.lines[1].get_label().startswith("loss gap rises (epoch ")
    ax = Figure().subplots()
    charts.loss_curves(ax, run)
    (shaded,) = ax.collections
    assert shaded.get_paths()[0].vertices[:, 0].min() > 8, "only where the test loss is the higher one"


@pytest.mark.parametrize(
    ("train", "test", "top"),
    [
        ((float("nan"), 0.36, 0.02), (23.0, 0.16, 0.05), 0.396),  # one loss before training would flatten the others
        ((2.3, 0.36, 0.02), (2.3, 0.3, 0.05), None),
        ((float("nan"), 0.36), (float("nan"), 0.16), None),
        ((9.0,), (9.0,), None),
        ((9.0, float("nan")), (9.0, float("nan")), None),
        ((9.0, -0.1), (9.0, -0.2), None),
    ],
)
def test_an_axis_of_losses_leaves_out_what_would_flatten_all_others(train, test, top):
    both = enumerate(zip(train, test, strict=True))
    history = History(make_row(epoch, epoch, train_loss=a, test_loss=b) for epoch, (a, b) in both)
    assert top_of_losses(history) == pytest.approx(top)
    ax = Figure().subplots()
    charts.loss_curves(ax, history)
    shown = [text.get_text() for text in ax.texts]
    (panel,) = [panel for panel in browser_figures.curves(history)["panels"] if panel["y"]["label"] == "loss"] or [None]
    assert panel is None or panel["y"]["max"] == pytest.approx(top)
    if top is not None:
        assert ax.get_ylim()[1] == pytest.approx(top)
        assert "↑ 23" in shown


@pytest.mark.parametrize(
    ("gaps", "ends", "told"),
    [
        ((3.1, 0.0, 0.1, 0.4), (-0.08, 0.48), "↑ 3.1"),
        ((-4.0, -0.1, 0.1, 0.3), (-0.18, 0.38), "↓ −4"),
        ((float("nan"), -4.0, -0.1, 0.3), (-0.18, 0.38), "↓ −4"),  # a run may know no training loss before training
        ((1.5, 0.0, 0.4), (None, None), None),  # which leaves the others a quarter of the axis
        ((3.1, 0.0, 0.0), (None, None), None),
        ((3.1,), (None, None), None),
        ((float("nan"),), (None, None), None),
    ],
)
def test_an_axis_of_the_gap_leaves_out_a_first_one_that_would_flatten_all_others(gaps, ends, told):
    history = History(make_row(epoch, epoch, train_loss=20.0, test_loss=20.0 + gap) for epoch, gap in enumerate(gaps))
    assert ends_of_gap(history) == (ends if told is None else pytest.approx(ends))
    ax = Figure().subplots()
    charts.loss_gap_curve(ax, history)
    assert [text.get_text() for text in ax.texts] == ([] if told is None else [told])
    panels = [panel["y"] for panel in browser_figures.curves(history)["panels"] if panel["y"]["label"] == "loss gap"]
    assert all((axis["min"], axis["max"]) == ends_of_gap(history) for axis in panels)
    if told is not None:
        assert ax.get_ylim() == pytest.approx(ends)
        assert len(panels) == 1


@pytest.fixture(scope="module")
def history():
    return make_history()


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


def test_steps_are_the_axis_where_an_epoch_is_measured_several_times():
    history = make_history(same_epoch=True)
    values, unit = landmarks.positions(history)
    assert unit == "optimizer step"
    assert values[-1] == 600
    assert landmarks.onset_index(history) == int(np.argmin(history.column("mean_order")))
