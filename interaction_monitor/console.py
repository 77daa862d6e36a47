"""A run in words: in the terminal while it is measured, in TensorBoard, in a notebook and in a report."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from interaction_monitor.history import History, Row, landmarks

# Two measurements after the first must lie lower, and most falls are known from five or six (docs/phases.md).
LEAST_FOR_PHASE_ONE = 3
ENOUGH_FOR_PHASE_ONE = 6
SIMPLE = 2.0  # a mean order below, from which there is next to nothing to fall

_WHAT = """\
### What this monitor shows

On a few fixed samples every input is cut into **players** (patches, words, columns). Whatever the network's
output owes to one set of players acting together is an **interaction**; how many players are in the set is
its **order**. Order 1 is one player on its own, high orders are complicated patterns of many players.

"""

_READING = """\
### How to read it

1. **The start.** A network with random weights has interactions of middle orders: noise. A transformer
   mostly begins by adding up its words, order 1, and ⟨k⟩ only rises.
2. **Phase one.** ⟨k⟩ falls: that noise goes, simple interactions take its place. They carry over to new samples.
3. **Phase two.** ⟨k⟩ rises again: ever more complicated interactions, which carry over less and less. Its
   **onset** is where ⟨k⟩ was lowest; the green line. Look whether the gap between test and train loss rises
   soon after it, from the dotted line on. Where test loss lies above train loss, shaded, it over-fits.

The onset is known only some measurements later, once the rise is larger than what chance among the samples
explains. A run that never shows a phase two has not been trained for long enough to over-fit, or has nothing
to over-fit to.

Shares and I^(k) compare orders *within* one measurement; they do not say that low orders got weaker, only that
high orders got stronger beside them.

Ren et al., *Towards the Dynamics of a DNN Learning Symbolic Interactions*, 2024.
"""


_PHASES = {"one": "phase one", "two": "phase two", None: "phase not decided yet"}


def guide(where: str = "") -> str:
    """Say what the monitor shows and how to read it, with a passage on where to find it between the two."""
    return _WHAT + where + _READING


def phase_now(history: History) -> str:
    """Say what is known of the phase of the last measurement, so that nothing told later contradicts it."""
    if history[-1].phase == "one" and landmarks.lowest_index(history) == len(history) - 1:
        return "phase one so far"
    return _PHASES[landmarks.told_phases(history)[-1]]


def line(history: History, *, name: str = "interactions", with_step: bool = False) -> str:
    """Tell the last measurement in one line.

    Args:
        history: the run so far, at least one measurement.
        name: the monitor's name.
        with_step: whether to tell the optimizer step too, for runs that are measured within epochs.

    Returns:
        The line, without a line break.
    """
    row = history[-1]
    parts = [
        f"{name}: epoch {row.epoch:>3}" + (f" step {row.step:>6}" if with_step else ""),
        f"mean order {row.mean_order:.2f}"
        # The band comes from the spread over samples, of which one has none.
        + (f" ({row.mean_order_low:.2f}-{row.mean_order_high:.2f})" if row.n_valid > 1 else ""),
        f"high orders {row.high_order_share:.1%}",
        phase_now(history),
    ]
    if row.generalizing_share is not None:
        parts.append(f"generalizes {row.generalizing_share:.0%}")
    gap = float(landmarks.shown_losses(history).gap[-1])
    if np.isfinite(gap):
        parts.append(f"loss gap {gap:+.3f}")
    parts.append(f"{row.seconds:.1f} s")
    return "  ".join(parts)


def verdict(history: Iterable[Row], *, failure: str | None = None) -> str:
    """Say in a sentence or two what the run showed: over-fitting, the phases, the onset and the loss gap.

    Args:
        history: all measurements of the run.
        failure: what failed since the last measurement, or before the first.

    Returns:
        The sentences.
    """
    rows = History(history)
    if not rows:
        return "nothing was measured" + (f", because {failure}" if failure else "")
    failed = f"; what failed after {landmarks.places(rows)[-1]}: {failure}" if failure else ""
    return overfitting(rows) + _phases(rows) + failed


def clauses(history: History) -> list[str]:
    """Say the verdict in one sentence for each thing that was found."""
    return [as_sentence(clause) for clause in verdict(history).split("; ")]


def as_sentence(text: str) -> str:
    """Begin with a capital letter and end with a full stop.

    Examples:
        >>> as_sentence("phase one so far")
        'Phase one so far.'
    """
    return f"{text[:1].upper()}{text[1:]}."


def overfitting(history: History) -> str:
    """Say from when a run over-fits by its references, or what of it generalizes, with "; " behind; "" without any."""
    shares = history.column("generalizing_share")
    known = np.flatnonzero(np.isfinite(shares))
    if not len(known):
        return ""
    now = f"{shares[known[-1]]:.0%}"
    began = landmarks.find_overfitting(history)
    if began is None:
        last, highest = int(known[-1]), int(known[np.argmax(shares[known])])
        at = landmarks.places(history)
        before = "" if highest == last else f", {shares[highest]:.0%} at {at[highest]}"
        if last < len(history) - 1:
            return f"of what the network encodes {now} generalized at {at[last]}{before}, and nothing is known since; "
        return (
            f"of what the network encodes {now} generalized in the end{before}, and it has not clearly begun to "
            "over-fit; "
        )
    detected = next(i for i, row in enumerate(history) if row.overfitting_epoch is not None)
    known_at = landmarks.places(history)[detected].split()[-1]
    then = float("nan") if began.index is None else shares[began.index]
    unseen = history.column("unseen_loss")
    worse = ""
    if np.isfinite(unseen).any() and (last := unseen[np.isfinite(unseen)][-1]) > (least := np.nanmin(unseen)):
        worse = f", and the twins' loss on what they do not learn from rose from {least:.3g} to {last:.3g}"
    return (
        f"over-fitting began at {began.place} (known at {known_at}): of what the network "
        f"encodes {then:.0%} generalized, now {now}{worse}; "
    )


def _phases(rows: History) -> str:
    first, last, at = rows[0], rows[-1], landmarks.lowest_index(rows)
    place = landmarks.places(rows)[at]
    if last.phase == "initial" and len(rows) < ENOUGH_FOR_PHASE_ONE:
        found = "1 measurement" if len(rows) == 1 else f"{len(rows)} measurements"
        are = "may be" if len(rows) >= LEAST_FOR_PHASE_ONE else "is" if len(rows) == 1 else "are"
        return (
            f"{found} {are} too few to tell the phase: a fall of the mean order can be known from "
            f"{LEAST_FOR_PHASE_ONE} at the very least, and most are from five or six"
        )
    if last.phase == "initial":
        if _only_rises(rows):
            return (
                f"the mean order only rose, from {first.mean_order:.2f} to {last.mean_order:.2f}: phase one is not "
                "seen and does not come where the first interactions are simple already"
            )
        if rows[at].mean_order_high < first.mean_order_low:
            return (
                f"the mean order fell from {first.mean_order:.2f} to {rows[at].mean_order:.2f} at {place}, "
                "but too few measurements lie that low to rule out chance: phase one is not known yet"
            )
        return (
            f"the mean order has not clearly fallen from its start, {first.mean_order:.2f}: phase one is not seen yet"
        )
    onset = landmarks.find_onset(rows)
    if onset is None:
        return (
            f"phase one: the mean order fell from {first.mean_order:.2f} to {rows[at].mean_order:.2f} at {place}, and "
            "phase two has not clearly begun"
        )
    lowest = float("nan") if onset.index is None else rows[onset.index].mean_order
    known, gap = landmarks.find_detection(rows), gap_in_words(rows)
    text = f"phase two began at {onset.place}" + ("" if known is None else f" (known at {known.place})")
    text += f": the mean order fell from {first.mean_order:.2f} to {lowest:.2f} and rose to {last.mean_order:.2f}"
    return f"{text}; {gap}" if gap else text


def _only_rises(history: History) -> bool:
    """Tell whether a run has begun with simple interactions, and has had more complicated ones since."""
    first, last = history[0], history[-1]
    simple = first.mean_order < SIMPLE and landmarks.lowest_index(history) == 0
    return simple and len(history) >= ENOUGH_FOR_PHASE_ONE and last.mean_order_low > first.mean_order_high


def gap_in_words(history: History) -> str:
    """Say from where the loss gap rises, and from where the test loss lies above the training loss; "" if unknown."""
    opening, crossing = landmarks.find_gap_opening(history), landmarks.find_gap_crossing(history)
    if opening is None:
        return ""
    of = landmarks.shown_losses(history).of
    if not landmarks.rises_below_zero(history):
        return f"the gap between test and training loss{of} opened at {opening.place}"
    rises = f"the gap between test and training loss{of} rises from {opening.place} on"
    if crossing is None:
        return f"{rises}, and test loss still lies below training loss"
    return f"{rises}, and test loss lies above training loss from {crossing.place} on"


def advice(history: History) -> str:
    """Say in a sentence, without its full stop, what to do about a run of at least one measurement."""
    began, onset = landmarks.find_overfitting(history), landmarks.find_onset(history)
    lowest, crossing = landmarks.lowest_test_loss(history), landmarks.find_gap_crossing(history)
    remedies = "if you train anew, try weight decay, more data or cleaner labels"
    if began is None and onset is None and not _only_rises(history):
        if history[-1].phase == "initial":
            watch = "" if lowest is None else " and watch the loss gap"
            return f"Go on{watch}; to know the phase, measure more often at the start, every ten steps say"
        return "Go on: the patterns that are learned in phase one carry over to new samples"
    if began is not None and lowest is None:
        return f"Train no further: what is learned from {began.place} on carries over less; {remedies}"
    # Without a test loss nothing crosses either.
    if lowest is None or (began is None and (crossing is None or lowest == len(history) - 1)):
        return "Go on and watch the loss gap: more complicated patterns are learned now, and these carry over less"
    more = "" if began else ", and look whether accuracy fell after it"
    return f"Keep the weights of about {landmarks.places(history)[lowest]}, where test loss is lowest{more}; {remedies}"


def table(history: History, *, most: int = 16) -> str:
    """Lay out a history as a table of at most so many rows, the first, the last and the onset among them.

    Args:
        history: the measurements.
        most: how many rows at the most.

    Returns:
        The table, a line per measurement.
    """
    onset, phases = landmarks.onset_index(history), landmarks.told_phases(history)
    known = landmarks.shown_losses(history)
    stride = max(1, -(-len(history) // most))
    with_step = landmarks.by_step(history)
    steps = "    step  " if with_step else ""
    lines = [f"epoch  {steps}mean order  high orders  train loss  test loss  gap     phase"]
    for i, row in enumerate(history):
        if i % stride and i not in (onset, len(history) - 1):
            continue
        losses = "  ".join(
            f"{format(loss, '.3f') if np.isfinite(loss) else '':>{width}}"
            for loss, width in ((known.train[i], 10), (known.test[i], 9), (known.gap[i], 6))
        )
        mark = "  <- onset of phase two" if i == onset else ""
        step = f"{row.step:>8}  " if with_step else ""
        lines.append(
            f"{row.epoch:>5}  {step}{row.mean_order:>10.2f}  {row.high_order_share:>11.1%}  {losses}  "
            f"{_PHASES[phases[i]]}{mark}"
        )
    return "\n".join([*lines, *([f"losses{known.of}"] if known.of else [])])
