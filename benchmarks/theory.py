"""The closed form by the Kronecker route against a dense solve: time, memory, agreement."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from torch import Tensor

from interaction_monitor.functional import orders
from interaction_monitor.theory import predict

SIGMA2 = 0.01


def dense(w_star: Tensor, sigma2: float) -> Tensor:
    """Theorem 3 with a 2^n x 2^n matrix, made and solved in the cheapest ways there are."""
    size = len(w_star)
    gram = torch.ones(1, 1, dtype=torch.float64)  # JᵀJ, entry 2^{n-|T ∪ T'|}
    while len(gram) < size:
        gram = torch.kron(torch.tensor([[2.0, 1.0], [1.0, 1.0]], dtype=torch.float64), gram)
    right = gram @ w_star
    gram.diagonal().add_(size * sigma2 * 2.0 ** orders(size.bit_length() - 1).double())
    return torch.cholesky_solve(right[:, None], torch.linalg.cholesky(gram))[:, 0]


def kronecker(w_star: Tensor, sigma2: float) -> Tensor:
    return predict(w_star, sigma2)


ROUTES = {"dense": dense, "kronecker": kronecker}


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def measure(route: str, n: int) -> tuple[float, float, Tensor]:
    """Solve once to warm up, then time; memory is what the solve adds to the process."""
    w_star = torch.randn(2**n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    ROUTES[route](w_star[:16], SIGMA2)
    before = peak_mib()
    start = time.perf_counter()
    result = ROUTES[route](w_star, SIGMA2)
    seconds = time.perf_counter() - start
    repeats = max(1, min(20, int(0.2 / seconds)))
    start = time.perf_counter()
    for _ in range(repeats - 1):
        ROUTES[route](w_star, SIGMA2)
    if repeats > 1:
        seconds = (time.perf_counter() - start) / (repeats - 1)
    return seconds, peak_mib() - before, result


def alone(route: str, n: int) -> tuple[float, float, Tensor]:
    """Measure in a process of its own, so that the memory of one size does not hide that of the next."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, route, n).result()


def main(arguments: Sequence[str] = ()) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks theory", description=__doc__)
    parser.add_argument("--players", type=int, nargs="+", default=[6, 7, 8, 9, 10, 11, 12, 13, 16, 20])
    parser.add_argument("--dense-limit", type=int, default=13, help="largest n for the dense solve; 14 needs 4 GiB")
    options = parser.parse_args(arguments)
    print(f"One sample, σ² = {SIGMA2}, {torch.get_num_threads()} threads; difference relative to the dense result")
    print(f"{'n':>3} {'dense s':>10} {'MiB':>7} {'kronecker s':>12} {'MiB':>7} {'ratio':>8} {'difference':>11}")
    for n in options.players:
        fast, fast_memory, result = alone("kronecker", n)
        if n > options.dense_limit:
            print(f"{n:3d} {'-':>10} {'-':>7} {fast:12.6f} {fast_memory:7.1f} {'-':>8} {'-':>11}")
            continue
        slow, slow_memory, expected = alone("dense", n)
        difference = float((result - expected).norm() / expected.norm())
        print(
            f"{n:3d} {slow:10.4f} {slow_memory:7.1f} {fast:12.6f} {fast_memory:7.1f} "
            f"{slow / fast:8.0f} {difference:11.1e}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
