"""Watching one forward: which tensors it is about to write to, which processes and sockets it talks to."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from interaction_monitor.state._collectives import answer, is_collective
from interaction_monitor.state._parts import Opaque, Part
from interaction_monitor.state._tensors import TensorPart, storage_of


class Watched(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Copies tensors that were not copied yet just before they are written to, and answers collectives.

    That needs no memory for what is only read, such as nearly all weights.

    Args:
        parts: what is reached from the network.

    Attributes:
        collectives: whether there were any.
    """

    def __init__(self, parts: Iterable[Part]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.collectives = False
        self._uncopied: dict[int, list[TensorPart]] = {}
        for part in parts:
            if isinstance(part, TensorPart) and not part.copied and (storage := part.storage()) is not None:
                self._uncopied.setdefault(storage, []).append(part)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, after a look at what it writes to."""
        kwargs = kwargs or {}
        if is_collective(func):
            self.collectives = True
            self._save((args, kwargs))
            return answer(func, args, kwargs)
        if self._uncopied and func._schema.is_mutable:
            for argument, value in zip(func._schema.arguments, args, strict=False):
                if argument.is_write:
                    self._save(value)
            for argument in func._schema.arguments:
                if argument.is_write and argument.name in kwargs:
                    self._save(kwargs[argument.name])
        return func(*args, **kwargs)

    def _save(self, tree: Any) -> None:
        for leaf in tree_leaves(tree):
            if isinstance(leaf, Tensor) and (storage := storage_of(leaf)) is not None:
                for part in self._uncopied.pop(storage, ()):
                    part.save()


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Let transformers run layer by layer inside the block: under autocast their fused kernel cannot be watched."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def calls_to_sockets(parts: Iterable[Part]) -> Iterator[set[str]]:
    """Collect the names of sockets that are sent to or read from inside the block: nothing in them would show it."""
    sockets = {
        id(part.value): part.name
        for part in parts
        if isinstance(part, Opaque) and isinstance(part.value, socket.socket)
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
