"""What a run shows in TensorBoard, beside the scalars that are logged like any other metric.

Histograms over orders, the layout of the Custom Scalars tab, pictures, and a text that says how to read them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.custom_scalar import layout_pb2
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import custom_scalars as layout_summary

from interaction_monitor import console
from interaction_monitor.history import PHASES, History
from interaction_monitor.history.landmarks import told_phases
from interaction_monitor.losses import TEST_NAMES, TRAIN_NAMES
from interaction_monitor.plots import run_figures

# A writer keeps only the layout that was written last, so the monitors of one writer share theirs.
_layouts: WeakKeyDictionary[Any, dict[str, dict[str, list[Any]]]] = WeakKeyDictionary()

PICTURES: Mapping[str, Callable[[History], Figure]] = {
    "story": run_figures.story,
    "what_carries_over": run_figures.carry_over,  # TensorBoard sorts by name, and the story comes first
}

# How the keys of numbers begin that say nothing as single charts: hardly any changes, or the story shows it.
_NO_CHARTS = (
    *("epoch", "seconds", "solver_gap", "phase", "onset_epoch", "onset_step", "overfitting_epoch"),
    *("mean_order_low", "mean_order_high", "generalizing_low", "generalizing_high", "evaluated"),
    "generalizing_share_order_",  # the tab has a map of them
)
_LAYOUT_CHECKS = 3  # measurements at which a user's layout is looked for: it is written early, and the file grows
EVENTS = "events.out.tfevents."  # how the names of TensorBoard's files begin
ORDERS, RIDGES = "orders", "orders_from_early_to_late"
HOW_TO_READ, VERDICT = "how_to_read", "verdict"


def charted(values: Mapping[str, float], name: str) -> dict[str, float]:
    """Keep of a measurement's numbers those that read well as single charts; `decided_phases` gives the phase.

    Args:
        values: Key to value, as all loggers get them.
        name: Prefix of the keys.

    Examples:
        >>> charted({"interactions/mean_order": 1.5, "interactions/seconds": 0.8}, "interactions")
        {'interactions/mean_order': 1.5}
    """
    left_out = tuple(f"{name}/{key}" for key in _NO_CHARTS)
    return {key: value for key, value in values.items() if not key.startswith(left_out)}


def decided_phases(history: History, *, step: int) -> list[tuple[int, int]]:
    """List what the last measurement has decided of the phases: they are charted where they were, and never taken back.

    Args:
        history: The run so far, at least one measurement.
        step: The writer's step for the last measurement.

    Returns:
        The writer's step and the phase, 1 or 2, of each measurement that is newly decided, in order.
    """
    before = [*told_phases(history[:-1]), None]
    return [
        (_step_of(history, index, step), PHASES.index(phase))
        for index, phase in enumerate(told_phases(history))
        if phase is not None and before[index] is None
    ]


def first_undecided(history: History, *, step: int) -> int:
    """Return the writer's step of the first measurement whose phase is not decided, or `step`, which comes after all.

    Args:
        history: The run so far.
        step: The first of the writer's steps that comes after it.
    """
    phases = told_phases(history)
    return _step_of(history, phases.index(None), step - 1) if None in phases else step


def _step_of(history: History, index: int, step: int) -> int:
    # A logger's steps run along with the optimizer's, one behind or half as many.
    last = history[-1].step
    return max(0, round(history[index].step * step / last)) if last else step


def tags(name: str) -> dict[str, str]:
    """List the tags of what is shown beside the scalars, each with the name of the plugin that shows it."""
    shown = dict.fromkeys((ORDERS, RIDGES), "histograms") | dict.fromkeys(PICTURES, "images")
    shown |= {f"{tag}/text_summary": "text" for tag in (HOW_TO_READ, VERDICT)}
    return {f"{name}/{tag}": plugin for tag, plugin in shown.items()}


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
    layout = _layouts.setdefault(writer, {})
    if name not in layout:
        reference = bool(history[-1].generalizing)
        layout |= custom_scalars(history.n_players, name=name, losses=losses, reference=reference)
        writer.add_text(f"{name}/{HOW_TO_READ}", console.guide(_where_to_look(name)), step)
    if len(history) <= _LAYOUT_CHECKS:
        _write_layout(writer, layout)
    if tells_more(history):
        writer.add_text(f"{name}/{VERDICT}", console.as_sentence(console.verdict(history)), step)
    distribution = history[-1].distribution
    write_histogram(writer, distribution, tag=f"{name}/{ORDERS}", step=step)
    # TensorBoard shows a random 50 of a run's histograms and spaces them by step, which crams the start, where
    # most happens, into the far corner. These are few, numbered, and each comes after a quarter more of the run.
    if ridge_due(len(history)):
        write_histogram(writer, distribution, tag=f"{name}/{RIDGES}", step=n_ridges(len(history) - 1))


def _where_to_look(name: str) -> str:
    return f"""\
- **Histograms**, mode *Offset*, `{name}/{RIDGES}`: one ridge each time that the run has grown
  by a quarter, one bin per order. A spindle around the middle orders at the back, then low orders only, then
  a tail that grows to the right. `{name}/{ORDERS}` has a ridge for every measurement, at its step.
- **Interactions**, the tab of this package: the run in words and figures, as it goes on.
- **Custom Scalars**: the mean order ⟨k⟩; I^(k), the strength of each order, which sums to the number of players;
  ⟨k⟩ with the losses and their gap. Set *Smoothing* to 0 and untick *Ignore outliers*, which hides the start.
- **Images**, with *Show actual image size* ticked: `{name}/story` is the run on one page. Six moments as bars,
  every order over time, ⟨k⟩ and the losses.
- `{name}/what_carries_over`: which part of the strength was there at the measurement before, by order too, and what low
  and high orders add to the output. High orders mostly come and go, and cancel.
- **Scalars**: `{name}/phase` is 1 in phase one and 2 in phase two, written as soon as it is decided for a
  measurement; **Text**, `{name}/{VERDICT}`, says what was found, at the step where it became known.

"""


def _write_layout(writer: SummaryWriter, layout: dict[str, dict[str, list[Any]]]) -> None:
    """Have our part of the Custom Scalars tab beside what the user put there: TensorBoard shows what came last."""
    theirs = _written_layout(writer)
    if set(layout) <= {category.title for category in theirs.category}:
        return
    summary = layout_summary(layout)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    merged = layout_pb2.Layout(category=[category for category in theirs.category if category.title not in layout])
    merged.MergeFromString(summary.value[0].tensor.string_val[0])
    summary.value[0].tensor.string_val[0] = merged.SerializeToString()
    writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]  # torch leaves it untyped


def _written_layout(writer: SummaryWriter) -> Any:
    """Read the layout that was written last; a writer does not remember it."""
    writer.flush()
    path = writer._get_file_writer().event_writer._file_name  # type: ignore[no-untyped-call]  # torch leaves it untyped
    layouts = [event for event in RawEventFileLoader(path).Load() if b"custom_scalars__config__" in event]
    written = [Event.FromString(event).summary.value[0].tensor.string_val for event in layouts]
    return layout_pb2.Layout.FromString(written[-1][0] if written else b"")


def tells_more(history: History) -> bool:
    """Tell whether the last measurement has changed what the verdict hangs on."""
    *before, now = [
        (row.phase, row.onset_epoch, row.onset_step, row.overfitting_epoch, row.gap_onset_epoch is None)
        for row in history[-2:]
    ]
    return [now] != before


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


def ridge_due(n_measurements: int) -> bool:
    """Whether the run has grown by a quarter since the last time that this was true.

    TensorBoard shows some fifty histograms of a tag; ridges that get sparser keep the whole run among them.

    Examples:
        >>> [n for n in range(1, 30) if ridge_due(n)]
        [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 19, 24]
    """
    due = 1
    while due < n_measurements:
        due = max(due + 1, round(due * 1.25))
    return due == n_measurements


def n_ridges(n_measurements: int) -> int:
    """Count the ridges of a run of so many measurements."""
    return sum(map(ridge_due, range(1, n_measurements + 1)))


def picture_due(n_measurements: int) -> bool:
    """Whether the run has doubled since the last time that this was true.

    A picture takes up to half a second, so a running training gets few of them; the end gets one in any case.

    Examples:
        >>> [n for n in range(1, 100) if picture_due(n)]
        [4, 8, 16, 32, 64]
    """
    return n_measurements >= 4 and n_measurements & (n_measurements - 1) == 0


def custom_scalars(
    n_players: int, *, name: str = "interactions", losses: Sequence[str] = (), reference: bool = False
) -> dict[str, dict[str, list[Any]]]:
    """Lay out the Custom Scalars tab for `SummaryWriter.add_custom_scalars`.

    Args:
        n_players: Number of players, one curve per order.
        name: Prefix of the tags; the layout's category.
        losses: Tags of the train and test loss as they are logged; empty matches the common names.
        reference: Whether the run is laid beside references, of which there is a chart then.

    Returns:
        Category to chart to [kind, tags].

    Examples:
        >>> list(custom_scalars(3)["interactions"])[0]
        'mean order ⟨k⟩'
    """
    # TensorBoard gives all curves of a run one colour and tells them apart by marks, so few share a chart.
    spans = np.array_split(np.arange(1, n_players + 1), -(-n_players // 4))
    loss_tags = [_exactly(tag) for tag in losses] or [_exactly(*TRAIN_NAMES), _exactly(*TEST_NAMES)]

    def chart(*keys: str, beside: Sequence[str] = ()) -> list[Any]:
        return ["Multiline", [*(_exactly(f"{name}/{key}") for key in keys), *beside]]

    orders = {
        f"I^(k), strength of order{'s' * (len(span) > 1)} {' to '.join(map(str, sorted({span[0], span[-1]})))}": chart(
            *(f"order_{k}" for k in span)
        )
        for span in spans
    }
    return {
        name: {
            **({"generalizing share": chart("generalizing_share")} if reference else {}),
            "mean order ⟨k⟩": chart("mean_order"),
            **orders,
            "mean order, losses and loss gap": chart("mean_order", "loss_gap", beside=loss_tags),
            "share of the high orders": chart("high_order_share"),
            "share that persisted since the measurement before": chart("persisted_share"),
            "phase, 1 or 2, once it is decided": chart("phase"),
        }
    }


def _exactly(*tags: str) -> str:
    # Tags of a line chart are regular expressions that need only match a beginning: order_1 would take order_10.
    return f"({'|'.join(map(re.escape, tags))})$"
