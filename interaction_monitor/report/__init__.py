"""The HTML pages: a run's story for somebody who was not there, or a comparison, in one file that works offline."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from interaction_monitor import __version__, console
from interaction_monitor.comparison import Comparison, compare
from interaction_monitor.functional import matching_error, matching_precision_curve, noise_floor, orders, sparsity_curve
from interaction_monitor.history import History, landmarks
from interaction_monitor.measurement import Measurement
from interaction_monitor.plots import comparison_figures, comparison_text, data_uri, theory_figures, theory_text
from interaction_monitor.plots.browser_figures import Checks, Figure, reliability_figures, run_figures
from interaction_monitor.plots.sample_inputs import examples
from interaction_monitor.progress_bar import counted
from interaction_monitor.record import Record
from interaction_monitor.theory import Overlay, fit_record

__all__ = ["comparison_page", "report_page"]

_TEMPLATES = Environment(
    loader=PackageLoader("interaction_monitor", "report"), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip


# Half a unit in the last place, relative to the number: what rounding to nearest can do to it.
_PRECISIONS = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
_RANKS = 160


def report_page(record: Record, others: Sequence[Record] = ()) -> str:
    """Tell a run's story on one page.

    Everything is inside the page, and its content security policy forbids it to fetch anything.
    Whatever the record holds is shown as text, never as markup.

    Args:
        record: At least two measurements of at least two players, the last with salient interactions.
        others: Other runs over the same samples and players; what their last networks share with this one's is told
            too.

    Returns:
        The page's HTML, some hundred kilobytes.

    Raises:
        NoOverlayError: If there is too little in the record.
        NotComparableError: If another run was measured on other samples, players or outputs.
        RecordError: If a file of the record is damaged.
    """
    comparison = _comparison_context(compare([record, *others])) if others else {"comparison": None}
    overlay = fit_record(record)
    history = overlay.history
    compared = {row.position for row in history}
    kept = [index for index, row in enumerate(record.history) if row.position in compared]
    moments = _moments(overlay)
    with_or = _has_or(record)
    checks = check(
        (record.measurements[index] for index in counted("report, measurements", kept)),
        list(moments),
        with_or=with_or,
        rounding=history[-1].rounding,
    )
    limits = record.settings.get("thresholds")
    limits = limits if isinstance(limits, dict) and with_or else {}
    noise, tol = (_number(limits.get(name)) for name in ("noise", "tol"))
    figures = {
        **run_figures(history),
        **theory_figures.for_browser(overlay),
        **reliability_figures(history, checks, list(moments.values()), noise=noise, tol=tol),
    }
    return _TEMPLATES.get_template("page.html.jinja").render(
        # Scripts run by this word alone: whatever else should end up in the page as a script does not.
        nonce=secrets.token_urlsafe(16),
        script=Markup(files("interaction_monitor.report").joinpath("charts.js").read_text(encoding="utf-8")),
        figures={name: as_json(figure) for name, figure in figures.items()},
        version=__version__,
        record=record,
        settings=_flat(record.settings),
        history=history,
        console=console,
        landmarks=landmarks,
        lag=_lag(history),
        stages=stages(history),
        overlay=overlay,
        theory_text=theory_text,
        examples=examples(record, [(moments[i], record.measurements[kept[i]]) for i in moments if i > 0]),
        with_or=with_or,
        above_floor=_orders(checks.above_floor),
        **comparison,
    )


def check(
    measurements: Iterable[Measurement], moments: Sequence[int], *, with_or: bool = True, rounding: float | None = None
) -> Checks:
    """Compute how far a run's interactions can be trusted, with one measurement in memory at a time.

    Ren et al. 2024, Theorem 2 (universal matching) and Lemma 1 (noise); Chen et al. 2024, Appendix M (matching
    precision).

    Args:
        measurements: All of a run, each with a finite sample.
        moments: Which of them get curves.
        with_or: Whether OR interactions were measured, and not AND alone.
        rounding: Standard deviation of an output by the rounding in the last network, where that is known.

    Returns:
        The checks.
    """
    of_samples, strength, precision = [], [], []
    ranks = np.zeros(0, dtype=np.int64)
    for index, measurement in enumerate(measurements):
        valid = measurement.valid
        v, and_, or_ = measurement.v[valid], measurement.and_[valid], measurement.or_[valid] if with_or else None
        change = (v[:, -1] - v[:, 0]).abs()
        # A sample whose output hardly changes would show rounding as a large share of nothing.
        error = matching_error(v, and_, or_) / change.clamp(min=1e-6 * float(change.mean()) + 1e-300)
        of_samples.append((float(error.max()), float(error.mean()), float(measurement.gap[valid].mean())))
        if index in moments:
            sizes = sparsity_curve(and_, or_)
            ranks = np.unique(np.geomspace(1, len(sizes), _RANKS).round().astype(np.int64))
            strength.append((sizes[ranks - 1] / measurement.tau).numpy())
            precision.append(matching_precision_curve(v, and_, or_).mean(0)[ranks - 1].numpy())
    # What is left of the loop is the last measurement.
    n = int(np.log2(v.shape[-1]))
    output_size = float(v.square().mean().sqrt())
    pooled = and_.square() if or_ is None else (and_.square() + or_.square()) / 2
    size = [float(pooled[:, orders(n) == k].mean().sqrt()) for k in range(1, n + 1)]
    worst_error, mean_error, mean_gap = np.array(of_samples).T
    return Checks(
        worst_error=worst_error,
        mean_error=mean_error,
        mean_gap=mean_gap,
        ranks=ranks,
        strength=np.array(strength),
        precision=np.array(precision),
        size=np.array(size),
        floors={name: noise_floor(n, unit * output_size).numpy() for name, unit in _PRECISIONS.items()},
        floor=None if rounding is None else noise_floor(n, rounding).numpy(),
        tau=measurement.tau,
    )


def comparison_page(comparison: Comparison, pictures: Mapping[str, bytes] | None = None) -> str:
    """Write a comparison as a page that needs nothing else and runs no script.

    Whatever the networks and players are called is shown as text, never as markup.

    Args:
        comparison: The networks.
        pictures: Its pictures from `comparison_figures.draw_all`; None draws them.

    Returns:
        The page's HTML.
    """
    template = _TEMPLATES.get_template("comparison_page.html.jinja")
    return template.render(version=__version__, **_comparison_context(comparison, pictures))


def _comparison_context(comparison: Comparison, pictures: Mapping[str, bytes] | None = None) -> dict[str, Any]:
    pictures = pictures or comparison_figures.draw_all(comparison)
    shown = {name: data_uri(picture) for name, picture in pictures.items()}
    return {"comparison": comparison, "text": comparison_text, "pictures": shown}


def stages(history: History) -> list[tuple[str, int, int]]:
    """Divide a run at its onset, as far as it is known: what each stage is called, its first and last measurement.

    Examples:
        >>> stages(History())
        []
    """
    onset, last = landmarks.onset_index(history), len(history) - 1
    if onset is not None:
        return [("one", 0, onset), ("two", onset, last)]
    return [("so far", 0, last)] if len(history) else []


def as_json(figure: Figure) -> Markup:
    """Write a figure so that it can stand inside a script element."""
    # Inside a script element only "<" could end it early.
    return Markup(json.dumps(figure, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))


def _lag(history: History) -> str:
    """Say how long after the onset the loss gap begins to rise, or before it; nothing unless both are known."""
    onset, opening = landmarks.find_onset(history), landmarks.find_gap_opening(history)
    if onset is None or opening is None or onset.index is None or opening.index is None:
        return ""
    values, unit = landmarks.positions(history)
    lag = int(values[opening.index] - values[onset.index])
    if not lag:
        return "at the onset"
    return f"{abs(lag)} {unit}{'s' * (abs(lag) != 1)} {'after' if lag > 0 else 'before'} the onset"


def _moments(overlay: Overlay) -> dict[int, str]:
    """Name the measurements that stand for the run: its start, its turn and its end."""
    turn = "onset" if overlay.onset_known else "lowest ⟨k⟩"
    named = {0: "start", overlay.turn: turn} | {len(overlay.history) - 1: "end"}
    return {index: f"{name}, {overlay.places[index]}" for index, name in named.items()}


def _orders(orders: Sequence[int]) -> str:
    """Name orders in words, neighbours together.

    Examples:
        >>> _orders([1, 2, 3, 5]), _orders([4]), _orders([])
        ('orders 1 to 3 and 5', 'order 4', 'no order')
    """
    if not orders:
        return "no order"
    begins = [k for k in orders if k - 1 not in orders]
    ends = [k for k in orders if k + 1 not in orders]
    spans = [f"{begin} to {end}" if begin < end else str(end) for begin, end in zip(begins, ends, strict=True)]
    listed = " and ".join([", ".join(spans[:-1]), spans[-1]] if len(spans) > 1 else spans)
    return f"order{'s' if len(orders) > 1 else ''} {listed}"


def _has_or(record: Record) -> bool:
    kind = record.settings.get("interactions")
    # Records of plain loops hold whatever settings their author chose.
    return kind == "and-or" if kind in ("and", "and-or") else bool(record.measurements[-1].or_.nan_to_num().any())


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """List settings with those of a group under its name."""
    pairs = []
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            pairs += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and len(value) > 12:  # stop words, say; the record has them all
            some = ", ".join(map(str, value[:12]))
            pairs.append((f"{prefix}{key}", f"{some} and {len(value) - 12:,} more"))
        else:
            pairs.append((f"{prefix}{key}", str(value)))
    return pairs


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
