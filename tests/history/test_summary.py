"""What a row takes from measurements: whose samples count, and by which threshold."""

import math

import pytest
import torch

from interaction_monitor import Probe
from interaction_monitor.functional import and_outputs
from interaction_monitor.history.summary import from_before, from_training, summarise
from interaction_monitor.measurement import interpret
from interaction_monitor.phases import PhaseTracker
from interaction_monitor.players.player_map import PlayerMap

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


def test_training_samples_count_by_the_threshold_of_the_others():
    probe = Probe(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))
    players = PlayerMap(labels=torch.tensor([[0, 1]]), n_players=2, axes=(1,), baseline=0.0)
    for test, train, strength in ((FAINT, CLEAR, (0.0, 0.3)), (CLEAR, FAINT, (0.02, 1.0))):
        numbers = from_training(test, train, (probe, probe), (players, players))
        assert numbers["train_strength"] == pytest.approx(strength)
        assert numbers["similarity"] == pytest.approx((1.0, 0.3))  # the smaller of both strengths by the larger
