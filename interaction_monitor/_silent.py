"""Dropping what a module logs and prints while it is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

_METHODS = ("log", "log_dict", "print")


@contextmanager
def silent(model: nn.Module) -> Iterator[None]:
    """Let the Lightning modules in `model` log and print nothing inside the block, by their methods or their loggers.

    A value that a masked forward logs would join those of the training batches; and where the hook that runs allows no
    logging on steps, the forward would fail.
    """
    # By name, because `lightning.pytorch` and `pytorch_lightning` have each its own of every class.
    modules = [m for m in model.modules() if any(base.__name__ == "LightningModule" for base in type(m).__mro__)]
    before = [(module, {name: vars(module)[name] for name in _METHODS if name in vars(module)}) for module in modules]
    trainers = {id(trainer): trainer for module in modules if (trainer := vars(module).get("_trainer")) is not None}
    loggers = [(trainer, trainer.loggers) for trainer in trainers.values() if hasattr(trainer, "loggers")]
    try:
        for module in modules:
            vars(module).update(dict.fromkeys(_METHODS, _nothing))
        for trainer, own in loggers:
            trainer.loggers = [_Nothing() for _ in own]
        yield
    finally:
        for trainer, own in loggers:
            trainer.loggers = own
        for module, methods in before:
            for name in _METHODS:
                vars(module).pop(name, None)
            vars(module).update(methods)


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """Take anything, and do nothing."""


class _Nothing:
    """In the place of a logger: every attribute of it takes every call, and so does what comes back."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing()

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        return _Nothing()

    def __getitem__(self, key: Any) -> Any:
        return _Nothing()
