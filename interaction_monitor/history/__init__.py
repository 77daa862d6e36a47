"""The run in numbers: one row of scalars per measurement, in the order in which they were taken.

Panels, the CSV file, the console and the checkpoint all show the same rows, so what one of them says the others say
too. What is kept is plain numbers: no tensors, no files, no Lightning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

from interaction_monitor.functional.distribution import first_high_order
from interaction_monitor.history.row import ADDED, KINDS, PHASES, PREFIXES, TUPLE, Row

__all__ = ["PHASES", "EffectPart", "History", "Row", "csv_columns"]

DERIVED = ("loss_gap", "evaluated_gap", "persisted_share", "high_order_effect", "high_order_gap")
_MOST_ORDERS = 99  # that a column may be of while there is no row to say how many


class EffectPart(NamedTuple):
    """What the low orders or the high ones add to the output over the run."""

    name: str
    high: bool
    trained: bool  # on training samples, not on the probe's
    effect: NDArray[np.float64]  # (E,) NaN where not known


class History(Sequence[Row]):
    """The rows of a run, strictly increasing in (epoch, step).

    Args:
        rows: The rows to begin with.

    Examples:
        >>> import torch
        >>> from interaction_monitor import Observer, Probe, assign_players, players
        >>> model, probe = torch.nn.Linear(4, 3), Probe(torch.rand(5, 4), torch.tensor([0, 1, 2, 0, 1]))
        >>> observer = Observer(probe, assign_players(model, players.Columns(n_players=4), probe))
        >>> row = observer.observe(model, epoch=0, step=0, test_loss=2.3)
        >>> history = History([row])  # what observer.history is now
        >>> history.distribution.shape
        (1, 4)
        >>> history.column("test_loss"), history.column("train_loss")
        (array([2.3]), array([nan]))
        >>> History.from_primitives(history.to_primitives()) == history
        True
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

    __hash__ = None  # type: ignore[assignment]  # what can grow has no hash

    def __repr__(self) -> str:
        last = f", last at epoch {self._rows[-1].epoch}" if self._rows else ""
        return f"History({len(self._rows)} measurements{last})"

    def plot(self) -> Figure:
        """Draw the run on one page, as `plots.run_figures.story` does."""
        from interaction_monitor.plots.run_figures import story  # pictures are made of histories, not the reverse

        return story(self)

    def _repr_html_(self) -> str:
        from interaction_monitor.plots.run_figures import to_html

        return to_html(self)

    def to_pandas(self) -> DataFrame:
        """Return the rows as a pandas data frame, with the columns of the CSV file.

        Raises:
            ModuleNotFoundError: If pandas is not installed.
        """
        from pandas import DataFrame

        columns = {name: self.column(name) for name in (csv_columns(self.n_players) if self else ())}
        whole = {"epoch": self.epochs, "step": self.steps} if self else {}
        return DataFrame(columns | whole)

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
        return self.by_order("distribution")

    @property
    def strength(self) -> NDArray[np.float64]:
        """(E, n) strength per order before it is normalised."""
        return self.by_order("strength")

    def by_order(self, name: str) -> NDArray[np.float64]:
        """Return one of the fields with an entry per order, over all measurements.

        Args:
            name: Such a field of `Row`, for example `persisted`.

        Returns:
            (E, n) float64, NaN throughout where a measurement does not know it.

        Raises:
            ValueError: If there is no such field.
        """
        if KINDS.get(name) != TUPLE:
            known = [known for known, kind in KINDS.items() if kind == TUPLE]
            raise ValueError(f"no field {name!r} with an entry per order; there are {', '.join(known)}")
        values = [getattr(row, name) or (np.nan,) * self.n_players for row in self._rows]
        return np.array(values, dtype=np.float64).reshape(len(values), self.n_players)

    def turnover_shares(self) -> NDArray[np.float64]:
        """Divide what was salient at each measurement or the one before it.

        Returns:
            (E, 3) shares of the strength that persisted, appeared and vanished, which sum to 1; NaN where not known.
        """
        persisted, vanished = (self.by_order(name).sum(1) for name in ("persisted", "vanished"))
        parts = np.stack([persisted, self.strength.sum(1) - persisted, vanished], axis=1).clip(0)
        total = parts.sum(1, keepdims=True)
        return parts / np.where(total > 0, total, np.nan)

    def persisted_shares(self) -> NDArray[np.float64]:
        """Return (E, n) which share of each order's strength was there at the measurement before; NaN if not known."""
        strength = self.strength
        # A millionth of the whole is rounding, and its shares would be as loud as any.
        known = strength > 1e-6 * strength.sum(1, keepdims=True)
        return self.by_order("persisted") / np.where(known, strength, np.nan)

    def effect_parts(self) -> list[EffectPart]:
        """List what low and high orders add to the output, as far as anything is known of it."""
        high = first_high_order(self.n_players) - 1
        parts = []
        for field, samples in (("effect", "probe samples"), ("train_effect", "training samples")):
            effects = self.by_order(field)
            for is_high, orders, part in (
                (False, f"orders 1 to {high}" if high > 1 else "order 1", effects[:, :high]),
                (True, f"orders {high + 1} and above", effects[:, high:]),
            ):
                if part.shape[1] and not np.isnan(part.sum(1)).all():
                    parts.append(EffectPart(f"{orders}, {samples}", is_high, field == "train_effect", part.sum(1)))
        return parts

    def column(self, name: str) -> NDArray[Any]:
        """Return one field, one of `DERIVED`, or one order of a field with an entry per order, over all measurements.

        Args:
            name: A field of `Row` that holds one number or the phase, or a column of the CSV file such as `order_1`,
                `strength_2` or `train_strength_1`.

        Returns:
            (E,) float64 with NaN for None; (E,) strings for `phase`.

        Raises:
            ValueError: If there is no such column.
        """
        orders = range(1, (self.n_players or _MOST_ORDERS) + 1)
        places = {f"{prefix}{order}": (field, order) for field, prefix in PREFIXES.items() for order in orders}
        if name in places:
            field, order = places[name]
            return self.by_order(field)[:, order - 1] if self else np.zeros(0)
        kind = KINDS.get(name)
        if name not in DERIVED and (kind is None or kind == TUPLE):
            known = [known for known, kind in KINDS.items() if kind != TUPLE]
            by_order = [f"{prefix}1 to {prefix}{self.n_players or 'n'}" for prefix in PREFIXES.values()]
            raise ValueError(f"no column {name!r}; there are {', '.join([*known, *DERIVED, *by_order])}")
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


def csv_columns(n_players: int, *, optional: bool = True) -> list[str]:
    """Return the column names of a history over n players, in the order in which they are written.

    Args:
        n_players: Number of players.
        optional: Whether to name those too that a history of an earlier version lacks.

    Examples:
        >>> csv_columns(2)[:6]
        ['epoch', 'step', 'order_1', 'order_2', 'strength_1', 'strength_2']
    """
    columns: list[str] = []
    for name, kind in KINDS.items():
        if optional or name not in ADDED:
            columns += [f"{PREFIXES[name]}{k}" for k in range(1, n_players + 1)] if kind == TUPLE else [name]
    return columns
