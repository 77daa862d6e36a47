"""Networks from checkpoints, by a function of the user's that a command names."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interaction_monitor.cli.records import CommandError

if TYPE_CHECKING:
    from interaction_monitor.comparison import Network


def networks_of(factory: str, checkpoints: Sequence[Path]) -> list[Network]:
    """Make the networks of checkpoints.

    Args:
        factory: `module:function`; the module is looked for in the working directory too.
        checkpoints: the paths that the function is given, one after the other.

    Returns:
        The networks, named after their checkpoints where the function gives them no name.

    Raises:
        CommandError: if a checkpoint does not exist, the function cannot be found, it fails, or it returns
            something else.
    """
    from interaction_monitor.comparison import Network

    for path in checkpoints:
        if not path.exists():
            raise CommandError(f"there is no checkpoint {path}")
    make = _find(factory)
    made = []
    for path in checkpoints:
        try:
            network = make(path)
        except (Exception, SystemExit) as error:  # scripts exit where a library would raise
            raise CommandError(f"{factory} failed on {path}: {type(error).__name__}: {error}") from error
        if not isinstance(network, Network):
            raise CommandError(
                f"{factory} returned {type(network).__name__} for {path}; let it return "
                "interaction_monitor.comparison.Network(module, probe, players)"
            )
        made.append(network)
    names = [network.name or path.stem for network, path in zip(made, checkpoints, strict=True)]
    if len(set(names)) < len(names):  # last.ckpt of two runs
        names = [network.name or str(path) for network, path in zip(made, checkpoints, strict=True)]
    return [_named(network, name) for network, name in zip(made, names, strict=True)]


def _find(factory: str) -> Callable[[Path], Any]:
    name, _, function = factory.partition(":")
    if not name or not function:
        raise CommandError(f"--factory must be MODULE:FUNCTION, such as my_package.networks:load, but is {factory}")
    if name.endswith(".py"):
        module = ".".join(Path(name).with_suffix("").parts).strip("./")
        raise CommandError(f"--factory takes a module, not a file: {module}:{function} instead of {factory}; drop .py")
    # As for python -m: modules beside which the command is called are found.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(import_module(name), function)
    except (ImportError, AttributeError) as error:
        raise CommandError(f"--factory {factory} cannot be found from {Path.cwd()}: {error}") from error
    except (Exception, SystemExit) as error:
        raise CommandError(f"the module of --factory {factory} failed: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise CommandError(f"--factory {factory} is no function, but {type(found).__name__}")
    make: Callable[[Path], Any] = found
    return make


def _named(network: Network, name: str) -> Network:
    from dataclasses import replace

    return replace(network, name=name)
