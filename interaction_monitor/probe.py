"""The fixed samples that are measured again and again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from interaction_monitor._describe import describe
from interaction_monitor._draw import draw
from interaction_monitor._state import preserved_rng

Inputs = Tensor | dict[str, Tensor]

TARGET_KEYS = ("labels", "label", "targets", "target", "y")
# The choice is made among this many candidates per sample asked for: enough to balance classes, few enough to
# read.
CANDIDATES = 10


class TooFewSamplesError(ValueError):
    """A loader has fewer samples than were asked for; the message says so of whichever argument asked."""

    def __init__(self, found: int, wanted: int, *, argument: str = "n_samples", loader: str = "the loader") -> None:
        super().__init__(f"{argument}={wanted}, but {loader} has only {found} samples; ask for {found} or fewer")
        self.found = found


@dataclass(frozen=True, eq=False)
class Probe:
    """The samples on which a network is measured, drawn once and fixed for the whole run.

    Args:
        inputs: what the model is called with: a tensor, or a dict of tensors (passed as keyword arguments);
            axis 0 is the batch.
        targets: the true classes, or None where the output needs none.

    Raises:
        ValueError: if there is no sample, or the batch axes differ.
        TypeError: if inputs or targets are not tensors.

    Example:
        >>> probe = Probe(torch.rand(5, 1, 8, 8), torch.arange(5))
        >>> len(probe), probe.inputs_of(3).shape, probe.target_of(3)
        (5, torch.Size([1, 1, 8, 8]), tensor([3]))
    """

    inputs: Inputs  # (S, ...), or (S, ...) each
    targets: Tensor | None = None  # (S,), or (S, ...) for outputs that can use it

    def __post_init__(self) -> None:
        tensors = list(self.inputs.values()) if isinstance(self.inputs, dict) else [self.inputs]
        if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
            raise TypeError(f"inputs must be a tensor or a dict of tensors, got {describe(self.inputs)}")
        if self.targets is not None and not isinstance(self.targets, Tensor):
            raise TypeError(f"targets must be a tensor or None, got {describe(self.targets)}")
        if self.targets is not None:
            tensors.append(self.targets)
        sizes = {len(tensor) if tensor.ndim else 0 for tensor in tensors}
        if len(sizes) > 1:
            raise ValueError(f"inputs and targets must have one batch axis in common, got batches of {sorted(sizes)}")
        if sizes == {0}:
            raise ValueError("a probe needs at least one sample, got an empty batch")

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values()))) if isinstance(self.inputs, dict) else len(self.inputs)

    @property
    def device(self) -> torch.device:
        """The device of the inputs."""
        return (next(iter(self.inputs.values())) if isinstance(self.inputs, dict) else self.inputs).device

    def entry(self, key: str | None = None) -> tuple[str | None, Tensor]:
        """Return the input that is to be masked, and its key where the inputs are a dict.

        Raises:
            ValueError: if there is no such entry, or it is unclear which of several is meant.
        """
        if isinstance(self.inputs, Tensor):
            if key is not None:
                raise ValueError(f"input_key={key!r} is given, but the inputs of the probe are a tensor, not a dict")
            return None, self.inputs
        if key is None and len(self.inputs) == 1:
            key = next(iter(self.inputs))
        if key is None or key not in self.inputs:
            raise ValueError(
                f"input_key={key!r} must be one of the probe's inputs: {', '.join(map(repr, self.inputs))}"
            )
        return key, self.inputs[key]

    def inputs_of(self, sample: int) -> Inputs:
        """Return one sample as a batch of one."""
        return self._map(lambda tensor: tensor[sample : sample + 1]).inputs

    def target_of(self, sample: int) -> Tensor | None:
        """Return one sample's target, (1,), or None."""
        return None if self.targets is None else self.targets[sample : sample + 1]

    def select(self, samples: Tensor | Sequence[int]) -> Probe:
        """Return the probe of some of the samples, in the order given (a sample may come more than once)."""
        return self._map(lambda tensor: tensor[torch.as_tensor(samples, device=tensor.device)])

    def to(self, device: torch.device | str) -> Probe:
        """Return the probe on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    @classmethod
    def from_loader(cls, loader: Iterable[Any], n_samples: int = 50, *, seed: int = 0) -> Probe:
        """Choose samples from a loader: the same in each run, and as many of each class as there can be.

        A loader over a map-style dataset is not iterated: `10 * n_samples` items are drawn from
        `loader.dataset` by seed and collated with the loader's `collate_fn`, so the choice depends neither on
        shuffling nor on the batch size nor on workers. From anything else that gives batches (an
        iterable-style dataset, a list of batches) the first `10 * n_samples` samples are read. Among these
        candidates the classes take turns, so that each class has the same number of samples as far as
        possible. Targets that are not whole numbers, one per sample, are not balanced. Random transforms of
        the dataset draw from `seed`; the global random states are left as they were.

        Args:
            loader: gives batches `(x, y)`, `x` alone, or dicts with the targets under "labels", "label",
                "targets", "target" or "y"; `x` is a tensor or a dict of tensors. Entries of a dict that are
                no tensors are left out.
            n_samples: how many samples; the papers use 50 [Ren et al. 2024, F.3].
            seed: decides the choice.

        Returns:
            The probe, on the device on which the loader gives its batches.

        Raises:
            ValueError: if the loader is empty or has fewer than `n_samples` samples.
            TypeError: if its batches are of another kind.

        Example:
            >>> data = torch.utils.data.TensorDataset(torch.rand(100, 3), torch.arange(100) // 50)
            >>> probe = Probe.from_loader(torch.utils.data.DataLoader(data, batch_size=10, shuffle=True), 6)
            >>> probe.targets
            tensor([0, 1, 0, 1, 0, 1])
        """
        if not _gives_batches(loader):
            raise TypeError(
                f"Probe.from_loader(loader={describe(loader)}): give a loader, DataLoader(dataset, batch_size=50) say, "
                "or batches"
            )
        if n_samples < 1:
            raise ValueError(f"n_samples={n_samples} must be at least 1")
        with preserved_rng(seed), _preserved_generators(loader):
            if _is_map_style(loader):
                return cls._from_dataset(loader, n_samples, seed)  # type: ignore[arg-type]  # as was just asked
            return cls._from_batches(iter(loader), n_samples)

    @classmethod
    def _from_dataset(cls, loader: DataLoader[Any], n_samples: int, seed: int) -> Probe:
        size = len(loader.dataset)  # type: ignore[arg-type]  # as was just asked
        _check_enough(size, n_samples)
        collate = loader.collate_fn
        candidates = draw(size, CANDIDATES * n_samples, "probe", seed)

        def read(indices: Iterable[int]) -> Probe:
            return cls._from_batch(collate([loader.dataset[index] for index in indices]))

        # Only targets are kept of the candidates: their inputs may not fit into memory together.
        targets = [read([index]).targets for index in candidates]
        return read(candidates[place] for place in _balanced(targets, n_samples))._map(_own)

    @classmethod
    def _from_batches(cls, batches: Iterator[Any], n_samples: int) -> Probe:
        candidates: list[Probe] = []
        for batch in batches:
            probe = cls._from_batch(batch)
            candidates += [probe.select([sample])._map(_own) for sample in range(len(probe))]
            if len(candidates) >= CANDIDATES * n_samples:
                break
        _check_enough(len(candidates), n_samples)
        chosen = _balanced([candidate.targets for candidate in candidates], n_samples)
        return cls._join([candidates[place] for place in chosen])

    @classmethod
    def _from_batch(cls, batch: Any) -> Probe:
        inputs, targets = batch, None
        if isinstance(batch, (tuple, list)):
            if len(batch) not in (1, 2):
                raise TypeError(
                    f"a batch must be (x, y), x or a dict, got {describe(batch)}; make the probe yourself: "
                    "Probe(inputs, targets)"
                )
            inputs, targets = batch[0], batch[1] if len(batch) == 2 else None
        if isinstance(inputs, Mapping):
            inputs = {key: value for key, value in inputs.items() if isinstance(value, Tensor)}
            for key in TARGET_KEYS:
                if targets is None and key in inputs:
                    targets = inputs.pop(key)
        return cls(inputs, targets)

    @classmethod
    def _join(cls, probes: list[Probe]) -> Probe:
        def join(tensors: list[Tensor]) -> Tensor:
            shapes = {tuple(tensor.shape[1:]) for tensor in tensors}
            if len(shapes) > 1:
                raise ValueError(
                    f"the samples of the loader have different shapes, {sorted(shapes)[:3]}, and cannot be "
                    "joined to one probe; pad them alike, or make the probe yourself: Probe(inputs, targets)"
                )
            return torch.cat(tensors)

        first = probes[0]
        targets = None if first.targets is None else join([p.targets for p in probes if p.targets is not None])
        if isinstance(first.inputs, dict):
            return cls({key: join([p.inputs[key] for p in probes]) for key in first.inputs}, targets)  # type: ignore[index]  # all are of one kind
        return cls(join([p.inputs for p in probes]), targets)  # type: ignore[misc]  # all are of one kind

    def _map(self, change: Callable[[Tensor], Tensor]) -> Probe:
        inputs = (
            {key: change(value) for key, value in self.inputs.items()}
            if isinstance(self.inputs, dict)
            else change(self.inputs)
        )
        return Probe(inputs, None if self.targets is None else change(self.targets))


def require_probe(who: str, probe: object) -> None:
    """Raise unless this is a probe.

    Raises:
        TypeError: that says what to give to `who`.
    """
    if not isinstance(probe, Probe):
        raise TypeError(f"{who}(probe={describe(probe)}): give Probe(inputs, targets) or Probe.from_loader(loader)")


def _own(tensor: Tensor) -> Tensor:
    # Datasets may hand out views of memory that they go on writing to.
    return tensor.detach().clone()


def _gives_batches(loader: object) -> bool:
    # A map-style dataset can be iterated, but gives samples.
    return isinstance(loader, Iterable) and (isinstance(loader, IterableDataset) or not isinstance(loader, Dataset))


def _is_map_style(loader: object) -> bool:
    # With batch_size=None the dataset itself makes the batches.
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and loader.batch_sampler is not None
    )


@contextmanager
def _preserved_generators(loader: object) -> Iterator[None]:
    owners = (loader, getattr(loader, "sampler", None))
    generators = [g for g in (getattr(owner, "generator", None) for owner in owners) if isinstance(g, torch.Generator)]
    states = [generator.get_state() for generator in generators]
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _check_enough(found: int, n_samples: int) -> None:
    if found == 0:
        raise ValueError("the loader is empty: there is no sample to measure on")
    if found < n_samples:
        raise TooFewSamplesError(found, n_samples)


def _balanced(targets: list[Tensor | None], n_samples: int) -> list[int]:
    """Choose places of the list so that the classes take turns, in the order in which they first come."""
    if any(t is None or t.numel() != 1 or not math.isfinite(t.item()) or t.item() % 1 for t in targets):
        return list(range(n_samples))
    places: dict[int, list[int]] = {}
    for place, target in enumerate(targets):
        places.setdefault(int(target.item()), []).append(place)  # type: ignore[union-attr]  # None was left above
    turns = itertools.zip_longest(*places.values())
    return [place for turn in turns for place in turn if place is not None][:n_samples]
