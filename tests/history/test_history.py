"""Histories: what goes into a CSV file or a checkpoint comes back bit by bit."""

import csv
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import make_row

from interaction_monitor.history import PHASES, History, Row, csv_columns

numbers = st.floats(allow_nan=True, allow_infinity=True)
epochs = st.integers(0, 10**6)


@st.composite
def histories(draw):
    n = draw(st.integers(1, 4))
    places = sorted(draw(st.sets(st.tuples(epochs, epochs), max_size=5)))
    orders = st.tuples(*[numbers] * n)
    return History(
        make_row(
            epoch,
            step,
            distribution=draw(orders),
            strength=draw(orders),
            phase=draw(st.sampled_from(PHASES)),
            n_valid=draw(epochs),
            onset_epoch=draw(st.none() | epochs),
            detected_epoch=draw(st.none() | epochs),
            gap_onset_epoch=draw(st.none() | epochs),
            train_loss=draw(st.none() | numbers),
            test_loss=draw(st.none() | numbers),
            mean_order=draw(numbers),
            tau=draw(numbers),
        )
        for epoch, step in places
    )


def same(a, b):
    # repr tells NaN, -0.0, None and every digit apart, without the History's own idea of equality.
    return [repr(row) for row in a] == [repr(row) for row in b]


@settings(deadline=None, max_examples=50)
@given(histories())
def test_csv_round_trip_through_text(history):
    text = io.StringIO()
    writer = csv.DictWriter(text, csv_columns(history.n_players))
    writer.writeheader()
    writer.writerows(history.to_csv())
    back = History.from_csv(csv.DictReader(io.StringIO(text.getvalue())))
    assert same(history, back)
    assert history == back


@settings(deadline=None, max_examples=50)
@given(histories())
def test_primitives_round_trip_and_are_plain(history):
    plain = history.to_primitives()
    assert same(history, History.from_primitives(json.loads(json.dumps(plain))))
    for row in plain:
        for value in row.values():
            assert type(value) in (int, float, str, list, type(None))
    assert same(history, History.from_primitives(plain))


def test_foreign_numbers_become_plain():
    row = make_row(epoch=np.int64(3), mean_order=np.float32(1.5), distribution=(np.float64(1.0),) * 3)
    assert type(row.to_primitives()["mean_order"]) is float
    assert type(row.to_primitives()["distribution"][0]) is float
    assert row.to_csv()["mean_order"] == "1.5"
    assert row.to_csv()["epoch"] == "3"


@pytest.mark.parametrize("later", [(4, 40), (5, 49), (5, 50)])
def test_append_refuses_what_is_not_later(later):
    history = History([make_row(5, 50)])
    with pytest.raises(ValueError, match="must increase"):
        history.append(make_row(*later))
    assert len(history) == 1


def test_append_takes_a_later_step_of_the_same_epoch_and_refuses_other_players():
    history = History([make_row(5, 50)])
    history.append(make_row(5, 51))
    with pytest.raises(ValueError, match="3 players, the new row 4"):
        history.append(make_row(6, 60, n=4))
    assert history.steps.tolist() == [50, 51]


def test_until_keeps_what_a_checkpoint_has_seen():
    history = History(make_row(e, s) for e, s in [(0, 0), (1, 10), (1, 15), (2, 20)])
    assert [row.position for row in history.until(1, 15)] == [(0, 0), (1, 10), (1, 15)]
    assert len(history.until(0, 0)) == 1
    assert isinstance(history[1:], History)


def test_columns():
    history = History([make_row(0, 0), make_row(1, 5, train_loss=0.25, test_loss=1.0, phase="two", onset_epoch=0)])
    assert history.distribution.shape == history.strength.shape == (2, 3)
    assert math.isnan(history.column("loss_gap")[0])
    assert history.column("loss_gap")[1] == 0.75
    assert history.column("phase").tolist() == ["one", "two"]
    np.testing.assert_array_equal(history.column("onset_epoch"), [np.nan, 0])
    assert History().distribution.shape == (0, 0)
    for name in ("order_4", "order_0", "order_01", "order_", "strength_1_", "train_order_1"):
        with pytest.raises(ValueError, match=f"no column '{name}'; .*, order_1 to order_3, strength_1 to strength_3"):
            history.column(name)
    with pytest.raises(ValueError, match="no column 'meanorder'; there are epoch, "):
        history.column("meanorder")
    with pytest.raises(ValueError, match="no column 'strength'"):
        history.column("strength")


def test_every_column_of_the_csv_file_is_a_column():
    first = make_row(0, 0, distribution=(0.5, 1.0, 1.5), strength=(1.0, 2.0, 3.0))
    history = History([first, make_row(1, 5, train_strength=(4.0, 5.0, 6.0))])
    np.testing.assert_array_equal(history.column("order_3"), [1.5, 1.0])
    np.testing.assert_array_equal(history.column("strength_1"), [1.0, 2.0])
    np.testing.assert_array_equal(history.column("train_strength_2"), [np.nan, 5.0])
    for name in csv_columns(3):
        assert history.column(name).shape == (2,)
    assert History().column("order_1").shape == (0,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": -1}, "epoch must lie between"),
        ({"step": 2**60}, "step must lie between"),
        ({"strength": (1.0,)}, "got 3 and 1"),
        ({"distribution": (), "strength": ()}, "one entry per order"),
        ({"phase": "three"}, "got 'three'"),
    ],
)
def test_bad_rows(changes, message):
    with pytest.raises(ValueError, match=message):
        make_row(**changes)


@pytest.mark.parametrize(
    ("cell", "text", "message"),
    [
        ("epoch", "1.5", "'epoch' holds '1.5', which is no int"),
        ("tau", "", "'tau' holds ''"),
        ("order_2", "x", "'order_2' holds 'x'"),
        ("order_2", None, "one entry per order"),
        ("n_valid", None, "'n_valid' is missing"),
    ],
)
def test_bad_cells(cell, text, message):
    cells = make_row().to_csv()
    if text is None:
        del cells[cell]
    else:
        cells[cell] = text
    with pytest.raises(ValueError, match=message):
        Row.from_csv(cells)


def test_bad_primitives():
    plain = make_row().to_primitives()
    with pytest.raises(ValueError, match="lacks tau"):
        Row.from_primitives({name: value for name, value in plain.items() if name != "tau"})
    with pytest.raises(ValueError, match="cannot be read"):
        Row.from_primitives(plain | {"strength": 3})


def test_columns_of_later_versions_are_left_alone():
    row = make_row()
    assert Row.from_csv(row.to_csv() | {"colour": "blue"}) == row
    assert Row.from_primitives(row.to_primitives() | {"colour": "blue"}) == row
