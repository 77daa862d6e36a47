"""What a network's last step is: a sigmoid makes probabilities, which look like logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def ends_in_sigmoid(run: Callable[[], Tensor]) -> bool:
    """Tell whether the last step of a computation is a sigmoid.

    What only moves, casts, bounds or squeezes its result does not count as a step.

    Args:
        run: computes the tensor in question.

    Example:
        >>> x = torch.randn(3, 1)
        >>> ends_in_sigmoid(lambda: x.sigmoid().squeeze(1)), ends_in_sigmoid(lambda: x.sigmoid() * x)
        (True, False)
    """
    sigmoids = _Sigmoids()
    with sigmoids:
        result = run()
    return sigmoids.made(result)


class _Sigmoids(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Remembers which tensors are a sigmoid's result, or made of one such tensor alone."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._results: dict[int, Tensor] = {}  # they are kept alive, or another would get their number

    def made(self, tensor: Tensor) -> bool:
        return id(tensor) in self._results

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        follows = len(given) == 1 and self.made(given[0])
        if isinstance(result, Tensor) and (func is torch.ops.aten.sigmoid.default or follows):
            self._results[id(result)] = result
        return result
