"""What holds for all tests and examples: each begins from the same random numbers, whichever ran before it."""

import random

import numpy as np
import pytest
import torch


def seed() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # what the code under test may draw from
    torch.manual_seed(0)


def pytest_collectstart(collector):
    """Seed what a module draws while it is imported."""
    seed()


@pytest.fixture(autouse=True)
def same_random_numbers():
    seed()


@pytest.fixture(autouse=True)
def same_number_of_threads():
    """Give torch its threads back after a test that changes their number: others compute on as many as before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
