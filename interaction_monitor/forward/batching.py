"""Which masked rows run together: how many fit into memory, and how the coalitions of the samples fill the chunks."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

log = logging.getLogger(__name__)

MAX_FORWARDS = 2**24
# Beyond some megabytes a CPU gains nothing from larger batches, and loses what its caches hold.
CPU_BYTES = 12 * 2**20
CPU_ROWS = 1024
# A GPU needs large batches to be busy. Its memory is mostly the training's.
GPU_FRACTION = 32
GPU_ROWS = 8192
# Where bytes cannot be counted.
DEFAULT_ROWS = 128


@dataclass(frozen=True)
class Chunk:
    """The rows of one forward: the same coalitions of some neighbouring samples, sample by sample."""

    samples: range
    coalitions: range  # 2^m of them, beginning at a multiple of 2^m (in the trial: the first and the last)

    def __len__(self) -> int:
        return len(self.samples) * len(self.coalitions)

    def coalitions_on(self, device: torch.device) -> Tensor:
        """Return the coalitions of the rows of one sample, (2^m,) int64."""
        return torch.arange(self.coalitions.start, self.coalitions.stop, self.coalitions.step, device=device)

    def rows_on(self, device: torch.device) -> Tensor:
        """Return which sample each row belongs to, (len(self),) int64."""
        # Not repeat_interleave, which on some devices waits to learn how long its result is.
        samples = torch.arange(self.samples.start, self.samples.stop, device=device)
        return samples[:, None].expand(-1, len(self.coalitions)).reshape(-1)


def largest_power_of_two(most: int) -> int:
    """Return the largest power of two that is not larger.

    Examples:
        >>> largest_power_of_two(1000)
        512
    """
    return 1 << (most.bit_length() - 1)


def next_chunk(start: int, n_samples: int, n_coalitions: int, size: int, *, packed: bool) -> Chunk:
    """Return the chunk that begins at row `start`, rows being counted sample by sample.

    Chunks of a power of two divide the coalitions of a sample evenly, and within a chunk the players of the low bits
    come and go in the same pattern each time. Chunks of several samples are as equal as can be, so that a compiled
    model, which wants them all of one size, has few rows to fill up.

    Args:
        start: the first row: that of the first coalition of a sample, or a multiple of `size` coalitions on.
        n_samples: S.
        n_coalitions: 2^n.
        size: the most rows, a power of two.
        packed: whether a chunk may hold several samples.

    Examples:
        >>> next_chunk(64, 3, 32, 16, packed=True)
        Chunk(samples=range(2, 3), coalitions=range(0, 16))
        >>> next_chunk(0, 50, 16, 256, packed=True)  # of which 16 samples would fit
        Chunk(samples=range(0, 13), coalitions=range(0, 16))
    """
    sample, coalition = divmod(start, n_coalitions)
    if size < n_coalitions or not packed:
        stop = coalition + min(size, n_coalitions)
        return Chunk(range(sample, sample + 1), range(coalition, stop))
    rest = n_samples - sample
    together = -(-rest // -(-rest // (size // n_coalitions)))
    return Chunk(range(sample, sample + together), range(n_coalitions))


class Sizes:
    """What is known of the chunk sizes of models that are still alive: a size is found once and only ever halved."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[nn.Module, dict[Any, int]] = weakref.WeakKeyDictionary()

    def of(self, model: nn.Module, key: Any, find: Callable[[], int]) -> int:
        """Return the size for a model and what it is run on, finding it at first use.

        Args:
            model: the network.
            key: what besides the model decides the memory that a row takes.
            find: finds it.
        """
        known = self._known.setdefault(model, {})
        if key not in known:
            known[key] = find()
        return known[key]

    def halve(self, model: nn.Module, key: Any, size: int) -> None:
        """Remember that only `size` rows fit."""
        self._known.setdefault(model, {})[key] = size


def most_rows(device: torch.device) -> int:
    """Return the most rows of a chunk on a device, however few bytes they take."""
    return CPU_ROWS if device.type == "cpu" else GPU_ROWS


def fitting_rows(
    run: Callable[[Chunk], object], n_coalitions: int, device: torch.device, *, after: nn.Module | None
) -> int:
    """Return the number of rows, a power of two, whose activations fit the budget of the device.

    It follows from the bytes of two and of four rows of the first sample, so that it is the same each time. A timing
    would find the fastest size a little better. But kernels round differently for different batch sizes, so that a run
    that is resumed, or repeated, would then differ in the last bits, by chance.

    Args:
        run: runs the rows of a chunk.
        n_coalitions: 2^n.
        device: where they run.
        after: the layer whose output is masked; what comes before it runs fewer rows, and may take more for them than
            the rest for a few.
    """
    # The difference of two sizes leaves out what does not grow with the rows, such as weights in another precision.
    few, more = (2, 4) if n_coalitions > 2 else (1, 2)
    try:
        # The larger one first: the first forward of a sample keeps what comes before the layer, besides.
        peaks = [_peak(run, Chunk(range(1), range(n_rows)), after) for n_rows in (more, few)]
    except Exception as error:
        log.info("chunks of %d rows, because their bytes could not be counted: %s", DEFAULT_ROWS, error)
        return DEFAULT_ROWS
    bytes_per_row = (peaks[0] - peaks[1]) // (more - few)
    if device.type == "cpu":
        budget = CPU_BYTES
    elif device.type == "cuda":
        budget = torch.cuda.get_device_properties(device).total_memory // GPU_FRACTION
    else:
        budget = 2**30
    return min(most_rows(device), largest_power_of_two(max(1, budget // max(1, bytes_per_row))))


def _peak(run: Callable[[Chunk], object], chunk: Chunk, after: nn.Module | None) -> int:
    """Return the most bytes that are alive at once while a chunk runs."""
    counted = LiveBytes()
    with counted:
        handle = after.register_forward_hook(lambda *_: counted.restart()) if after is not None else None
        try:
            run(chunk)
        finally:
            if handle:
                handle.remove()
    return counted.peak


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Count the bytes of the tensors that are made inside the block and still alive, on whichever device.

    What an operation takes and gives back inside itself is not seen, nor what was there before.

    Attributes:
        live: bytes that are alive now.
        peak: the most that were alive at once.
        largest: the bytes of the largest single tensor.

    Examples:
        >>> with LiveBytes() as counted:
        ...     total = sum((torch.zeros(1000) + 1).sum() for _ in range(5))
        >>> counted.largest, counted.peak < 10_000
        (4000, True)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.live = 0
        self.peak = 0
        self.largest = 0
        self._known: set[int] = set()

    def restart(self) -> None:
        """Begin anew to look for the peak."""
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the storages of its results, unless it got them as arguments."""
        # What was there before, and comes back as a view or changed in place, is not new.
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
                storage = leaf.untyped_storage()
                if storage._cdata not in given and storage._cdata not in self._known:
                    self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        name, size = storage._cdata, storage.nbytes()
        self._known.add(name)
        self.live += size
        self.peak = max(self.peak, self.live)
        self.largest = max(self.largest, size)
        weakref.finalize(storage, self._remove, name, size)

    def _remove(self, name: int, size: int) -> None:
        self._known.discard(name)
        self.live -= size


def check_forwards(n_samples: int, n_players: int, max_forwards: int = MAX_FORWARDS) -> None:
    """Refuse a measurement of more masked forwards than the limit, before anything is computed.

    Args:
        n_samples: S.
        n_players: n; each sample takes 2^n forwards.
        max_forwards: the limit on S * 2^n. The default, 2^24, is 134 MB of float64 outputs; the extraction of
            interactions takes some ten times that.

    Raises:
        ValueError: that says how many forwards and bytes it would be.

    Examples:
        >>> check_forwards(50, 20)
        Traceback (most recent call last):
        ValueError: n_players=20 means 50 x 2^20 = 52,428,800 masked forwards, ...
    """
    forwards = n_samples << n_players
    if forwards > max_forwards:
        fitting = (max_forwards // n_samples).bit_length() - 1
        advice = f"Take at most {fitting} players for {n_samples} samples" if fitting > 0 else "Take fewer samples"
        raise ValueError(
            f"n_players={n_players} means {n_samples} x 2^{n_players} = {forwards:,} masked forwards, whose "
            f"outputs take {forwards * 8 / 1e9:,.1f} GB; the limit is max_forwards={max_forwards:,}. "
            f"{advice}, or raise it"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that memory, of the host or of a device, ran out."""
    text = str(error).lower()
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )
