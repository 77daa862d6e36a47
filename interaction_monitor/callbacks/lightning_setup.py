"""What is taken from a Lightning run before it begins: samples as validation hands them on, and a way to call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from interaction_monitor.callbacks.callback import TrainerSource
from interaction_monitor.forward.batching import is_out_of_memory
from interaction_monitor.forward.calls import Call, CallError, Seen, calls_like, try_call, watched
from interaction_monitor.forward.model import call_model, device_of, eager_if_compiled
from interaction_monitor.loading import TooFewSamplesError, UnreadableLoaderError, read_samples
from interaction_monitor.loading.batches import join, rows_of, size_of
from interaction_monitor.probe import TARGET_KEYS, Probe
from interaction_monitor.state import answered, preserved_rng, undisturbed

_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def source_of(trainer: pl.Trainer, pl_module: pl.LightningModule) -> TrainerSource:
    """Return what a trainer that is about to train gives to be measured."""
    return TrainerSource(
        pl_module,
        partial(validation_samples, trainer, pl_module),
        partial(training_samples, trainer, pl_module),
        partial(way_to_call, trainer, pl_module),
        convert=lambda call: Converting(call, trainer.precision_plugin.convert_input),
        forward_context=trainer.precision_plugin.forward_context,
    )


def validation_samples(trainer: pl.Trainer, pl_module: pl.LightningModule, n_samples: int, seed: int) -> Probe:
    """Draw samples from the first loader for validation, or from the one for training.

    Raises:
        UnreadableLoaderError: if they cannot be had without disturbing the run; it says what to give instead.
        TooFewSamplesError: if the loader has fewer.
    """
    try:
        return _draw(trainer, pl_module, _loader_of(trainer), n_samples, seed)
    except UnreadableLoaderError as error:
        raise UnreadableLoaderError(error.told, instead="give probe=Probe(inputs, targets)") from error


def training_samples(trainer: pl.Trainer, pl_module: pl.LightningModule, n_samples: int, seed: int) -> Probe:
    """Draw samples from the first loader for training.

    Raises:
        UnreadableLoaderError: if they cannot be had without disturbing the run; it says what to give instead.
        TooFewSamplesError: if the loader has fewer.
    """
    try:
        return _draw(trainer, pl_module, _train_loader_of(trainer), n_samples, seed)
    except UnreadableLoaderError as error:
        raise UnreadableLoaderError(error.told, instead=f"leave n_train_samples={n_samples} away") from error
    except TooFewSamplesError as error:
        argument, loader = "n_train_samples", "the loader for training"
        raise TooFewSamplesError(error.found, n_samples, argument=argument, loader=loader) from None


def _draw(trainer: pl.Trainer, pl_module: pl.LightningModule, loader: Any, n_samples: int, seed: int) -> Probe:
    if not any(_is_overridden(hook, owner) for hook in _HOOKS for owner in (pl_module, _datamodule_of(trainer))):
        return Probe.from_loader(loader, n_samples, seed=seed)

    def targets_of(batch: Any) -> Tensor | None:
        with suppress(TypeError, ValueError):  # the hooks may make a batch of what is none yet
            return Probe.from_batch(batch).targets
        return None

    batch = read_samples(loader, n_samples, seed=seed, targets_of=targets_of)
    size = getattr(loader, "batch_size", None) or size_of(batch) or 1
    parts = [rows_of(batch, range(n_samples)[start : start + size]) for start in range(0, n_samples, size)]
    with preserved_rng(seed), _validating(trainer, pl_module):
        probe = Probe.from_batch(join([_handed_over(trainer, pl_module, part) for part in parts]))
    return probe.map(_stored)


def _stored(tensor: Tensor) -> Tensor:
    """Return a tensor as a record and other processes can hold it: on no device, and in no precision of the run's."""
    tensor = tensor.cpu()
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.half) else tensor


def _handed_over(trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> Any:
    """Do with a batch what the loop for validation does before `validation_step`."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


@contextmanager
def _validating(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """Let hooks see the trainer and the module as they are in validation, and leave no trace of it."""
    datamodule = _datamodule_of(trainer)
    attributes = {} if datamodule is None else vars(datamodule)
    holder = nn.Module()
    object.__setattr__(holder, "datamodule", datamodule)  # its hooks may count and draw, too
    before, stage = dict(attributes), trainer.state.stage
    with undisturbed(pl_module), undisturbed(holder), answered():
        trainer.validating = True
        try:
            yield
        finally:
            trainer.state.stage = stage
            attributes.clear()
            attributes.update(before)


def _datamodule_of(trainer: pl.Trainer) -> Any:
    return getattr(trainer, "datamodule", None)


def _is_overridden(hook: str, owner: Any) -> bool:
    """Tell whether a hook is the user's; `lightning` and `pytorch_lightning` have the others."""
    function = getattr(owner, hook, None)
    return function is not None and function.__module__.split(".")[0] not in ("lightning", "pytorch_lightning")


def _loader_of(trainer: pl.Trainer) -> Any:
    """Return the loader to take samples from: the first for validation, or the one for training."""
    loader: Any = trainer.val_dataloaders
    if loader is None:
        rank_zero_warn(
            "InteractionMonitor: there is no validation loader, so it measures on training samples; "
            "give one, or give probe=Probe(inputs, targets)"
        )
        loader = trainer.train_dataloader
    return _first(loader)


def _train_loader_of(trainer: pl.Trainer) -> Any:
    """Return the first loader for training."""
    return _first(trainer.train_dataloader)


def _first(loader: Any) -> Any:
    while isinstance(loader, (list, tuple, dict)) and loader:
        loader = next(iter(loader.values())) if isinstance(loader, dict) else loader[0]
    return loader


@dataclass
class Converting:
    """Calls a network with its inputs in the trainer's precision; unlike a closure it can be pickled."""

    call: Callable[..., Any]
    convert: Callable[[Any], Any]

    def __call__(self, module: Any, inputs: Any) -> Any:
        """Call the network."""
        return self.call(module, self.convert(inputs))


def way_to_call(
    trainer: pl.Trainer, pl_module: pl.LightningModule, probe: Probe, forward_func: Callable[..., Any] | None
) -> Callable[..., Any]:
    """Return how the network is called on the samples.

    Args:
        trainer: about to train.
        pl_module: the network; it is left as it was.
        probe: the samples.
        forward_func: as the user gave it; None finds out.

    Raises:
        CallError: if it cannot be called; the message has the line that would work, if one does.
    """
    samples = probe.select(range(min(2, len(probe)))).to(device_of(pl_module, probe.inputs))
    samples = Probe(trainer.precision_plugin.convert_input(samples.inputs), samples.targets)
    context = trainer.precision_plugin.forward_context
    with undisturbed(pl_module), eager_if_compiled(pl_module), context():
        failed = try_call(pl_module, samples.inputs_of(0), forward_func or call_model)
        if failed is None or is_out_of_memory(failed):
            return forward_func or call_model
    if forward_func is not None:
        raise CallError(f"forward_func= fails on the samples: {_told(failed)}") from failed
    step = _step_of(pl_module)
    found: Call | None = None
    lines: list[Call] = []
    seen = Seen()
    for batch in _batches(samples):
        with undisturbed(pl_module), eager_if_compiled(pl_module), context():
            with watched(pl_module) as seen:
                finished = try_call(pl_module, batch, lambda module, batch: getattr(module, step)(batch, 0)) is None
            found, lines = calls_like(seen, pl_module, samples.inputs, samples.targets)
        if lines or finished:
            break
    if found is not None:
        with undisturbed(pl_module), eager_if_compiled(pl_module), context():
            failed = try_call(pl_module, samples.inputs_of(0), found)
        if failed is None or is_out_of_memory(failed):
            return found
        raise CallError(
            f"the network runs on several samples, but not on one: {_told(failed)}. What it gives for a sample depends "
            "on the others in its batch (batch normalization without running statistics?), so it cannot be measured on "
            "the sample alone; keep running statistics, or normalize each sample by itself"
        ) from failed
    shown = "inputs" if isinstance(probe.inputs, dict) else "x"
    advice = " or ".join(map(str, lines[:3])) or f"forward_func=lambda module, {shown}: ... that returns logits"
    calls = f" {step} calls {seen.shapes()}." if seen.calls else ""
    call = "module(**inputs)" if shown == "inputs" else "module(x)"
    raise CallError(f"{call} fails on the samples: {_told(failed)}.{calls} Give {advice}") from failed


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _step_of(pl_module: pl.LightningModule) -> str:
    """Return which step shows how the network is called: for validation, where there is one."""
    own = type(pl_module).validation_step.__module__.split(".")[0] not in ("lightning", "pytorch_lightning")
    return "validation_step" if own or not pl_module.automatic_optimization else "training_step"


def _batches(samples: Probe) -> Iterator[Any]:
    """Give the batches that the samples may have been taken from."""
    inputs, targets = samples.inputs, samples.targets
    if isinstance(inputs, dict):
        named: dict[str, Tensor] = {} if targets is None else dict.fromkeys(TARGET_KEYS, targets)
        yield {**named, **inputs}
    if targets is not None:
        yield [inputs, targets]
    else:
        yield from (inputs, [inputs])
