"""What a module reaches and holds, taken down once, to be compared with and put back later.

All that a forward can change is somewhere behind the module: its attributes, what containers and helper objects among
them hold, what hooks close over, attributes of its classes and globals that their functions name. Each such place
becomes a part, which knows what was there.
"""

from __future__ import annotations

import builtins
import enum
import functools
import io
import logging
import re
import socket
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
from interaction_monitor.state._numbers import GENERATORS, TensorPart, numbers_in
from interaction_monitor.state._parts import (
    ABSENT,
    Attributes,
    Cache,
    Mapping,
    Opaque,
    Part,
    Scripted,
    Sequence,
    Unordered,
    entry,
    globals_in,
    is_of_a_library,
    names_in,
    slot,
    slots_of,
    variable,
)

log = logging.getLogger(__name__)

# Beyond these a walk costs more than what is likely to be found.
MAX_PARTS = 100_000
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
_REGISTRIES = ("_parameters", "_buffers", "_modules")
_OF_THE_COMPILER = ("_compiled_call_impl", "_compiler_ctx", "_compile_kwargs")
_OF_TRANSFORMERS = frozenset(("Trainer", "TrainingArguments", "PreTrainedTokenizerBase", "ProcessorMixin"))


def parts_of(root: nn.Module) -> list[Part]:
    """Take down all that is reached from a module.

    Args:
        root: a network.

    Returns:
        The parts, each with its name as code would spell it, such as "encoder.hidden" or "history[0]".

    Examples:
        >>> net = nn.Linear(2, 2)
        >>> net.seen = [torch.zeros(2)]
        >>> parts = parts_of(net)
        >>> net.seen[0] += 1
        >>> [part.name for part in parts if part.changed()]
        ['seen[0]']
    """
    return _Walk().over(root)


class _Walk:
    def __init__(self) -> None:
        self.parts: list[Part] = []
        self._seen: dict[Any, Any] = {}  # the objects too, so that no other gets the place of one in memory
        self._waiting: deque[tuple[str, Any]] = deque()
        self._bytes = 0

    def over(self, root: nn.Module) -> list[Part]:
        self._is_split = is_split(root)
        self._push("", root)
        while self._waiting:
            if len(self.parts) > MAX_PARTS:
                log.info("the state of %s is followed only as far as %s", type(root).__name__, self._waiting[0][0])
                break
            name, value = self._waiting.popleft()
            self._take(name, value)
        return self.parts

    def _push(self, name: str, value: Any) -> None:
        if type(value) not in _ATOMS and id(value) not in self._seen:
            self._seen[id(value)] = value
            self._waiting.append((name, value))

    def _take(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self._take_tensor(name, value)
        elif isinstance(value, nn.Module):
            self._take_module(name, value)
        elif isinstance(value, dict):
            self.parts.append(Mapping(name, value))
            if len(value) <= MAX_ITEMS:
                for key, item in value.items():
                    self._push(f"{name}[{key!r}]", item)
            if type(value) not in _PLAIN:
                self._take_attributes(name, value)
        elif isinstance(value, (list, deque, tuple)):
            if not isinstance(value, tuple):
                self.parts.append(Sequence(name, value))
                if type(value) not in _PLAIN:
                    self._take_attributes(name, value)
            if len(value) <= MAX_ITEMS:
                for place, item in enumerate(value):
                    self._push(f"{name}[{place}]", item)
        elif isinstance(value, (set, bytearray)):
            self.parts.append(Unordered(name, value))
        elif isinstance(value, types.FunctionType):
            self._take_function(name, value)
        elif isinstance(value, types.MethodType):
            self._push(name, value.__func__)
            self._push(name, value.__self__)
        elif isinstance(value, functools.partial):
            for item in (value.func, value.args, value.keywords):
                self._push(name, item)
        elif isinstance(value, (weakref.ref, weakref.WeakMethod)):
            self._push(name, value())
        else:
            self._take_other(name, value)

    def _take_other(self, name: str, value: Any) -> None:
        if (part := numbers_in(name, value)) is not None:
            self.parts.append(part)
        elif isinstance(value, (io.IOBase, socket.socket, torch.ScriptObject, SynchronizedBase)):
            self.parts.append(Opaque(name, value))
        elif isinstance(value, (enum.Enum, type)) or _is_of_the_run(type(value)):  # type: ignore[arg-type]  # types can be hashed
            pass
        elif isinstance(value, functools._lru_cache_wrapper):
            self.parts.append(Cache(name, value))
            self._push(name, value.__wrapped__)
        elif self._take_attributes(name, value):
            self._take_class(type(value))
        else:
            self.parts.append(Opaque(name, value))

    def _take_tensor(self, name: str, tensor: Tensor) -> None:
        if torch.nn.parameter.is_lazy(tensor):
            return
        copied = not isinstance(tensor, nn.Parameter) and self._bytes + tensor.nbytes <= COPIED_BYTES
        part = TensorPart(name, tensor, copied=copied)
        self._bytes += tensor.nbytes if part.copied else 0
        self.parts.append(part)
        if part.grad is not None:
            self._seen[id(part.grad)] = part.grad
            self.parts.append(TensorPart(f"{name}.grad", part.grad, copied=False))

    def _take_module(self, name: str, module: nn.Module) -> None:
        inside = f"{name}." if name else ""
        if isinstance(module, torch.jit.ScriptModule):
            self._take_scripted(inside, module)
            return
        if type(module).__module__.startswith("torch._dynamo"):
            self._push(name, vars(module)["_modules"]["_orig_mod"])  # what is around it is the compiler's
            return
        self.parts.append(Mapping(name or type(module).__name__, vars(module)))
        for key, value in vars(module).items():
            if key in ("_parameters", "_original_parameters") and self._is_split:
                continue  # what is in there changes whenever the processes exchange their parts
            if key in _REGISTRIES:
                self._seen[id(value)] = value
                self.parts.append(Mapping(f"{inside}{key}", value))
                for own, item in value.items():
                    self._push(f"{inside}{own}", item)
            elif key not in _OF_THE_COMPILER:
                self._push(f"{inside}{key}", value)
        self._take_class(type(module))

    def _take_scripted(self, inside: str, module: torch.jit.ScriptModule) -> None:
        for key, child in module.named_children():
            self._push(f"{inside}{key}", child)
        for key in module._concrete_type.get_attributes():
            part = Scripted(f"{inside}{key}", module._c, key)
            self.parts.append(part)
            for leaf in tree_leaves(part.held):
                self._push(part.name, leaf)

    def _take_class(self, cls: type) -> None:
        for owner in cls.__mro__:
            if id(owner) in self._seen or is_of_a_library(owner.__module__):
                continue
            self._seen[id(owner)] = owner
            self.parts.append(Attributes(owner.__name__, owner))
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
                part = variable(key, cell)
                self.parts.append(part)
                self._push(key, part.held)
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._push(name, default)
        if function.__dict__:
            self._push(name, function.__dict__)
        if is_of_a_library(function.__module__):
            return
        space = function.__globals__
        for key in globals_in(function.__code__):
            self._take_global(key, space, key, function.__code__)

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
                self.parts.append(entry(name, space, key))
            self._push(name, value)

    def _take_attributes(self, name: str, value: Any) -> bool:
        """Take down the attributes of an object, and tell whether it can have any."""
        inside = f"{name}." if name else ""
        attributes, slots = getattr(value, "__dict__", None), list(slots_of(type(value)))
        if type(attributes) is dict:
            self.parts.append(Mapping(name, attributes))
            for key, item in attributes.items():
                self._push(f"{inside}{key}", item)
        for key, descriptor in slots:
            part = slot(f"{inside}{key}", descriptor, value)
            self.parts.append(part)
            self._push(part.name, part.held)
        return type(attributes) is dict or bool(slots)


def _is_data(value: Any) -> bool:
    """Tell whether a global or an attribute of a class is state, not code, nor an object of some library's."""
    if isinstance(value, (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)):
        return False
    kinds = (dict, list, deque, set, tuple, bytearray, Tensor, np.ndarray, *(kind for kind, _, _ in GENERATORS))
    return type(value) in _ATOMS or isinstance(value, kinds) or not is_of_a_library(type(value).__module__)


@functools.lru_cache(maxsize=4096)
def _is_of_the_run(cls: Any) -> bool:
    packages = {base.__module__.partition(".")[0] for base in cls.__mro__}
    names = {base.__name__ for base in cls.__mro__}
    own = cls.__module__.partition(".")[0] not in _OF_THE_RUN | {"transformers"}
    if own and names & {"Callback", "TrainerCallback"}:
        return False  # the hooks that it registers on modules may count in it
    return bool(packages & _OF_THE_RUN) or ("transformers" in packages and bool(names & _OF_TRANSFORMERS))
