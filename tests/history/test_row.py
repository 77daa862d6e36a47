"""What a row takes from measurements, whose samples count and by which threshold, and how it is written."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from interaction_monitor.functional import and_outputs, order_turnover
from interaction_monitor.history import History, Row
from interaction_monitor.history.row import from_before, summarise
from interaction_monitor.measurement import interpret
from interaction_monitor.phases import PhaseTracker

# One effect of 0.02 beside the pattern of both players: below 3% of the output's change, and above it.
FAINT = interpret(and_outputs(torch.tensor([[0.0, 0.02, 0.0, 1.0]])), interactions="and")
CLEAR = interpret(and_outputs(torch.tensor([[0.0, 0.02, 0.0, 0.3]])), interactions="and")


def test_a_sample_that_is_not_finite_counts_nowhere_in_a_row():
    v = and_outputs(torch.tensor([[0.0, 1.0, 2.0, -4.0], [0.0, 3.0, 0.0, 0.0]]))
    state = PhaseTracker().state
    alone = summarise(interpret(v, interactions="and"), state, epoch=0, step=0)
    broken = torch.cat((v, torch.full((1, 4), math.nan)))
    beside = summarise(interpret(broken, interactions="and"), state, epoch=0, step=0)
    assert (alone.n_valid, alone.strength, alone.n_salient) == (2, (3.0, 2.0), 2.0)
    for name in ("n_valid", "strength", "n_salient", "mean_order", "mean_order_low", "high_order_share", "effect"):
        assert getattr(beside, name) == getattr(alone, name), name


@pytest.mark.parametrize(("before", "now", "kept"), [(FAINT, CLEAR, 0.0), (CLEAR, CLEAR, 0.02)])
def test_what_was_there_before_is_salient_by_its_own_threshold(before, now, kept):
    assert from_before(before, now)["persisted"] == pytest.approx((kept, 0.3))


def games(seed: int, *shape: int) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.round(decimals=1)


def test_the_turnover_is_that_of_samples_finite_at_both_moments():
    v, later = games(7, 5, 16), games(8, 5, 16)
    later[2, 3] = math.nan
    before, now = interpret(v), interpret(later)
    kept = [0, 1, 3, 4]
    expected = order_turnover(
        (before.and_[kept], before.or_[kept]), (now.and_[kept], now.or_[kept]), before_tau=before.tau, tau=now.tau
    )
    numbers = from_before(before, now)
    assert numbers["persisted"] == pytest.approx(expected.persisted.mean(0).tolist())
    assert numbers["vanished"] == pytest.approx(expected.vanished.mean(0).tolist())
    assert from_before(None, now) == {}
    assert from_before(replace(before, valid=~now.valid), now) == {}


class TestRows:
    def test_optional_fields_survive_every_way_of_writing(self, planted_run):
        first = planted_run().history[0]
        unknown = replace(first, **dict.fromkeys(("persisted", "effect"), ()))
        known = replace(first, epoch=9, step=99, persisted=(1.0,) * 5, train_effect=(0.5,) * 5)
        history = History([unknown, known])
        cells = [{key: of.get(key, "") for key in known.to_csv()} for of in history.to_csv()]
        assert History.from_csv(cells) == history
        for row in (unknown, known):
            assert Row.from_csv(row.to_csv() | {"vanished_1": ""}).persisted == row.persisted
            assert Row.from_primitives(row.to_primitives()) == row
        old = {key: value for key, value in known.to_primitives().items() if key != "persisted"}
        assert Row.from_primitives(old).persisted == ()
        assert np.isnan(history.by_order("persisted")[0]).all()
        assert history.by_order("persisted")[1].tolist() == [1.0] * 5
        with pytest.raises(ValueError, match="persisted needs one entry per order"):
            replace(first, persisted=(1.0,))
        with pytest.raises(ValueError, match="no field 'phase' with an entry per order"):
            history.by_order("phase")

    def test_sums_of_the_high_orders(self, planted_run):
        row = replace(
            planted_run().history[0],
            strength=(4.0, 2.0, 1.0, 1.0, 0.0),
            persisted=(2.0, 1.0, 1.0, 0.0, 0.0),
            effect=(1.0, 0.5, -0.5, 0.25, 0.0),  # the high ones of five players are 2 and above
            train_effect=(1.0, 1.0, 1.0, 0.0, 0.0),
        )
        assert row.persisted_share == 0.5
        assert row.high_order_effect == 0.25
        assert row.high_order_gap == 1.75
        assert replace(row, train_effect=()).high_order_gap is None
        assert replace(row, effect=()).high_order_effect is None
        assert replace(row, strength=(0.0,) * 5).persisted_share is None
