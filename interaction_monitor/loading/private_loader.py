"""A loader like the user's: over the same parts in a process of its own, over copies of them in the user's."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

MAX_WORKERS = 4  # for reading a few batches


class UnreadableLoaderError(ValueError):
    """The samples of a loader cannot be had without disturbing the run that uses it.

    Args:
        told: why.
        instead: what to do.
    """

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


def start_method_of(loader: Any) -> str | None:
    """Return how the loader's workers are started, where it says."""
    context = getattr(base_of(loader), "multiprocessing_context", None)
    return None if context is None else context.get_start_method()


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
    own = loader
    shared: dict[int, Any] = {}
    if isinstance(loader, DataLoader):
        own = object.__new__(type(loader))
        vars(own).update(vars(loader) | {"_iterator": None})
        context = loader.multiprocessing_context
        shared = {id(context): context}
    try:
        return copy.deepcopy(own, shared)
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
