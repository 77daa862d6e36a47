"""All that a value holds, told as text by its place: an account that knows nothing of the monitor's own."""

from __future__ import annotations

import io
import os
import types
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from random import Random

import lightning as L
import numpy as np
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import Timer
from torch.utils.data import DataLoader
from ways.run import Run

from interaction_monitor import InteractionMonitor

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, Path)
_LEAVES = (
    *(InteractionMonitor, Run, torch.Tensor, np.ndarray, io.IOBase, types.ModuleType),
    *(Random, Synchronized, Executor),
)
_WITH_TRAINER = (DataLoader, L.LightningModule, L.LightningDataModule, pytorch_lightning.LightningModule)
_OF_LIGHTNING = ("_trainer", "trainer", "_fabric", "_iterator")


def differences(one: object, other: object) -> list[str]:
    """Return the places at which two values hold something else."""
    left, right = dict(places(one)), dict(places(other))
    return [place for place in {**left, **right} if left.get(place) != right.get(place)]


def places(value: object, name: str = "", seen: dict[int, object] | None = None) -> Iterator[tuple[str, object]]:
    """Give all places of a value, each with what it holds."""
    seen = {} if seen is None else seen
    if isinstance(value, _PLAIN):
        yield name, repr(value)
        return
    if id(value) in seen:
        return
    seen[id(value)] = value  # so that no other takes its place in memory
    content = _content(value)
    if content is not None:
        yield name, content
    for key, part in _parts(value):
        yield from places(part, f"{name}.{key}", seen)


def _content(value: object) -> object:
    """Return what a value is beside its parts, as something to be compared."""
    if isinstance(value, torch.Tensor) and not torch.nn.parameter.is_lazy(value):
        plain = value.detach().to_dense() if value.is_sparse else value.detach()
        return value.dtype, value.shape, value.requires_grad, plain.cpu().contiguous().view(-1).tolist().__repr__()
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, (np.random.Generator, np.random.RandomState)):
        return repr(value.bit_generator.state if isinstance(value, np.random.Generator) else value.get_state())
    if isinstance(value, Random):
        return value.getstate()
    if isinstance(value, Synchronized):
        return value.value
    if isinstance(value, io.IOBase):
        return value.closed or os.lseek(value.fileno(), 0, os.SEEK_CUR)
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if hasattr(value, "cache_info") and not isinstance(value, type):
        return value.cache_info()._replace(hits=None)  # what else is asked from it shows in nothing
    return type(value).__qualname__


def _parts(value: object) -> Iterator[tuple[object, object]]:
    """Give what a value holds, but for what is the run's or the monitor's."""
    if isinstance(value, _LEAVES):
        return
    if isinstance(value, (L.Trainer, pytorch_lightning.Trainer)):
        yield from _of_trainer(value)
    elif isinstance(value, OrderedDict) and value and all(type(key) is int for key in value):
        yield from enumerate(value.values())  # hooks, whose keys are counted over all networks
    elif isinstance(value, Mapping):
        yield from ((f"[{key!r}]", part) for key, part in value.items() if "interactions" not in str(key))
    elif isinstance(value, (list, tuple, deque)):
        yield from enumerate(value)
    elif isinstance(value, types.FunctionType):
        for key, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            yield key, cell.cell_contents
    elif isinstance(value, types.MethodType):
        yield "self", value.__self__
    elif isinstance(value, type):
        if value.__module__.startswith("ways"):
            yield from ((key, part) for key, part in vars(value).items() if not key.startswith("__"))
    elif hasattr(value, "__dict__"):
        hidden = _OF_LIGHTNING if isinstance(value, _WITH_TRAINER) else ()
        yield from ((key, part) for key, part in vars(value).items() if key not in hidden)
        yield "class", type(value)


def _of_trainer(trainer: L.Trainer) -> Iterator[tuple[str, object]]:
    yield "steps", (trainer.global_step, trainer.current_epoch, trainer.should_stop)
    yield "metrics", trainer.callback_metrics
    yield "loop", trainer.fit_loop.state_dict()
    yield "optimizers", [(type(optimizer).__name__, optimizer.state_dict()) for optimizer in trainer.optimizers]
    yield "schedulers", [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    others = [callback for callback in trainer.callbacks if not isinstance(callback, (InteractionMonitor, Timer))]
    yield "callbacks", [(type(callback).__name__, callback.state_dict()) for callback in others]
    yield "logged", [getattr(logger, "logged", None) for logger in trainer.loggers]
