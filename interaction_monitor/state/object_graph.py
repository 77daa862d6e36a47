"""The graph of objects that a module reaches, walked once, with a snapshot of each place in it.

All that a forward can change is somewhere behind the module: its attributes, what containers and helper objects among
them hold, what hooks close over, attributes of its classes and globals that their functions name.
"""

from __future__ import annotations

import builtins
import dis
import enum
import functools
import io
import logging
import re
import socket
import sys
import types
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from multiprocessing.sharedctypes import SynchronizedBase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from interaction_monitor.distributed import is_split
from interaction_monitor.state import snapshots
from interaction_monitor.state.side_effects import TensorSnapshot
from interaction_monitor.state.snapshots import ABSENT, Snapshot

log = logging.getLogger(__name__)

# Beyond these a walk costs more than what is likely to be found.
MAX_PLACES = 100_000
MAX_ITEMS = 10_000
# Tensors are copied at once up to here, the others only if the first forward is seen to write to them.
COPIED_BYTES = 2**28

_ATOMS = frozenset(
    [
        *(type(None), bool, int, float, complex, str, bytes, range, slice, type, type(...), type(NotImplemented)),
        *(torch.dtype, torch.device, torch.layout, torch.Size),
        *(types.ModuleType, types.BuiltinFunctionType, types.MethodWrapperType, types.WrapperDescriptorType),
        *(types.MappingProxyType, types.CodeType, types.MethodDescriptorType),
    ]
)
_FUNCTIONS = (types.FunctionType, functools._lru_cache_wrapper)
_PLAIN = frozenset((dict, OrderedDict, defaultdict, Counter, list, deque))
# Trainers, loggers, data and the like: they are the run's, and no forward's.
_OF_THE_RUN = frozenset(
    (
        *("lightning", "pytorch_lightning", "lightning_fabric", "torch", "accelerate", "deepspeed"),
        *("tensorboard", "tensorboardX", "wandb", "mlflow", "comet_ml", "neptune", "clearml", "aim", "logging"),
        *("pandas", "matplotlib", "omegaconf", "hydra", "torchvision", "torchaudio", "PIL", "inspect"),
        *("threading", "multiprocessing", "concurrent", "asyncio", "interaction_monitor", "tokenizers", "datasets"),
    )
)
# Methods that no forward runs; the data that they name are large.
_BEFORE_FORWARDS = re.compile(r"__init__|setup|prepare_data|teardown|configure_\w+|\w+_dataloader")
_OF_THE_COMPILER = ("_compiled_call_impl", "_compiler_ctx", "_compile_kwargs")
_OF_TRANSFORMERS = frozenset(("Trainer", "TrainingArguments", "PreTrainedTokenizerBase", "ProcessorMixin"))


def snapshots_of(root: nn.Module) -> list[Snapshot]:
    """Take down all that is reached from a network, each place by its name in code: "encoder.hidden", "history[0]".

    Examples:
        >>> net = nn.Linear(2, 2)
        >>> net.seen = [torch.zeros(2)]
        >>> before = snapshots_of(net)
        >>> net.seen[0] += 1
        >>> [snapshot.name for snapshot in before if snapshot.changed()]
        ['seen[0]']
    """
    return _Walk(root).found


class _Walk:
    def __init__(self, root: nn.Module) -> None:
        self.found: list[Snapshot] = []
        self._seen: dict[Any, Any] = {}  # the objects too, so that no other gets the place of one in memory
        self._waiting: deque[tuple[str, Any]] = deque()
        self._bytes = 0
        self._is_split = is_split(root)
        self._push("", root)
        while self._waiting:
            if len(self.found) > MAX_PLACES:
                log.info("the state of %s is followed only as far as %s", type(root).__name__, self._waiting[0][0])
                break
            name, value = self._waiting.popleft()
            try:
                self._take(name, value)
            except Exception as error:  # of the object's own code, such as that of its keys
                log.info("%s cannot be copied: %s: %s", name, type(error).__name__, error)
                self.found.append(snapshots.Opaque(name, value))

    def _push(self, name: str, *values: Any) -> None:
        for value in values:
            if type(value) not in _ATOMS and id(value) not in self._seen:
                self._seen[id(value)] = value
                self._waiting.append((name, value))

    def _take(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self._take_tensor(name, value)
        elif isinstance(value, torch.jit.ScriptModule):
            self._take_scripted(name, value)
        elif isinstance(value, nn.Module):
            self._take_module(name, value)
        elif isinstance(value, (dict, list, deque, tuple)):
            self._take_container(name, value)
        elif isinstance(value, set):
            self.found.append(snapshots.unordered(name, value))
        elif isinstance(value, types.FunctionType):
            self._take_function(name, value)
        elif isinstance(value, types.MethodType):
            self._push(name, value.__func__, value.__self__)
        elif isinstance(value, functools.partial):
            self._push(name, value.func, value.args, value.keywords)
        elif isinstance(value, (weakref.ref, weakref.WeakMethod)):
            self._push(name, value())
        elif isinstance(value, np.ndarray) and value.nbytes > snapshots.COMPARED_BYTES:
            pass
        elif (snapshot := snapshots.numbers_in(name, value)) is not None:
            self.found.append(snapshot)
        elif isinstance(value, (io.IOBase, socket.socket, torch.ScriptObject, SynchronizedBase)):
            self.found.append(snapshots.Opaque(name, value))
        elif isinstance(value, (enum.Enum, type)) or _is_of_the_run(type(value)):  # type: ignore[arg-type]  # types can be hashed
            pass
        elif isinstance(value, functools._lru_cache_wrapper):
            self.found.append(snapshots.Cache(name, value))
            self._push(name, value.__wrapped__)
        elif self._take_attributes(name, value):
            self._take_class(type(value))
        else:
            self.found.append(snapshots.Opaque(name, value))

    def _take_tensor(self, name: str, tensor: Tensor) -> None:
        if torch.nn.parameter.is_lazy(tensor):
            return
        snapshot = TensorSnapshot(name, tensor)
        self.found.append(snapshot)
        strided = tensor.layout == torch.strided  # others do not tell their bytes
        if not isinstance(tensor, nn.Parameter) and strided and self._bytes + tensor.nbytes <= COPIED_BYTES:
            snapshot.save()
            self._bytes += tensor.nbytes
        if snapshot.grad is not None:
            self._seen[id(snapshot.grad)] = snapshot.grad
            self.found.append(TensorSnapshot(f"{name}.grad", snapshot.grad))

    def _take_container(self, name: str, value: Any) -> None:
        if isinstance(value, dict):
            self.found.append(snapshots.mapping(name, value))
        elif not isinstance(value, tuple):
            self.found.append(snapshots.sequence(name, value))
        if len(value) <= MAX_ITEMS:
            for key, item in dict.items(value) if isinstance(value, dict) else enumerate(value):
                self._push(f"{name}[{key!r}]", item)
        if type(value) not in _PLAIN and not isinstance(value, tuple):
            self._take_attributes(name, value)

    def _take_module(self, name: str, module: nn.Module) -> None:
        if type(module).__module__.startswith("torch._dynamo"):
            self._push(name, vars(module)["_modules"]["_orig_mod"])  # what is around it is the compiler's
            return
        self.found.append(snapshots.mapping(name or type(module).__name__, vars(module)))
        for key, value in vars(module).items():
            if key in ("_parameters", "_original_parameters") and self._is_split:
                continue  # what is in there changes whenever the processes exchange their parts
            if key in ("_parameters", "_buffers", "_modules"):
                self._seen[id(value)] = value
                self.found.append(snapshots.mapping(_inside(name, key), value))
                for own, item in value.items():
                    self._push(_inside(name, own), item)
            elif key not in _OF_THE_COMPILER:
                self._push(_inside(name, key), value)
        self._take_class(type(module))

    def _take_scripted(self, name: str, module: torch.jit.ScriptModule) -> None:
        for key, child in module.named_children():
            self._push(_inside(name, key), child)
        for key in module._concrete_type.get_attributes():
            snapshot = snapshots.scripted(_inside(name, key), module._c, key)
            self.found.append(snapshot)
            self._push(snapshot.name, *tree_leaves(snapshot.held))

    def _take_class(self, cls: type) -> None:
        for owner in cls.__mro__:
            if id(owner) in self._seen or is_of_a_library(owner.__module__):
                continue
            self._seen[id(owner)] = owner
            self.found.append(snapshots.attributes_of_class(owner.__name__, owner))
            for key, value in list(vars(owner).items()):
                function = getattr(value, "__func__", getattr(value, "fget", value))
                name = f"{owner.__name__}.{key}"
                if _BEFORE_FORWARDS.fullmatch(key):
                    continue
                if isinstance(function, _FUNCTIONS):
                    self._push(name, function)
                elif _is_data(value) and not hasattr(value, "__get__") and not (key[:2] == "__" == key[-2:]):
                    self._push(name, value)

    def _take_function(self, name: str, function: types.FunctionType) -> None:
        for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if id(cell) not in self._seen:
                self._seen[id(cell)] = cell
                self._take_reference(key, getattr, setattr, delattr, cell, "cell_contents")
        self._push(name, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        if function.__dict__:
            self._push(name, function.__dict__)
        if not is_of_a_library(function.__module__):
            for key in globals_in(function.__code__):
                self._take_global(key, function.__globals__, key, function.__code__)

    def _take_reference(self, name: str, get: Any, put: Any, delete: Any, *where: Any) -> None:
        """Take down one reference, by what gets, puts and deletes what is there."""
        snapshot = snapshots.reference(name, *(functools.partial(function, *where) for function in (get, put, delete)))
        self.found.append(snapshot)
        self._push(name, snapshot.held)

    def _take_global(self, name: str, space: dict[str, Any], key: str, code: types.CodeType) -> None:
        value = space.get(key, ABSENT)
        if isinstance(value, types.ModuleType):
            if not is_of_a_library(value.__name__) and (id(value), id(code)) not in self._seen:
                self._seen[id(value), id(code)] = value, code
                for attribute in sorted(names_in(code) & vars(value).keys()):
                    self._take_global(f"{name}.{attribute}", vars(value), attribute, code)
        elif isinstance(value, _FUNCTIONS):
            self._push(name, value)
        elif isinstance(value, type) and value is not ABSENT:
            self._take_class(value)
        elif _is_data(value) or (value is ABSENT and not hasattr(builtins, key)):
            if (id(space), key) not in self._seen:
                self._seen[id(space), key] = space
                self._take_reference(name, dict.__getitem__, dict.__setitem__, dict.__delitem__, space, key)
            self._push(name, value)

    def _take_attributes(self, name: str, value: Any) -> bool:
        """Take down the attributes of an object, and tell whether it can have any."""
        attributes = getattr(value, "__dict__", None)
        slotted = [vars(base) for base in type(value).__mro__ if "__slots__" in vars(base)]
        slots = [item for own in slotted for item in own.items() if isinstance(item[1], types.MemberDescriptorType)]
        if type(attributes) is dict:
            self.found.append(snapshots.mapping(name, attributes))
            for key, item in attributes.items():
                self._push(_inside(name, key), item)
        for key, slot in slots:
            kind = type(slot)
            self._take_reference(_inside(name, key), kind.__get__, kind.__set__, kind.__delete__, slot, value)
        return type(attributes) is dict or bool(slots)


def _inside(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _is_data(value: Any) -> bool:
    """Tell whether a global or an attribute of a class is state, not code, nor an object of some library's."""
    if isinstance(value, (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)):
        return False
    kinds = (dict, list, deque, set, tuple, bytearray, Tensor, np.ndarray, *snapshots.GENERATORS)
    return type(value) in _ATOMS or isinstance(value, kinds) or not is_of_a_library(type(value).__module__)


@functools.lru_cache(maxsize=4096)
def _is_of_the_run(cls: Any) -> bool:
    packages = [base.__module__.partition(".")[0] for base in cls.__mro__]
    names = {base.__name__ for base in cls.__mro__}
    if packages[0] not in _OF_THE_RUN | {"transformers"} and names & {"Callback", "TrainerCallback"}:
        return False  # the hooks that it registers on modules may count in it
    return not _OF_THE_RUN.isdisjoint(packages) or ("transformers" in packages and bool(names & _OF_TRANSFORMERS))


@functools.lru_cache(maxsize=4096)
def globals_in(code: types.CodeType) -> tuple[str, ...]:
    """Return the globals that a function reads, binds or deletes; `co_names` has attributes among them."""
    found = [step.argval for step in dis.get_instructions(code) if step.opname.endswith("_GLOBAL")]
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
