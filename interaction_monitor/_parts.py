"""The kinds of places that hold a module's state: what was there, whether that has changed, and putting it back."""

from __future__ import annotations

import io
import pickle
import types
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

# What is larger is not compared by its bytes.
COMPARED_BYTES = 2**26


class Part:
    """A place that holds state.

    Attributes:
        name: as code would spell it.
        opaque: whether nothing can be put back, but only seen to have changed.
    """

    opaque = False

    def __init__(self, name: str) -> None:
        self.name = name

    def changed(self, *, closely: bool = False) -> bool:
        """Tell whether it holds something else than at first.

        Args:
            closely: look also where looking takes long: at the numbers in tensors, which may be written to past
                their count of changes.
        """
        raise NotImplementedError

    def restore(self) -> None:
        """Put back what it held."""
        raise NotImplementedError


class Place(Part):
    """One reference: a global, an attribute of a class, a slot, a variable that a hook closes over."""

    def __init__(self, name: str, get: Callable[[], Any], put: Callable[[Any], None]) -> None:
        super().__init__(name)
        self._get, self._put = get, put
        self._held = get()

    def changed(self, *, closely: bool = False) -> bool:
        return self._get() is not self._held

    def restore(self) -> None:
        self._put(self._held)


class Mapping(Part):
    """A dict, its order included."""

    def __init__(self, name: str, mapping: dict[Any, Any]) -> None:
        super().__init__(name)
        self._mapping = mapping
        self._held = dict(mapping)
        # Past what a subclass makes of them; but an OrderedDict keeps its order beside the dict.
        self._kind: type[dict[Any, Any]] = OrderedDict if isinstance(mapping, OrderedDict) else dict

    def changed(self, *, closely: bool = False) -> bool:
        now, held = self._mapping, self._held
        return len(now) != len(held) or not (
            all(map(is_, now, held)) and all(map(is_, self._kind.values(now), held.values()))
        )

    def restore(self) -> None:
        kind, now, held = self._kind, self._mapping, self._held
        for key in [key for key in now if key not in held]:
            kind.__delitem__(now, key)
        if len(now) == len(held) and all(map(is_, now, held)):
            for key, value in held.items():
                if kind.__getitem__(now, key) is not value:
                    kind.__setitem__(now, key, value)
        else:
            kind.clear(now)
            for key, value in held.items():
                kind.__setitem__(now, key, value)


class Sequence(Part):
    """A list or a deque."""

    def __init__(self, name: str, items: list[Any] | deque[Any]) -> None:
        super().__init__(name)
        self._items = items
        self._held = list(items)

    def changed(self, *, closely: bool = False) -> bool:
        return len(self._items) != len(self._held) or not all(map(is_, self._items, self._held))

    def restore(self) -> None:
        if isinstance(self._items, deque):
            deque.clear(self._items)
            deque.extend(self._items, self._held)
        else:
            list.__setitem__(self._items, slice(None), self._held)


class Unordered(Part):
    """A set, or a bytearray."""

    def __init__(self, name: str, items: set[Any] | bytearray) -> None:
        super().__init__(name)
        self._items = items
        self._held = set(items) if isinstance(items, set) else bytearray(items)

    def changed(self, *, closely: bool = False) -> bool:
        return len(self._items) != len(self._held) or bool(self._items != self._held)

    def restore(self) -> None:
        if isinstance(self._items, set):
            set.clear(self._items)
            set.update(self._items, self._held)
        else:
            self._items[:] = self._held


class Array(Part):
    """A NumPy array."""

    def __init__(self, name: str, array: np.ndarray[Any, Any]) -> None:
        super().__init__(name)
        self._array = array
        self._held = array.copy() if array.nbytes <= COMPARED_BYTES else None

    def changed(self, *, closely: bool = False) -> bool:
        if self._held is None:
            return False
        # Not by their values: a NaN does not equal itself.
        return self._array.shape != self._held.shape or bool(self._array.tobytes() != self._held.tobytes())

    def restore(self) -> None:
        if self._held is not None:
            if self._array.shape != self._held.shape:
                self._array.resize(self._held.shape, refcheck=False)
            self._array[...] = self._held


class Drawing(Part):
    """A generator of random numbers."""

    def __init__(self, name: str, generator: Any, get: Callable[[Any], Any], put: Callable[[Any, Any], None]) -> None:
        super().__init__(name)
        self._generator, self._get, self._put = generator, get, put
        self._held = get(generator)
        self._bytes = self._bytes_now()

    def _bytes_now(self) -> bytes:
        state = self._get(self._generator)
        return state.cpu().numpy().tobytes() if isinstance(state, Tensor) else pickle.dumps(state)

    def changed(self, *, closely: bool = False) -> bool:
        return self._bytes_now() != self._bytes

    def restore(self) -> None:
        self._put(self._generator, self._held)


class TensorPart(Part):
    """A tensor: its numbers, and the memory that it looks at.

    Args:
        name: as code would spell it.
        tensor: any.
        copied: whether to copy its numbers now. Otherwise only where a forward is seen about to write to them, see
            `save`.
    """

    def __init__(self, name: str, tensor: Tensor, *, copied: bool) -> None:
        super().__init__(name)
        self.tensor = tensor
        self.grad = tensor.grad if tensor.is_leaf else None
        self._flag = tensor.requires_grad
        self._version = version_of(tensor)
        self._view = tensor.detach()
        self._place = _place_of(tensor)
        self._copy: Tensor | None = None
        self._unseen = False  # whether it was written to past its count of changes
        if copied:
            self.save()

    @property
    def copied(self) -> bool:
        """Whether there is a copy of its numbers."""
        return self._copy is not None

    def storage(self) -> int | None:
        """Return a name for the memory that it looks at, if it has one."""
        return storage_of(self.tensor)

    def save(self) -> None:
        """Copy its numbers, unless that was done."""
        if self._copy is None:
            with suppress(NotImplementedError, RuntimeError):  # some kinds of tensors cannot be copied
                self._copy = self._view.clone()

    def changed(self, *, closely: bool = False) -> bool:
        if closely and not self._written() and self._copy is not None and not _moved(self.tensor, self._place):
            self._unseen = not _equal(self.tensor.detach(), self._copy)
        return self._written() or _moved(self.tensor, self._place) or self._of_gradients()

    def _written(self) -> bool:
        if version_of(self.tensor) != self._version:
            return True
        return self._unseen and self._copy is not None and not _equal(self.tensor.detach(), self._copy)

    def _of_gradients(self) -> bool:
        grad = self.tensor.grad if self.tensor.is_leaf else None
        return grad is not self.grad or self.tensor.requires_grad != self._flag

    def restore(self) -> None:
        tensor = self.tensor
        if tensor.requires_grad != self._flag and tensor.is_leaf:
            tensor.requires_grad_(self._flag)
        if tensor.is_leaf and tensor.grad is not self.grad:
            tensor.grad = self.grad
        if _moved(tensor, self._place):
            tensor.data = self._view
        if not self._written():
            return
        if self._copy is None:
            raise RuntimeError("it was written to before there was a copy")
        with torch.inference_mode(tensor.is_inference()):
            self._view.copy_(self._copy)
        if self._version is not None:
            # A graph of the user's that goes through the tensor counts on it.
            _set_version(tensor, self._version)


class Opaque(Part):
    """What Python cannot look into: a file, a socket, an iterator, an object of C or C++."""

    opaque = True

    def __init__(self, name: str, value: Any) -> None:
        super().__init__(name)
        self.value = value
        self._held = _digest(value)

    def changed(self, *, closely: bool = False) -> bool:
        return closely and _digest(self.value) != self._held

    def restore(self) -> None:
        raise RuntimeError("nothing can be put back in it")


def version_of(tensor: Tensor) -> int | None:
    """Return how often a tensor was changed in place; inference tensors keep no count."""
    return None if tensor.is_inference() else tensor._version


def storage_of(tensor: Tensor) -> int | None:
    """Return a name for the memory that a tensor looks at; None where it is of a kind that has none."""
    if tensor.layout != torch.strided:
        return None
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None


def _set_version(tensor: Tensor, version: int) -> None:
    with suppress(AttributeError, TypeError, RuntimeError):  # private to torch, and spelt otherwise in older versions
        torch._C._autograd._unsafe_set_version_counter((tensor,), (version,))


def _place_of(tensor: Tensor) -> tuple[Any, ...] | None:
    storage = storage_of(tensor)
    if storage is None:
        return None
    return storage, tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype


def _moved(tensor: Tensor, place: tuple[Any, ...] | None) -> bool:
    return place is not None and _place_of(tensor) != place


def _equal(a: Tensor, b: Tensor) -> bool:
    try:
        # A NaN does not equal itself.
        return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
    except (NotImplementedError, RuntimeError):
        return True


def _digest(value: Any) -> Any:
    """Return something that differs where the value does, as far as that is to be seen."""
    with warnings.catch_warnings(), suppress(Exception):
        warnings.simplefilter("ignore")
        if isinstance(value, io.IOBase):
            return value.closed or value.tell()
        if isinstance(value, types.GeneratorType):
            frame = value.gi_frame
            return frame and (frame.f_lasti, {key: id(local) for key, local in frame.f_locals.items()})
        if hasattr(value, "cache_info"):
            return value.cache_info()
        with suppress(Exception):
            return repr(value), pickle.dumps(value)
        return repr(value)
    return None
