"""Both losses of the network as it is, in evaluation mode, on samples that stay the same through a run.

What a run logs is of another network: a mean over an epoch in which the weights change and dropout is on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from interaction_monitor.distributed import Ranks, is_split
from interaction_monitor.forward.model import call_model, device_of, logits_of
from interaction_monitor.history.row import ENOUGH_SAMPLES
from interaction_monitor.loading import DifferentShapesError, join
from interaction_monitor.probe import Probe
from interaction_monitor.settings import Settings
from interaction_monitor.state import undisturbed

MOST_SAMPLES = 512  # both are as many forwards as the masked versions of one sample with 10 players
_MOST_BYTES = 4 * 2**20  # of the samples of one loss, since checkpoints hold them
_CHUNK = 64  # samples of a forward


def evaluated_loss(model: nn.Module, samples: Sequence[Probe], settings: Settings) -> float | None:
    """Return the mean cross-entropy of samples in evaluation mode, by the network as it is now.

    Args:
        model: the network; it is left as it was.
        samples: with classes as targets, in parts of the same shape each.
        settings: how the network is called.

    Returns:
        The loss in nats; None where the targets are no classes of the logits, or the loss is not finite.

    Examples:
        >>> samples = Probe(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]))
        >>> round(evaluated_loss(nn.Linear(3, 3, bias=False), [samples], Settings()), 3)  # three classes alike
        1.099
    """
    for part in samples:
        classes = part.targets
        if classes is None or classes.ndim != 1 or classes.is_floating_point() or classes.is_complex():
            return None
    call, losses = settings.forward_func or call_model, []
    with undisturbed(model) as kept:
        for part in samples:
            for start in range(0, len(part), _CHUNK):
                chosen = range(start, min(start + _CHUNK, len(part)))
                chunk = part.select(chosen).to(device_of(model, part.inputs))
                with settings.forward_context():
                    logits = kept.run(partial(call, model, chunk.inputs))
                found, targets = logits_of(logits, len(chosen)).float(), chunk.targets
                assert targets is not None
                if found.ndim != 2 or not 0 <= int(targets.min()) <= int(targets.max()) < found.shape[1]:
                    return None
                losses.append(functional.cross_entropy(found, targets.long(), reduction="sum"))
    mean = float(torch.stack(losses).sum()) / sum(map(len, samples))
    return mean if math.isfinite(mean) else None


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


class LossSamples:
    """The training and the test samples on which the losses of a run are evaluated.

    Args:
        probe: what stands for the test samples as long as there are no more of these.
        measured: the training samples that are measured, which stand for the others in the same way; None for none.
        train: training samples, with the labels as trained on; None takes them from the batches of the run.
        test: other samples; None takes them from there too.
    """

    def __init__(
        self,
        probe: Probe,
        *,
        measured: Probe | None = None,
        train: Probe | None = None,
        test: Probe | None = None,
    ) -> None:
        self._measured = measured
        self.train, self.test = FixedSamples(probe, given=train), FixedSamples(probe, given=test, spread=True)
        self.collects = False  # whether both come to be taken from the batches of the run

    def evaluate(self, model: nn.Module, settings: Settings, ranks: Ranks, *, step: int) -> dict[str, Any]:
        """Return the fields of a row that have the losses of the network as it is, without what cannot be known.

        Args:
            model: the network; it is left as it was.
            settings: how the network is called.
            ranks: the processes that measure together; all of them must call this.
            step: training step; before the first there is the test loss alone.
        """
        split = is_split(model)  # which all processes run together, on the same samples
        train, test = self.train.parts_or(self._measured), self.test.parts_or(self.test.like)
        alone = self.collects and step == 0 and not self.train.complete
        train, test, alone = ranks.of_first((train, test, alone)) if split else (train, test, alone)
        found: dict[str, Any] = {}
        if (train or alone) and (split or ranks.rank == 0):
            with suppress(Exception):  # it is told beside the interactions, which say what fails
                losses = [evaluated_loss(model, parts, settings) if parts else None for parts in (train, test)]
                samples = min(sum(map(len, parts)) for parts in (train, test) if parts)  # each is of as many at least
                names = ("evaluated_train_loss", "evaluated_test_loss", "evaluated_samples")
                found = dict(zip(names, (*losses, samples), strict=True))
        return ranks.of_first(found)

    def state_dict(self) -> dict[str, Any]:
        """Return the samples as tensors, of each kind once there are all."""
        return {"train_samples": self.train.state_dict(), "test_samples": self.test.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the samples that `state_dict` gave; earlier versions kept no test samples."""
        self.train.load_state_dict(state.get("train_samples", {}))
        self.test.load_state_dict(state.get("test_samples", {}))


def _alike(part: Probe, probe: Probe) -> bool:
    """Tell whether the samples are called as the probe's are, lengths apart."""
    forms = ({name: (t.dtype, t.ndim) for name, t in _tensors_of(each).items()} for each in (part, probe))
    return next(forms) == next(forms) and isinstance(part.inputs, dict) == isinstance(probe.inputs, dict)


def _tensors_of(part: Probe) -> dict[str, Tensor]:
    inputs = part.inputs if isinstance(part.inputs, dict) else {"": part.inputs}
    return inputs if part.targets is None else {**inputs, "targets of the samples": part.targets}


def _bytes_of_one(part: Probe) -> int:
    return max(1, sum(tensor.nbytes for tensor in _tensors_of(part).values()) // len(part))
