"""What a measurement takes, known before it is paid for: timed on a few forwards and extractions."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn

from interaction_monitor._checks import float64_device
from interaction_monitor.forward import outputs_of
from interaction_monitor.forward.chunks import LiveBytes
from interaction_monitor.forward.model import device_of
from interaction_monitor.functional.extraction import MAX_PLAYERS, sparsest_and_or
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe
from interaction_monitor.settings import Settings

_LONG_ENOUGH = 0.1  # seconds of a timing that is good to some ten per cent
_LONG = 2.0  # seconds of one that is not repeated to be better


@dataclass(frozen=True)
class Cost:
    """What one measurement of some samples takes."""

    n_players: int
    forwards: int  # S * 2^n
    forward_seconds: float
    extraction_seconds: float
    memory_bytes: int = 0  # outputs and extraction; 0 where it was not counted
    estimated: bool = False  # whether the extraction was not timed with so many players

    @property
    def seconds(self) -> float:
        """Both together."""
        return self.forward_seconds + self.extraction_seconds


def seconds_per_forward(
    model: nn.Module,
    probe: Probe,
    players: PlayerMap,
    settings: Settings = Settings(),
) -> float:
    """Time some masked forwards, with fewer players and samples.

    Begins with 32 rows, and takes four times as many until a timing is long enough, or half the measurement is in it.

    Args:
        model: the network, on the device where it is measured.
        probe: the samples.
        players: their players.
        settings: how it is measured.

    Returns:
        Seconds for each row, in batches as large as those of the measurement where rows are fast.
    """
    complete = players.complete.nonzero()[:, 0].cpu()
    if not len(complete):
        complete = torch.arange(1)

    def timed(n_rows: int) -> tuple[float, int]:
        n_kept = min(players.n_players, n_rows.bit_length() - 1, 8)
        chosen = complete[: n_rows >> n_kept]
        fewer, some = _with_players(players.select(chosen), n_kept), probe.select(chosen)
        started = time.perf_counter()
        outputs_of(model, some, fewer, settings)
        return time.perf_counter() - started, len(chosen) << n_kept

    n_rows = 32
    timed(n_rows)  # what is found out at first use is not found out again
    before, rows_before = timed(n_rows)
    while True:
        n_rows *= 4
        seconds, rows = timed(n_rows)
        # Beside the rows a call has a few forwards of its own, which a measurement has once.
        enough = seconds >= max(_LONG_ENOUGH, 2 * before) or n_rows >= 2**14
        if enough or rows <= rows_before or 2 * rows > len(probe) << players.n_players:
            return max(seconds - before, seconds / 4) / max(rows - rows_before, rows // 4)
        before, rows_before = seconds, rows


def _with_players(players: PlayerMap, n_players: int) -> PlayerMap:
    """Keep the first players; the others are always present."""
    labels = players.labels.where(players.labels < n_players, -1)
    names = None if players.names is None else tuple(names[:n_players] for names in players.names)
    return replace(players, labels=labels, n_players=n_players, names=names)


def extraction_seconds(n_players: int, n_samples: int, *, device: torch.device | str = "cpu") -> float:
    """Time the extraction of one sample and of four, of outputs like a network's; once per process.

    Args:
        n_players: n.
        n_samples: S.
        device: where it is done.

    Returns:
        Seconds for all the samples.
    """
    one, four = _timings(n_players, str(device))
    # Samples that are solved together share what does not grow with them.
    return one * n_samples if four is None else four + (n_samples - 4) * max(four - one, four / 4) / 3


@cache
def _timings(n_players: int, device: str) -> tuple[float, float | None]:
    """Time one sample and four; the latter not where one takes long."""
    _timed(n_players, 1, device)  # what is made once for each n is not made again
    one = _timed(n_players, 1, device)
    return one, None if one >= _LONG else _timed(n_players, 4, device)


def _timed(n_players: int, n_samples: int, device: str) -> float:
    v = _outputs(n_players, n_samples, device)
    started = time.perf_counter()
    sparsest_and_or(v)
    if v.device.type == "cuda":
        torch.cuda.synchronize(v.device)
    return time.perf_counter() - started


def _outputs(n_players: int, n_samples: int, device: torch.device | str) -> Tensor:
    """Make outputs (S, 2^n): those of a random network with two hidden layers, another one for each sample."""
    # At 10 and 12 players they take about as long as those of real networks, where noise takes two to four times that.
    generator = torch.Generator().manual_seed(0)
    present = (torch.arange(1 << n_players)[:, None] >> torch.arange(n_players) & 1).double()

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def one() -> Tensor:
        hidden: Tensor = (present @ drawn(n_players, 64) / n_players**0.5 + drawn(64)).relu()
        outputs: Tensor = (hidden @ drawn(64, 64) / 8 + drawn(64)).relu() @ drawn(64)
        return outputs

    return torch.stack([one() for _ in range(n_samples)]).to(device)


def extraction_bytes(n_players: int, n_samples: int, *, device: torch.device | str = "cpu") -> int:
    """Count the bytes that the extraction holds at once, from those of one and of two samples.

    Args:
        n_players: n.
        n_samples: S.
        device: where it is done.

    Returns:
        Bytes, without what is kept from one extraction to the next. It is the most that it can be, since samples that
        are solved one after the other need less.
    """
    sparsest_and_or(_outputs(n_players, 1, device))  # what is made once for each n is kept, and not counted
    peaks: list[int] = []
    for few in (1, 2):
        v = _outputs(n_players, few, device)
        with LiveBytes() as counted:
            sparsest_and_or(v)
        peaks.append(counted.peak)
    one, two = peaks
    return two + (n_samples - 2) * max(0, two - one)


def cost_of(
    model: nn.Module,
    probe: Probe,
    players: PlayerMap,
    settings: Settings = Settings(),
    *,
    n_players: Sequence[int],
    n_samples: int | None = None,
    n_processes: int = 1,
    with_memory: bool = False,
    limit: float = math.inf,
) -> list[Cost]:
    """Estimate what a measurement takes, for some numbers of players.

    Args:
        model: the network.
        probe: the samples, S.
        players: players of any number, whose layer and shape count.
        settings: how it is measured.
        n_players: for which n, rising by one where there is a limit.
        n_samples: how many are measured; None means those of the probe.
        n_processes: how many share the forwards.
        with_memory: whether to count bytes, which takes two more small extractions for each n.
        limit: seconds that the timing of one n may take; beyond, each further player costs as many times more as the
            last that was timed, four times at least what two less do.

    Returns:
        The cost for each n; NaN seconds of an extraction that takes no so many players.

    Examples:
        >>> from interaction_monitor import Probe, assign_players
        >>> from interaction_monitor.players import ImagePatches
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        >>> probe = Probe(torch.rand(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1]))
        >>> players = assign_players(net, ImagePatches(n_players=4), probe)
        >>> few, more = cost_of(net, probe, players, n_players=(4, 6))
        >>> few.forwards, more.forwards
        (80, 320)
    """
    row = seconds_per_forward(model, probe, players, settings)
    device = float64_device(device_of(model, probe.inputs))
    count = len(probe) if n_samples is None else n_samples
    costs: list[Cost] = []
    before, memory, growth, affordable = 0.0, 0, 2.0, True
    for n in n_players:
        extraction, outputs, estimated = 0.0, 8 * (count << n), False
        if settings.interactions == "and":
            held = 4 * outputs
        elif n > MAX_PLAYERS:
            extraction, held = math.nan, 0
        elif affordable:
            started = time.perf_counter()
            extraction = extraction_seconds(n, count, device=device)
            memory = extraction_bytes(n, count, device=device) if with_memory else 0
            growth = max(2.0, extraction / before) if before else 2.0
            affordable = (time.perf_counter() - started) * growth <= limit
            before, held = extraction, memory + outputs
        else:
            before, memory = before * growth, 2 * memory
            extraction, held, estimated = before, memory + outputs, True
        forwards = row * (count << n) / n_processes
        costs.append(Cost(n, count << n, forwards, extraction, held if with_memory else 0, estimated))
    return costs


def cost_table(costs: Sequence[Cost], heading: str, *, n_players: int, epoch_seconds: float | None = None) -> str:
    """Lay out what a measurement takes for each number of players.

    Args:
        costs: A line for each.
        heading: What was timed.
        n_players: The players that the network has; their line is marked.
        epoch_seconds: What an epoch of training takes, to lay a measurement beside it; None leaves that out.
    """
    lines = [
        f"{heading}, {torch.get_num_threads()} threads",
        "",
        f"{'players':>8}{'forwards':>13}{'they take':>11}{'extraction':>12}{'memory':>11}{'in all':>10}"
        + ("   epochs of training" if epoch_seconds else ""),
    ]
    for cost in costs:
        mark = "<" if cost.n_players == n_players else " "
        extraction, total = duration(cost.extraction_seconds), duration(cost.seconds)
        if math.isnan(cost.extraction_seconds):
            extraction, total = "-", "-"
        elif cost.estimated:
            extraction, total = f"~{extraction}", f"~{total}"
        line = (
            f"{cost.n_players:>7}{mark}{cost.forwards:>13,}{duration(cost.forward_seconds):>11}"
            f"{extraction:>12}{_bytes(cost.memory_bytes) if cost.memory_bytes else '-':>11}{total:>10}"
        )
        if epoch_seconds:
            line += "" if math.isnan(cost.seconds) else f"{cost.seconds / epoch_seconds:>12.1f}"
        lines.append(line)
    notes = [f"< the players of the factory: n_players={n_players}"]
    if any(cost.estimated for cost in costs):
        notes.append("~ estimated from fewer players, each taking as many times longer as the last did; see --limit")
    if any(math.isnan(cost.extraction_seconds) for cost in costs):
        notes.append(f"- the extraction takes {MAX_PLAYERS} players at most; --interactions and takes more")
    return "\n".join([*lines, "", *notes])


def _bytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def duration(seconds: float) -> str:
    """Write a time with two digits and a unit.

    Examples:
        >>> duration(0.0312), duration(4.23), duration(75.0), duration(5400.0)
        ('31 ms', '4.2 s', '75 s', '90 min')
    """
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms" if seconds < 0.0995 else f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
