"""What a run is told to do in words, for each thing that can be known of it."""

import pytest
from rows import make_row

from interaction_monitor.console import advice, overfitting, verdict
from interaction_monitor.history import History


def run(losses, **last):
    rows = [make_row(epoch, 10 * epoch, test_loss=loss, train_loss=0.5) for epoch, loss in enumerate(losses[:-1])]
    epoch = len(losses) - 1
    return History([*rows, make_row(epoch, 10 * epoch, test_loss=losses[-1], train_loss=0.5, **last)])


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([2.0, 1.0, 1.5, 3.0], "Keep the weights of about epoch 1, where test loss is lowest"),
        ([2.0, None, 0.75, 3.0], "Keep the weights of about epoch 2, where test loss is lowest"),
        ([None] * 4, "Train no further: what is learned from epoch 2 on carries over less"),
    ],
)
def test_a_run_that_overfits_is_told_which_weights_to_keep(losses, said):
    history = run(losses, overfitting_epoch=2, overfitting_step=20)
    assert advice(history).startswith(f"{said}; if you train anew")


def test_a_run_in_phase_one_is_told_to_go_on():
    assert advice(run([2.0, 1.5, 1.0], phase="one")).startswith("Go on: the patterns")


def test_a_run_whose_phase_is_not_known_is_not_told_of_phase_one():
    assert advice(run([2.0, 1.5, 1.0], phase="initial")).startswith("Go on and watch the loss gap; to know the phase")
    assert advice(run([None] * 3, phase="initial")).startswith("Go on; to know the phase, measure more often")


def test_a_fall_that_is_seen_but_not_known_is_told_as_that():
    def fell_to(mean, high):
        bands = [(3.0, 2.5, 3.5), (mean, 1.0, high), *[(2.9, 2.4, 3.4)] * 6]
        names = ("mean_order", "mean_order_low", "mean_order_high")
        return History(
            make_row(epoch, epoch, phase="initial", **dict(zip(names, band, strict=True)))
            for epoch, band in enumerate(bands)
        )

    assert verdict(fell_to(1.2, 1.4)).startswith("the mean order fell from 3.00 to 1.20 at epoch 1, but too few")
    assert verdict(fell_to(2.2, 2.6)).startswith("the mean order has not clearly fallen from its start, 3.00")


def test_a_run_that_only_rises_is_told_that_no_phase_one_comes():
    def rose_to(mean, low, n=8, first=1.1):
        bands = [(first, first - 0.1, first + 0.1), *[(first + 0.1, first, first + 0.2)] * (n - 2)]
        bands.append((mean, low, 2 * mean - low))
        names = ("mean_order", "mean_order_low", "mean_order_high")
        return History(
            make_row(epoch, epoch, phase="initial", test_loss=1.0, **dict(zip(names, band, strict=True)))
            for epoch, band in enumerate(bands)
        )

    assert verdict(rose_to(1.8, 1.6)).startswith(
        "the mean order only rose, from 1.10 to 1.80: phase one is not seen and"
    )
    assert advice(rose_to(1.8, 1.6)).startswith("Go on and watch the loss gap: more complicated patterns")
    # from middle orders a fall may yet come, as after the first steps of an AlexNet
    assert verdict(rose_to(4.6, 4.4, first=3.9)).startswith("the mean order has not clearly fallen from its start")
    # within the band of the start nothing is known to have risen
    assert verdict(rose_to(1.2, 1.1)).startswith("the mean order has not clearly fallen from its start, 1.10")
    assert "to know the phase, measure more often" in advice(rose_to(1.2, 1.1))
    assert verdict(rose_to(1.8, 1.6, n=5)).startswith("5 measurements may be too few")


def test_a_run_whose_losses_cross_is_told_of_the_lowest():
    history = run([0.9, 0.4, 0.45, 0.6], onset_epoch=1, detected_epoch=3)
    assert advice(history).startswith("Keep the weights of about epoch 1, where test loss is lowest, and look whether")


def test_a_run_whose_test_loss_still_falls_is_told_to_go_on():
    history = run([2.0, 1.0, 0.9, 0.8], onset_epoch=1, detected_epoch=3)
    assert advice(history).startswith("Go on and watch the loss gap")


def test_a_run_whose_test_loss_rises_below_its_training_loss_is_told_to_go_on():
    history = run([0.4, 0.3, 0.35, 0.45], onset_epoch=1, detected_epoch=3)
    assert advice(history).startswith("Go on and watch the loss gap")


def test_a_share_that_is_known_no_more_is_not_told_of_the_end():
    shares = [0.5, 0.4, None, None]
    history = History([make_row(epoch, epoch, generalizing_share=share) for epoch, share in enumerate(shares)])
    said = "of what the network encodes 40% generalized at epoch 1, 50% at epoch 0, and nothing is known since; "
    assert overfitting(history) == said
    assert overfitting(History(list(history)[:1])).startswith(
        "of what the network encodes 50% generalized in the end, and"
    )


@pytest.mark.parametrize(
    ("unseen", "said"), [((0.9, 0.4, 0.6), "rose from 0.4 to 0.6"), ((0.9, 0.6, 0.4), None), ((None,) * 3, None)]
)
def test_the_twins_loss_is_told_of_only_where_it_rose(unseen, said):
    known = {"overfitting_epoch": 1, "overfitting_step": 10, "overfitting_detected_epoch": 2}
    history = History(
        make_row(epoch, 10 * epoch, generalizing_share=0.6, unseen_loss=loss, **(known if epoch == 2 else {}))
        for epoch, loss in enumerate(unseen)
    )
    text = verdict(history)
    assert text.startswith("over-fitting began at epoch 1 (known at 2): of what the network encodes 60% generalized")
    assert said in text if said else "twins" not in text
