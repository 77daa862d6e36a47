"""Chunks of masked rows: how many and which rows run together, the bytes they take, and how they are masked.

`torch.where` over a chunk reads and writes every element through a broadcast mask, which takes a small network a tenth
of its forward. But most of a row is the same in all rows, and so is the pattern in which the players of the low bits
come and go in every aligned chunk. So on a CPU the row is copied, the cells of absent players are written over it, and
the next chunk of the same sample only gets the cells of the players whose high bits have changed.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.state import version_of

# Beyond some megabytes a CPU gains nothing from larger batches, and loses what its caches hold.
CPU_BYTES, CPU_ROWS = 12 * 2**20, 1024
# A GPU needs large batches to be busy. Its memory is mostly the training's.
GPU_FRACTION, GPU_ROWS = 32, 8192
OTHER_BYTES = 2**30
DEFAULT_ROWS = 128  # where bytes cannot be counted


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


def most_rows(device: torch.device) -> int:
    """Return the most rows of a chunk, however few bytes they take."""
    return CPU_ROWS if device.type == "cpu" else GPU_ROWS


def rows_within_budget(bytes_per_row: int, device: torch.device) -> int:
    """Return the number of rows of a chunk, a power of two, that fits the budget of the device."""
    budget = CPU_BYTES if device.type == "cpu" else OTHER_BYTES
    if device.type == "cuda":
        budget = torch.cuda.get_device_properties(device).total_memory // GPU_FRACTION
    return min(most_rows(device), largest_power_of_two(max(1, budget // max(1, bytes_per_row))))


def largest_power_of_two(most: int) -> int:
    """Return the largest power of two that is not larger.

    Examples:
        >>> largest_power_of_two(1000)
        512
    """
    return 1 << (most.bit_length() - 1)


def next_chunk(start: int, n_samples: int, n_coalitions: int, size: int, *, packed: bool) -> Chunk:
    """Return the chunk that begins at row `start`, rows being counted sample by sample.

    Chunks of a power of two, `size`, divide the coalitions of a sample evenly, and within a chunk the players of the
    low bits come and go in the same pattern each time. Only `packed` chunks hold several samples. They are as equal as
    can be, so that a compiled model, which wants them all of one size, has few rows to fill up.

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


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that memory, of the host or of a device, ran out."""
    text = str(error).lower()
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )


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
        self.live = self.peak = self.largest = 0
        self._counted: set[int] = set()

    def restart(self) -> None:
        """Begin anew to look for the peak."""
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the storages of its results, unless it got them as arguments."""
        # What was there before, and comes back as a view or changed in place, is not new.
        known = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
                storage = leaf.untyped_storage()
                name, size = storage._cdata, storage.nbytes()
                if name not in known | self._counted:
                    self._counted.add(name)
                    self.live += size
                    self.peak = max(self.peak, self.live)
                    self.largest = max(self.largest, size)
                    weakref.finalize(storage, self._remove, name, size)
        return result

    def _remove(self, name: int, size: int) -> None:
        self._counted.discard(name)
        self.live -= size


@dataclass
class _Written:
    """What a buffer holds: the rows of one chunk of one sample."""

    buffer: Tensor  # (2^m, ...)
    version: int | None
    x: Tensor  # (1, ...) the sample
    absent: Tensor  # (1, ...) the sample without any player
    chunk: Chunk

    def precedes(self, x: Tensor, chunk: Chunk) -> bool:
        """Tell whether the buffer still holds another chunk of the same sample."""
        return (
            self.chunk.samples == chunk.samples
            and len(chunk.samples) == 1
            and len(self.chunk) == len(chunk)
            # Layers that work in place change the buffer, and a model that draws at random changes the sample.
            and self.version == version_of(self.buffer) is not None
            and self.x.dtype == x.dtype
            and (self.x is x or self.x.equal(x))
        )


class MaskedRows:
    """Makes the masked rows of chunks, in one buffer that is kept from chunk to chunk.

    Whether it writes in place or selects with `torch.where`, the rows are the same bit for bit.
    """

    def __init__(self, players: PlayerMap) -> None:
        self.players = players
        self._in_place = writes_in_place(players)
        self._cells = _cells(players) if self._in_place else []
        self._written: _Written | None = None

    def rows(self, x: Tensor, chunk: Chunk) -> Tensor:
        """Return the masked rows of a chunk, valid until the next call.

        Args:
            x: (len(chunk.samples), ...) the samples unmasked.
            chunk: which coalitions of which samples.

        Returns:
            (len(chunk), ...).

        Raises:
            ValueError: if the samples have other positions than the players, or another number.
        """
        if len(x) != len(chunk.samples):
            raise ValueError(
                f"axis 0 of the tensor to mask must be the batch: for {len(chunk.samples)} samples it has the shape "
                f"{tuple(x.shape)}"
            )
        self.players.check(x)
        if self._in_place and chunk.coalitions.step == 1:
            return self._write(x, chunk)
        coalitions = chunk.coalitions_on(x.device)
        if len(x) == 1:
            return self.players.mask(x, chunk.samples.start, coalitions)
        spread = x[:, None].expand(-1, len(coalitions), *x.shape[1:]).flatten(0, 1)
        return self.players.mask(spread, chunk.rows_on(x.device), coalitions.repeat(len(x)))

    def _write(self, x: Tensor, chunk: Chunk) -> Tensor:
        before = self._written
        if before is not None and before.precedes(x, chunk):
            self._change(before, chunk)
            buffer, absent = before.buffer, before.absent
        else:
            buffer = self._buffer(x, len(chunk))
            for rows, one, sample in zip(buffer.chunk(len(x)), x.chunk(len(x)), chunk.samples, strict=True):
                absent = self._fill(rows, one, sample, chunk.coalitions)
        self._written = _Written(buffer, version_of(buffer), x, absent, chunk)
        return buffer

    def _buffer(self, x: Tensor, n_rows: int) -> Tensor:
        shape, before = (n_rows, *x.shape[1:]), self._written
        if before is not None and before.buffer.shape == shape and before.buffer.dtype == x.dtype:
            return before.buffer
        self._written = None
        # In any other layout, positions on these axes could not be joined as a view.
        channels_last = (
            self.players.axes == (2, 3) and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        )
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)

    def _fill(self, rows: Tensor, x: Tensor, sample: int, coalitions: range) -> Tensor:
        """Write all rows of one sample, and return it without any player."""
        absent = self.players.mask(x, sample, torch.zeros(1, dtype=torch.int64))
        cells, n_low = self._cells[sample], (len(coalitions) - 1).bit_length()
        rows[:1].copy_(absent)
        for player in range(n_low, self.players.n_players):
            if coalitions.start >> player & 1:
                self._put(rows[:1], x, cells[player])
        # Each player of the low bits doubles the rows that are there.
        for player in range(n_low):
            half = 1 << player
            rows[half : 2 * half].copy_(rows[:half])
            self._put(rows[half : 2 * half], x, cells[player])
        return absent

    def _change(self, before: _Written, chunk: Chunk) -> None:
        """Write the players whose high bits have changed since the chunk before."""
        changed = before.chunk.coalitions.start ^ chunk.coalitions.start
        for player, cells in enumerate(self._cells[chunk.samples.start]):
            if changed >> player & 1:
                source = before.x if chunk.coalitions.start >> player & 1 else before.absent
                self._put(before.buffer, source, cells)

    def _put(self, rows: Tensor, source: Tensor, cells: Tensor) -> None:
        """Copy some positions of one row, (1, ...), into all rows, (B, ...)."""
        first, last = self.players.axes[0], self.players.axes[-1]
        chosen = source.flatten(first, last).index_select(first, cells)
        rows.flatten(first, last).index_copy_(first, cells, chosen.expand(len(rows), *chosen.shape[1:]))


def _cells(players: PlayerMap) -> list[list[Tensor]]:
    """Find the positions of each player of each sample, counted along the joined position axes."""
    labels = players.labels.flatten(1)
    sizes = torch.stack([(labels == player).sum(1) for player in range(-1, players.n_players)], dim=1)
    order = labels.argsort(dim=1, stable=True)
    return [list(row.split(counts)[1:]) for row, counts in zip(order, sizes.tolist(), strict=True)]


def writes_in_place(players: PlayerMap) -> bool:
    """Tell whether rows are written in place: where the host does the work, and the positions are neighbouring axes.

    A GPU selects faster than it is told what to write, and would be asked whether the buffer is still as it was.
    """
    neighbouring = players.axes[-1] - players.axes[0] == len(players.axes) - 1
    return neighbouring and players.labels.device.type == "cpu"
