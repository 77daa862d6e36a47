"""Numbers that a network holds: tensors, and the memory that they look at, arrays, generators of random numbers."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import pickle
import random
from array import array
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from interaction_monitor.state._parts import Part, Place

# What is larger is not compared by its bytes.
COMPARED_BYTES = 2**26
_OF_C = (ctypes._SimpleCData, ctypes.Array, ctypes.Structure, ctypes.Union)


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


def numbers_of(model: nn.Module) -> dict[tuple[str, str], Any]:
    """Return the buffers, and the attributes of modules that are tensors or fractions or made of them, on the CPU.

    Whole numbers are left out: each process has its own number of a device.

    Examples:
        >>> net = nn.BatchNorm1d(2, momentum=0.5)
        >>> net.level = [torch.zeros(1)]
        >>> [key for _, key in numbers_of(net)]
        ['running_mean', 'running_var', 'num_batches_tracked', 'eps', 'momentum', 'level']
    """
    found = {}
    for path, module in model.named_modules():
        for key, value in (*module._buffers.items(), *vars(module).items()):
            if key not in ("_parameters", "_buffers") and value is not None and _is_of_numbers(value):
                found[path, key] = tree_map(lambda x: x.detach().cpu() if isinstance(x, Tensor) else x, value)
    return found


def take_numbers(model: nn.Module, numbers: Mapping[tuple[str, str], Any]) -> None:
    """Put what `numbers_of` gave in another process in the place of the model's own."""
    for (path, key), value in numbers.items():
        module = model.get_submodule(path)
        own = getattr(module, key, None)
        if not _is_of_numbers(own):
            continue
        devices = [leaf.device for leaf in (*tree_leaves(own), *model.parameters()) if isinstance(leaf, Tensor)]
        there = tree_map(lambda x, to=devices: x.to(to[0]) if isinstance(x, Tensor) and to else x, value)
        if key in module._buffers and isinstance(own, Tensor) and own.shape == there.shape:
            own.copy_(there)
        else:
            (module._buffers if key in module._buffers else vars(module))[key] = there


def _is_of_numbers(value: Any) -> bool:
    leaves = tree_leaves(value)
    return bool(leaves) and all(
        leaf is None or (isinstance(leaf, (Tensor, float)) and not isinstance(leaf, nn.Parameter)) for leaf in leaves
    )


class Setting(Place):
    """What is the same where it is equal: memory, or what is set for the whole process."""

    def changed(self, *, closely: bool = False) -> bool:
        return bool(self._get() != self.held)


def _set_environment(variables: dict[str, str]) -> None:
    for key in os.environ.keys() - variables.keys():
        del os.environ[key]
    os.environ.update(variables)


def settings() -> list[Part]:
    """Take down what a forward may set for the whole process."""
    precision = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    return [
        Setting("os.environ", lambda: dict(os.environ), _set_environment),
        Setting("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
        Setting("the number of threads", torch.get_num_threads, torch.set_num_threads),
        Setting("whether gradients are kept", torch.is_grad_enabled, torch._C._set_grad_enabled),
        Setting("the precision of products", *precision),
    ]


def numbers_in(name: str, value: Any) -> Part | None:
    """Take down what holds numbers in a form of its own; None for anything else."""
    if isinstance(value, np.ndarray):
        return Array(name, value)
    for kind, get, put in GENERATORS:
        if isinstance(value, kind):
            return Drawing(name, value, get, put)
    if isinstance(value, array):

        def fill(held: bytes) -> None:
            del value[:]
            value.frombytes(held)

        return Setting(name, value.tobytes, fill)
    if isinstance(value, _OF_C) and ctypes.sizeof(value) <= COMPARED_BYTES:
        place, size = ctypes.addressof(value), ctypes.sizeof(value)
        get_bytes = functools.partial(ctypes.string_at, place, size)
        return Setting(name, get_bytes, lambda held: ctypes.memmove(place, held, size))  # type: ignore[arg-type]  # what it returns is nobody's
    if isinstance(value, mmap.mmap) and len(value) <= COMPARED_BYTES:
        return Setting(name, lambda: value[:], functools.partial(value.__setitem__, slice(None)))
    return None


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


def _set_bits(generator: Any, state: Any) -> None:
    generator.state = state


GENERATORS: tuple[tuple[type, Callable[[Any], Any], Callable[[Any, Any], None]], ...] = (
    (torch.Generator, lambda drawn: drawn.get_state(), lambda drawn, state: drawn.set_state(state)),
    (np.random.Generator, lambda drawn: drawn.bit_generator.state, lambda drawn, s: _set_bits(drawn.bit_generator, s)),
    (np.random.BitGenerator, lambda drawn: drawn.state, lambda drawn, state: _set_bits(drawn, state)),
    (np.random.RandomState, lambda drawn: drawn.get_state(), lambda drawn, state: drawn.set_state(state)),
    (random.Random, lambda drawn: drawn.getstate(), lambda drawn, state: drawn.setstate(state)),
)
