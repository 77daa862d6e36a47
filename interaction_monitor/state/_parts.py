"""The kinds of places that hold a module's state: what was there, whether that has changed, and putting it back."""

from __future__ import annotations

import dis
import functools
import io
import pickle
import sys
import types
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from operator import is_
from typing import Any

from torch import Tensor

ABSENT = type("ABSENT", (), {})  # stands for what a place holds that holds nothing


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
    """One reference: a global, a slot, a variable that a hook closes over.

    Attributes:
        held: what it held at first, or `ABSENT`.
    """

    def __init__(self, name: str, get: Callable[[], Any], put: Callable[[Any], None]) -> None:
        super().__init__(name)
        self._get, self._put = get, put
        self.held = get()

    def changed(self, *, closely: bool = False) -> bool:
        return self._get() is not self.held

    def restore(self) -> None:
        self._put(self.held)


class Attributes(Part):
    """The attributes of a class."""

    def __init__(self, name: str, cls: type) -> None:
        super().__init__(name)
        self._cls = cls
        self._held = self._now()

    def _now(self) -> dict[str, Any]:
        # The others are Python's own, some of them caches.
        return {key: value for key, value in vars(self._cls).items() if not (key[:2] == "__" == key[-2:])}

    def changed(self, *, closely: bool = False) -> bool:
        now, held = self._now(), self._held
        return now.keys() != held.keys() or any(now[key] is not value for key, value in held.items())

    def restore(self) -> None:
        now, held = self._now(), self._held
        for key in now.keys() - held.keys():
            delattr(self._cls, key)
        for key, value in held.items():
            if now.get(key, ABSENT) is not value:
                setattr(self._cls, key, value)


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
        if len(now) != len(held) or not all(map(is_, now, held)):
            kind.clear(now)
        for key, value in held.items():
            if kind.get(now, key, ABSENT) is not value:
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


class Cache(Part):
    """What `functools.lru_cache` keeps of a function: it can be emptied, if it was empty."""

    def __init__(self, name: str, function: Any) -> None:
        super().__init__(name)
        self._function = function
        self._held = function.cache_info()

    def changed(self, *, closely: bool = False) -> bool:
        now = self._function.cache_info()
        return (now.misses, now.currsize) != (self._held.misses, self._held.currsize)

    def restore(self) -> None:
        if self._held.currsize:
            raise RuntimeError("what it kept before would be lost")
        self._function.cache_clear()
        self._held = self._function.cache_info()  # the counts begin at zero


class Opaque(Part):
    """What Python cannot look into: a file, a socket, an iterator, an object of C or C++."""

    opaque = True

    def __init__(self, name: str, value: Any) -> None:
        super().__init__(name)
        self.value = value
        self._held = _digest(value)

    def changed(self, *, closely: bool = False) -> bool:
        return closely and _digest(self.value) != self._held


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
        if hasattr(value, "get_obj"):  # other processes may write to it as well
            return bytes(value.get_obj())
        if isinstance(value, types.GeneratorType):
            frame = value.gi_frame
            return frame and (frame.f_lasti, {key: id(local) for key, local in frame.f_locals.items()})
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


def slot(name: str, descriptor: Any, value: Any) -> Place:
    """Take down a slot of an object."""

    def get() -> Any:
        try:
            return descriptor.__get__(value)
        except AttributeError:
            return ABSENT

    return Place(name, get, lambda held: _put(held, descriptor.__set__, descriptor.__delete__, value))


def variable(name: str, cell: types.CellType) -> Place:
    """Take down a variable that a function closes over."""

    def get() -> Any:
        try:
            return cell.cell_contents
        except ValueError:  # it is empty
            return ABSENT

    return Place(name, get, lambda held: _put(held, setattr, delattr, cell, "cell_contents"))


def entry(name: str, space: dict[str, Any], key: str) -> Place:
    """Take down a global."""
    get = functools.partial(space.get, key, ABSENT)
    return Place(name, get, lambda held: _put(held, space.__setitem__, space.__delitem__, key))


def _put(held: Any, setting: Callable[..., None], deleting: Callable[..., None], *where: Any) -> None:
    if held is ABSENT:
        deleting(*where)
    else:
        setting(*where, held)


@functools.lru_cache(maxsize=4096)
def globals_in(code: types.CodeType) -> tuple[str, ...]:
    """Return the globals that a function reads or binds; `co_names` has attributes among them."""
    found = [step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "STORE_GLOBAL")]
    inner = [name for part in code.co_consts if isinstance(part, types.CodeType) for name in globals_in(part)]
    return tuple(dict.fromkeys(found + inner))


@functools.lru_cache(maxsize=4096)
def names_in(code: types.CodeType) -> frozenset[str]:
    """Return all names that a function uses, of attributes too."""
    return frozenset(code.co_names).union(*(names_in(x) for x in code.co_consts if isinstance(x, types.CodeType)))


@functools.lru_cache(maxsize=4096)
def is_of_a_library(module: str | None) -> bool:
    """Tell whether a module is an installed one, whose classes keep nothing that a forward of the user changes."""
    path = getattr(sys.modules.get(module or ""), "__file__", None)
    if path is None:
        return module not in ("__main__", "__mp_main__")
    library = ("site-packages", "dist-packages", f"python{sys.version_info.major}.{sys.version_info.minor}")
    return any(part in library for part in path.replace("\\", "/").split("/"))
