"""A loader like the user's, and which samples its sampler can give, in an order that a seed decides.

It works over the same parts in a process of its own, over copies of them in the user's.
"""

from __future__ import annotations

import copy
import hashlib
import heapq
import itertools
import operator
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)


def draw(n_items: int, n_draws: int, *key: int | str) -> list[int]:
    """Draw `n_draws` distinct items of `range(n_items)` at random, decided by `key` alone: a seed and a place, say.

    Items are ranked by the SHA-256 digest of `"key/.../item"` and the first `n_draws` are taken. No random
    number generator is used or disturbed: the streams of generators may change between library versions, and
    a run that is resumed years later must still find the same players.

    Returns:
        The drawn items in the order of the draw; the first `k` of them are the draw of `k` items.

    Examples:
        >>> draw(36, 4, 0, 17)
        [2, 23, 32, 19]
    """
    prefix = "/".join(map(str, key))

    def rank(item: int) -> bytes:
        return hashlib.sha256(f"{prefix}/{item}".encode()).digest()

    return heapq.nsmallest(n_draws, range(n_items), key=rank)


@dataclass(frozen=True)
class KeyBatch:
    """What a batch is made of."""

    keys: list[Any]
    candidates: list[int]  # the rows that may be chosen


def key_batches(loader: DataLoader[Any], n_candidates: int, seed: int) -> list[KeyBatch]:
    """Draw `n_candidates` keys of samples, if there are as many, in batches such as the run's.

    The last one is filled up with keys that are no candidates in it. A sampler of batches gives its own.
    """
    sampler: Any = _without_wrappers(loader.batch_sampler)
    if type(sampler) is not BatchSampler:
        return _given_batches(sampler, n_candidates, seed)
    keys = keys_of(sampler.sampler, loader.dataset, n_candidates, seed)
    candidates = [keys[place] for place in draw(len(keys), n_candidates, "probe", seed)]
    size = min(sampler.batch_size, len(keys))
    filled = itertools.chain(candidates, itertools.cycle(candidates))
    starts = range(0, len(candidates), size) if size else ()
    return [
        KeyBatch(list(itertools.islice(filled, size)), list(range(min(size, len(candidates) - start))))
        for start in starts
    ]


def _given_batches(sampler: Any, n_candidates: int, seed: int) -> list[KeyBatch]:
    given = [list(batch) for batch in _read(sampler, n_candidates, seed)]
    seen: set[str] = set()
    batches: list[KeyBatch] = []
    for place in draw(len(given), len(given), "probe", seed):
        names = [repr(key) for key in given[place]]  # a key need not be hashable
        new = [row for row, name in enumerate(names) if name not in seen and name not in names[:row]]
        if len(seen) < n_candidates and new:
            batches.append(KeyBatch(given[place], new))
        seen.update(names)
    return batches


def keys_of(sampler: Any, dataset: Any, n_candidates: int, seed: int) -> Sequence[Any]:
    """Return all that a sampler can give of a dataset, each once: numbers in order, other keys as they come.

    Examples:
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
        if (inner := getattr(batch_sampler, "batch_sampler", None)) is None:
            break
        batch_sampler = inner
    return batch_sampler


def _read(sampler: Iterable[Any], at_least: int, seed: int) -> Iterator[Any]:
    """Iterate a sampler once, from the seed; one without an end to `at_least`."""
    for owner in (sampler, getattr(sampler, "sampler", None)):
        for value in vars(owner).values() if hasattr(owner, "__dict__") else ():
            if isinstance(value, torch.Generator):
                value.manual_seed(seed)
    if callable(tell := getattr(sampler, "set_epoch", None)):
        tell(0)  # some can give nothing before
    length = _length(sampler)
    return itertools.islice(iter(sampler), at_least if length is None else length)


def _length(thing: Any) -> int | None:
    try:
        return len(thing)
    except (TypeError, NotImplementedError):
        return None


MAX_WORKERS = 4  # for reading a few batches


class UnreadableLoaderError(ValueError):
    """The samples of a loader cannot be had without disturbing the run that uses it; it tells why and what to do."""

    def __init__(self, told: str, *, instead: str = "make the probe yourself: Probe(inputs, targets)") -> None:
        super().__init__(f"{told}; {instead}")
        self.told = told


def base_of(loader: Any) -> Any:
    """Return the `DataLoader` inside those of accelerate, or the loader itself."""
    while (inner := getattr(loader, "base_dataloader", None)) is not None:
        loader = inner
    return loader


def is_map_style(loader: Any) -> bool:
    """Tell whether the loader makes batches of the items of a dataset, so that items can be chosen.

    With `batch_size=None` the dataset itself makes the batches; with an `__iter__` of its own the loader does.
    """
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and loader.batch_sampler is not None
        and _iterates_as_torch(loader)
    )


def loader_like(loader: DataLoader[Any], batches: list[list[Any]] | None, seed: int) -> Iterable[Any]:
    """Return a loader with the user's dataset, collate function and workers, but no iterator or state of the run.

    Args:
        loader: the user's.
        batches: keys of the items of each batch to give; None gives what a stream gives.
        seed: seeds the workers.
    """
    if not _iterates_as_torch(loader):
        own = object.__new__(type(loader))
        vars(own).update(vars(loader) | {"_iterator": None, "persistent_workers": False, "pin_memory": False})
        return own
    workers = loader.num_workers if batches is None else min(loader.num_workers, MAX_WORKERS, len(batches))
    given: dict[str, Any] = {"batch_sampler": batches}
    if batches is None:
        given = {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
        if not isinstance(loader.dataset, IterableDataset):
            given = {"batch_size": None, "sampler": loader.sampler}
    if workers:
        given |= {"multiprocessing_context": loader.multiprocessing_context, "timeout": loader.timeout}
        given |= {"prefetch_factor": loader.prefetch_factor}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the number of workers the user's has told
        return DataLoader(
            loader.dataset,
            num_workers=workers,
            collate_fn=loader.collate_fn,
            worker_init_fn=loader.worker_init_fn,
            generator=torch.Generator().manual_seed(seed),
            **given,
        )


def copied(loader: Any) -> Any:
    """Return a loader over deep copies of the user's parts.

    Raises:
        UnreadableLoaderError: that names what cannot be copied.
    """
    if isinstance(loader, (list, tuple)):
        return loader
    own, context = loader, getattr(loader, "multiprocessing_context", None)
    if isinstance(loader, DataLoader):
        own = object.__new__(type(loader))
        vars(own).update(vars(loader) | {"_iterator": None})
    try:
        return copy.deepcopy(own, {id(context): context})
    except Exception as error:
        name, kind = next(_uncopied(own, "the loader"), ("the loader", type(loader).__name__))
        raise UnreadableLoaderError(
            f"samples are taken from a copy of the loader, so that the run's own is not touched, but {name} ({kind}) "
            f"cannot be copied: {type(error).__name__}: {error}"
        ) from error


def _iterates_as_torch(loader: Any) -> bool:
    return type(loader).__iter__.__module__.split(".")[0] in ("torch", "torchdata")


def _uncopied(thing: Any, name: str, depth: int = 4) -> Iterator[tuple[str, str]]:
    """Find what cannot be copied, the innermost first."""
    for key, value in vars(thing).items() if hasattr(thing, "__dict__") and depth else ():
        if not _can_be_copied(value):
            yield from _uncopied(value, key if name == "the loader" else f"{name}.{key}", depth - 1)
    yield name, type(thing).__name__


def _can_be_copied(thing: Any) -> bool:
    try:
        copy.deepcopy(thing)
    except Exception:
        return False
    return True
