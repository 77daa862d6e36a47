"""Finding out which samples a loader's sampler can give, in an order that a seed decides."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from interaction_monitor._draw import draw


@dataclass(frozen=True)
class KeyBatch:
    """What a batch is made of."""

    keys: list[Any]
    candidates: list[int]  # the rows that may be chosen


def key_batches(loader: DataLoader[Any], n_candidates: int, seed: int) -> tuple[int, list[KeyBatch]]:
    """Draw keys of samples, in batches such as the run's.

    Args:
        loader: over a map-style dataset, with parts of its own.
        n_candidates: how many keys to draw, if there are as many.
        seed: decides the draw.

    Returns:
        How many samples there are to draw from, and the batches. The last one is filled up with keys that are no
        candidates in it. A sampler of batches gives its own.
    """
    sampler: Any = _without_wrappers(loader.batch_sampler)
    if type(sampler) is not BatchSampler:
        return _given_batches(sampler, n_candidates, seed)
    keys = keys_of(sampler.sampler, loader.dataset, n_candidates, seed)
    candidates = [keys[place] for place in draw(len(keys), n_candidates, "probe", seed)]
    size = min(sampler.batch_size, len(keys))
    filled = itertools.chain(candidates, itertools.cycle(candidates))
    starts = range(0, len(candidates), size) if size else ()
    return len(keys), [
        KeyBatch(list(itertools.islice(filled, size)), list(range(min(size, len(candidates) - start))))
        for start in starts
    ]


def _given_batches(sampler: Any, n_candidates: int, seed: int) -> tuple[int, list[KeyBatch]]:
    given = [list(batch) for batch in _read(sampler, n_candidates, seed)]
    seen: set[str] = set()
    batches: list[KeyBatch] = []
    for place in draw(len(given), len(given), "probe", seed):
        names = [repr(key) for key in given[place]]  # a key need not be hashable
        new = [row for row, name in enumerate(names) if name not in seen and name not in names[:row]]
        if len(seen) < n_candidates and new:
            batches.append(KeyBatch(given[place], new))
        seen.update(names)
    return len(seen), batches


def keys_of(sampler: Any, dataset: Any, n_candidates: int, seed: int) -> Sequence[Any]:
    """Return all that a sampler can give of a dataset, each once: numbers in order, other keys as they come.

    Example:
        >>> from torch.utils.data import SubsetRandomSampler
        >>> keys_of(SubsetRandomSampler([7, 5, 9]), range(10), 3, 0)
        [5, 7, 9]
    """
    if type(sampler) in (SequentialSampler, RandomSampler):
        return range(len(sampler.data_source))
    if type(sampler) is WeightedRandomSampler:
        return torch.as_tensor(sampler.weights).nonzero()[:, 0].tolist()
    if type(sampler) is DistributedSampler or type(sampler).__name__ in _OF_LIGHTNING:
        # Each process's sampler gives a part; the choice is among all.
        wrapped = getattr(sampler.dataset, "_sampler", None)
        if wrapped is not None:
            return keys_of(wrapped, dataset, n_candidates, seed)
        return range(len(sampler.dataset))
    keys = list(_read(sampler, max(n_candidates, _length(dataset) or 0), seed))
    try:
        return sorted({operator.index(key) for key in keys})
    except TypeError:
        pass
    try:
        return list(dict.fromkeys(keys))
    except TypeError:  # some cannot be hashed
        return keys


_OF_LIGHTNING = ("DistributedSamplerWrapper", "UnrepeatedDistributedSampler", "UnrepeatedDistributedSamplerWrapper")


def _without_wrappers(batch_sampler: Any) -> Any:
    # Those of accelerate give each process its part, or skip what a resumed run has seen.
    while not isinstance(batch_sampler, BatchSampler) or type(batch_sampler).__module__.startswith("accelerate."):
        inner = getattr(batch_sampler, "batch_sampler", None)
        if inner is None:
            break
        batch_sampler = inner
    return batch_sampler


def _read(sampler: Iterable[Any], at_least: int, seed: int) -> Iterator[Any]:
    """Iterate a sampler once, from the seed; one without an end to `at_least`."""
    for owner in (sampler, getattr(sampler, "sampler", None)):
        for value in vars(owner).values() if hasattr(owner, "__dict__") else ():
            if isinstance(value, torch.Generator):
                value.manual_seed(seed)
    length = _length(sampler)
    return itertools.islice(iter(sampler), at_least if length is None else length)


def _length(thing: Any) -> int | None:
    try:
        return len(thing)
    except (TypeError, NotImplementedError):
        return None
