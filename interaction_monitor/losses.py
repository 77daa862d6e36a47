"""The training and the test loss of a run: found among what it logs, or evaluated on samples that stay the same.

What a run logs is of another network than the one that is measured: a mean over an epoch in which the weights change
and dropout is on.
"""

from __future__ import annotations

import dis
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from interaction_monitor.batches import BatchLosses, FixedSamples
from interaction_monitor.distributed import Ranks, is_split
from interaction_monitor.forward.model import call_model, device_of, logits_of
from interaction_monitor.probe import Probe
from interaction_monitor.settings import Settings
from interaction_monitor.state import undisturbed

TRAIN_NAMES = (
    *("train_loss_epoch", "train_loss", "train/loss_epoch", "train/loss"),
    *("training_loss", "loss_epoch", "loss"),
)
TEST_NAMES = (
    *("val_loss_epoch", "val_loss", "val/loss_epoch", "val/loss", "valid_loss", "valid/loss"),
    *("validation_loss", "validation/loss", "test_loss", "test/loss"),
)
_CHUNK = 64  # samples of a forward


def find_loss(metrics: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    """Return the value of the first of the names that is logged.

    Args:
        metrics: what the trainer calls `callback_metrics`.
        names: the names to look for, in order of preference; letter case does not matter.

    Returns:
        The loss, or None where none of the names is logged as a finite number.

    Examples:
        >>> find_loss({"Val_Loss": 0.5, "train_loss": 0.4}, TEST_NAMES)
        0.5
    """
    logged = {name.lower(): value for name, value in metrics.items()}
    values = (float(logged[name.lower()]) for name in names if name.lower() in logged)
    return next(filter(math.isfinite, values), None)


class Losses:
    """Reads the training and the validation loss of a run whose validation may be rarer than its measurements.

    The training loss is the mean over the batches, as the trainer hands them on, unless a logged one is named. Where
    the trainer hands on none, the common names are looked for.

    Args:
        train_loss: name of the logged training loss; None averages the batches'.
        test_loss: name of the logged validation loss; None looks for the common names, of several loaders the first's.

    Examples:
        >>> losses = Losses(test_loss="val/objective")
        >>> losses.read({"train_loss": 0.4, "val/objective": 0.5})
        (0.4, None)
        >>> losses.validated()
        >>> losses.batches.add(torch.tensor(0.25), torch.zeros(1))
        >>> losses.read({"train_loss": 0.3, "val/objective": 0.5})
        (0.25, 0.5)
    """

    def __init__(self, train_loss: str | None = None, test_loss: str | None = None) -> None:
        self.train_names = TRAIN_NAMES if train_loss is None else (train_loss,)
        first = [f"{name}/dataloader_idx_0" for name in TEST_NAMES]  # so Lightning tells several loaders apart
        self.test_names = (*TEST_NAMES, *first) if test_loss is None else (test_loss,)
        self.batches = BatchLosses()
        self._named = train_loss is not None
        self._waiting: float | None = None  # the newest validation loss until it is read
        self.tried: list[str] | None = None  # what a trial of the validation logged; None where there was none
        self._fresh = False
        self._ever_validated = False
        self._averaged = False

    def validated(self, metrics: Mapping[str, Any] | None = None) -> None:
        """Note that the validation loss is a new one, and which where the metrics will not last until it is read."""
        self._fresh = self._ever_validated = True
        self._waiting = find_loss(metrics or {}, self.test_names)

    def state_dict(self) -> dict[str, float]:
        """Return what a resumed run needs: the sums of the batches, and a validation loss that was not read yet."""
        waiting = {"test": self._waiting} if self._fresh and self._waiting is not None else {}
        return self.batches.state_dict() | waiting

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from what `state_dict` gave."""
        self.batches.load_state_dict(state)
        self._waiting = state.get("test")
        self._fresh = self._waiting is not None

    def read(self, metrics: Mapping[str, Any], ranks: Ranks | None = None) -> tuple[float | None, float | None]:
        """Return the training loss, and the validation loss if it is newer than the last time; None if not known.

        Args:
            metrics: what the trainer calls `callback_metrics`.
            ranks: the processes that train together; all of them must call this.
        """
        test = None
        if self._fresh:
            test = find_loss(metrics, self.test_names)
            test = self._waiting if test is None else test
        self._fresh = False
        mean = None if self._named else self.batches.mean(ranks)
        self._averaged = self._averaged or mean is not None
        return find_loss(metrics, self.train_names) if mean is None else mean, test

    def missing_loss(self, metrics: Iterable[str], *, trained: bool) -> str | None:
        """Say which loss is not logged at all although its loop has run, and what to do.

        Args:
            metrics: the names that are logged.
            trained: whether a whole epoch of training has been.

        Returns:
            The sentence, or None if each loss is logged that should be.

        Examples:
            >>> Losses(train_loss="train/los").missing_loss(["train/loss"], trained=True)
            "train_loss='train/los' is not among the logged metrics ['train/loss'], so the loss gap is not known"
        """
        logged = sorted(metrics)
        known = {metric.lower() for metric in logged}
        looked_for = {"train_loss": self.train_names, "test_loss": self.test_names}
        if self._averaged or not trained:
            del looked_for["train_loss"]
        if not self._ever_validated:
            del looked_for["test_loss"]
        lost = {argument: names for argument, names in looked_for.items() if not known & {*map(str.lower, names)}}
        if not lost or not logged:
            return None
        end = f"among the logged metrics {logged}, so the loss gap is not known"
        misspelt = [f"{argument}={names[0]!r}" for argument, names in lost.items() if len(names) == 1]
        if misspelt:
            return f"{' and '.join(misspelt)} is not {end}"
        kinds = {"train_loss": "training loss", "test_loss": "validation loss"}
        return (
            f"found no {' and no '.join(kinds[argument] for argument in lost)} {end}; log train_loss and val_loss, or "
            f"give the names as {' and '.join(f'{argument}=' for argument in lost)}"
        )

    def knows_test_loss(self, metrics: Iterable[str]) -> bool:
        """Tell whether the validation loss is among the names that are logged."""
        return bool({metric.lower() for metric in metrics} & {*map(str.lower, self.test_names)})


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


def why_losses_are_sums(trainer: Any, probe: Probe) -> str | None:
    """Say why the losses of a trainer of `transformers` are sums over the batches of a step; None where they are not.

    It takes a loss that may be told of all items in these batches, `num_items_in_batch`, to be divided by them. Whether
    a model does so is tried. A `compute_loss` of the user's own is read, as it might change something.

    Args:
        trainer: about to train.
        probe: samples to try it on.
    """
    steps, own = trainer.args.gradient_accumulation_steps, type(trainer).compute_loss
    scaled = getattr(trainer, "loss_is_scaled_for_ga", None) is not None or trainer.compute_loss_func is not None
    if steps < 2 or scaled or not trainer.model_accepts_loss_kwargs or "labels" not in trainer.label_names:
        return None
    if own.__module__ == "transformers.trainer":
        who = type(trainer.model).__name__
        sums = trainer.label_smoother is None and _counts_no_items(trainer.model, probe)
    else:
        who, takes = own.__qualname__, inspect.signature(own).parameters.values()
        counts = [each.name for each in takes if each.name == "num_items_in_batch" or each.kind is each.VAR_KEYWORD]
        sums = not any(_reads(own, name) for name in (*counts, "gradient_accumulation_steps"))
    if not sums:
        return None
    return (
        f"with gradient_accumulation_steps={steps} the training loss that the Trainer logs, and the monitor shows, is "
        f"a sum over {steps} batches, and so is the gradient, since {who} does not use num_items_in_batch. Set "
        "model.accepts_loss_kwargs = False before the Trainer is made, so that it divides"
    )


def _counts_no_items(model: nn.Module, probe: Probe) -> bool:
    """Tell whether the loss of a model stays as it is whatever number of items it is told of."""
    some = probe.select(range(min(2, len(probe)))).to(device_of(model, probe.inputs))
    if some.targets is None or not isinstance(some.inputs, dict) or is_split(model):
        return False
    given, losses = {**some.inputs, "labels": some.targets}, []
    with suppress(Exception), undisturbed(model) as kept:
        for count in (1, 1000):
            result: Any = kept.run(partial(model, **given, num_items_in_batch=torch.tensor(count)))
            losses.append(float(result["loss"] if isinstance(result, Mapping) else result[0]))
    return len({*losses}) == 1 and len(losses) == 2


def _reads(function: Callable[..., Any], name: str) -> bool:
    """Tell whether the code of a function reads a variable or an attribute of this name anywhere."""
    instructions = dis.get_instructions(inspect.unwrap(function))
    loads = (each.argval for each in instructions if each.opname.startswith("LOAD"))
    return any(name in (found if isinstance(found, tuple) else (found,)) for found in loads)
