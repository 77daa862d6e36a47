"""What a run shows in TensorBoard, beside the scalars that are logged like any other metric.

Histograms over orders, the layout of the Custom Scalars tab, pictures, and a text that says how to read them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from matplotlib.figure import Figure

from interaction_monitor.history import History
from interaction_monitor.losses import TEST_NAMES, TRAIN_NAMES
from interaction_monitor.plots import run_figures

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# A writer keeps only the layout that was written last, so the monitors of one writer share theirs.
_layouts: WeakKeyDictionary[Any, dict[str, dict[str, list[Any]]]] = WeakKeyDictionary()

PICTURES: Mapping[str, Callable[[History], Figure]] = {
    "story": run_figures.story,
    "order_rows": run_figures.order_rows,
    "heat_map": run_figures.heat_map,
    "curves": run_figures.curves,
    "carry_over": run_figures.carry_over,
}

RIDGES = "orders_from_early_to_late"

HOW_TO_READ = """\
### What this monitor shows

On a few fixed samples every input is cut into **players** (patches, words, columns). Whatever the network's
output owes to one set of players acting together is an **interaction**; how many players are in the set is
its **order**. Order 1 is one player on its own, high orders are complicated patterns of many players.

- **Histograms**, mode *Offset*, `{name}/orders_from_early_to_late`: one ridge each time that the run has grown
  by a quarter, one bin per order. A spindle around the middle orders at the back, then low orders only, then
  a tail that grows to the right. `{name}/orders` has a ridge for every measurement, at its step.
- **Custom Scalars**: the mean order ⟨k⟩ with its 95% band over the samples; I^(k), the strength of each order,
  which sums to the number of players; ⟨k⟩ with the losses and their gap. Set *Smoothing* to 0 and untick
  *Ignore outliers*, which hides the start.
- **Images**, with *Show actual image size* ticked: `{name}/story` is the run on one page. Six moments as bars,
  every order over time, ⟨k⟩ and the losses.
- `{name}/carry_over`: which part of the strength was there at the measurement before, by order too, and what low and
  high orders add to the output. High orders mostly come and go, and cancel.
- **Scalars**: `{name}/phase` is 0 at the start, 1 in phase one, 2 in phase two.

### How to read it

1. **The start.** A network with random weights has interactions of middle orders: noise.
2. **Phase one.** ⟨k⟩ falls: that noise goes, simple interactions take its place. They carry over to new samples.
3. **Phase two.** ⟨k⟩ rises again: ever more complicated interactions, which carry over less and less. Its
   **onset** is where ⟨k⟩ was lowest; the green line. Look whether the gap between test and train loss opens
   soon after it, the dotted line. If it does, the network is over-fitting from there on.

The onset is known only some measurements later, once the rise is larger than what chance among the samples
explains. A run that never shows a phase two has not been trained for long enough to over-fit, or has nothing
to over-fit to.

Shares and I^(k) compare orders *within* one measurement; they do not say that low orders got weaker, only that
high orders got stronger beside them.

Ren et al., *Towards the Dynamics of a DNN Learning Symbolic Interactions*, 2024.
"""


def write_measurement(
    writer: SummaryWriter, history: History, *, name: str = "interactions", step: int, losses: Sequence[str] = ()
) -> None:
    """Write the latest measurement's histogram over orders; the first time, the layout and the text too.

    Args:
        writer: Where to write.
        history: The run so far, at least one measurement.
        name: Prefix of the tags.
        step: The writer's step for this measurement.
        losses: Tags of the train and test loss as they are logged; empty looks for the common names.
    """
    if name not in _layouts.setdefault(writer, {}):
        _layouts[writer] |= custom_scalars(history.n_players, name=name, losses=losses)
        writer.add_custom_scalars(_layouts[writer])
        writer.add_text(f"{name}/how_to_read", HOW_TO_READ.format(name=name), step)
    distribution = history[-1].distribution
    write_histogram(writer, distribution, tag=f"{name}/orders", step=step)
    # TensorBoard shows a random 50 of a run's histograms and spaces them by step, which crams the start, where
    # most happens, into the far corner. These are few, numbered, and each comes after a quarter more of the run.
    if ridge_due(len(history)):
        write_histogram(writer, distribution, tag=f"{name}/{RIDGES}", step=n_ridges(len(history) - 1))


def write_histogram(writer: SummaryWriter, distribution: Sequence[float], *, tag: str, step: int) -> None:
    """Write a distribution over orders as a histogram with one bin per order, centred on it.

    Args:
        writer: Where to write.
        distribution: (n,) I^(k). All zeros or NaN, where nothing is salient, is not written.
        tag: Name of the histogram.
        step: The writer's step.
    """
    counts = np.asarray(distribution, dtype=np.float64)
    if not (np.isfinite(counts).all() and counts.sum() > 0):
        return
    n = len(counts)
    orders = np.arange(1, n + 1)
    # TensorBoard cuts empty bins off both ends and stretches the last full one over their place. A trace in
    # every bin, far below what a picture can show, keeps all of a run's histograms on the same orders.
    counts = np.maximum(counts, 1e-6)
    writer.add_histogram_raw(
        tag,
        min=0.5,
        max=n + 0.5,
        num=float(counts.sum()),
        sum=float(counts @ orders),
        sum_squares=float(counts @ orders**2),
        bucket_limits=(orders + 0.5).tolist(),
        bucket_counts=counts.tolist(),
        global_step=step,
    )


def write_figures(
    writer: SummaryWriter,
    history: History,
    *,
    name: str = "interactions",
    step: int,
    pictures: Sequence[str] = tuple(PICTURES),
) -> None:
    """Write pictures of the run so far.

    All of them together take seconds, so during a run write them where `picture_due`, or only some.

    Args:
        writer: Where to write.
        history: The run so far, at least one measurement.
        name: Prefix of the tags.
        step: The writer's step.
        pictures: Which of `PICTURES` to write.
    """
    for picture in pictures:
        image = run_figures.to_image(PICTURES[picture](history))
        writer.add_image(f"{name}/{picture}", image, step, dataformats="HWC")


def ridge_due(n_measurements: int) -> bool:
    """Whether the run has grown by a quarter since the last time that this was true.

    TensorBoard shows some fifty histograms of a tag; ridges that get sparser keep the whole run among them.

    Example:
        >>> [n for n in range(1, 30) if ridge_due(n)]
        [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 19, 24]
    """
    due = 1
    while due < n_measurements:
        due = max(due + 1, round(due * 1.25))
    return due == n_measurements


def n_ridges(n_measurements: int) -> int:
    """Count the ridges of a run of so many measurements."""
    return sum(ridge_due(n) for n in range(1, n_measurements + 1))


def picture_due(n_measurements: int) -> bool:
    """Whether the run has doubled since the last time that this was true.

    A picture takes a second or two, so a running training gets few of them; the end gets one in any case.

    Example:
        >>> [n for n in range(1, 100) if picture_due(n)]
        [4, 8, 16, 32, 64]
    """
    return n_measurements >= 4 and n_measurements & (n_measurements - 1) == 0


def custom_scalars(
    n_players: int, *, name: str = "interactions", losses: Sequence[str] = ()
) -> dict[str, dict[str, list[Any]]]:
    """Lay out the Custom Scalars tab for `SummaryWriter.add_custom_scalars`.

    Args:
        n_players: Number of players, one curve per order.
        name: Prefix of the tags; the layout's category.
        losses: Tags of the train and test loss as they are logged; empty matches the common names.

    Returns:
        Category to chart to [kind, tags].

    Example:
        >>> list(custom_scalars(3)["interactions"])[0]
        'mean order ⟨k⟩ with its 95% band'
    """
    orders = [_exactly(f"{name}/order_{k}") for k in range(1, n_players + 1)]
    loss_tags = [_exactly(tag) for tag in losses] or [_exactly(*TRAIN_NAMES), _exactly(*TEST_NAMES)]
    mean_order = f"{name}/mean_order"
    return {
        name: {
            "mean order ⟨k⟩ with its 95% band": ["Margin", [mean_order, f"{mean_order}_low", f"{mean_order}_high"]],
            "I^(k), strength of each order (sums to n)": ["Multiline", orders],
            "mean order, losses and loss gap": [
                "Multiline",
                [_exactly(mean_order), _exactly(f"{name}/loss_gap"), *loss_tags],
            ],
            "share of the high orders": ["Multiline", [_exactly(f"{name}/high_order_share")]],
            "share that persisted since the measurement before": [
                "Multiline",
                [_exactly(f"{name}/persisted_share")],
            ],
            "phase: 0 start, 1 phase one, 2 phase two": ["Multiline", [_exactly(f"{name}/phase")]],
        }
    }


def _exactly(*tags: str) -> str:
    # Tags of a line chart are regular expressions that need only match a beginning: order_1 would take order_10.
    return f"({'|'.join(map(re.escape, tags))})$"
