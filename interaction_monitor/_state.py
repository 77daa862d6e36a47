"""Looking at a model without leaving a trace: modes, buffers and random states are put back, whatever happens."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def preserved_rng(seed: int | None = None) -> Iterator[None]:
    """Restore the random states of torch (CPU and CUDA), numpy and Python on leaving, also after an exception.

    Args:
        seed: if given, the CPU generators start from it inside the block, so that what is drawn there does
            not depend on what was drawn before.
    """
    cpu_state = torch.get_rng_state()
    # Asking a CUDA that nobody uses yet for its state would initialise it.
    cuda_states = torch.cuda.get_rng_state_all() if _cuda_in_use() else None
    numpy_state = np.random.get_state()  # noqa: NPY002  # the user's global state
    python_state = random.getstate()
    try:
        if seed is not None:
            # Not torch.manual_seed: it also queues a seed for a CUDA that is not initialised yet.
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002  # what transforms draw from
            random.seed(seed)
        yield
    finally:
        torch.set_rng_state(cpu_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)
        np.random.set_state(numpy_state)  # noqa: NPY002  # the user's global state
        random.setstate(python_state)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put `model` into eval mode without gradients; on leaving, all is as it was, also after an exception.

    Restored are the `training` flag of every module, every buffer (some modules write to theirs even in eval
    mode), every attribute that is a number, a string or None (some count their calls) and the random states.
    """
    # Flags are set one by one because train() and eval() may be overridden, with effects that nothing could
    # undo.
    flags = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, _version(buffer), buffer.detach().clone())
        for module in model.modules()
        for name, buffer in _buffers(module).items()
    ]
    plain = [(vars(module), {k: v for k, v in vars(module).items() if _is_plain(v)}) for module in model.modules()]
    with preserved_rng(), torch.no_grad():
        try:
            for module, _ in flags:
                module.training = False
            yield
        finally:
            for module, flag in flags:
                module.training = flag
            for module, name, buffer, version, before in buffers:
                if _version(buffer) != version or version is None:
                    buffer.copy_(before)
                if _buffers(module).get(name) is not buffer:
                    module._buffers[name] = buffer
            for attributes, earlier in plain:
                attributes.update({k: v for k, v in earlier.items() if attributes.get(k) is not v})


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    # A scripted module's `_buffers` is no dict.
    return dict(module.named_buffers(recurse=False, remove_duplicate=False))


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, complex, str))


def _cuda_in_use() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]  # torch leaves it untyped


def _version(tensor: Tensor) -> int | None:
    # Inference tensors keep no count of in-place changes.
    return None if tensor.is_inference() else tensor._version
