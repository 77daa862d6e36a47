"""Running the layers before the masked one only once for all chunks of a sample.

A model's forward cannot be entered in the middle. But what each module before the masked layer returned for a sample
can be kept: in the next forward it is returned at once, and the module does not run. The model's own code between
these modules runs as always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map


@dataclass
class _Recorded:
    """What a module gave in one call."""

    module: nn.Module
    result: Any
    copy: Any
    versions: list[tuple[Tensor, int | None]]

    @classmethod
    def by(cls, module: nn.Module, result: Any) -> _Recorded:
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        return cls(module, result, tree_map(cloned, result), [(tensor, _version(tensor)) for tensor in tensors])

    def again(self) -> Any:
        """Return it as it was, also where the code that followed has changed it in place."""
        return self.result if self.unchanged else tree_map(cloned, self.copy)

    @property
    def unchanged(self) -> bool:
        """Whether nothing was written to it since."""
        return all(_version(tensor) == version is not None for tensor, version in self.versions)


@dataclass
class Prefix:
    """What the modules before a layer returned, and the layer itself.

    Attributes:
        model: the whole.
        layer: where the prefix ends.
        samples: for which samples the outputs are; none at first.
    """

    model: nn.Module
    layer: nn.Module
    samples: range = range(0)
    _recorded: list[_Recorded] = field(default_factory=list)

    @contextmanager
    def recorded(self, samples: range) -> Iterator[None]:
        """Keep what the modules give in the forward inside the block."""
        begun: list[int] = []
        done: list[_Recorded] = []
        ended = False

        def begin(_module: nn.Module, _args: Any) -> None:
            begun.append(len(done))

        def end(module: nn.Module, _args: Any, result: Any) -> None:
            nonlocal ended
            first = begun.pop()
            if ended:
                return
            # Where it is replayed, its parts do not run.
            done[first:] = [_Recorded.by(module, result)]
            ended = module is self.layer

        self.samples = range(0)
        handles: list[Any] = []
        # After the first time it is known which modules there are; asking all of a large model takes its time.
        watched = dict.fromkeys(record.module for record in self._recorded) or self.model.modules()
        try:
            for module in watched:
                # First, so that the user's own hooks change what is replayed as they changed it before.
                handles.append(module.register_forward_pre_hook(begin, prepend=True))
                handles.append(module.register_forward_hook(end, prepend=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
        self.samples, self._recorded = samples, done

    @contextmanager
    def replayed(self, repeat: int = 1) -> Iterator[None]:
        """Let the modules return what they returned before instead of running, in the forward inside the block.

        Args:
            repeat: how often each row of the outputs comes, except for those of the layer itself.
        """
        before = {record.module: record.module.__dict__.get("forward") for record in self._recorded}
        calls: dict[nn.Module, list[Any]] = {}
        for record in self._recorded:
            result = record.again()
            if repeat > 1:
                widen = _repeated_rest if record.module is self.layer else repeated
                result = widen(result, repeat, self.samples)
                if not record.unchanged:
                    # Nobody can write to a view that has all rows in one place.
                    result = tree_map(_own, result)
            calls.setdefault(record.module, []).append(result)
        try:
            for module, results in calls.items():
                # Past nn.Module's own __setattr__, which takes its time.
                module.__dict__["forward"] = _giving(results, module.forward)
            yield
        finally:
            for module, forward in before.items():
                module.__dict__.pop("forward", None)
                if forward is not None:
                    module.__dict__["forward"] = forward


def _giving(results: list[Any], forward: Callable[..., Any]) -> Callable[..., Any]:
    """Make a forward that returns the results in turn, and runs once there are none left."""
    waiting = iter(results)

    def give(*args: Any, **kwargs: Any) -> Any:
        for result in waiting:
            return result
        return forward(*args, **kwargs)

    return give


def repeated(result: Any, repeat: int, samples: range) -> Any:
    """Repeat the rows of tensors that have one for each of the samples; those of one sample as a view."""

    def widen(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.ndim == 0 or len(x) != len(samples):
            return x
        return x[:, None].expand(-1, repeat, *x.shape[1:]).flatten(0, 1)

    return tree_map(widen, result)


def _repeated_rest(result: Any, repeat: int, samples: range) -> Any:
    """Repeat all but the first part of what the masked layer gave: that one is masked."""
    if isinstance(result, Tensor):
        return result
    parts = [result[0], *(repeated(part, repeat, samples) for part in result[1:])]
    return type(result)(*parts) if hasattr(result, "_fields") else type(result)(parts)


def cloned(x: Any) -> Any:
    """Return a copy of a tensor, and anything else as it is."""
    return x.clone() if isinstance(x, Tensor) else x


def _own(x: Any) -> Any:
    return x.contiguous() if isinstance(x, Tensor) else x


def _version(tensor: Tensor) -> int | None:
    # Inference tensors keep no count of in-place changes.
    return None if tensor.is_inference() else tensor._version
