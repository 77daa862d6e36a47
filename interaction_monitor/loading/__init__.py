"""Taking samples from a loader of somebody's run without touching the run's data loading.

Samples are taken out of batches, chosen, as many of each class as there can be, and put together.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from interaction_monitor.loading.loader_copy import (
    UnreadableLoaderError,
    base_of,
    copied,
    draw,
    is_map_style,
    key_batches,
    loader_like,
)
from interaction_monitor.loading.process import NeedsThisProcessError, SharedStateError, can_fork, in_own_process
from interaction_monitor.state import preserved_rng

__all__ = ["TooFewSamplesError", "UnreadableLoaderError", "draw", "join", "read_samples", "rows_of", "size_of"]

# Candidates per sample asked for: enough to balance classes, few enough to read.
CANDIDATES = 10

Targets = Callable[[Any], Tensor | None]
Suits = Callable[[Any], Sequence[bool]]


def read_samples(loader: Any, n_samples: int, *, seed: int, targets_of: Targets, suits: Suits | None = None) -> Any:
    """Choose samples of a loader and return them as one batch of the loader's own kind.

    Everything runs in a forked process, so that no dataset, sampler, generator, iterator, worker or open file of this
    one is read, advanced or counted. Where no process can be forked, everything is copied first instead.

    Args:
        loader: gives batches.
        n_samples: how many samples.
        seed: decides the choice.
        targets_of: finds the targets in a batch.
        suits: tells of each sample of a batch whether it is to be preferred; None prefers none.

    Raises:
        TooFewSamplesError: if the loader has fewer samples.
        UnreadableLoaderError: if nothing can be forked and the loader's parts cannot be copied.
    """
    base = base_of(loader)

    def read(own: Any) -> Any:
        with preserved_rng(seed):
            selection = Selection(n_samples, targets_of, suits)
            return _from_items(own, selection, seed) if is_map_style(own) else _from_batches(own, selection, seed)

    if can_fork(getattr(base, "multiprocessing_context", None)):
        try:
            return in_own_process(lambda: read(base))
        except SharedStateError as error:
            raise UnreadableLoaderError(str(error).rpartition("SharedStateError: ")[2]) from error
        except NeedsThisProcessError:
            pass
    return read(copied(base))


def _from_items(loader: DataLoader[Any], selection: Selection, seed: int) -> Any:
    batches = key_batches(loader, CANDIDATES * selection.n_samples, seed)
    candidates: list[Any] = []
    for batch, drawn in zip(loader_like(loader, [drawn.keys for drawn in batches], seed), batches, strict=True):
        size = size_of(batch)
        selection.add(batch, drawn.candidates if size == len(drawn.keys) else range(size))
        candidates += [drawn.keys[row] for row in drawn.candidates]
        if selection.settled:
            break
    try:
        return selection.batch()
    except DifferentShapesError:  # each batch is padded as it needs; together they are padded alike
        if selection.found != len(candidates):
            raise
    chosen = selection.places()
    size = len(batches[0].keys)
    others = sorted(set(range(len(candidates))) - set(chosen)) or chosen
    filled = [candidates[place] for place in chosen + (others * size)[: -len(chosen) % size]]
    (batch,) = loader_like(loader, [filled], seed)
    return rows_of(batch, range(selection.n_samples))


def _from_batches(loader: Any, selection: Selection, seed: int) -> Any:
    for batch in loader_like(loader, None, seed) if isinstance(loader, DataLoader) else loader:
        selection.add(batch, range(size_of(batch)))
        if selection.found >= CANDIDATES * selection.n_samples or selection.settled:
            break
    return selection.batch()


class DifferentShapesError(ValueError):
    """Samples that have different shapes cannot be put into one batch."""


def size_of(batch: Any) -> int:
    """Return how many samples a batch has, by its first tensor with a batch axis; 0 if it has none.

    Examples:
        >>> size_of({"text": ["a", "b"], "ids": torch.zeros(2, 5)})
        2
    """
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 0
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else ()
    return next((size for size in map(size_of, parts) if size), 0)


def rows_of(batch: Any, rows: Sequence[int]) -> Any:
    """Return a batch of some samples of a batch, in memory of its own.

    What has no batch axis is kept as it is.

    Examples:
        >>> rows_of((torch.arange(3), ["a", "b", "c"], 7), [2, 0])
        (tensor([2, 0]), ['c', 'a'], 7)
    """
    size = size_of(batch)

    def take(part: Any) -> Any:
        if isinstance(part, Tensor):
            if part.ndim and len(part) == size:
                return part.detach()[torch.as_tensor(rows, dtype=torch.int64, device=part.device)]
            return part.detach().clone()
        if _is_column(part) and len(part) == size:
            return [part[row] for row in rows]
        return part

    return _map(take, batch)


def join(batches: Sequence[Any]) -> Any:
    """Return one batch of the samples of several of one kind.

    Raises:
        DifferentShapesError: if tensors have different shapes.

    Examples:
        >>> join([(torch.zeros(1, 2), ["a"]), (torch.ones(2, 2), ["b", "c"])])[1]
        ['a', 'b', 'c']
    """
    sizes = [size_of(batch) for batch in batches]

    def put_together(*parts: Any) -> Any:
        tensors = all(isinstance(part, Tensor) and part.ndim for part in parts)
        have_rows = tensors or all(map(_is_column, parts))
        if not have_rows or any(len(part) != size for part, size in zip(parts, sizes, strict=True)):
            return parts[0]
        if not tensors:
            return [entry for part in parts for entry in part]
        shapes = {tuple(part.shape[1:]) for part in parts}
        if len(shapes) > 1:
            raise DifferentShapesError(
                f"the samples of the loader have different shapes, {sorted(shapes)[:3]}, and cannot be "
                "joined to one probe; pad them alike, or make the probe yourself: Probe(inputs, targets)"
            )
        return torch.cat(parts)

    return _map(put_together, *batches)


def _is_column(part: Any) -> bool:
    """Tell whether this is a list of one entry a sample, and not a list of columns."""
    return isinstance(part, list) and not any(isinstance(entry, (Tensor, list, tuple, Mapping)) for entry in part)


def _map(change: Callable[..., Any], first: Any, *others: Any) -> Any:
    if isinstance(first, Mapping):
        mapped = {key: _map(change, first[key], *(other[key] for other in others)) for key in first}
        if type(first) is dict:
            return mapped
        same_kind = copy.copy(first)
        try:
            for key, value in mapped.items():
                same_kind[key] = value  # type: ignore[index]  # where it cannot be set, a dict will do
        except TypeError:
            return mapped
        return same_kind
    if isinstance(first, (tuple, list)) and not _is_column(first):
        mapped_parts = [_map(change, *parts) for parts in zip(first, *others, strict=True)]
        return type(first)(*mapped_parts) if hasattr(first, "_fields") else type(first)(mapped_parts)
    return change(first, *others)


class TooFewSamplesError(ValueError):
    """A loader has fewer samples than were asked for; the message says so of whichever argument asked."""

    def __init__(self, found: int, wanted: int, *, argument: str = "n_samples", loader: str = "the loader") -> None:
        super().__init__(
            f"{argument}={wanted}, but {loader} has only {found} samples; ask for {found} or fewer"
            if found
            else f"{loader} is empty: there is no sample to measure on"
        )
        self.found = found
        self.wanted = wanted

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.found, self.wanted)


class Selection:
    """Keeps those candidates that may still be chosen: the classes take turns, in the order in which they first come.

    What it is given is told at `read_samples`.
    """

    def __init__(self, n_samples: int, targets_of: Targets, suits: Suits | None) -> None:
        self.n_samples = n_samples
        self._targets_of, self._suits_of = targets_of, suits
        self._suits: list[bool] = []  # whether each candidate so far is preferred
        self._classes: list[int | None] = []  # of each candidate so far; None where its target is no class
        self._kept: dict[int, Any] = {}  # place among the candidates -> batch of one

    def add(self, batch: Any, rows: Sequence[int]) -> None:
        """Take the candidates that are in some rows of a batch."""
        targets, suits = self._targets_of(batch), self._suits_of and self._suits_of(batch)
        for row in rows:
            self._kept[len(self._classes)] = rows_of(batch, [row])
            self._suits.append(suits is None or bool(suits[row]))
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
        return None in self._classes and sum(self._suits) >= self.n_samples

    def places(self) -> list[int]:
        """Return which candidates are chosen.

        Raises:
            TooFewSamplesError: if there were fewer than are to be chosen.
        """
        if self.found < self.n_samples:
            raise TooFewSamplesError(self.found, self.n_samples)
        chosen: list[int] = []
        for suits in (True, False):
            places = [place for place, found in enumerate(self._suits) if found == suits]
            turns = balanced([self._classes[place] for place in places], self.n_samples - len(chosen))
            chosen += [places[turn] for turn in turns]
        return chosen

    def batch(self) -> Any:
        """Return the chosen samples as one batch, see `join`."""
        return join([self._kept[place] for place in self.places()])

    def _forget(self) -> None:
        # Candidates that come later move others back, never forward. If one of them has no class, the first count.
        suited = itertools.islice((place for place, suits in enumerate(self._suits) if suits), self.n_samples)
        wanted = {*self.places(), *range(self.n_samples), *suited}
        self._kept = {place: kept for place, kept in self._kept.items() if place in wanted}


def class_of(target: Tensor | None) -> int | None:
    """Return the class that one sample's target names, or None if it is not one whole number."""
    if target is None or target.numel() != 1:
        return None
    value = target.item()
    return int(value) if math.isfinite(value) and value % 1 == 0 else None


def balanced(classes: Sequence[int | None], n_samples: int) -> list[int]:
    """Choose places of the list so that the classes take turns.

    Examples:
        >>> balanced([0, 0, 0, 1], 3), balanced([0, None, 1], 2)
        ([0, 3, 1], [0, 1])
    """
    if None in classes:
        return list(range(min(n_samples, len(classes))))
    places: dict[int | None, list[int]] = {}
    for place, found in enumerate(classes):
        places.setdefault(found, []).append(place)
    turns = itertools.zip_longest(*places.values())
    return [place for turn in turns for place in turn if place is not None][:n_samples]
