"""The fixed samples that are measured again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from interaction_monitor._checks import describe
from interaction_monitor.loading import read_samples

Inputs = Tensor | dict[str, Tensor]

Suits = Callable[["Probe"], Tensor | Sequence[bool]]

TARGET_KEYS = ("labels", "label", "targets", "target", "y")


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

    Examples:
        >>> probe = Probe(torch.rand(5, 1, 8, 8), torch.arange(5))
        >>> len(probe), probe.inputs_of(3).shape, probe.target_of(3)
        (5, torch.Size([1, 1, 8, 8]), tensor([3]))
    """

    inputs: Inputs  # (S, ...), or (S, ...) each
    targets: Tensor | None = None  # (S,), or (S, ...) for outputs that can use it

    def __post_init__(self) -> None:
        tensors = list(self.inputs.values()) if isinstance(self.inputs, dict) else [self.inputs]
        if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
            raise TypeError(
                f"inputs must be a tensor or a dict of tensors, got {describe(self.inputs)}; of graphs and other "
                "objects give Probe(tensors, targets) by hand, and forward_func= that makes the object again"
            )
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

        Args:
            key: which entry of a dict; None takes the only one.

        Returns:
            The key, None of a tensor; and the tensor, (S, ...).

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
            advice = advice_on_targets(self)
            raise ValueError(
                f"input_key={key!r} must be one of the probe's inputs: {', '.join(map(repr, self.inputs))}"
                + f"; {advice}" * bool(advice)
            )
        return key, self.inputs[key]

    def inputs_of(self, sample: int) -> Inputs:
        """Return one sample as a batch of one."""
        return self.map(lambda tensor: tensor[sample : sample + 1]).inputs

    def target_of(self, sample: int) -> Tensor | None:
        """Return one sample's target, (1,), or None."""
        return None if self.targets is None else self.targets[sample : sample + 1]

    def select(self, samples: Tensor | Sequence[int]) -> Probe:
        """Return the probe of some of the samples.

        Args:
            samples: (K,) their numbers, in the order wanted; one may come more than once.

        Returns:
            The probe of these K samples.
        """
        return self.map(lambda tensor: tensor[torch.as_tensor(samples, device=tensor.device)])

    def to(self, device: torch.device | str) -> Probe:
        """Return the probe on `device`."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    @classmethod
    def from_loader(
        cls,
        loader: Iterable[Any],
        n_samples: int = 50,
        *,
        seed: int = 0,
        suits: Suits | None = None,
    ) -> Probe:
        """Choose samples from a loader: the same in each run, and as many of each class as there can be.

        Nothing of the loader is touched: it is read in a forked process, where whatever is read, opened, counted or
        drawn stays. Where processes cannot be forked (macOS, Windows, workers that are spawned, data on a GPU) its
        parts are copied first, and what cannot be copied is refused. See [the promises](../promises.md).

        Over a map-style dataset, `10 * n_samples` of the items that the sampler can give are drawn by seed, so the
        choice depends neither on shuffling nor on the batch size nor on workers; a sampler of batches gives whole
        batches of its own. They are read as the run reads them: by workers where it has some, in batches of its size,
        with its `collate_fn`. Where these come out in different shapes, the chosen ones are collated together. From
        anything else that gives batches (an iterable-style dataset, a list of batches) the first `10 * n_samples`
        samples are read. Among these candidates the classes take turns, so that each class has the same number of
        samples as far as possible. Targets that are not whole numbers, one per sample, are not balanced. Random
        transforms of the dataset draw from `seed`.

        Args:
            loader: gives batches `(x, y)`, `x` alone, or dicts with the targets under "labels", "label",
                "targets", "target" or "y"; `x` is a tensor or a dict of tensors. Entries of a dict that are
                no tensors are left out.
            n_samples: how many samples; the papers use 50 [Ren et al. 2024, F.3].
            seed: decides the choice.
            suits: tells of each sample of a batch whether it is to be preferred, for instance
                `words.suits` for sentences with enough words; None prefers none.

        Returns:
            The probe, on the device on which the loader gives its batches.

        Raises:
            ValueError: if the loader is empty, has fewer than `n_samples` samples, or would have to be copied and
                cannot be.
            TypeError: if its batches are of another kind.

        Examples:
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

        def targets_of(batch: Any) -> Tensor | None:
            return cls.from_batch(batch).targets

        def suited(batch: Any) -> Sequence[bool]:
            assert suits is not None
            found = suits(cls.from_batch(batch))
            return found.tolist() if isinstance(found, Tensor) else found

        chosen = read_samples(
            loader, n_samples, seed=seed, targets_of=targets_of, suits=None if suits is None else suited
        )
        return cls.from_batch(chosen)

    @classmethod
    def from_batch(cls, batch: Any) -> Probe:
        """Return the samples of one batch.

        Args:
            batch: `(x, y)`, `x` alone or a dict, as `from_loader` reads them.

        Raises:
            TypeError: if the batch is of another kind.

        Examples:
            >>> Probe.from_batch({"pixels": torch.rand(3, 4), "label": torch.arange(3)}).targets
            tensor([0, 1, 2])
        """
        inputs, targets = batch, None
        if isinstance(batch, (tuple, list)):
            if len(batch) not in (1, 2):
                several = [f"batch[{place}]" for place in range(len(batch) - 1)]
                raise TypeError(
                    f"a batch must be (x, y), x or a dict, got {describe(batch)}; make the probe yourself: "
                    + _of_several(several, f"batch[{len(batch) - 1}]", "{}")
                )
            inputs, targets = batch[0], batch[1] if len(batch) == 2 else None
            if isinstance(inputs, (tuple, list)) and inputs and all(isinstance(part, Tensor) for part in inputs):
                several = [f"batch[0][{place}]" for place in range(len(inputs))]
                views = len(inputs) > 1 and len({(part.shape, part.dtype) for part in inputs}) == 1
                raise TypeError(
                    f"inputs must be a tensor or a dict of tensors, got {describe(inputs)}; make the probe yourself: "
                    + "if they are views of one sample, of which the network is called with one, "
                    "Probe(batch[0][0], batch[1]), else "
                    * views
                    + _of_several(several, "batch[1]", "[{}]" if isinstance(inputs, list) else "({},)")
                )
            if named := _tensors_in(targets):
                raise TypeError(
                    f"targets must be a tensor or None, got {describe(targets)}; make the probe yourself, with those "
                    f"that are explained: Probe(batch[0], batch[1][{named[0]!r}])"
                )
        if isinstance(inputs, Mapping):
            inputs = {key: value for key, value in inputs.items() if isinstance(value, Tensor)}
            for key in TARGET_KEYS:
                if targets is None and key in inputs:
                    targets = inputs.pop(key)
        return cls(inputs, targets)

    def map(self, change: Callable[[Tensor], Tensor]) -> Probe:
        """Return the probe of changed tensors: each input, and the targets."""
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


def advice_on_targets(probe: Probe, key: str | None = None, *, unused: Sequence[str] = ()) -> str:
    """Write the probe of a batch whose targets seem to stand among its inputs, under a key that is not known.

    Args:
        probe: as it was read.
        key: the input that is masked, if it is named.
        unused: inputs that the network is not called with, where that is known.

    Returns:
        The advice, empty where not just one of several inputs has one value per sample.
    """
    if probe.targets is not None or not isinstance(probe.inputs, dict) or len(probe.inputs) < 2:
        return ""
    found = [name for name, part in probe.inputs.items() if name != key and part.numel() == len(probe)]
    found = list(unused) or found
    if len(found) != 1:
        return ""
    others = {name: f"batch[{name!r}]" for name in probe.inputs if name != found[0]}
    entries = ", ".join(f"{name!r}: {part}" for name, part in others.items())
    inputs = next(iter(others.values())) if key is None and len(others) == 1 else f"{{{entries}}}"
    targets = f"batch[{found[0]!r}]"
    return f"if {targets} are the targets, make the probe yourself: probe=Probe({inputs}, {targets})"


def _of_several(inputs: Sequence[str], targets: str, given: str) -> str:
    """Write the probe of several inputs, and the call of a network that takes them by place."""
    entries = ", ".join(f'"x{place}": {one}' for place, one in enumerate(inputs))
    call = given.format(", ".join(f'x["x{place}"]' for place in range(len(inputs))))
    return (
        f"Probe({{{entries}}}, {targets}), with forward_func=lambda module, x: module({call}), and players with "
        'input_key="x0" for the one that is masked'
    )


def _tensors_in(parts: object) -> list[Any]:
    """List the keys or places of the tensors in a dict, list or tuple."""
    given = dict(enumerate(parts)) if isinstance(parts, (tuple, list)) else parts
    return [key for key, part in given.items() if isinstance(part, Tensor)] if isinstance(given, Mapping) else []


def _gives_batches(loader: object) -> bool:
    # A map-style dataset can be iterated, but gives samples.
    return isinstance(loader, Iterable) and (isinstance(loader, IterableDataset) or not isinstance(loader, Dataset))
