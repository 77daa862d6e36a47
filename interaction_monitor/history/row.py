"""One measurement as plain numbers: what they are, how its arrays become them, and how they are written and read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from interaction_monitor.functional import (
    first_high_order,
    high_order_share,
    mean_order_interval,
    order_effects,
    order_turnover,
    salient_counts,
)
from interaction_monitor.measurement import Measurement
from interaction_monitor.phases import PhaseState

PHASES = ("initial", "one", "two")
LEAST_OF_ORDER = 0.02  # an order with less of the strength has few interactions, and any share of them
ENOUGH_SAMPLES = 200  # on fewer, losses in evaluation mode jump about more than logged ones mislead
_LARGEST = 2**53  # beyond it epochs and steps lose digits in CSV readers and in JavaScript charts


@dataclass(frozen=True)
class Row:
    """One measurement as scalars.

    Epochs are completed epochs: 0 is before training. An epoch that is not known (yet) is None, and so is
    a loss that nobody logged; NaN is a value that was computed and came out undefined, such as the
    mean order where no interaction is salient.

    Raises:
        ValueError: If an epoch or step is negative, the phase is unknown, or the tuples differ in length.
    """

    epoch: int
    step: int  # optimizer steps taken so far
    distribution: tuple[float, ...]  # (n,) I_real^(k) for k = 1..n, sums to n
    strength: tuple[float, ...]  # (n,) the same before it is normalised, mean over samples
    mean_order: float
    mean_order_low: float  # 95% band over probe samples
    mean_order_high: float
    high_order_share: float
    n_salient: float  # salient interactions per sample
    tau: float  # the threshold of salience
    output_change: float  # mean |v(x) - v(x_∅)| over samples
    solver_gap: float
    seconds: float
    n_valid: int  # samples whose outputs were all finite
    phase: str
    onset_epoch: int | None
    detected_epoch: int | None
    gap_onset_epoch: int | None
    train_loss: float | None
    test_loss: float | None
    # What follows is empty where it is not known: (n,) each, entry k-1 for order k, means over samples.
    persisted: tuple[float, ...] = ()  # strength that was there at the measurement before, with the same sign
    vanished: tuple[float, ...] = ()  # strength at the measurement before of what is no longer there
    effect: tuple[float, ...] = ()  # what the interactions of the order add to the output, signs counted
    train_strength: tuple[float, ...] = ()  # as `strength`, on training samples, with the same threshold
    train_effect: tuple[float, ...] = ()  # as `effect`, on training samples
    similarity: tuple[float, ...] = ()  # of training and probe samples' interactions, where players mean the same
    # Where an epoch has many measurements the epoch of the onset says little; None too in what earlier versions wrote.
    onset_step: int | None = None
    detected_step: int | None = None
    rounding: float | None = None  # standard deviation of an output by the rounding in the network
    gap_onset_step: int | None = None  # as `gap_onset_epoch`
    generalizing_share: float | None = None  # part of the strength that a reference has too; None without references
    generalizing_low: float | None = None  # its 95% interval over probe samples
    generalizing_high: float | None = None
    generalizing: tuple[float, ...] = ()  # strength of what a reference has too
    # Mean losses of this very network in evaluation mode, on samples that stay the same.
    evaluated_train_loss: float | None = None
    evaluated_test_loss: float | None = None
    evaluated_samples: int | None = None  # how many each is of at least; None too in what earlier versions wrote
    unseen_loss: float | None = None  # of twins, on training samples they do not learn from, since the row before
    overfitting_epoch: int | None = None  # from where the share sinks or that loss rises, once that is known
    overfitting_detected_epoch: int | None = None  # the measurement at which it became known
    overfitting_step: int | None = None  # as `overfitting_epoch`
    overfitting_detected_step: int | None = None  # as `overfitting_detected_epoch`

    def __post_init__(self) -> None:
        for name in ("epoch", "step"):
            value = getattr(self, name)
            if not 0 <= value < _LARGEST:
                raise ValueError(f"{name} must lie between 0 and 2^53, got {value}")
        if not self.distribution or len(self.distribution) != len(self.strength):
            raise ValueError(
                "distribution and strength need one entry per order each, "
                f"got {len(self.distribution)} and {len(self.strength)}"
            )
        for name in PREFIXES:
            if len(getattr(self, name)) not in (0, len(self.strength)):
                raise ValueError(f"{name} needs one entry per order or none, got {len(getattr(self, name))}")
        if self.phase not in PHASES:
            raise ValueError(f"phase must be one of {', '.join(PHASES)}, got {self.phase!r}")

    @property
    def n_players(self) -> int:
        """Number of players, which is also the highest order."""
        return len(self.distribution)

    @property
    def position(self) -> tuple[int, int]:
        """Where in the run the measurement was taken: (epoch, step)."""
        return self.epoch, self.step

    @property
    def loss_gap(self) -> float | None:
        """Test minus train loss: of the very network where `evaluated_on_many`, else as logged; None if not known."""
        if self.evaluated_on_many:
            return self.evaluated_gap
        return None if self.train_loss is None or self.test_loss is None else self.test_loss - self.train_loss

    @property
    def evaluated_on_many(self) -> bool:
        """Whether both losses in evaluation mode are known, on at least 200 samples each."""
        return self.evaluated_gap is not None and (self.evaluated_samples or 0) >= ENOUGH_SAMPLES

    @property
    def evaluated_gap(self) -> float | None:
        """Test minus train loss in evaluation mode, on however few samples; None unless both are known."""
        if self.evaluated_train_loss is None or self.evaluated_test_loss is None:
            return None
        return self.evaluated_test_loss - self.evaluated_train_loss

    @property
    def generalizing_by_order(self) -> dict[int, float]:
        """Order to the part of its strength that a reference has too, of each order that holds 2% of the strength."""
        if not self.generalizing:
            return {}
        least = LEAST_OF_ORDER * sum(self.strength)
        orders = enumerate(zip(self.generalizing, self.strength, strict=True), start=1)
        return {order: part / whole for order, (part, whole) in orders if whole > 0 and whole >= least}

    @property
    def persisted_share(self) -> float | None:
        """Share of the strength that was there at the measurement before; None where that is not known."""
        total = sum(self.strength)
        return sum(self.persisted) / total if self.persisted and total > 0 else None

    @property
    def high_order_effect(self) -> float | None:
        """What the high orders add to the output, signs counted: little where they cancel; None where not known."""
        return self._of_high_orders(self.effect)

    @property
    def high_order_gap(self) -> float | None:
        """How much more the high orders add to the output on training samples; None unless these are measured."""
        trained, other = self._of_high_orders(self.train_effect), self._of_high_orders(self.effect)
        return None if trained is None or other is None else trained - other

    def _of_high_orders(self, values: tuple[float, ...]) -> float | None:
        return sum(values[first_high_order(self.n_players) - 1 :]) if values else None

    def to_csv(self) -> dict[str, str]:
        """Write the row as a cell of text for each of `csv_columns`: None is empty, floats keep every digit."""
        cells: dict[str, str] = {}
        for name, value in self.to_primitives().items():
            if KINDS[name] == TUPLE:
                cells |= {f"{PREFIXES[name]}{k}": str(x) for k, x in enumerate(value, start=1)}
            else:
                cells[name] = "" if value is None else str(value)
        return cells

    @classmethod
    def from_csv(cls, cells: Mapping[str, str]) -> Row:
        """Read what `to_csv` wrote; columns it does not know are left alone.

        Raises:
            ValueError: If a column is missing or its cell cannot be read; the message names the column.
        """
        values: dict[str, Any] = {}
        for name, kind in KINDS.items():
            if kind == TUPLE:
                values[name] = tuple(_cells_of_orders(cells, PREFIXES[name], optional=name in ADDED))
            elif name in cells or name not in ADDED:
                values[name] = _read_cell(cells, name, kind)
        return cls(**values)

    def to_primitives(self) -> dict[str, Any]:
        """Turn the row into a dict of plain numbers, strings, lists and None, as a checkpoint may hold."""
        return {name: _PLAIN[kind](getattr(self, name)) for name, kind in KINDS.items()}

    @classmethod
    def from_primitives(cls, values: Mapping[str, Any]) -> Row:
        """Read what `to_primitives` wrote.

        Raises:
            ValueError: If a field is missing or holds something else than it should.
        """
        missing = [name for name in KINDS if name not in values and name not in ADDED]
        if missing:
            raise ValueError(f"a row of the history lacks {', '.join(missing)}")
        try:
            plain: dict[str, Any] = {name: _PLAIN[k](values[name]) for name, k in KINDS.items() if name in values}
        except TypeError as error:
            raise ValueError(f"a row of the history cannot be read: {error}") from error
        return cls(**plain | {name: tuple(plain[name]) for name in PREFIXES if name in plain})


# The annotations of Row decide how its fields are written, so a new field needs no second place.
TUPLE = "tuple[float, ...]"
KINDS: dict[str, str] = {field.name: str(field.type) for field in fields(Row)}
PREFIXES = {name: "order_" if name == "distribution" else f"{name}_" for name in KINDS if KINDS[name] == TUPLE}
ADDED = {field.name for field in fields(Row) if field.default is not MISSING}  # earlier versions did not write them
_PLAIN: dict[str, Callable[[Any], Any]] = {
    "int": int,
    "float": float,
    "str": str,
    TUPLE: lambda value: [float(x) for x in value],
    "int | None": lambda value: None if value is None else int(value),
    "float | None": lambda value: None if value is None else float(value),
}


def _read_cell(cells: Mapping[str, str], name: str, kind: str) -> Any:
    text = cells.get(name)
    if text is None:
        raise ValueError(f"column {name!r} is missing")
    if text == "" and kind.endswith("None"):
        return None
    try:
        return _PLAIN[kind](text)
    except ValueError:
        raise ValueError(f"column {name!r} holds {text[:40]!r}, which is no {kind}") from None


def _cells_of_orders(cells: Mapping[str, str], prefix: str, *, optional: bool) -> Iterator[float]:
    order = 1
    while f"{prefix}{order}" in cells and not (optional and cells[f"{prefix}{order}"] == ""):
        yield _read_cell(cells, f"{prefix}{order}", "float")
        order += 1


def summarise(
    measurement: Measurement,
    state: PhaseState,
    *,
    epoch: int,
    step: int,
    train_loss: float | None = None,
    test_loss: float | None = None,
) -> Row:
    """Reduce a measurement to a row, with the phase after it, where it was taken, and what is logged there."""
    valid = measurement.valid
    and_, or_, strength = measurement.and_[valid], measurement.or_[valid], measurement.strength[valid]
    low, _, high = mean_order_interval(strength)
    return Row(
        epoch=epoch,
        step=step,
        distribution=tuple(measurement.distribution.tolist()),
        strength=tuple(strength.mean(dim=0).tolist()),
        mean_order=measurement.mean_order,
        mean_order_low=low,
        mean_order_high=high,
        high_order_share=high_order_share(strength),
        n_salient=float(salient_counts(and_, or_, measurement.tau).sum(dim=-1).double().mean()),
        tau=measurement.tau,
        output_change=measurement.output_change,
        solver_gap=float(measurement.gap[valid].max()),
        seconds=measurement.seconds,
        n_valid=int(valid.sum()),
        **of_phase(state),
        train_loss=train_loss,
        test_loss=test_loss,
        rounding=None if math.isnan(measurement.rounding) else measurement.rounding,
        effect=tuple(order_effects(and_, or_).mean(dim=0).tolist()),
    )


def of_phase(state: PhaseState) -> dict[str, Any]:
    """Return the fields of a row that say what is known of the phases."""
    found = [f"{event}_{of}" for event in ("onset", "detected", "gap_onset") for of in ("epoch", "step")]
    return {name: getattr(state, name) for name in ("phase", *found)}


def from_before(before: Measurement | None, now: Measurement) -> dict[str, Any]:
    """Return `persisted` and `vanished` of a row: means over the samples that are finite at both moments, if any is."""
    if before is None or before.v.shape != now.v.shape or not (both := before.valid & now.valid).any():
        return {}
    then, here = ((each.and_[both], each.or_[both]) for each in (before, now))
    turnover = order_turnover(then, here, before_tau=before.tau, tau=now.tau)
    return {name: tuple(getattr(turnover, name).mean(0).tolist()) for name in ("persisted", "vanished")}
