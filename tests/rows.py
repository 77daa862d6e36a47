"""One measurement as a row of numbers, for tests that look at few of them."""

from interaction_monitor.history import Row


def make_row(epoch=0, step=0, n=3, **changes):
    """Give a row of a run in phase one whose losses nobody logs.

    Args:
        epoch: completed epochs.
        step: optimizer steps.
        n: players.
        changes: fields that matter to the test.
    """
    values = {
        "epoch": epoch,
        "step": step,
        "distribution": (1.0,) * n,
        "strength": (2.0,) * n,
        "mean_order": 2.0,
        "mean_order_low": 1.9,
        "mean_order_high": 2.1,
        "high_order_share": 0.1,
        "n_salient": 20.5,
        "tau": 0.03,
        "output_change": 1.0,
        "solver_gap": 0.004,
        "seconds": 1.5,
        "n_valid": 50,
        "phase": "one",
        "onset_epoch": None,
        "detected_epoch": None,
        "gap_onset_epoch": None,
        "train_loss": None,
        "test_loss": None,
    }
    return Row(**values | changes)
