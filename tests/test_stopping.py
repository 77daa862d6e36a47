from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from rows import make_row

from interaction_monitor.callbacks.errors import rule_of
from interaction_monitor.history import History
from interaction_monitor.stopping import (
    GeneralizingShare,
    HighOrderGrowth,
    HighOrdersAndGap,
    OnsetPatience,
    OverfittingKnown,
    StopRule,
    TransferLoss,
)

PLAIN = make_row(n=4, high_order_share=0.5, output_change=2.0)


def history(**columns):
    length = len(next(iter(columns.values())))
    return History(
        replace(PLAIN, epoch=i, step=i, **{name: values[i] for name, values in columns.items()}) for i in range(length)
    )


SHARES = [0.5, 0.2, 0.1, 0.12, 0.15, 0.15, 0.3, 0.4]  # 0.4 is lost
TRAIN = [2.0, 1.5, 1.0, 0.8, 0.6, 0.6, 0.5, 0.4]
TEST = [2.0, 1.5, 1.0, 0.8, 0.6, 0.65, 0.9, 1.0]  # opens by 0.05 at index 5, 0.4 at 6


def test_onset_patience_counts_measurements_since_it_is_known():
    run = history(detected_epoch=[None, None, 2, 2, 2, 2])
    assert [OnsetPatience(p).first_stop(run) for p in (0, 1, 3, 4)] == [2, 3, 5, None]


def test_high_orders_stop_when_the_part_is_back_for_long_enough():
    run = history(high_order_share=SHARES)
    assert HighOrderGrowth(regained=0.12, measurements=1).first_stop(run) == 4
    assert HighOrderGrowth(regained=0.12, measurements=2).first_stop(run) == 5
    assert HighOrderGrowth(regained=0.4, measurements=2).first_stop(run) == 7
    assert HighOrderGrowth(regained=0.8).first_stop(run) is None


def test_high_orders_and_gap_need_both():
    both = history(high_order_share=SHARES, train_loss=TRAIN, test_loss=TEST)
    assert HighOrdersAndGap(regained=0.1, gap=0.05, measurements=1, patience=0).first_stop(both) == 6
    assert HighOrdersAndGap(regained=0.1, gap=0.05, measurements=2, patience=0).first_stop(both) == 7
    assert HighOrdersAndGap(regained=0.1, gap=0.02, measurements=2, patience=0).first_stop(both) == 6
    no_gap = history(high_order_share=SHARES, train_loss=TRAIN, test_loss=TRAIN)
    assert HighOrdersAndGap(patience=0).first_stop(no_gap) is None
    no_high = history(high_order_share=sorted(SHARES, reverse=True), train_loss=TRAIN, test_loss=TEST)
    assert HighOrdersAndGap(patience=0).first_stop(no_high) is None


def test_a_run_that_is_known_to_overfit_stops():
    run = history(overfitting_epoch=[None, None, 1, 1, 1], overfitting_detected_epoch=[None, None, 2, 2, 2])
    assert [OverfittingKnown(m).first_stop(run) for m in (0, 2, 3)] == [2, 4, None]
    assert OverfittingKnown().sentence(run) == "the run is known to over-fit since epoch 1"
    assert OverfittingKnown().first_stop(history(generalizing_share=[0.8, 0.2])) is None


def test_a_run_whose_test_loss_still_falls_goes_on():
    falling = [2.0, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 1.3]  # while the gap opens by 1.3 in all
    run = history(high_order_share=SHARES, train_loss=[2.0, 1.5, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0], test_loss=falling)
    assert HighOrdersAndGap(patience=0).first_stop(run) == 5
    assert HighOrdersAndGap(patience=1).first_stop(run) is None
    both = history(high_order_share=SHARES, train_loss=TRAIN, test_loss=TEST)
    assert HighOrdersAndGap(measurements=1, patience=3).first_stop(both) == 7  # lowest at 4


def test_without_losses_the_gap_never_opens():
    assert HighOrdersAndGap().first_stop(history(high_order_share=SHARES)) is None
    # losses that come later count from there on, as an epoch without validation has none
    late = history(high_order_share=SHARES, train_loss=[None, *TRAIN[1:]], test_loss=[None, *TEST[1:]])
    assert HighOrdersAndGap(measurements=1).first_stop(late) == 6


def test_transfer_loss_compares_training_samples_with_others():
    run = history(
        effect=[(1.0, 0.5, 0.1, 0.1)] * 4,
        train_effect=[(1.0, 0.0, 0.1, 0.1), (0.0, 0.9, 0.1, 0.1), (1.0, 0.9, 0.2, 0.1), (1.0, 0.9, 0.2, 0.2)],
    )
    # of four players orders two and above are high: -0.5, 0.4, 0.5 and 0.6 more, of an output that changes by 2
    assert TransferLoss(share=0.2, measurements=1).first_stop(run) == 1
    assert TransferLoss(share=0.25, measurements=2).first_stop(run) == 3
    assert TransferLoss().first_stop(history(effect=[(1.0, 0.5, 0.1, 0.1)] * 4)) is None


def test_a_sinking_generalizing_share_stops_after_it_has_lasted():
    shares = [None, 0.2, 0.5, 0.6, 0.56, 0.5, 0.55, 0.51, 0.5]  # 0.51 is 15% below the highest
    run = history(generalizing_share=shares)
    assert GeneralizingShare(measurements=2).first_stop(run) == 8
    assert GeneralizingShare().first_stop(run) is None
    assert GeneralizingShare(measurements=1).first_stop(run) == 5
    assert GeneralizingShare(drop=0.05, measurements=3).first_stop(run) == 6
    assert GeneralizingShare(drop=0.2).first_stop(run) is None
    assert (
        GeneralizingShare(measurements=2).reason(run)
        == "of what the network encodes 50% generalizes, after 60% at epoch 3"
    )


def test_without_a_share_nothing_is_stopped():
    assert GeneralizingShare(drop=0.0, measurements=1).first_stop(history(generalizing_share=[None] * 4)) is None
    assert GeneralizingShare(drop=0.0, measurements=1).first_stop(history(generalizing_share=[0.0] * 4)) is None
    assert GeneralizingShare(measurements=1).first_stop(history(generalizing_share=[np.nan, 0.5, np.nan, None])) is None
    # a measurement without a share is passed over
    gap = history(generalizing_share=[0.5, 0.6, 0.4, None, np.nan, 0.4])
    assert GeneralizingShare(measurements=2).first_stop(gap) == 5
    # what untrained networks share is nothing that could be lost
    start = history(generalizing_share=[0.4, 0.2, 0.1, 0.1, 0.4, 0.1, 0.1])
    assert GeneralizingShare(measurements=1).first_stop(start) is None
    assert GeneralizingShare().first_stop(history(generalizing_share=[0.2, 0.3, 0.4, 0.5])) is None


@pytest.mark.parametrize(
    "rule", [OnsetPatience(1), HighOrderGrowth(), HighOrdersAndGap(), TransferLoss(), GeneralizingShare()]
)
def test_rules_say_why_only_where_they_stop_and_nothing_of_an_empty_history(rule):
    run = history(
        high_order_share=SHARES,
        train_loss=TRAIN,
        test_loss=TEST,
        detected_epoch=[None] * 4 + [4] * 4,
        generalizing_share=[0.2, 0.6, 0.6, 0.6, 0.6, 0.5, 0.4, 0.3],
        effect=[(0.0, 0.0, 0.0, 0.0)] * 8,
        train_effect=[(0.0, 0.0, 0.0, 0.0)] * 4 + [(0.0, 0.0, 1.0, 1.0)] * 4,
    )
    assert rule.reason(History()) is None
    stop = rule.first_stop(run)
    assert stop is not None
    for end in range(1, len(run) + 1):
        reason = rule.reason(run[:end])
        assert (reason is None) == (not rule.should_stop(run[:end]))
    assert "nan" not in rule.reason(run[: stop + 1])
    # a rule keeps nothing: asked again, it says the same
    assert rule.first_stop(run) == stop


def test_nothing_salient_stops_nothing():
    run = history(high_order_share=[np.nan] * 4, train_loss=[1.0] * 4, test_loss=[1.0, 2.0, 3.0, 4.0])
    assert HighOrderGrowth().first_stop(run) is None
    assert HighOrdersAndGap().first_stop(run) is None


@dataclass(frozen=True)
class Answers(StopRule):
    answer: object

    def reason(self, history):
        return self.answer


@pytest.mark.parametrize(
    ("answer", "sentence"), [(None, None), (False, None), (True, "Answers(answer=True)"), ("enough", "enough")]
)
def test_a_rule_that_answers_yes_or_no_is_named(answer, sentence):
    rule = Answers(answer)
    assert rule.sentence(history(high_order_share=[0.1])) == sentence
    assert rule.should_stop(history(high_order_share=[0.1])) == (sentence is not None)


def test_arguments_of_a_monitor_become_one_rule():
    assert rule_of(stop=None, stop_on_onset=False, patience=None, n_train_samples=0) is None
    with pytest.raises(ValueError, match=r"patience=3.*stop_on_onset=True.*does nothing"):
        rule_of(stop=None, stop_on_onset=False, patience=3, n_train_samples=0)
    assert rule_of(stop=None, stop_on_onset=True, patience=0, n_train_samples=0) == OnsetPatience(0)
    assert isinstance(rule_of(stop=None, stop_on_onset=True, patience=None, n_train_samples=0), StopRule)
    own = HighOrderGrowth(regained=0.7)
    assert rule_of(stop=own, stop_on_onset=False, patience=None, n_train_samples=0) is own
    with pytest.raises(ValueError, match="neither stop_on_onset nor patience"):
        rule_of(stop=own, stop_on_onset=True, patience=None, n_train_samples=0)


@pytest.mark.parametrize(
    ("rule", "arguments", "message"),
    [
        (OnsetPatience, {"measurements": -1}, "measurements must be at least 0, but is -1"),
        (OnsetPatience, {"measurements": "5"}, "measurements must be a whole number, but is '5'"),
        (HighOrdersAndGap, {"patience": 1.5}, "patience must be a whole number"),
        (HighOrderGrowth, {"regained": "0.1"}, "regained must be a number"),
        (HighOrderGrowth, {"regained": -0.1}, "regained must be at least 0, but is -0.1"),
        (HighOrdersAndGap, {"gap": float("nan")}, "gap must be at least 0"),
        (HighOrdersAndGap, {"measurements": 0}, "measurements must be at least 1, but is 0"),
        (GeneralizingShare, {"drop": 15}, "drop must be at most 1, but is 15; 0.15 is 15%"),
        (GeneralizingShare, {"drop": "0.1"}, "drop must be a number"),
        (GeneralizingShare, {"measurements": 0}, "measurements must be at least 1"),
        (TransferLoss, {"share": -1}, "share must be at least 0"),
    ],
)
def test_bad_arguments_are_named(rule, arguments, message):
    with pytest.raises(ValueError, match=message):
        rule(**arguments)
