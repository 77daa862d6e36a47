"""What one place of a network's state held: whether that has changed, and putting it back."""

from __future__ import annotations

import ctypes
import functools
import io
import mmap
import os
import pickle
import random
import signal
import types
import warnings
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from operator import eq, is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

ABSENT = type("ABSENT", (), {})  # stands for what a place holds that holds nothing
COMPARED_BYTES = 2**26  # what is larger is not compared by its bytes
_OF_C = (ctypes._SimpleCData, ctypes.Array, ctypes.Structure, ctypes.Union)


class Snapshot:
    """What a place held when this was made.

    Args:
        name: of the place, as code would spell it.
        get: returns what it holds, or a copy where that is changed in place.
        put: makes it hold that again.
        same: tells whether two of what `get` returns are the same; the default asks whether they are one object.

    Attributes:
        held: what it held, or `ABSENT`.
    """

    def __init__(
        self, name: str, get: Callable[[], Any], put: Callable[[Any], object], same: Callable[[Any, Any], Any] = is_
    ) -> None:
        self.name = name
        self._get, self._put, self._same = get, put, same
        self.held = get()

    def changed(self, *, closely: bool = False) -> bool:
        """Tell whether the place holds something else now.

        Args:
            closely: look also where looking takes long: at the numbers in tensors, which may be written to past
                their count of changes, and at what Python cannot look into.
        """
        return not self._same(self._get(), self.held)

    def restore(self) -> None:
        """Put back what it held."""
        self._put(self.held)


class Cache(Snapshot):
    """What `functools.lru_cache` keeps of a function: it can be emptied, if it was empty."""

    def __init__(self, name: str, function: Any) -> None:
        def info() -> tuple[int, int]:
            return function.cache_info().misses, function.cache_info().currsize

        def clear(held: tuple[int, int]) -> None:
            if held[1]:
                raise RuntimeError("what it kept before would be lost")
            function.cache_clear()
            self.held = info()  # the counts begin at zero

        super().__init__(name, info, clear, eq)


class Opaque(Snapshot):
    """What Python cannot look into: a file, a socket, an iterator, an object of C or C++. It is only seen to change."""

    def __init__(self, name: str, value: Any) -> None:
        def refuse(_held: object) -> None:
            raise RuntimeError("Python cannot look into it")

        self.value = value
        super().__init__(name, lambda: _digest(value), refuse, eq)

    def changed(self, *, closely: bool = False) -> bool:
        """Tell whether it looks otherwise, which is only looked for closely."""
        return closely and super().changed()


def _digest(value: Any) -> Any:
    """Return something that differs where the value does, as far as that is to be seen."""
    with warnings.catch_warnings(), suppress(Exception):
        warnings.simplefilter("ignore")
        if isinstance(value, io.IOBase):
            return value.closed or value.tell()
        if hasattr(value, "get_obj"):  # other processes may write to it as well
            return bytes(value.get_obj())
        if isinstance(value, types.GeneratorType):
            frame = value.gi_frame
            return frame and (frame.f_lasti, {key: id(local) for key, local in frame.f_locals.items()})
        with suppress(Exception):
            return repr(value), pickle.dumps(value)
        return repr(value)
    return None


@contextmanager
def _waits(number: signal.Signals) -> Iterator[None]:
    own, frames = signal.getsignal(number), list[Any]()
    if not callable(own):  # ignored, the system's own, or of a library in C
        yield
        return
    try:
        with suppress(ValueError):  # of another thread than the main one, which alone is interrupted
            signal.signal(number, lambda _, frame: frames.append(frame))
        yield
    finally:
        with suppress(ValueError):
            signal.signal(number, own)
        if frames:
            own(number, frames[-1])


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block is done: what is put back by half would stay so."""
    with _waits(signal.SIGINT), _waits(signal.SIGTERM):  # one within the other, for either may raise
        yield


def _same_objects(now: Collection[Any], held: Collection[Any]) -> bool:
    return len(now) == len(held) and all(map(is_, now, held))


def reference(
    name: str, get: Callable[[], Any], put: Callable[[Any], object], delete: Callable[[], object]
) -> Snapshot:
    """Take down one reference: a global, a slot, a variable that a function closes over."""

    def found() -> Any:
        try:
            return get()
        except (AttributeError, KeyError, ValueError):
            return ABSENT

    return Snapshot(name, found, lambda held: delete() if held is ABSENT else put(held))


def attributes_of_class(name: str, cls: type) -> Snapshot:
    """Take down the attributes of a class."""

    def get() -> dict[str, Any]:
        # The others are Python's own, some of them caches.
        return {key: value for key, value in vars(cls).items() if not (key[:2] == "__" == key[-2:])}

    def put(held: dict[str, Any]) -> None:
        now = get()
        for key in now.keys() - held.keys():
            delattr(cls, key)
        for key, value in held.items():
            if now.get(key, ABSENT) is not value:
                setattr(cls, key, value)

    def same(now: dict[str, Any], held: dict[str, Any]) -> bool:
        return now.keys() == held.keys() and all(now[key] is value for key, value in held.items())

    return Snapshot(name, get, put, same)


def mapping(name: str, entries: dict[Any, Any]) -> Snapshot:
    """Take down a dict, its order included."""
    # Past what a subclass makes of them; but an OrderedDict keeps its order beside the dict.
    kind: type[dict[Any, Any]] = OrderedDict if isinstance(entries, OrderedDict) else dict

    def get() -> tuple[list[Any], list[Any]]:
        # Not a dict, for which the keys would be asked for their hashes.
        return list(kind.keys(entries)), list(kind.values(entries))

    def put(held: tuple[list[Any], list[Any]]) -> None:
        before = dict(zip(*held, strict=True))
        for key in [key for key in kind.keys(entries) if key not in before]:
            kind.__delitem__(entries, key)
        if not _same_objects(kind.keys(entries), held[0]):
            kind.clear(entries)
        for key, value in zip(*held, strict=True):
            if kind.get(entries, key, ABSENT) is not value:
                kind.__setitem__(entries, key, value)

    def same(now: tuple[list[Any], list[Any]], held: tuple[list[Any], list[Any]]) -> bool:
        return all(map(_same_objects, now, held))

    return Snapshot(name, get, put, same)


def sequence(name: str, items: list[Any] | deque[Any]) -> Snapshot:
    """Take down a list or a deque."""
    kind: Any = deque if isinstance(items, deque) else list  # past what a subclass makes of them

    def put(held: list[Any]) -> None:
        kind.clear(items)
        kind.extend(items, held)

    return Snapshot(name, lambda: list(kind.__iter__(items)), put, _same_objects)


def unordered(name: str, items: set[Any]) -> Snapshot:
    """Take down a set."""
    return Snapshot(name, lambda: set(items), lambda held: (set.clear(items), set.update(items, held)), eq)


def scripted(name: str, module: Any, key: str) -> Snapshot:
    """Take down an attribute of a scripted module, of which Python sees a copy."""
    return Snapshot(name, lambda: module.getattr(key), functools.partial(module.setattr, key), _alike)


def _alike(now: Any, held: Any) -> bool:
    """Tell whether two copies of what a scripted module holds are of the same tensors and values."""
    if isinstance(held, dict):
        return isinstance(now, dict) and list(now) == list(held) and all(_alike(now[key], held[key]) for key in held)
    if isinstance(held, (list, tuple)):
        return type(now) is type(held) and len(now) == len(held) and all(map(_alike, now, held))
    return now is held or (type(now) is type(held) and not isinstance(held, Tensor) and bool(now == held))


def numbers_in(name: str, value: Any) -> Snapshot | None:
    """Take down what holds numbers in a form of its own; None for anything else."""
    if isinstance(value, np.ndarray):
        return _array(name, value)
    for kind, (get, put) in GENERATORS.items():
        if isinstance(value, kind):
            return Snapshot(name, functools.partial(get, value), functools.partial(put, value), _same_draws)
    if isinstance(value, array):

        def fill(held: bytes) -> None:
            del value[:]
            value.frombytes(held)

        return Snapshot(name, value.tobytes, fill, eq)
    if isinstance(value, _OF_C) and ctypes.sizeof(value) <= COMPARED_BYTES:
        place, size = ctypes.addressof(value), ctypes.sizeof(value)
        return Snapshot(name, lambda: ctypes.string_at(place, size), lambda held: ctypes.memmove(place, held, size), eq)
    if isinstance(value, bytearray) or (isinstance(value, mmap.mmap) and len(value) <= COMPARED_BYTES):
        return Snapshot(name, functools.partial(bytes, value), functools.partial(value.__setitem__, slice(None)), eq)
    return None


def _array(name: str, array: np.ndarray[Any, Any]) -> Snapshot:
    def same(now: np.ndarray[Any, Any], held: np.ndarray[Any, Any]) -> bool:
        # Not by their values: a NaN does not equal itself.
        return now.shape == held.shape and now.tobytes() == held.tobytes()

    def put(held: np.ndarray[Any, Any]) -> None:
        if array.shape != held.shape:
            array.resize(held.shape, refcheck=False)
        array[...] = held

    return Snapshot(name, array.copy, put, same)


def _same_draws(now: Any, held: Any) -> bool:
    return torch.equal(now, held) if isinstance(held, Tensor) else pickle.dumps(now) == pickle.dumps(held)


def _set_bits(generator: Any, state: Any) -> None:
    generator.state = state


# By their methods, which subclasses may have of their own.
GENERATORS: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], object]]] = {
    torch.Generator: (lambda drawn: drawn.get_state(), lambda drawn, state: drawn.set_state(state)),
    np.random.Generator: (lambda drawn: drawn.bit_generator.state, lambda drawn, s: _set_bits(drawn.bit_generator, s)),
    np.random.BitGenerator: (lambda drawn: drawn.state, _set_bits),
    np.random.RandomState: (lambda drawn: drawn.get_state(), lambda drawn, state: drawn.set_state(state)),
    random.Random: (lambda drawn: drawn.getstate(), lambda drawn, state: drawn.setstate(state)),
}


def settings() -> list[Snapshot]:
    """Take down what a forward may set for the whole process."""
    precision = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    return [
        Snapshot("os.environ", lambda: dict(os.environ), _set_environment, eq),
        Snapshot("the default dtype", torch.get_default_dtype, torch.set_default_dtype, eq),
        Snapshot("the number of threads", torch.get_num_threads, torch.set_num_threads, eq),
        Snapshot("whether gradients are kept", torch.is_grad_enabled, torch._C._set_grad_enabled, eq),
        Snapshot("the precision of products", *precision, eq),
    ]


def _set_environment(variables: dict[str, str]) -> None:
    for key in os.environ.keys() - variables.keys():
        del os.environ[key]
    os.environ.update(variables)
