"""The masked rows of a chunk, written where players come and go rather than anew each time.

`torch.where` over a chunk reads and writes every element through a broadcast mask, which takes a small network a tenth
of its forward. But most of a row is the same in all rows, and so is the pattern in which the players of the low bits
come and go in every aligned chunk. So on a CPU the row is copied, the cells of absent players are written over it, and
the next chunk of the same sample only gets the cells of the players whose high bits have changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from interaction_monitor.forward.batching import Chunk
from interaction_monitor.forward.model import own_path
from interaction_monitor.players.player_map import PlayerMap


@dataclass
class _Written:
    """What a buffer holds: the rows of one chunk of one sample."""

    buffer: Tensor  # (2^m, ...)
    version: int | None
    x: Tensor  # (1, ...) the sample
    absent: Tensor  # (1, ...) the sample without any player
    chunk: Chunk


class MaskedRows:
    """Makes the masked rows of chunks, in one buffer that is kept from chunk to chunk.

    Whether it writes in place or selects with `torch.where`, the rows are the same bit for bit.

    Args:
        players: the players of all samples.
    """

    def __init__(self, players: PlayerMap) -> None:
        self.players = players
        self._first, self._last = players.axes[0], players.axes[-1]
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
        if before is not None and _goes_on(before, x, chunk):
            self._change(before, chunk)
            buffer, absent = before.buffer, before.absent
        else:
            buffer = self._buffer(x, len(chunk))
            for place, sample in enumerate(chunk.samples):
                part = buffer[place * len(chunk.coalitions) :][: len(chunk.coalitions)]
                absent = self._fill(part, x[place : place + 1], sample, chunk.coalitions)
        version = None if buffer.is_inference() else buffer._version
        self._written = _Written(buffer, version, x, absent, chunk)
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
        flat, source, cells = self._flat(rows), self._flat(x), self._cells[sample]
        n_low = (len(coalitions) - 1).bit_length()
        rows[:1].copy_(absent)
        for player in range(n_low, self.players.n_players):
            if coalitions.start >> player & 1:
                self._put(flat[:1], source, cells[player])
        # Each player of the low bits doubles the rows that are there.
        for player in range(n_low):
            half = 1 << player
            rows[half : 2 * half].copy_(rows[:half])
            self._put(flat[half : 2 * half], source, cells[player])
        return absent

    def _change(self, before: _Written, chunk: Chunk) -> None:
        """Write the players whose high bits have changed since the chunk before."""
        changed = before.chunk.coalitions.start ^ chunk.coalitions.start
        cells = self._cells[chunk.samples.start]
        for player in range(self.players.n_players):
            if changed >> player & 1:
                source = before.x if chunk.coalitions.start >> player & 1 else before.absent
                self._put(self._flat(before.buffer), self._flat(source), cells[player])

    def _flat(self, x: Tensor) -> Tensor:
        """Join the position axes into one, as a view."""
        return x.flatten(self._first, self._last)

    def _put(self, rows: Tensor, source: Tensor, cells: Tensor) -> None:
        """Copy some cells of one row, (1, ..., P, ...), into all rows, (B, ..., P, ...)."""
        chosen = source.index_select(self._first, cells)
        rows.index_copy_(self._first, cells, chosen.expand(len(rows), *chosen.shape[1:]))


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


POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d)


def pool_after(model: nn.Module, layer: nn.Module, run: Callable[[], object]) -> tuple[str, nn.Module] | None:
    """Return the name of the pooling layer that is given the very output of `layer`, and it; None if there is none.

    Args:
        model: the whole.
        layer: a part of it.
        run: runs the model once.
    """
    outputs: list[object] = []
    found: list[tuple[str, nn.Module]] = []
    handles = [layer.register_forward_hook(lambda _module, _args, result: outputs.append(result))]
    for path, module in model.named_modules():
        if isinstance(module, POOLS):

            def note(module: nn.Module, args: Any, name: str = own_path(path)) -> None:
                if args and any(args[0] is output for output in outputs):
                    found.append((name, module))

            handles.append(module.register_forward_pre_hook(note))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if len(found) == 1 else None


def behind_pool(players: PlayerMap, name: str, pool: nn.Module) -> PlayerMap | None:
    """Return the players as they are behind a pooling layer, if each of its windows lies within one player.

    The largest or the mean of positions that come and go together does so too, and what they are replaced by is the
    same before and behind it.

    Args:
        players: at the layer before.
        name: of the pooling layer.
        pool: one of `POOLS`.

    Returns:
        The players, or None where a window has positions of several, or positions differ in what replaces them.

    Examples:
        >>> halves = PlayerMap(torch.tensor([[0, 0, 1, 1]]), n_players=2, axes=(2,), layer="relu")
        >>> behind_pool(halves, "pool", nn.MaxPool1d(2)).labels
        tensor([[0, 1]])
    """
    flat = isinstance(pool, (nn.MaxPool1d, nn.AvgPool1d))
    plain = _only(0, pool.padding) and _only(1, getattr(pool, "dilation", 1)) and not pool.ceil_mode
    whole = not getattr(pool, "return_indices", False) and getattr(pool, "divisor_override", None) is None
    baseline = players.baseline
    same = not isinstance(baseline, Tensor) or baseline.ndim < 3 or all(size == 1 for size in baseline.shape[2:])
    if players.axes != ((2,) if flat else (2, 3)) or not (plain and whole and same):
        return None
    labels = players.labels[:, None].float()
    largest: Any = nn.functional.max_pool1d if flat else nn.functional.max_pool2d
    highest, lowest = (sign * largest(sign * labels, pool.kernel_size, pool.stride) for sign in (1, -1))
    return replace(players, labels=highest[:, 0].long(), layer=name) if torch.equal(highest, lowest) else None


def _only(value: int, sizes: object) -> bool:
    return all(size == value for size in (sizes if isinstance(sizes, tuple) else (sizes,)))


def _goes_on(before: _Written, x: Tensor, chunk: Chunk) -> bool:
    """Tell whether the buffer still holds another chunk of the same sample."""
    return (
        before.chunk.samples == chunk.samples
        and len(chunk.samples) == 1
        and len(before.chunk) == len(chunk)
        # Layers that work in place change the buffer, and a model that draws at random changes the sample.
        and before.version is not None
        and before.version == before.buffer._version
        and before.x.dtype == x.dtype
        and (before.x is x or before.x.equal(x))
    )


def repeated(result: Any, repeat: int, samples: range) -> Any:
    """Repeat the rows of tensors that have one for each of the samples; those of one sample as a view."""

    def widen(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.ndim == 0 or len(x) != len(samples):
            return x
        return x[:, None].expand(-1, repeat, *x.shape[1:]).flatten(0, 1)

    return tree_map(widen, result)


def repeated_rest(result: Any, repeat: int, samples: range) -> Any:
    """Repeat all but the first part of what the masked layer gave: that one is masked."""
    if isinstance(result, Tensor):
        return result
    parts = [result[0], *(repeated(part, repeat, samples) for part in result[1:])]
    return type(result)(*parts) if hasattr(result, "_fields") else type(result)(parts)
