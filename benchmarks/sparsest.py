"""The sparsest AND-OR extraction against HiGHS and against the papers' procedure, and how canonical its answer is.

Run it as ``python -m benchmarks sparsest``. The tables of docs/extraction.md come from here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from benchmarks.outputs import digits_outputs
from interaction_monitor.functional import (
    SparsestAndOr,
    and_interactions,
    or_interactions,
    orders,
    saliency_threshold,
    sparsest_and_or,
)
from interaction_monitor.functional._solver.splitting import Splitting

NOISE = 0.02
DENSE_UNITS = 8.0  # of 50 samples with 10 players, when the splitting had a dense inverse; 7 to 9 were measured
TIE_BREAK = 0.01


def dense_atoms(n: int) -> tuple[Tensor, Tensor]:
    """The matrix of all atoms over T ≠ ∅, (2^n - 1, atoms), and the weight of each atom."""
    index = torch.arange(2**n)
    met = index[1:, None] & index
    order = orders(n)
    atoms = torch.cat(((met == index)[:, 1:], (met != 0)[:, order >= 2]), 1).double()
    return atoms, 1 + TIE_BREAK * (torch.cat((order[1:], order[order >= 2])).double() - 1)


def highs(v: Tensor) -> float:
    """The optimum, by SciPy's HiGHS."""
    atoms, weights = (x.numpy() for x in dense_atoms(v.shape[-1].bit_length() - 1))
    u = (v - v[0])[1:].numpy()
    zeta = NOISE * abs(u[-1])
    bounds = [(0, None)] * (2 * len(weights)) + [(-zeta, zeta)] * len(u)
    costs = np.concatenate((weights, weights, np.zeros(len(u))))
    matrix = np.hstack((atoms, -atoms, np.eye(len(u))))
    return float(linprog(costs, A_eq=matrix, b_eq=u, bounds=bounds, method="highs").fun)


def papers(v: Tensor, steps: int = 20_000, rate: float = 1e-4) -> float:
    """The papers' procedure: momentum SGD on γ and δ with dense matrices, in units of mean |u|.

    The weighted objective, for a fair comparison; its order-one OR atoms count as AND, which is what they are. The
    rate is per 2^n; of 1e-5 to 0.1 those from 1e-3 up never get below the start.
    """
    n = v.shape[-1].bit_length() - 1
    u = v - v[0]
    scale = u.abs().mean()
    u = u / scale
    zeta = NOISE * u[-1].abs()
    identity = torch.eye(2**n, dtype=torch.float64)
    to_and, to_or = and_interactions(identity).T.contiguous(), or_interactions(identity).T.contiguous()
    order = orders(n).double()
    weights = (1 + TIE_BREAK * (order - 1)).where(order >= 1, 0.0)
    gamma, delta = torch.zeros_like(u), torch.zeros_like(u)
    speed_gamma, speed_delta = torch.zeros_like(u), torch.zeros_like(u)
    best = float("inf")
    for step in range(steps):
        and_, or_ = to_and @ ((u - delta) / 2 + gamma), to_or @ ((u - delta) / 2 - gamma)
        single = order == 1
        cost = (weights * (and_ + or_.where(single, 0.0)).abs()).sum() + (weights * or_.where(~single, 0.0).abs()).sum()
        best = min(best, float(cost))
        pull_and, pull_or = to_and.T @ (weights * and_.sign()), to_or.T @ (weights * or_.sign())
        step_size = rate * 0.1 ** (step / steps) / 2**n
        speed_gamma = 0.9 * speed_gamma + pull_and - pull_or
        speed_delta = 0.9 * speed_delta - (pull_and + pull_or) / 2
        gamma = gamma - step_size * speed_gamma
        delta = (delta - step_size * speed_delta).clamp(-zeta, zeta)
        delta[0] = 0
    return best * float(scale)


def timed(run: Callable[[], object], repeats: int = 1) -> tuple[float, object]:
    """Seconds of the fastest run, and what it gave."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def agreement(v: Tensor, one: SparsestAndOr, other: SparsestAndOr) -> str:
    """Share of common salient interactions, and both mean orders."""
    tau = saliency_threshold(v)
    order = orders(v.shape[-1].bit_length() - 1)[1:]
    both = [torch.stack((r.and_, r.or_), -2)[..., 1:].abs() for r in (one, other)]
    salient = [x >= tau for x in both]
    shared = float((salient[0] & salient[1]).sum() / (salient[0] | salient[1]).sum())
    means = [float((x * s * order).sum() / (x * s).sum()) for x, s in zip(both, salient, strict=True)]
    return f"{shared:7.1%} {means[0]:10.3f} {means[1]:8.3f}"


def unit() -> float:
    """Processor seconds of 100 products of (50, 1024) and (1024, 1024): what a machine makes of an older way."""
    left, right = torch.rand(50, 1024, dtype=torch.float64), torch.rand(1024, 1024, dtype=torch.float64)
    return processor_seconds(lambda: [left @ right for _ in range(100)], repeats=3)[0]


def processor_seconds(run: Callable[[], object], repeats: int = 1) -> tuple[float, object]:
    """Processor seconds of the fastest run, which a busy machine leaves alone, and what it gave."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = run()
        seconds.append(time.process_time() - start)
    return min(seconds), result


def counted(run: Callable[[], object]) -> tuple[int, int]:
    """Iterations of the splitting, summed over samples, and the least bytes that they move."""
    iterations = moved = 0
    advance = Splitting.advance

    def counting(solver: Splitting, count: int = 50) -> None:
        nonlocal iterations, moved
        samples = solver.problem.u.shape[1] * len(solver.problem.u)
        iterations += count * samples
        # coefficients and noise terms are read and written, outputs read
        moved += count * samples * 7 * solver.problem.u.shape[-1] * solver.dtype.itemsize
        advance(solver, count)

    with mock.patch.object(Splitting, "advance", counting):
        run()
    return iterations, moved


def copy_speed() -> float:
    """Bytes per second, read and written, of a copy."""
    source = torch.rand(2**21)
    target = torch.empty_like(source)
    seconds, _ = processor_seconds(lambda: target.copy_(source), repeats=20)
    return 2 * source.numel() * 4 / seconds


def cost_table(each: float, speed: float) -> None:
    """Print what the extraction costs by players and samples, in units and beside the speed of a copy."""
    print(f"{torch.get_num_threads()} threads; a unit is {each:.3f} s, a copy moves {speed / 1e9:.1f} GB/s")
    print(f"{'outputs':34} {'samples':>7} {'s':>7} {'units':>7} {'iterations':>10} {'limit':>7} {'worst gap':>9}")
    for n, samples in ((10, 50), (12, 10), (14, 2), (16, 1)):
        for epoch, v in digits_outputs((0, 20), n_samples=samples, n_players=n).items():
            sparsest_and_or(v[:1], tol=0.9)  # what is made once per n
            for part in (v, v[:1]) if samples > 1 else (v,):
                seconds, result = processor_seconds(lambda part=part: sparsest_and_or(part), 3 if n <= 12 else 1)
                assert isinstance(result, SparsestAndOr)
                iterations, moved = counted(lambda part=part: sparsest_and_or(part))
                name = f"n = {n}, after {epoch} epochs"
                print(
                    f"{name:34} {len(part):7} {seconds:7.2f} {seconds / each:7.2f} {iterations / len(part):10.0f} "
                    f"{moved / speed / each:7.3f} {result.gap.max():9.2%}",
                    flush=True,
                )


def main() -> None:
    each, speed = unit(), copy_speed()
    cost_table(each, speed)
    measured = digits_outputs((0, 20, 60, 100))
    v = measured[60]
    sparsest_and_or(v[:1], tol=0.5)  # the blocks are made once per n, on the first call
    few = v[:3]
    optimum = torch.tensor([timed(lambda sample=sample: highs(sample))[1] for sample in few])

    print(f"\nn = 10, digits after 60 epochs, {torch.get_num_threads()} threads")
    print(f"{'method':34} {'samples':>7} {'s / sample':>10} {'above optimum':>13} {'mean gap':>9} {'worst gap':>9}")
    for tol, samples, repeats in ((1e-2, v, 5), (1e-4, v[:10], 1), (1e-6, few, 1)):
        seconds, result = timed(lambda x=samples, t=tol: sparsest_and_or(x, tol=t), repeats)
        assert isinstance(result, SparsestAndOr)
        above = float((result.objective[:3] / optimum - 1).mean())
        name, gap = f"sparsest_and_or, tol={tol:g}", result.gap
        share = seconds / len(samples)
        print(f"{name:34} {len(samples):7} {share:10.4f} {above:13.3%} {gap.mean():9.1e} {gap.max():9.1e}", flush=True)
    for name, share in (
        ("before, with a dense inverse", DENSE_UNITS * each / 50),
        ("limit: its memory, copied", counted(lambda: sparsest_and_or(v))[1] / speed / len(v)),
    ):
        print(f"{name:34} {len(v):7} {share:10.4f}", flush=True)
    seconds, _ = timed(lambda: highs(few[0]))
    print(f"{'SciPy HiGHS':34} {1:7} {seconds:10.4f} {0:13.3%}", flush=True)
    for rate in (1e-4, 3e-5, 1e-5):
        seconds, best = timed(lambda rate=rate: papers(few[0], rate=rate))
        assert isinstance(best, float)
        name = f"papers, 20,000 steps, rate {rate:g}"
        print(f"{name:34} {1:7} {seconds:10.4f} {best / float(optimum[0]) - 1:13.3%}", flush=True)

    print("\nhow far the default answer agrees with another (salient interactions in common, mean orders)")
    for epoch, v in measured.items():
        default = sparsest_and_or(v)
        change = torch.randn(v.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        moved = sparsest_and_or(v + 1e-6 * (v - v[:, :1]).abs().mean() * change)
        alone = sparsest_and_or(v[:5].flip(0))
        first = SparsestAndOr(*(x[:5].flip(0) for x in vars(default).values()))
        exact = sparsest_and_or(v[:5], tol=1e-4)
        print(f"epoch {epoch:3}, outputs changed by 1e-6    {agreement(v, default, moved)}")
        print(f"epoch {epoch:3}, 5 samples, reversed order  {agreement(v[:5], first, alone)}")
        print(f"epoch {epoch:3}, 5 samples, tol=1e-4        {agreement(v[:5], first, _flip(exact))}", flush=True)


def _flip(result: SparsestAndOr) -> SparsestAndOr:
    return SparsestAndOr(*(x.flip(0) for x in vars(result).values()))


if __name__ == "__main__":
    main()
