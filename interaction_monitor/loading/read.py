"""Reading the samples of a probe from a loader that a run uses, without reading anything of the run's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from interaction_monitor.loading.batches import DifferentShapesError, Selection, TooFewSamplesError, rows_of, size_of
from interaction_monitor.loading.private_loader import (
    UnreadableLoaderError,
    base_of,
    copied,
    is_map_style,
    key_batches,
    loader_like,
    start_method_of,
)
from interaction_monitor.loading.process import NeedsThisProcessError, SharedStateError, can_fork, in_own_process
from interaction_monitor.state import preserved_rng

# The choice is made among this many candidates per sample asked for: enough to balance classes, few enough to
# read.
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
            if is_map_style(own):
                return _from_items(own, n_samples, seed, targets_of, suits)
            return _from_batches(own, n_samples, seed, targets_of, suits)

    if can_fork(start_method_of(base)):
        try:
            return in_own_process(lambda: read(base))
        except SharedStateError as error:
            raise UnreadableLoaderError(str(error).rpartition("SharedStateError: ")[2]) from error
        except NeedsThisProcessError:
            pass
    return read(copied(base))


def _from_items(loader: DataLoader[Any], n_samples: int, seed: int, targets_of: Targets, suits: Suits | None) -> Any:
    found, batches = key_batches(loader, CANDIDATES * n_samples, seed)
    if found < n_samples:
        raise _too_few(found, n_samples)
    selection = Selection(n_samples)
    candidates: list[Any] = []
    for batch, drawn in zip(loader_like(loader, [drawn.keys for drawn in batches], seed), batches, strict=True):
        size = size_of(batch)
        rows = drawn.candidates if size == len(drawn.keys) else range(size)
        selection.add(batch, targets_of(batch), rows, suits and suits(batch))
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
    return rows_of(batch, range(n_samples))


def _from_batches(loader: Any, n_samples: int, seed: int, targets_of: Targets, suits: Suits | None) -> Any:
    selection = Selection(n_samples)
    batches: Iterator[Any] = iter(loader_like(loader, None, seed) if isinstance(loader, DataLoader) else loader)
    for batch in batches:
        targets = targets_of(batch)
        selection.add(batch, targets, range(size_of(batch)), suits and suits(batch))
        if selection.found >= CANDIDATES * n_samples or selection.settled:
            break
    if selection.found < n_samples:
        raise _too_few(selection.found, n_samples)
    return selection.batch()


def _too_few(found: int, n_samples: int) -> ValueError:
    if found == 0:
        return ValueError("the loader is empty: there is no sample to measure on")
    return TooFewSamplesError(found, n_samples)


__all__ = ["CANDIDATES", "UnreadableLoaderError", "read_samples"]
