"""One measurement as a row of numbers, and a run of many, for tests that look at few of them."""

import numpy as np

from interaction_monitor.history import History, Row


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


def distribution(mean, n=10):
    """Orders around a mean, none of them below one part in a thousand: a spindle, or little but order one."""
    k = np.arange(1, n + 1)
    shares = np.exp(-((k - mean) ** 2) / (2 * (0.35 * mean) ** 2))
    shares[shares < 1e-3 * shares.max()] = 0
    return shares / shares.mean()


def make_history(last=60, every=1, *, onset=10, gap_onset=30, losses=True, n=10, same_epoch=False):
    """A run as they are: ⟨k⟩ falls from 3.8 to 1.2 at the onset and rises to 2.5, the gap opens later."""
    rows = []
    for epoch in range(0, last + 1, every):
        mean = 1.2 + 2.6 * np.exp(-epoch / 2) if epoch <= onset else 1.2 + 1.3 * (epoch - onset) / (60 - onset)
        orders = distribution(mean, n)
        k = float((orders * np.arange(1, n + 1)).sum() / n)
        known = epoch >= onset + 4
        train = 2.3 * np.exp(-epoch / 8) + 0.02
        rows.append(
            make_row(
                0 if same_epoch else epoch,
                10 * epoch,
                distribution=tuple(orders),
                strength=tuple(orders * 2),
                mean_order=k,
                mean_order_low=k - 0.1,
                mean_order_high=k + 0.1,
                high_order_share=float(orders[3:].sum() / n),
                phase="initial" if epoch == 0 else "two" if known else "one",
                onset_epoch=(0 if same_epoch else onset) if known else None,
                detected_epoch=epoch if known else None,
                gap_onset_epoch=gap_onset if epoch >= gap_onset + 3 else None,
                train_loss=train if losses and epoch else None,
                test_loss=train + 0.01 * max(0, epoch - 20) if losses and epoch else None,
            )
        )
    return History(rows)
