"""Running somebody else's model in a higher precision than its own, without a copy of it."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# A higher precision, and those that it is higher than.
LOWER = {
    torch.float32: (torch.bfloat16, torch.float16),
    torch.float64: (torch.bfloat16, torch.float16, torch.float32),
}


@contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[set[torch.dtype]]:
    """Run every operation inside the block in a higher precision than its tensors have.

    Weights and inputs are converted where they are used, one after the other, so that neither the model changes nor
    memory is needed for a second one. Casts to a lower precision, by an autocast or the model's own code, do nothing.

    Args:
        dtype: float32, or float64.

    Yields:
        The precisions that were raised to it so far.

    Example:
        >>> layer, x = nn.Linear(4, 2).bfloat16(), torch.rand(3, 4)
        >>> with torch.no_grad(), computing_in(torch.float64):
        ...     found = layer(x.bfloat16()).half()
        >>> found.dtype, layer.weight.dtype, torch.equal(found, layer.double()(x.double()))
        (torch.float64, torch.bfloat16, True)
    """
    # An autocast keeps the weights that it has converted: neither may it come with some nor leave some behind.
    torch.clear_autocast_cache()
    try:
        raising = _Raising(dtype, set())
        with _Calls(raising), _Operations(raising):
            yield raising.found
    finally:
        torch.clear_autocast_cache()


@dataclass(frozen=True)
class _Raising:
    """The conversion of tensors and of the names of precisions to a higher one."""

    to: torch.dtype
    found: set[torch.dtype]

    def lower(self, dtype: object) -> bool:
        """Tell whether this is a lower precision, and remember that it was met."""
        if dtype not in LOWER[self.to]:
            return False
        self.found.add(dtype)
        return True

    def tree(self, tree: Any) -> Any:
        """Convert the tensors in a tree."""
        return tree_map(self._tensor, tree)

    def _tensor(self, x: Any) -> Any:
        # Tensors of other classes, such as quantised ones, know themselves what to do.
        return x.to(self.to) if type(x) in (Tensor, nn.Parameter) and self.lower(x.dtype) else x


class _Calls(TorchFunctionMode):
    """Converts what functions are called with, as some refuse tensors of several precisions before they run."""

    def __init__(self, raising: _Raising) -> None:
        super().__init__()
        self.raising = raising

    def __torch_function__(self, func: Any, types_: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == torch.Tensor.dtype.__get__:  # type: ignore[attr-defined]  # a property written in C
            found = func(*args)
            return self.raising.to if found in LOWER[self.raising.to] else found
        # Not methods, most of which write to their tensor or only look at it.
        function = isinstance(func, (types.FunctionType, types.BuiltinFunctionType))
        if function and not func.__name__.endswith("_") and "out" not in kwargs:
            args, kwargs = self.raising.tree((args, kwargs))
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    """Converts what operations are run on."""

    def __init__(self, raising: _Raising) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.raising = raising

    def __torch_dispatch__(self, func: Any, types_: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if self.raising.lower(kwargs.get("dtype")):
            kwargs["dtype"] = self.raising.to
        # Takes rows out as they are, so that a large table need not be converted for a few of them.
        if func is torch.ops.aten.embedding.default:
            return func(*args, **kwargs)
        made = not any(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs)))
        # What is written to must stay the tensor that it is.
        written = {x.name for x in func._schema.arguments if x.alias_info is not None and x.alias_info.is_write}
        names = [x.name for x in func._schema.arguments]
        args = [x if name in written else self.raising.tree(x) for name, x in zip(names, args, strict=False)]
        kwargs = {name: x if name in written else self.raising.tree(x) for name, x in kwargs.items()}
        result = func(*args, **kwargs)
        return self.raising.tree(result) if made else result
