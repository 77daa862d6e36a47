"""The kinds of places that hold a module's state: what was there, whether that has changed, and putting it back."""

from __future__ import annotations

import dis
import functools
import io
import pickle
import random
import types
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
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


class Scripted(Part):
    """An attribute of a scripted module, of which Python sees a copy."""

    def __init__(self, name: str, module: Any, key: str) -> None:
        super().__init__(name)
        self._module, self._key = module, key
        self.held = module.getattr(key)

    def changed(self, *, closely: bool = False) -> bool:
        return not _alike(self._module.getattr(self._key), self.held)

    def restore(self) -> None:
        self._module.setattr(self._key, self.held)


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


def _alike(now: Any, held: Any) -> bool:
    """Tell whether two copies of what a scripted module holds are of the same tensors and values."""
    if isinstance(held, dict):
        return isinstance(now, dict) and list(now) == list(held) and all(_alike(now[key], held[key]) for key in held)
    if isinstance(held, (list, tuple)):
        return type(now) is type(held) and len(now) == len(held) and all(map(_alike, now, held))
    return now is held or (type(now) is type(held) and not isinstance(held, Tensor) and bool(now == held))


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


def slots_of(cls: type) -> Iterator[tuple[str, Any]]:
    for base in cls.__mro__:
        if "__slots__" in vars(base):
            for key, descriptor in vars(base).items():
                if isinstance(descriptor, types.MemberDescriptorType):
                    yield key, descriptor


def slot(descriptor: Any, value: Any) -> Any:
    try:
        return descriptor.__get__(value)
    except AttributeError:
        return None


def content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


@functools.lru_cache(maxsize=4096)
def globals_in(code: types.CodeType) -> tuple[str, ...]:
    """Return the globals that a function reads or binds; `co_names` has attributes among them."""
    found = [step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "STORE_GLOBAL")]
    inner = [name for part in code.co_consts if isinstance(part, types.CodeType) for name in globals_in(part)]
    return tuple(dict.fromkeys(found + inner))


def _set_bits(generator: Any, state: Any) -> None:
    generator.state = state


GENERATORS: tuple[tuple[type, Callable[[Any], Any], Callable[[Any, Any], None]], ...] = (
    (torch.Generator, lambda drawn: drawn.get_state(), lambda drawn, state: drawn.set_state(state)),
    (np.random.Generator, lambda drawn: drawn.bit_generator.state, lambda drawn, s: _set_bits(drawn.bit_generator, s)),
    (np.random.BitGenerator, lambda drawn: drawn.state, lambda drawn, state: _set_bits(drawn, state)),
    (np.random.RandomState, lambda drawn: drawn.get_state(), lambda drawn, state: drawn.set_state(state)),
    (random.Random, lambda drawn: drawn.getstate(), lambda drawn, state: drawn.setstate(state)),
)
