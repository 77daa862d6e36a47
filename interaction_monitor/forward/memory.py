"""Counting the bytes that a computation holds at once."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Count the bytes of the tensors that are made inside the block and still alive, on whichever device.

    What an operation takes and gives back inside itself is not seen, nor what was there before.

    Attributes:
        live: bytes that are alive now.
        peak: the most that were alive at once.
        largest: the bytes of the largest single tensor.

    Example:
        >>> with LiveBytes() as counted:
        ...     total = sum((torch.zeros(1000) + 1).sum() for _ in range(5))
        >>> counted.largest, counted.peak < 10_000
        (4000, True)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.live = 0
        self.peak = 0
        self.largest = 0
        self._known: set[int] = set()

    def restart(self) -> None:
        """Begin anew to look for the peak."""
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the storages of its results, unless it got them as arguments."""
        # What was there before, and comes back as a view or changed in place, is not new.
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
                storage = leaf.untyped_storage()
                if storage._cdata not in given and storage._cdata not in self._known:
                    self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        name, size = storage._cdata, storage.nbytes()
        self._known.add(name)
        self.live += size
        self.peak = max(self.peak, self.live)
        self.largest = max(self.largest, size)
        weakref.finalize(storage, self._remove, name, size)

    def _remove(self, name: int, size: int) -> None:
        self._known.discard(name)
        self.live -= size
