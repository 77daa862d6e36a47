"""Choosing among candidates that come batch by batch, as many of each class as there can be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from interaction_monitor.loading.batches import join, rows_of


class TooFewSamplesError(ValueError):
    """A loader has fewer samples than were asked for; the message says so of whichever argument asked."""

    def __init__(self, found: int, wanted: int, *, argument: str = "n_samples", loader: str = "the loader") -> None:
        super().__init__(f"{argument}={wanted}, but {loader} has only {found} samples; ask for {found} or fewer")
        self.found = found
        self.wanted = wanted

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.found, self.wanted)


class Selection:
    """Keeps those candidates that may still be chosen: the classes take turns, in the order in which they first come.

    Args:
        n_samples: how many are to be chosen.
    """

    def __init__(self, n_samples: int) -> None:
        self.n_samples = n_samples
        self._classes: list[int | None] = []  # of each candidate so far; None where its target is no class
        self._kept: dict[int, Any] = {}  # place among the candidates -> batch of one

    def add(self, batch: Any, targets: Tensor | None, rows: Sequence[int]) -> None:
        """Take the candidates that are in some rows of a batch."""
        for row in rows:
            self._kept[len(self._classes)] = rows_of(batch, [row])
            self._classes.append(class_of(None if targets is None else targets[row]))
        if len(self._kept) > 4 * self.n_samples:
            self._forget()

    @property
    def found(self) -> int:
        """How many candidates there were."""
        return len(self._classes)

    @property
    def settled(self) -> bool:
        """Whether no further candidate can change the choice: without classes the first ones are taken."""
        return None in self._classes and self.found >= self.n_samples

    def places(self) -> list[int]:
        """Return which candidates are chosen.

        Raises:
            TooFewSamplesError: if there were fewer than are to be chosen.
        """
        if self.found < self.n_samples:
            raise TooFewSamplesError(self.found, self.n_samples)
        return balanced(self._classes, self.n_samples)

    def batch(self) -> Any:
        """Return the chosen samples as one batch.

        Raises:
            DifferentShapesError: if they cannot be joined.
        """
        return join([self._kept[place] for place in self.places()])

    def _forget(self) -> None:
        # Candidates that come later move others back, never forward. If one of them has no class, the first count.
        wanted = {*balanced(self._classes, self.n_samples), *range(self.n_samples)}
        self._kept = {place: kept for place, kept in self._kept.items() if place in wanted}


def class_of(target: Tensor | None) -> int | None:
    """Return the class that one sample's target names, or None if it is not one whole number."""
    if target is None or target.numel() != 1:
        return None
    value = target.item()
    return int(value) if math.isfinite(value) and value % 1 == 0 else None


def balanced(classes: Sequence[int | None], n_samples: int) -> list[int]:
    """Choose places of the list so that the classes take turns.

    Example:
        >>> balanced([0, 0, 0, 1], 3), balanced([0, None, 1], 2)
        ([0, 3, 1], [0, 1])
    """
    if None in classes:
        return list(range(n_samples))
    places: dict[int | None, list[int]] = {}
    for place, found in enumerate(classes):
        places.setdefault(found, []).append(place)
    turns = itertools.zip_longest(*places.values())
    return [place for turn in turns for place in turn if place is not None][:n_samples]
