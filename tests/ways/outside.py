"""Forwards that change what is outside of their network: globals, classes, modules, settings of the process, caches."""

import functools
import os

import torch
from ways import run as module
from ways.networks import Layered, fit
from ways.run import way

TOTAL = 0
SEEN: list[int] = []


class Registry:
    """A class of the user's, which no module is of."""

    calls = 0

    def __init__(self):
        Registry.calls += 1


class Helper:
    """Counts in a global, in its class and in itself."""

    made = 0

    def __init__(self):
        self.own = 0

    def count(self):
        Helper.made += 1
        self.own += 1
        return bump() + Helper.made + self.own


def bump():
    global TOTAL
    TOTAL += 1
    SEEN.append(TOTAL)
    return TOTAL


def first_call():
    """Make a global."""
    global CREATED
    if "CREATED" not in globals():
        CREATED = torch.rand(1).item()
    return CREATED


@functools.lru_cache
def drawn_once(size):
    return torch.rand(size)


@way()
def a_global_that_a_function_counts_in(run):
    global TOTAL
    TOTAL = 0
    SEEN.clear()

    class Counting(Layered):
        def after(self, z):
            return z * (1 + bump() % 3)

    fit(run, Counting())
    return TOTAL, list(SEEN)


@way()
def a_helper_whose_class_counts(run):
    global TOTAL
    TOTAL = Helper.made = 0
    SEEN.clear()

    class Helped(Layered):
        def __init__(self):
            super().__init__()
            self.helper = Helper()

        def after(self, z):
            return z * (1 + self.helper.count() % 3)

    fit(run, Helped())
    return TOTAL, Helper.made, list(SEEN)


@way()
def a_class_that_the_forward_names(run):
    Registry.calls = 0
    vars(Registry).get("last") and delattr(Registry, "last")

    class Registered(Layered):
        def after(self, z):
            Registry()
            Registry.last = Registry.calls + getattr(Registry, "last", 0)
            return z * (1 + Registry.last % 3)

    fit(run, Registered())
    return Registry.calls, Registry.last


@way()
def a_global_of_another_module(run):
    module.STEP = 0

    class Elsewhere(Layered):
        def after(self, z):
            module.STEP += 1
            return z * (1 + module.STEP % 3)

    fit(run, Elsewhere())
    return module.STEP


@way()
def a_global_that_the_forward_makes(run):
    globals().pop("CREATED", None)

    class Making(Layered):
        def after(self, z):
            return z * (1 + first_call())

    fit(run, Making(), num_sanity_val_steps=0)
    return CREATED


@way()
def the_environment(run):
    os.environ["CALLS_OF_FORWARD"] = "0"
    os.environ.pop("CALLED", None)

    class Exporting(Layered):
        def after(self, z):
            os.environ["CALLS_OF_FORWARD"] = str(int(os.environ["CALLS_OF_FORWARD"]) + 1)
            os.environ["CALLED"] = "yes"
            return z * (1 + int(os.environ["CALLS_OF_FORWARD"]) % 3)

    fit(run, Exporting())
    return os.environ.pop("CALLS_OF_FORWARD"), os.environ.pop("CALLED")


@way()
def the_default_dtype(run):
    class Setting(Layered):
        def forward(self, x):
            drawn = torch.rand(2)  # of the default dtype, which decides how much is drawn
            torch.set_default_dtype(torch.float64)
            return self.layers(x.float()) * (1 + drawn.float())

    try:
        fit(run, Setting(), num_sanity_val_steps=0)
        return str(torch.get_default_dtype())
    finally:
        torch.set_default_dtype(torch.float32)


@way()
def a_cache_of_what_was_drawn(run):
    drawn_once.cache_clear()

    class Projected(Layered):
        def after(self, z):
            return z * (1 + drawn_once(z.shape[1]))

    fit(run, Projected(), num_sanity_val_steps=0)
    return drawn_once(2)


@way()
def a_cache_of_a_method(run):
    class Cached(Layered):
        @functools.lru_cache  # noqa: B019  # the network is kept no longer than the test
        def scale(self, size):
            return torch.rand(size)

        def after(self, z):
            return z * self.scale(z.shape[1])

    fit(run, Cached(), num_sanity_val_steps=0)
