"""Looking at a model without leaving a trace: modes, state and random states are put back, whatever happens."""

from __future__ import annotations

import logging
import random
import socket
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from interaction_monitor._checks import some
from interaction_monitor.distributed import as_split_as_before, is_split
from interaction_monitor.state.object_graph import snapshots_of
from interaction_monitor.state.side_effects import TensorSnapshot, Watched, answered, version_of, without_fast_path
from interaction_monitor.state.snapshots import Cache, Opaque, Snapshot, settings, uninterrupted

__all__ = [
    "Kept",
    "answered",
    "evaluating",
    "preserved_rng",
    "silent",
    "undisturbed",
    "uninitialized",
    "uninterrupted",
    "version_of",
]

log = logging.getLogger(__name__)

T = TypeVar("T")

# How a Lightning module logs.
_METHODS = ("log", "log_dict", "print")


@contextmanager
def preserved_rng(seed: int | None = None) -> Iterator[None]:
    """Restore the random states of torch, on each device, of numpy and Python on leaving, also after an exception.

    Args:
        seed: if given, the CPU generators start from it inside the block, so that what is drawn there does
            not depend on what was drawn before.
    """
    before = [
        Snapshot("torch", torch.get_rng_state, torch.set_rng_state),
        Snapshot("NumPy", np.random.get_state, np.random.set_state),  # the user's global state
        Snapshot("Python", random.getstate, random.setstate),
    ]
    # Asking a CUDA that nobody uses yet for its state would initialise it.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        before.append(Snapshot("CUDA", torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all))
    if torch.backends.mps.is_available():
        before.append(Snapshot("MPS", torch.mps.get_rng_state, torch.mps.set_rng_state))
    try:
        if seed is not None:
            # Not torch.manual_seed: it also queues a seed for a CUDA that is not initialised yet.
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002  # what transforms draw from
            random.seed(seed)
        yield
    finally:
        with uninterrupted():
            for state in before:
                state.restore()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[Kept]:
    """Put `model` into eval mode without gradients; on leaving, all is as it was, also after an exception.

    Restored are the `training` flag of every module, the random states, and all that can be reached from the model, by
    identity and content: buffers, tensors and plain values in attributes, lists and other containers, generators,
    helper objects, what hooks close over, see `snapshots_of`. What the model logs in the block is dropped.

    Yields:
        What also puts back after each forward what that forward has changed.

    Raises:
        ValueError: if some weights have no shape yet: they would be drawn here, and not by the first training batch.
    """
    if lazy := uninitialized(model):
        raise ValueError(
            f"{type(model).__name__} has weights without a shape, {some(lazy)}, until it is called on a first batch. "
            "Do so before it is measured, for example by model(inputs)"
        )
    with preserved_rng(), torch.no_grad(), silent(model), as_split_as_before(model), evaluating(model):
        kept = Kept(model)
        try:
            yield kept
        finally:
            kept.restore()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set the `training` flag of every module to false inside the block."""
    # One by one because train() and eval() may be overridden, with effects that nothing could undo.
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        with uninterrupted():
            for module, flag in flags:
                module.training = flag


def uninitialized(model: nn.Module) -> list[str]:
    """List the weights and buffers that have no shape before the first forward, as in lazy modules.

    Examples:
        >>> uninitialized(nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 2)))
        ['0.weight', '0.bias']
    """
    named = (*model.named_parameters(), *model.named_buffers())
    return [name for name, tensor in named if torch.nn.parameter.is_lazy(tensor)]


class Kept:
    """The state that a model is in, which is to stay as it is, whatever its forwards change.

    Attributes:
        written: whether a forward writes to tensors, so that what it returned may be part of them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._is_split = is_split(model)
        self._snapshots = [*settings(), *snapshots_of(model)]
        self._changing: list[Snapshot] | None = None  # what forwards change, known after the first
        self._collectives = False
        self.written = True

    def run(self, forward: Callable[[], T]) -> T:
        """Run one forward of the model; the next one starts from the same state.

        The first is watched, for which it may run twice: what it changes is what is put back after those that follow.
        """
        if self._changing is None:
            return self._run_first(forward)
        try:
            with Watched() if self._collectives else nullcontext():
                return forward()
        finally:
            for snapshot in self._changing:
                snapshot.restore()

    def _run_first(self, forward: Callable[[], T]) -> T:
        watched = Watched(self._snapshots)
        used: set[str] = set()
        try:
            if self._is_split:
                # A second forward after one that failed would find the parts half exchanged.
                return forward()
            try:
                with _calls_to_sockets(self._snapshots) as used, without_fast_path(), watched:
                    return forward()
            except (RuntimeError, TypeError, NotImplementedError) as error:
                if watched.collectives or isinstance(error, torch.cuda.OutOfMemoryError):
                    raise
                log.info("a forward cannot be watched: %s: %s", type(error).__name__, error)
            # Some kernels do not run under a dispatch mode.
            self._learn(used)
            return forward()
        finally:
            self._collectives = watched.collectives
            self._learn(used)

    def _learn(self, used: set[str]) -> None:
        """Find out what a forward has changed, and put it back."""
        changed = [snapshot for snapshot in self._snapshots if snapshot.changed(closely=True)]
        restored = [snapshot for snapshot in changed if _restored(snapshot)]
        self._changing = list(dict.fromkeys([*(self._changing or ()), *restored]))
        self.written = any(isinstance(snapshot, TensorSnapshot) for snapshot in self._changing)
        lost = [snapshot.name for snapshot in changed if snapshot not in restored or snapshot.changed()]
        self._tell(lost + sorted(used))

    def put_back(self) -> list[str]:
        """Put back all that has changed and name it, but for caches: what they keep follows from what is asked."""
        with uninterrupted():
            changed = [snapshot for snapshot in self._snapshots if snapshot.changed(closely=True)]
            for snapshot in changed:
                _restored(snapshot)
        return [snapshot.name for snapshot in changed if not isinstance(snapshot, Cache)]

    def restore(self) -> None:
        """Put back all that has changed."""
        with uninterrupted():
            lost = [each.name for each in self._snapshots if each.changed() and not _restored(each)]
        self._tell(lost)

    def _tell(self, names: list[str]) -> None:
        told = _TOLD.setdefault(self._model, set())
        new = [name for name in names if name not in told]
        if new:
            told.update(new)
            warnings.warn(
                f"the forward of {type(self._model).__name__} changes {some(new)}, which cannot be put back after a "
                "measurement: what depends on it may differ from a run without one. Leave it alone where self.training "
                "is false, or give forward_func= that does",
                stacklevel=2,
            )


_TOLD: weakref.WeakKeyDictionary[nn.Module, set[str]] = weakref.WeakKeyDictionary()


def _restored(snapshot: Snapshot) -> bool:
    try:
        snapshot.restore()
    except Exception as error:
        log.info("%s cannot be put back: %s: %s", snapshot.name, type(error).__name__, error)
        return False
    return True


@contextmanager
def _calls_to_sockets(snapshots: Iterable[Snapshot]) -> Iterator[set[str]]:
    """Collect the names of sockets that are sent to or read from inside the block: nothing in them would show it."""
    sockets = {
        id(snapshot.value): snapshot.name
        for snapshot in snapshots
        if isinstance(snapshot, Opaque) and isinstance(snapshot.value, socket.socket)
    }
    used: set[str] = set()
    # A profiler of the user's has the only place.
    if not sockets or sys.getprofile() is not None:
        yield used
        return

    def note(_frame: Any, event: str, called: Any) -> None:
        if event == "c_call" and id(getattr(called, "__self__", None)) in sockets and called.__name__ != "fileno":
            used.add(sockets[id(called.__self__)])

    sys.setprofile(note)
    try:
        yield used
    finally:
        sys.setprofile(None)


@contextmanager
def silent(model: nn.Module) -> Iterator[None]:
    """Let the Lightning modules in `model` log and print nothing inside the block, by their methods or their loggers.

    A value that a masked forward logs would join those of the training batches; and where the hook that runs allows no
    logging on steps, the forward would fail.
    """
    # By name, because `lightning.pytorch` and `pytorch_lightning` have each its own of every class.
    modules = [m for m in model.modules() if any(base.__name__ == "LightningModule" for base in type(m).__mro__)]
    before = [(module, {name: vars(module)[name] for name in _METHODS if name in vars(module)}) for module in modules]
    trainers = {id(trainer): trainer for module in modules if (trainer := vars(module).get("_trainer")) is not None}
    loggers = [(trainer, trainer.loggers) for trainer in trainers.values() if hasattr(trainer, "loggers")]
    try:
        for module in modules:
            vars(module).update(dict.fromkeys(_METHODS, _nothing))
        for trainer, own in loggers:
            trainer.loggers = [_Nothing() for _ in own]
        yield
    finally:
        with uninterrupted():
            for trainer, own in loggers:
                trainer.loggers = own
            for module, methods in before:
                for name in _METHODS:
                    vars(module).pop(name, None)
                vars(module).update(methods)


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """Take anything, and return what logging and printing return."""


class _Nothing:
    """In the place of a logger: every attribute of it takes every call, and so does what comes back."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing()

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        return _Nothing()

    def __getitem__(self, key: Any) -> Any:
        return _Nothing()
