"""The tables of the gallery's pages, made from the stored runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gallery.accuracy import SCHEDULES, Cost, compare, told, with_every, with_samples
from gallery.detection import Detected, detect, flat_histories
from gallery.fewer_players import folder_in
from gallery.gaps import READINGS, correlation
from gallery.spindle import path_in
from gallery.stops import RULES, Stop, learning
from gallery.stored import RESULTS, Stored, load_all, read
from interaction_monitor.phases.loss_gap import GapOpening
from interaction_monitor.progress_bar import counted


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a Markdown table; None is a dash."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join("-" if cell is None else str(cell) for cell in line) + " |" for line in lines)


def runs(detected: Sequence[Detected]) -> str:
    """Say of each run what it is and what was seen."""
    rows = []
    for run in detected:
        settings, curves, orders = run.stored.run, run.stored.curves, run.history.column("mean_order")
        accuracy = curves["test_accuracy"]
        rows.append(
            [
                _name(run),
                f"{settings.network}, {settings.n_train} of {settings.dataset}",
                settings.expectation,
                f"{orders[0]:.2f} → {np.nanmin(orders):.2f} → {orders[-1]:.2f}",
                f"{100 * accuracy.max():.1f} ({int(accuracy.argmax())}) → {100 * accuracy[-1]:.1f}",
                *_theory(run),
            ]
        )
    return table(["run", "what", "expected", "⟨k⟩ start → least → end", "test accuracy", "cosine", "σ̂²"], rows)


def _theory(run: Detected) -> tuple[str | None, str | None]:
    """Give the worst cosine in phase two, and whether σ̂² falls there."""
    if "and-or" not in run.stored.theory or run.onset is None:
        return None, None
    theory = run.stored.theory["and-or"]
    start = run.onset
    low, high = theory.low[start:-1], theory.high[start:-1]
    # A rise counts only where a later interval lies wholly above an earlier one.
    rising = any(low[j] > high[i] for i in range(len(low)) for j in range(i + 1, len(low)))
    falling = any(high[j] < low[i] for i in range(len(low)) for j in range(i + 1, len(low)))
    trend = "falls" if falling and not rising else "falls and rises" if falling else "rises" if rising else "unclear"
    first, last = (float(f"{level:.0e}") for level in (theory.sigma2[start], theory.sigma2[-2]))
    return f"{np.nanmin(theory.cosine[start:]):.3f}", f"{trend}, {first:g} → {last:g}"


def detection(detected: Sequence[Detected]) -> str:
    """Say of each run when the onset was, when it was known, and when the gap opened."""
    rows = [
        [
            _name(run),
            _epoch(run, run.onset),
            _epoch(run, run.mattered),
            _epoch(run, run.known),
            run.delay,
            run.late,
            _interval(run.gap),
            run.lag,
            run.history[-1].phase,
        ]
        for run in detected
        if run.onset is not None or run.known is not None or run.gap is not None
    ]
    header = ["run", "onset", "rise matters", "known", "delay", "late", "gap opens", "lag", "phase at the end"]
    return table(header, rows)


def _interval(gap: GapOpening | None) -> str | None:
    return None if gap is None else f"{gap.epoch} ({gap.low}-{gap.high})"


def _epoch(run: Detected, index: int | None) -> int | None:
    return None if index is None else int(run.stored.epochs[index])


def detection_summary(detected: Sequence[Detected]) -> str:
    """Sum up the detection, on the runs of each part."""
    rows = []
    for name, part in _parts(detected):
        true = [run for run in part if run.onset is not None]
        negative = [run for run in part if run.onset is None]
        lags = [run for run in part if run.lag is not None]
        rows.append(
            [
                name,
                f"{sum(run.known is not None for run in negative)} of {len(negative)}",
                f"{sum(run.known is not None for run in true)} of {len(true)}",
                _median(run.delay for run in true),
                _median(run.late for run in true),
                _median(abs(run.lag) for run in lags if run.lag is not None),
            ]
        )
    stored = [run.stored for run in detected]
    flat = " of ".join(map(str, flat_histories(stored, replicates=10)))
    calm = " of ".join(map(str, flat_histories(stored, replicates=10, rising=False)))
    header = ["runs", "false", "found", "delay", "late", "absolute lag"]
    return (
        f"{table(header, rows)}\n\nReal runs made to stay flat: {flat} histories are false, and {calm} where "
        "measurements that already belong to the true rise are not repeated."
    )


def gap_readings(detected: Sequence[Detected]) -> str:
    """Say how closely the opening of the loss gap follows the onset, by each way to read it."""
    networks = [name for name in ("LeNet", "VGG-6", "MLP") if any(run.stored.run.network == name for run in detected)]
    rows = []
    for name, reading in READINGS.items():
        cells: list[object] = [name]
        for network in (None, *networks):
            found = correlation([run for run in detected if network in (None, run.stored.run.network)], reading)
            cells.append(None if np.isnan(found.value) else f"{found.value:.2f} ({len(found.lags)})")
        rows.append([*cells, _median(correlation(detected, reading).lags)])
    return table(["reading", "all", *networks, "median lag"], rows)


def stops(detected: Sequence[Detected]) -> str:
    """Say what each rule costs, on the runs that chose between them and on the others."""
    parts = _parts(learning(list(detected)))[:-1]
    rows = []
    for name, rule in RULES.items():
        cells: list[object] = [name]
        for _, part in parts:
            found = [rule(run) for run in part]
            regrets = [stop.regret for stop in found]
            cells += [
                f"{np.median(regrets):.1f} / {np.mean(regrets):.1f} / {max(regrets):.1f}",
                f"{np.median([stop.used for stop in found]):.0%}",
            ]
        rows.append(cells)
    header = ["rule"]
    for name, part in parts:
        header += [f"{name} ({len(part)})", "epochs"]
    return table(header, rows)


SHOWN = ("to the end", "validation loss, patience 10", "OnsetPatience(5)", "HighOrdersAndGap(0.1, 0.05)")


def stops_by_run(detected: Sequence[Detected]) -> str:
    """Say where some rules stop each run, and what that costs."""

    def cell(stop: Stop) -> str:
        return f"{stop.epoch}: {stop.regret:.1f}"

    rows = [
        [
            _name(run),
            int(run.stored.curves["test_accuracy"].argmax()),
            *(cell(RULES[name](run)) for name in SHOWN),
        ]
        for run in learning(list(detected))
    ]
    return table(["run", "best epoch", *SHOWN], rows)


def accuracy(detected: Sequence[Detected], players: Sequence[Stored]) -> str:
    """Say what fewer samples, measurements and players would have told."""
    costs: dict[str, Cost] = {}
    for most, samples, every in ((25, (5, 10, 15, 20, 25), (2, 3, 5)), (50, range(10, 51, 10), (2, 3, 5, 10))):
        same = [run for run in detected if run.stored.run.n_samples == most]
        counts = sorted(len(run.stored.epochs) for run in same) or [0]
        costs |= {f"{n} of {most} samples": with_samples(same, n) for n in samples}
        costs |= {f"every {n}. of {counts[0]} to {counts[-1]} measurements": with_every(same, n) for n in every}
    whole = {run.stored.run.name: run.stored.run.n_players for run in detected}
    fewer = [run for run in map(_renamed, players) if run.run.name in whole]
    for most, n in sorted({(whole[run.run.name], run.run.n_players) for run in fewer}):
        same = [run for run in fewer if (whole[run.run.name], run.run.n_players) == (most, n)]
        # ⟨k⟩ is another with fewer players, so it is not compared.
        costs[f"{n} of {most} players"] = replace(compare(detected, same), order=np.nan, width=np.nan)
    header = ["measured with", "found", "onset moves by", "known after", "⟨k⟩ moves by", "95% interval"]
    return table(header, [_cost(name, cost) for name, cost in costs.items() if cost.runs])


def schedules(detected: Sequence[Detected], *, cost: float = 10.0) -> str:
    """Say what schedules would have told of the runs whose onset was found, where a measurement costs ten epochs."""
    found = [run for run in detected if run.onset is not None and run.known is not None]
    rows = []
    for name, (schedule, most, spared) in SCHEDULES.items():
        seen = told(found, schedule, most=most, spared=spared, cost=cost)
        shares = [None if np.isnan(x) else f"{x:.0%} of the run" for x in (seen.moved, seen.delay)]
        rows.append([name, f"{seen.found} of {seen.runs}", *shares, f"{seen.measurements:.0f}", f"{seen.share:.1f}"])
    return table(["measured", "found", "onset moves by", "known after", "measurements", "time per training"], rows)


def _renamed(run: Stored) -> Stored:
    return replace(run, run=replace(run.run, name=run.run.name.rsplit("-", 1)[0]))


def _cost(name: str, cost: Cost) -> list[object]:
    found = f"{cost.found} of {cost.runs}"
    shares = [None if np.isnan(x) else f"{x:.0%} of the run" for x in (cost.moved, cost.delay)]
    return [name, found, *shares, *(None if np.isnan(x) else f"{x:.2f}" for x in (cost.order, cost.width))]


def pictures(detected: Sequence[Detected]) -> str:
    """Show every run, those of one network together."""
    parts = []
    for run in sorted(detected, key=lambda run: (run.stored.run.network, run.stored.run.name)):
        name = run.stored.run.name
        parts.append(f"## {name}\n\n![{name}: orders, theory, phases and losses](images/gallery_{name}.png)")
    return "\n\n".join(parts)


def spindle(folder: Path = RESULTS) -> str:
    """Compare extractions of one network before training, where that is stored."""
    if not path_in(folder).exists():
        return "None is stored."
    arrays = read(path_in(folder), remedy="make it again with python -m gallery spindle")
    strengths = {name: values.astype(np.float64) for name, values in arrays.items()}
    orders = np.arange(1, len(next(iter(strengths.values()))) + 1)
    rows = [
        [name, f"{(orders * s).sum() / s.sum():.2f}", f"{s.sum() / strengths['sparsest'].sum():.2f}"]
        + [f"{share:.1%}" for share in s / s.sum()]
        for name, s in strengths.items()
    ]
    return table(["extraction", "⟨k⟩", "Σ strength", *map(str, orders)], rows)


def all_tables(folder: Path = RESULTS) -> dict[str, str]:
    """Make every table of the page.

    Args:
        folder: the stored runs.

    Returns:
        Name to Markdown.
    """
    stored = load_all(folder)
    detected = [detect(run) for run in counted("detection, runs", stored)]
    made: dict[str, Callable[[], str]] = {
        "runs": lambda: runs(detected),
        "detection": lambda: detection(detected),
        "detection summary": lambda: detection_summary(detected),
        "gap readings": lambda: gap_readings(detected),
        "stops": lambda: stops(detected),
        "stops by run": lambda: stops_by_run(detected),
        "accuracy": lambda: accuracy(detected, load_all(folder_in(folder))),
        "schedules": lambda: schedules(detected),
        "spindle": lambda: spindle(folder),
        "pictures": lambda: pictures(detected),
    }
    return {name: make() for name, make in counted("tables", list(made.items()))}


def _median(values: Iterable[int | None]) -> str | None:
    known = [value for value in values if value is not None]
    return f"{np.median(known):g}" if known else None


MARKS = {"choosing": "", "held out": " \\*", "fresh": " †"}


def _name(run: Detected) -> str:
    return f"`{run.stored.run.name}`{MARKS[run.stored.run.part]}"


def _parts(runs: Sequence[Detected]) -> list[tuple[str, list[Detected]]]:
    parts = [(name, [run for run in runs if run.stored.run.part == name]) for name in MARKS]
    return [*((name, part) for name, part in parts if part), ("all", list(runs))]
