"""What a forward does while it runs: tensors that it writes to are copied before, other processes answered for.

A measurement gives each process other samples, and some forwards to one process alone. A forward that waits for the
others (an `all_reduce` of statistics, an `all_gather` of embeddings) would wait for ever. But were all processes to run
the same rows, each would know what the others say. So its collectives are answered on the spot as if they did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from operator import eq
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from interaction_monitor.distributed import is_split
from interaction_monitor.state.snapshots import Snapshot


class TensorSnapshot(Snapshot):
    """What a tensor is: its gradient, the memory that it looks at and, once they are copied, its numbers."""

    def __init__(self, name: str, tensor: Tensor) -> None:
        self.tensor = tensor
        self.grad = tensor.grad if tensor.is_leaf else None
        self.copy: Tensor | None = None
        self._view = tensor.detach()
        self._unseen = False  # whether it was written to past its count of changes

        def look() -> tuple[Any, ...]:
            grad = tensor.grad if tensor.is_leaf else None
            return version_of(tensor), _place_of(tensor), tensor.requires_grad, id(grad)

        super().__init__(name, look, self._put, eq)

    def save(self) -> None:
        """Copy its numbers, unless that was done."""
        if self.copy is None:
            with suppress(NotImplementedError, RuntimeError):  # some kinds of tensors cannot be copied
                self.copy = self._view.clone()

    def changed(self, *, closely: bool = False) -> bool:
        """Tell whether it was written to, moved, or given another gradient."""
        if closely and (version_of(self.tensor), _place_of(self.tensor)) == self.held[:2]:
            self._unseen = self._has_other_numbers()
        return super().changed() or self._written()

    def _written(self) -> bool:
        return version_of(self.tensor) != self.held[0] or (self._unseen and self._has_other_numbers())

    def _has_other_numbers(self) -> bool:
        if self.copy is None:
            return False
        now, before = self.tensor.detach(), self.copy
        try:
            # A NaN does not equal itself.
            return not (torch.equal(now, before) or ((now == before) | ((now != now) & (before != before))).all())
        except (NotImplementedError, RuntimeError):
            return False

    def _put(self, held: tuple[Any, ...]) -> None:
        tensor, (version, place, flag, grad) = self.tensor, held
        if tensor.is_leaf and tensor.requires_grad != flag:
            tensor.requires_grad_(flag)
        if tensor.is_leaf and id(tensor.grad) != grad:
            tensor.grad = self.grad
        if _place_of(tensor) != place:
            tensor.data = self._view
        if not self._written():
            return
        if self.copy is None:
            raise RuntimeError("it was written to before there was a copy")
        # What has no storage, such as a sparse tensor, shares no memory with a view.
        with torch.inference_mode(tensor.is_inference()), torch.no_grad():
            (tensor if place is None else self._view).copy_(self.copy)
        if version is not None:
            # A graph of the user's that goes through the tensor counts on it.
            with suppress(AttributeError, TypeError, RuntimeError):  # private to torch, and spelt otherwise before
                torch._C._autograd._unsafe_set_version_counter((tensor,), (version,))


def version_of(tensor: Tensor) -> int | None:
    """Return how often a tensor was changed in place; inference tensors keep no count."""
    return None if tensor.is_inference() else tensor._version


def _storage_of(tensor: Tensor) -> int | None:
    """Return a name for the memory that a tensor looks at; None where it is of a kind that has none."""
    if tensor.layout != torch.strided:
        return None
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None


def _place_of(tensor: Tensor) -> tuple[Any, ...] | None:
    storage = _storage_of(tensor)
    if storage is None:
        return None
    return storage, tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype


_COLLECTIVES = ("c10d", "_c10d_functional", "_c10d_functional_autograd")


class Watched(TorchDispatchMode):
    """Copies the tensors of snapshots just before they are written to, and answers collectives.

    That needs no memory for what is only read, such as nearly all weights.

    Attributes:
        collectives: whether there were any.
    """

    def __init__(self, snapshots: Iterable[Snapshot] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.collectives = False
        self._uncopied: dict[int | None, list[TensorSnapshot]] = {}
        for snapshot in snapshots:
            if isinstance(snapshot, TensorSnapshot) and snapshot.copy is None:
                self._uncopied.setdefault(_storage_of(snapshot.tensor), []).append(snapshot)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, after a look at what it writes to, or answer it."""
        kwargs, collective = kwargs or {}, getattr(func, "namespace", None) in _COLLECTIVES
        if not collective and not (self._uncopied and func._schema.is_mutable):
            return func(*args, **kwargs)
        arguments = func._schema.arguments
        given = {argument.name: value for argument, value in zip(arguments, args, strict=False)} | kwargs
        if collective:
            self.collectives = True
            self._save(given)
            return _answer(func, given)
        self._save([given.get(argument.name) for argument in arguments if argument.is_write])
        return func(*args, **kwargs)

    def _save(self, tree: Any) -> None:
        for leaf in tree_leaves(tree):
            if isinstance(leaf, Tensor):
                for snapshot in self._uncopied.pop(_storage_of(leaf), ()):
                    snapshot.save()


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Let transformers run layer by layer inside the block: under autocast their fused kernel cannot be watched."""
    before = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def answered(model: nn.Module | None = None) -> AbstractContextManager[Any]:
    """Answer collectives inside the block, where there are other processes, who do not run it or run other rows.

    All processes run a model in parts together: its parts come from the others.
    """
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return Watched() if several and (model is None or not is_split(model)) else nullcontext()


def _answer(func: Any, given: dict[str, Any]) -> Any:
    """Return what a collective would return if all processes called it with the same arguments, given by name."""
    name = func._schema.name.split("::")[1]
    if func.namespace != "c10d":
        return _functional(name, given)
    _in_place(name, given)
    results = [_like(returned, given) for returned in func._schema.returns]
    return results[0] if len(results) == 1 else tuple(results)


def _in_place(name: str, given: dict[str, Any]) -> None:
    """Write what a collective of c10d writes."""
    size, rank = _size_and_rank(given.get("process_group"))
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
    if "Work" in str(returned.type):
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
