"""What is taken from the batches of a run while it trains: their mean loss, samples that are kept, halves for twins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from interaction_monitor._checks import describe, float64_device
from interaction_monitor.distributed import Ranks
from interaction_monitor.history.row import ENOUGH_SAMPLES
from interaction_monitor.loading import DifferentShapesError, join, rows_of, size_of
from interaction_monitor.probe import TARGET_KEYS, Probe

MOST_SAMPLES = 512  # both are as many forwards as the masked versions of one sample with 10 players
_MOST_BYTES = 4 * 2**20  # of the samples of one loss, since checkpoints hold them
# So many numbers of a sample tell it from others.
_LOOKED_AT = 4096
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Entries of a batch that many samples have alike, or that change with the padding.
_NO_CONTENT = (*TARGET_KEYS, "token_type_ids", "position_ids", "cache_position")


class BatchLosses:
    """Averages the losses of batches, weighted by their numbers of samples, without waiting for the device.

    Batches whose loss is not finite are left out.

    Examples:
        >>> losses = BatchLosses()
        >>> losses.add(torch.tensor(2.0), [torch.zeros(3, 5), torch.zeros(3)])
        >>> losses.add(torch.tensor(6.0), {"input_ids": torch.zeros(1, 7)})
        >>> losses.mean()
        3.0
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None  # (2,) the losses times their samples, the samples; on the batches' device

    def add(self, loss: Tensor, batch: Any) -> None:
        """Take in the mean loss of a batch."""
        # Where the device has no float64, float32: to move the loss would be to wait for it.
        loss = loss.detach().to(torch.float64 if float64_device(loss.device) == loss.device else torch.float32).mean()
        # Graphs are put into batches that are no tensors, and count themselves.
        weight = torch.where(loss.isfinite(), getattr(batch, "num_graphs", None) or size_of(batch) or 1, 0)
        sums = torch.stack((loss.nan_to_num(0, 0, 0) * weight, weight.to(loss)))
        self._sums = sums if self._sums is None else self._sums.to(sums) + sums

    def mean(self, ranks: Ranks | None = None) -> float | None:
        """Return the mean over all processes, all of which must call this; None where there was no finite loss."""
        parts = [self.state_dict()] if ranks is None else ranks.gather(self.state_dict())
        weight = sum(part["samples"] for part in parts)
        return sum(part["sum"] for part in parts) / weight if weight else None

    def reset(self) -> None:
        """Forget all batches."""
        self._sums = None

    def state_dict(self) -> dict[str, float]:
        """Return the sums as plain numbers."""
        total, samples = (0.0, 0.0) if self._sums is None else self._sums.tolist()
        return {"sum": total, "samples": samples}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from what `state_dict` gave; of several processes each has what the first had, which keeps the mean."""
        sums = torch.tensor([float(state["sum"]), float(state["samples"])], dtype=torch.float64)
        self._sums = sums if sums[1] > 0 else None


class FixedSamples:
    """Samples of a run on which its loss is evaluated again and again, copied from the batches that it hands on.

    So no loader is read. There are at most 512, or as many as 4 MiB hold, but no fewer than the probe has. Batches of
    another form than the probe's are of no use.

    Args:
        like: the probe.
        given: the samples, where they are known already.
        spread: whether they are drawn from all that come until `close`, each with the same chance, as loaders for
            validation are sorted often; else the first ones are taken.

    Examples:
        >>> samples = FixedSamples(Probe(torch.zeros(1, 5), torch.tensor([0])))
        >>> for _ in range(2):
        ...     samples.add((torch.zeros(2, 5), torch.tensor([0, 1])))
        >>> samples.close()
        >>> samples.parts[0].targets
        tensor([0, 1, 0, 1])
    """

    def __init__(self, like: Probe, *, given: Probe | None = None, spread: bool = False) -> None:
        self.parts = [] if given is None else [given]
        self.complete = given is not None
        self.like, self._spread = like, spread
        self._ranks: list[Tensor] = []  # of the samples of each part; the lowest are kept
        self._seen = 0
        self._generator = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def add(self, batch: Any) -> None:
        """Take what is needed from a batch, `(x, y)` or a dict; one that is of another form ends the collecting."""
        if self.complete:
            return
        try:
            part = Probe.from_batch(batch)
            if not _alike(part, self.like):
                raise TypeError("the network is not called with such samples")
            most = max(len(self.like), min(MOST_SAMPLES, _MOST_BYTES // _bytes_of_one(part)))
            if self._spread and most < ENOUGH_SAMPLES:
                raise MemoryError("too few would be drawn to be worth it")
            self._take(part, most)
        except Exception:  # whatever a run calls a batch must not end it
            self.parts, self._ranks, self.complete = [], [], True

    @torch.inference_mode(False)  # what is made in that mode could not be used outside it
    def _take(self, part: Probe, most: int) -> None:
        order = torch.arange(self._seen, self._seen + len(part), dtype=torch.float64, device="cpu")
        drawn = torch.rand(len(part), generator=self._generator, dtype=torch.float64, device="cpu")
        ranks = drawn if self._spread else order
        self._seen += len(part)
        known = torch.cat((*self._ranks, ranks))
        last = known.kthvalue(min(most, len(known))).values
        if not (ranks <= last).any():
            return
        before = [(each, among) for each, among in zip(self.parts, self._ranks, strict=True) if (among <= last).any()]
        new = part.select(ranks <= last).map(lambda tensor: tensor.detach().cpu().clone())
        self.parts = [each if (among <= last).all() else each.select(among <= last) for each, among in before] + [new]
        self._ranks = [among[among <= last] for among in (*(among for _, among in before), ranks)]
        if not self._spread and len(self) == most:
            self.close()

    @torch.inference_mode(False)
    def close(self) -> None:
        """Have all samples that there will be; nothing where there were none yet."""
        if self.complete or not self.parts:
            return
        self.complete, self._ranks = True, []
        with suppress(DifferentShapesError):  # each batch may be padded to a length of its own
            self.parts = [Probe(*join([(part.inputs, part.targets) for part in self.parts]))]

    def parts_or(self, few: Probe | None) -> list[Probe]:
        """Return the samples, once there are all, or others in their place where there are more of these."""
        mine = self.parts if self.complete else []
        return [few] if few is not None and sum(map(len, mine)) <= len(few) else mine

    def state_dict(self) -> dict[str, Any]:
        """Return the samples as tensors, once there are all."""
        parts = [{"inputs": part.inputs, "targets": part.targets} for part in self.parts]
        return {"parts": parts} if self.complete and parts else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the samples that `state_dict` gave."""
        parts = state.get("parts", [state] if "inputs" in state else [])  # the first versions kept one part
        if parts:
            self.parts, self.complete = [Probe(part["inputs"], part["targets"]) for part in parts], True


def _alike(part: Probe, probe: Probe) -> bool:
    """Tell whether the samples are called as the probe's are, lengths apart."""
    forms = ({name: (t.dtype, t.ndim) for name, t in _tensors_of(each).items()} for each in (part, probe))
    return next(forms) == next(forms) and isinstance(part.inputs, dict) == isinstance(probe.inputs, dict)


def _tensors_of(part: Probe) -> dict[str, Tensor]:
    return dict(_tensors({"": part.inputs, "targets of the samples": part.targets}))


def _bytes_of_one(part: Probe) -> int:
    return max(1, sum(tensor.nbytes for tensor in _tensors_of(part).values()) // len(part))


def halves(batch: Any) -> tuple[Any, Any]:
    """Divide a batch in two by what its samples are, not by where they stand.

    A shuffled loader hands on the same samples in other batches each epoch, and each still goes to the same half,
    padded to whatever length. Where a dataset transforms its samples at random, a sample may change its half from epoch
    to epoch. What a sample is, the first tensor tells that has more than one axis, in which samples differ, and which
    its name in a dict does not call a mask or a target.

    Args:
        batch: a tensor, or tuples, lists and dicts of them; all with the samples along axis 0. Numbers, texts and None
            go to both halves, a list with one entry per sample is divided too.

    Returns:
        Two batches of the same kind, copies; one of them may be empty.

    Raises:
        TypeError: if there is no tensor in it, or something of another kind.
        ValueError: if its tensors have other numbers of samples.

    Examples:
        >>> x = torch.arange(12.0).reshape(6, 2)
        >>> first, second = halves((x, torch.arange(6)))
        >>> sorted(first[1].tolist() + second[1].tolist())
        [0, 1, 2, 3, 4, 5]
        >>> again, _ = halves((x.flip(0), torch.arange(6).flip(0)))
        >>> sorted(again[1].tolist()) == sorted(first[1].tolist())
        True
    """
    named = [(name, tensor) for name, tensor in _tensors(batch) if tensor.ndim]
    if not named:
        raise TypeError(f"a batch that is to be divided between twins must hold tensors, but is {describe(batch)}")
    sizes = {len(tensor) for _, tensor in named}
    if len(sizes) > 1:
        raise ValueError(f"a batch cannot be divided between twins, as its tensors have {sorted(sizes)} samples")
    second = sides(*_contents(named)).tolist()
    first, other = ([row for row, side in enumerate(second) if side == which] for which in (False, True))
    return rows_of(batch, first), rows_of(batch, other)


def _contents(named: Sequence[tuple[str, Tensor]]) -> list[Tensor]:
    """Return what may tell samples apart, without what says little of them; all there is where nothing else is."""
    wide = [(name, tensor) for name, tensor in named if tensor.ndim > 1]
    content = [tensor for name, tensor in wide if name not in _NO_CONTENT and "mask" not in name]
    attended = dict(wide).get("attention_mask")
    return [_without_padding(each, attended) for each in content or [tensor for _, tensor in wide or named]]


def _without_padding(samples: Tensor, attended: Tensor | None) -> Tensor:
    """Move what is attended to the front and set the rest to 0, so that no batch's length tells in it."""
    if attended is None or attended.ndim != 2 or samples.shape != attended.shape:
        return samples
    order = (attended == 0).byte().argsort(dim=1, stable=True)
    return samples.where(attended != 0, 0).gather(1, order)


def sides(samples: Tensor, *others: Tensor) -> Tensor:
    """Tell for each sample whether it is of the second half, by its content alone.

    Args:
        samples: (B, ...) of any dtype.
        others: (B, ...) each, of which the first tells in which samples differ, where they do not in `samples`.

    Returns:
        (B,) bool: one for equal samples, in whatever batch, and as good as drawn for others.
    """
    first = _digests(samples)
    # A prompt may be the same throughout. A batch of one sample does not tell, and mostly it is the first.
    told = (each for each in (first, *map(_digests, others)) if (each != each[:1]).any())
    digests = next(told, first)
    keys = (digests ^ (digests >> 29)) * 0x1CE4E5B9BF58476D
    return (keys >> 40) & 1 == 1


def _digests(samples: Tensor) -> Tensor:
    """Return (B,) int64, a number for each sample; of more numbers 0 behind the others it is the same."""
    samples = torch.view_as_real(samples) if samples.is_complex() else samples
    rows = samples.detach().flatten(1) if samples.ndim > 1 else samples.detach()[:, None]
    rows = rows[:, :: max(1, rows.shape[1] // _LOOKED_AT)]
    if rows.is_floating_point():
        rows = rows.contiguous().view(_INTEGERS[rows.element_size()])
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=generator).to(rows.device)
    return (rows.long() * weights).sum(1)


def _tensors(batch: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Give the tensors of a batch, each with the last name on the way to it."""
    if isinstance(batch, Tensor):
        yield name, batch
    elif isinstance(batch, Mapping) or hasattr(batch, "_asdict"):
        for key, part in (batch if isinstance(batch, Mapping) else batch._asdict()).items():
            yield from _tensors(part, str(key))
    elif isinstance(batch, (list, tuple)):
        for part in batch:
            yield from _tensors(part, name)
    elif not (batch is None or isinstance(batch, (bool, int, float, str))):
        raise TypeError(f"a batch cannot be divided between twins, as it holds {describe(batch)}")
