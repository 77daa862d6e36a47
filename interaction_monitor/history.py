"""The run in numbers: one row of scalars per measurement, in the order in which they were taken.

Panels, the CSV file, the console and the checkpoint all show the same rows, so what one of them says
the others say too. Everything here is plain numbers: no tensors, no files, no Lightning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

PHASES = ("initial", "one", "two")
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
        """Test loss minus train loss; None unless both are known."""
        if self.train_loss is None or self.test_loss is None:
            return None
        return self.test_loss - self.train_loss

    def to_csv(self) -> dict[str, str]:
        """Write the row as one cell per number: `order_k` and `strength_k` hold the two tuples.

        Returns:
            Column name to text. None is the empty cell; floats keep every digit.
        """
        cells: dict[str, str] = {}
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if kind == _TUPLE:
                cells |= {f"{_PREFIX[name]}{k}": repr(float(x)) for k, x in enumerate(value, start=1)}
            elif value is None:
                cells[name] = ""
            else:
                cells[name] = repr(float(value)) if kind.startswith("float") else str(value)
        return cells

    @classmethod
    def from_csv(cls, cells: Mapping[str, str]) -> Row:
        """Read what `to_csv` wrote; columns it does not know are left alone.

        Raises:
            ValueError: If a column is missing or its cell cannot be read; the message names the column.
        """
        values: dict[str, Any] = {}
        for name, kind in _KINDS.items():
            if kind == _TUPLE:
                values[name] = tuple(_cells_of_orders(cells, _PREFIX[name]))
            else:
                values[name] = _read_cell(cells, name, kind)
        return cls(**values)

    def to_primitives(self) -> dict[str, Any]:
        """Turn the row into a dict of plain numbers, strings, lists and None, as a checkpoint may hold."""
        return {name: _PLAIN[kind](getattr(self, name)) for name, kind in _KINDS.items()}

    @classmethod
    def from_primitives(cls, values: Mapping[str, Any]) -> Row:
        """Read what `to_primitives` wrote.

        Raises:
            ValueError: If a field is missing or holds something else than it should.
        """
        missing = [name for name in _KINDS if name not in values]
        if missing:
            raise ValueError(f"a row of the history lacks {', '.join(missing)}")
        try:
            plain: dict[str, Any] = {name: _PLAIN[kind](values[name]) for name, kind in _KINDS.items()}
        except TypeError as error:
            raise ValueError(f"a row of the history cannot be read: {error}") from error
        return cls(**plain | {name: tuple(plain[name]) for name in _PREFIX})


class History(Sequence[Row]):
    """The rows of a run, strictly increasing in (epoch, step).

    Args:
        rows: The rows to begin with.

    Example:
        >>> row = Row(
        ...     epoch=0, step=0, distribution=(0.5, 1.5), strength=(1.0, 3.0), mean_order=1.75,
        ...     mean_order_low=1.7, mean_order_high=1.8, high_order_share=0.75, n_salient=2.0, tau=0.1,
        ...     output_change=3.3, solver_gap=0.004, seconds=1.5, n_valid=50, phase="initial",
        ...     onset_epoch=None, detected_epoch=None, gap_onset_epoch=None, train_loss=None, test_loss=2.3,
        ... )
        >>> history = History([row])
        >>> history.distribution
        array([[0.5, 1.5]])
        >>> history.column("train_loss")
        array([nan])
        >>> History.from_primitives(history.to_primitives()) == history
        True
        >>> history.append(row)
        Traceback (most recent call last):
        ...
        ValueError: (epoch, step) must increase: (0, 0) after (0, 0)
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._rows: list[Row] = []
        for row in rows:
            self.append(row)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> History: ...
    def __getitem__(self, index: int | slice) -> Row | History:
        return History(self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __eq__(self, other: object) -> bool:
        # Cells, not rows, because NaN is not equal to itself and a history with one should equal its copy.
        return isinstance(other, History) and self.to_csv() == other.to_csv()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        last = f", last at epoch {self._rows[-1].epoch}" if self._rows else ""
        return f"History({len(self._rows)} measurements{last})"

    def append(self, row: Row) -> None:
        """Add a measurement that was taken after all the others.

        Raises:
            ValueError: If (epoch, step) does not increase or the number of players differs.
        """
        if self._rows:
            last = self._rows[-1]
            if row.position <= last.position:
                raise ValueError(f"(epoch, step) must increase: {row.position} after {last.position}")
            if row.n_players != last.n_players:
                raise ValueError(f"the history has {last.n_players} players, the new row {row.n_players}")
        self._rows.append(row)

    def until(self, epoch: int, step: int) -> History:
        """Return the rows up to and including (epoch, step): what a checkpoint taken there has seen."""
        return History(row for row in self._rows if row.position <= (epoch, step))

    @property
    def n_players(self) -> int:
        """Number of players; 0 while the history is empty."""
        return self._rows[0].n_players if self._rows else 0

    @property
    def epochs(self) -> NDArray[np.int64]:
        """(E,) completed epochs of each measurement; may repeat where an epoch was measured several times."""
        return np.array([row.epoch for row in self._rows], dtype=np.int64)

    @property
    def steps(self) -> NDArray[np.int64]:
        """(E,) optimizer steps of each measurement."""
        return np.array([row.step for row in self._rows], dtype=np.int64)

    @property
    def distribution(self) -> NDArray[np.float64]:
        """(E, n) I_real^(k), one row per measurement."""
        return self._matrix("distribution")

    @property
    def strength(self) -> NDArray[np.float64]:
        """(E, n) strength per order before it is normalised."""
        return self._matrix("strength")

    def column(self, name: str) -> NDArray[Any]:
        """Return one field, or `loss_gap`, over all measurements.

        Args:
            name: A field of `Row` that holds one number or the phase.

        Returns:
            (E,) float64 with NaN for None; (E,) strings for `phase`.

        Raises:
            ValueError: If there is no such column.
        """
        kind = _KINDS.get(name)
        if name != "loss_gap" and (kind is None or kind == _TUPLE):
            known = [known for known, kind in _KINDS.items() if kind != _TUPLE]
            raise ValueError(f"no column {name!r}; there are {', '.join(known)}, loss_gap")
        values = [getattr(row, name) for row in self._rows]
        if kind == "str":
            return np.array(values, dtype=np.str_)
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    def to_csv(self) -> list[dict[str, str]]:
        """Write every row as `Row.to_csv` does."""
        return [row.to_csv() for row in self._rows]

    @classmethod
    def from_csv(cls, rows: Iterable[Mapping[str, str]]) -> History:
        """Read what `to_csv` wrote.

        Raises:
            ValueError: If a cell cannot be read or the rows are out of order.
        """
        return cls(Row.from_csv(cells) for cells in rows)

    def to_primitives(self) -> list[dict[str, Any]]:
        """Turn the history into lists, dicts, numbers and strings only, as a checkpoint may hold."""
        return [row.to_primitives() for row in self._rows]

    @classmethod
    def from_primitives(cls, rows: Iterable[Mapping[str, Any]]) -> History:
        """Read what `to_primitives` wrote.

        Raises:
            ValueError: If a field is missing or the rows are out of order.
        """
        return cls(Row.from_primitives(values) for values in rows)

    def _matrix(self, name: str) -> NDArray[np.float64]:
        values = [getattr(row, name) for row in self._rows]
        return np.array(values, dtype=np.float64).reshape(len(values), self.n_players)


# The annotations of Row decide how its fields are written, so a new field needs no second place.
_TUPLE = "tuple[float, ...]"
_KINDS: dict[str, str] = {field.name: str(field.type) for field in fields(Row)}
_PREFIX = {"distribution": "order_", "strength": "strength_"}
_READ: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str}
_PLAIN: dict[str, Callable[[Any], Any]] = {
    "int": int,
    "float": float,
    "str": str,
    _TUPLE: lambda value: [float(x) for x in value],
    "int | None": lambda value: None if value is None else int(value),
    "float | None": lambda value: None if value is None else float(value),
}


def csv_columns(n_players: int) -> list[str]:
    """Return the column names of a history over n players, in the order in which they are written.

    Example:
        >>> csv_columns(2)[:6]
        ['epoch', 'step', 'order_1', 'order_2', 'strength_1', 'strength_2']
    """
    columns: list[str] = []
    for name, kind in _KINDS.items():
        columns += [f"{_PREFIX[name]}{k}" for k in range(1, n_players + 1)] if kind == _TUPLE else [name]
    return columns


def _read_cell(cells: Mapping[str, str], name: str, kind: str) -> Any:
    text = cells.get(name)
    if text is None:
        raise ValueError(f"column {name!r} is missing")
    if text == "" and kind.endswith("None"):
        return None
    try:
        return _READ[kind.removesuffix(" | None")](text)
    except ValueError:
        raise ValueError(f"column {name!r} holds {text[:40]!r}, which is no {kind}") from None


def _cells_of_orders(cells: Mapping[str, str], prefix: str) -> Iterator[float]:
    order = 1
    while f"{prefix}{order}" in cells:
        yield _read_cell(cells, f"{prefix}{order}", "float")
        order += 1
