"""Run the named benchmarks, or all: every module here that has a ``main``."""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module

import benchmarks


def main() -> None:
    names = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name[0] != "_")
    unknown = set(sys.argv[1:]) - set(names)
    if unknown:
        raise SystemExit(f"no benchmark named {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    for name in sys.argv[1:] or names:
        run = getattr(import_module(f"benchmarks.{name}"), "main", None)
        if run:
            print(f"\n== {name} ==", flush=True)
            run()


main()
