"""The masked forwards against the bare layers behind the mask, a whole measurement in parts, and what memory it takes.

Run it as ``python -m benchmarks forward``. The tables of docs/forward.md come from here. Ratios are medians over turns
in which both take part, once by the clock and once by the processor time. On one thread, and with memory that the C
library keeps, they say most:

    OMP_NUM_THREADS=1 MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=1073741824 python -m benchmarks forward
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._networks import Case, cases
from interaction_monitor import Probe, assign_players, masked_outputs
from interaction_monitor.forward.chunks import LiveBytes
from interaction_monitor.forward.model import call_model, changed_output, find_layer, logits_of
from interaction_monitor.functional import (
    mean_order,
    mean_order_interval,
    order_distribution,
    order_strength,
    saliency_threshold,
    sparsest_and_or,
)
from interaction_monitor.players import PlayerMap
from interaction_monitor.state import undisturbed

TURNS = 7
FEW = 64  # coalitions of a sample that are run the naive way


@dataclass(frozen=True)
class Turn:
    """What one run took."""

    clock: float
    processor: float


def taken(run: Callable[[], object]) -> Turn:
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return Turn(time.perf_counter() - clock, time.process_time() - processor)


def chunk_rows(case: Case, players: PlayerMap) -> int:
    """How many rows the engine takes at once."""
    seen: list[int] = []

    def watched(model: nn.Module, inputs: Any) -> Any:
        result = call_model(model, inputs)
        seen.append(len(logits_of(result, len(getattr(result, "logits", result)))))
        return result

    masked_outputs(case.model, case.probe, players, forward_func=watched)
    return max(seen)


def ready_rows(case: Case, players: PlayerMap, rows: int) -> Any:
    """Masked rows of the first sample as they arrive behind the mask."""
    # Of all sizes: where most cells are masked, pooling layers are faster.
    n_coalitions = 2**players.n_players
    coalitions = torch.randperm(n_coalitions, generator=torch.Generator().manual_seed(0)).repeat(
        -(-rows // n_coalitions)
    )[:rows]
    inputs = case.probe.inputs_of(0)
    if players.layer is not None:
        kept: list[Tensor] = []
        layer = find_layer(case.model, players.layer)
        with changed_output(layer, players.layer, lambda x: (kept.append(x), x)[1]):
            call_model(case.model, inputs)
        ready = players.mask(kept[0], 0, coalitions)
    else:
        ready = players.mask(case.probe.select([0]).entry(players.input_key)[1], 0, coalitions)
    return case.arriving(ready, inputs)


@torch.no_grad()
def against_the_bare_suffix() -> None:
    kept = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} <= os.environ.keys()
    memory = "memory kept by malloc" if kept else "memory given back by malloc"
    print(f"masked outputs per second, {torch.get_num_threads()} threads, {memory}, medians of {TURNS} turns")
    print(
        f"{'network':26} {'masked at':28} {'rows':>5} {'bare/s':>9} {'masked/s':>9} {'ratio':>6} {'by processor':>13}"
    )
    for case in cases():
        case.model.eval()
        players = assign_players(case.model, case.players, case.probe)
        n_rows = len(case.probe) << players.n_players
        rows = chunk_rows(case, players)
        ready = ready_rows(case, players, rows)

        def masked(case: Case = case, players: PlayerMap = players) -> None:
            masked_outputs(case.model, case.probe, players)

        def bare(case: Case = case, ready: Any = ready, times: int = n_rows // rows) -> None:
            for _ in range(times):
                case.suffix(ready)

        bare()
        turns = [(taken(masked), taken(bare)) for _ in range(TURNS)]
        clock = statistics.median(b.clock / m.clock for m, b in turns)
        processor = statistics.median(b.processor / m.processor for m, b in turns)
        bare_rate, rate = (n_rows / statistics.median(turn[i].clock for turn in turns) for i in (1, 0))
        where = players.layer or "the input"
        print(
            f"{case.name:26} {where:28} {rows:5} {bare_rate:9.0f} {rate:9.0f} {clock:6.2f} {processor:13.2f}",
            flush=True,
        )


@torch.no_grad()
def naive(model: nn.Module, probe: Probe, players: PlayerMap) -> None:
    """One full forward for each of a few coalitions, sample after sample, and the log-odds of each."""
    name = players.layer or ""
    for sample in range(len(probe)):
        for coalition in range(FEW):

            def mask(x: Tensor, sample: int = sample, coalition: int = coalition) -> Tensor:
                return players.mask(x, sample, torch.tensor([coalition]))

            with changed_output(find_layer(model, name), name, mask):
                z = call_model(model, probe.inputs_of(sample))[0].double()
            target = int(probe.targets[sample])
            float(z[target] - torch.cat((z[:target], z[target + 1 :])).logsumexp(0))


@torch.no_grad()
def putting_back() -> None:
    print("\nputting the network's state back, processor time in milliseconds, the least of 5")
    print(f"{'network':26} {'modules':>7} {'a forward':>10} {'once a measurement':>19} {'each forward after':>19}")
    for case in cases():
        model, inputs = case.model.eval(), case.probe.inputs_of(0)
        forward = partial(call_model, model, inputs)

        def kept(times: int, model: nn.Module = model, forward: Callable[[], object] = forward) -> None:
            with undisturbed(model) as state:
                for _ in range(times):
                    state.run(forward)

        bare, once, often = (
            min(taken(run).processor for _ in range(5)) for run in (forward, partial(kept, 1), partial(kept, 21))
        )
        each = (often - once) / 20
        print(
            f"{case.name:26} {len(list(model.modules())):7} {1e3 * bare:10.2f} {1e3 * (once - bare):19.2f} "
            f"{1e3 * (each - bare):19.3f}"
        )


def in_parts() -> None:
    print("\na measurement of 50 samples of 10 players in parts, seconds")
    print(f"{'network':16} {'forwards':>9} {'extraction':>11} {'metric':>8} {'whole':>8} {'naive':>8} {'faster':>7}")
    lenet, _, vgg, *_ = cases(n_players=10, n_samples=50)
    v = masked_outputs(lenet.model, lenet.probe, assign_players(lenet.model, lenet.players, lenet.probe))
    found = sparsest_and_or(v)

    def metric() -> None:
        strength = order_strength(found.and_, found.or_, saliency_threshold(v))
        order_distribution(strength), mean_order(strength), mean_order_interval(strength)

    # Neither depends on the network.
    extraction, measured = (
        statistics.median(taken(part).clock for _ in range(3)) for part in (lambda: sparsest_and_or(v), metric)
    )
    for case, few in ((lenet, 50), (vgg, 1)):
        probe = case.probe.select(range(few))
        players = assign_players(case.model.eval(), case.players, probe)
        ours, theirs = (partial(run, case.model, probe, players) for run in (masked_outputs, naive))
        turns = [(taken(ours), taken(theirs)) for _ in range(3)]
        forwards, slow = (statistics.median(turn[i].clock for turn in turns) * 50 / few for i in (0, 1))
        slow *= 2**10 / FEW
        whole = forwards + extraction + measured
        parts = f"{forwards:9.2f} {extraction:11.2f} {measured:8.3f} {whole:8.2f} {slow:8.1f}"
        print(f"{case.name:16} {parts} {slow / forwards:6.1f}x", flush=True)


@torch.no_grad()
def memory() -> None:
    print("\npeak of the bytes alive, LeNet, one sample, MB (2^n outputs of 8 bytes among them)")
    print(
        f"{'players':>7} {'rows':>5} {'bare forward of a chunk':>24} {'masked outputs':>15} {'all masked inputs':>18}"
    )
    for n_players in (8, 10, 12, 14, 16):
        case = next(cases(n_players=n_players, n_samples=1))
        players = assign_players(case.model.eval(), case.players, case.probe)
        rows = chunk_rows(case, players)
        ready = ready_rows(case, players, rows)
        with LiveBytes() as bare:
            case.suffix(ready + 0)
        with LiveBytes() as masked:
            masked_outputs(case.model, case.probe, players)
        everything = ready.nbytes / rows * 2**n_players
        print(
            f"{n_players:7} {rows:5} {bare.peak / 1e6:24.1f} {masked.peak / 1e6:15.1f} {everything / 1e6:18.1f}",
            flush=True,
        )


def main() -> None:
    against_the_bare_suffix()
    putting_back()
    in_parts()
    memory()


if __name__ == "__main__":
    main()
