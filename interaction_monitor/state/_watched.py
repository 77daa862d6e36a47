"""Watching one forward: which tensors it is about to write to, which processes and sockets it talks to.

Collectives are answered on the spot, as if every process ran the same rows. A measurement gives each process other
samples, and some forwards to one process alone. A forward that waits for the others (an `all_reduce` of statistics, an
`all_gather` of embeddings) would wait for ever. But were all processes to run the same rows, each would know what the
others say.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from interaction_monitor.distributed import is_split
from interaction_monitor.state._numbers import TensorPart, storage_of
from interaction_monitor.state._parts import Opaque, Part


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


_NAMESPACES = ("c10d", "_c10d_functional", "_c10d_functional_autograd")


def is_collective(func: Any) -> bool:
    """Tell whether an operation talks to other processes."""
    return getattr(func, "namespace", None) in _NAMESPACES


class Answered(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Answers collectives inside the block without talking to any process."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, or answer it."""
        return answer(func, args, kwargs or {}) if is_collective(func) else func(*args, **(kwargs or {}))


def answered(model: nn.Module | None = None) -> AbstractContextManager[Any]:
    """Answer collectives inside the block, where there are other processes, who do not run it or run other rows.

    All processes run a model in parts together: its parts come from the others.
    """
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    apart = several and (model is None or not is_split(model))
    return Answered() if apart else nullcontext()  # type: ignore[no-untyped-call]  # torch leaves it untyped


def answer(func: Any, args: Any, kwargs: Any) -> Any:
    """Return what a collective would return if all processes called it with the same.

    Raises:
        NotImplementedError: for what has no such answer, as sending to one process and receiving from another.
    """
    given = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | kwargs
    name = func._schema.name.split("::")[1]
    if func.namespace != "c10d":
        return _functional(name, given)
    _in_place(name, given)
    results = [_like(returned, given) for returned in func._schema.returns]
    return results[0] if len(results) == 1 else tuple(results)


def _in_place(name: str, given: dict[str, Any]) -> None:
    """Write what a collective of c10d writes."""
    group = given.get("process_group")
    size, rank = _size_and_rank(group)
    if name in ("allreduce_", "allreduce_coalesced_", "reduce_"):
        for tensor in given["tensors"]:
            _reduce(tensor, given["reduce_op"], size)
    elif name in ("allgather_", "gather_"):
        for outputs, mine in zip(given["output_tensors"], given["input_tensors"], strict=False):
            for output in outputs:
                output.copy_(mine)
    elif name == "_allgather_base_":
        _repeat_into(given["output_tensor"], given["input_tensor"], size)
    elif name == "allgather_into_tensor_coalesced_":
        for output, mine in zip(given["outputs"], given["inputs"], strict=True):
            _repeat_into(output, mine, size)
    elif name == "reduce_scatter_":
        for output, inputs in zip(given["output_tensors"], given["input_tensors"], strict=True):
            _reduce(output.copy_(inputs[rank]), given["reduce_op"], size)
    elif name == "_reduce_scatter_base_":
        mine = given["input_tensor"].chunk(size)[rank]
        _reduce(given["output_tensor"].copy_(mine.reshape(given["output_tensor"].shape)), given["reduce_op"], size)
    elif name == "scatter_":
        for output, inputs in zip(given["output_tensors"], given["input_tensors"] or [], strict=False):
            output.copy_(inputs[rank])
    elif name == "alltoall_":
        for output in given["output_tensors"]:
            output.copy_(given["input_tensors"][rank])
    elif name == "alltoall_base_" and not given["output_split_sizes"] and not given["input_split_sizes"]:
        _repeat_into(given["output"], given["input"].chunk(size)[rank], size)
    elif name not in ("broadcast_", "barrier", "monitored_barrier_"):
        raise _unanswerable(name)


def _functional(name: str, given: dict[str, Any]) -> Any:
    """Return what a functional collective returns."""
    plain = name.removesuffix("_").removesuffix("_coalesced")
    if plain in ("wait_tensor", "_wrap_tensor_autograd"):
        return next(iter(given.values()))
    if "group_name" not in given:
        raise _unanswerable(name)
    size, rank = _size_and_rank(given["group_name"])

    def one(x: Tensor) -> Tensor:
        if plain == "broadcast":
            return x.clone()
        if plain == "all_reduce":
            return _reduce(x.clone(), given["reduce_op"], size)
        if plain == "all_gather_into_tensor":
            return torch.cat([x] * size)
        if plain == "reduce_scatter_tensor":
            return _reduce(x.chunk(size)[rank].clone(), given["reduce_op"], size)
        raise _unanswerable(name)

    x = given["inputs"] if "inputs" in given else given["input"]
    found = [one(part) for part in x] if isinstance(x, (list, tuple)) else one(x)
    if not name.endswith("_"):
        return found
    for old, new in zip(x, found, strict=True) if isinstance(x, (list, tuple)) else [(x, found)]:
        old.copy_(new)
    return x


def _size_and_rank(group: Any) -> tuple[int, int]:
    if group is None:
        return dist.get_world_size(), dist.get_rank()
    if isinstance(group, str):
        group = torch._C._distributed_c10d._resolve_process_group(group)  # type: ignore[arg-type]  # a str
    elif isinstance(group, torch.ScriptObject):
        group = dist.ProcessGroup.unbox(group)
    return group.size(), group.rank()


def _reduce(x: Tensor, operation: Any, size: int) -> Tensor:
    """Reduce over processes that all have x, in place."""
    if isinstance(operation, str):
        name = operation.lower()
    else:
        kind = operation.op() if callable(getattr(operation, "op", None)) else operation.op
        name = dist.ReduceOp.RedOpType(int(kind)).name.lower()
    if name == "sum":
        x.mul_(size)
    elif name == "product":
        x.pow_(size)
    elif name == "bxor" and size % 2 == 0:
        x.zero_()
    elif name not in ("avg", "min", "max", "band", "bor", "bxor"):
        raise _unanswerable(f"reduction by {name}")
    return x


def _repeat_into(output: Tensor, x: Tensor, size: int) -> None:
    output.copy_(torch.cat([x.reshape(-1)] * size).reshape(output.shape))


def _like(returned: Any, given: dict[str, Any]) -> Any:
    """Return what is asked for: the tensors that were written, or a handle for work that is done."""
    kind = str(returned.type)
    if "Work" in kind:
        return torch._C._distributed_c10d.FakeWork().boxed()
    for name in ("output_tensors", "outputs", "output_tensor", "output", "tensors", "tensor", "input_tensors"):
        if name in given and given[name] is not None:
            return given[name]
    return None


def _unanswerable(name: str) -> NotImplementedError:
    return NotImplementedError(
        f"the forward of the network talks to other processes by {name}, which a measurement cannot answer alone; "
        "give forward_func=, which leaves that out"
    )
