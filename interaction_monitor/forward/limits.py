"""What a measurement may cost: a bound on the masked forwards, and what memory that ran out looks like."""

from __future__ import annotations

import torch

MAX_FORWARDS = 2**24


def check_forwards(n_samples: int, n_players: int, max_forwards: int = MAX_FORWARDS) -> None:
    """Refuse a measurement of more masked forwards than the limit, before anything is computed.

    Args:
        n_samples: S.
        n_players: n; each sample takes 2^n forwards.
        max_forwards: the limit on S * 2^n. The default, 2^24, is 134 MB of float64 outputs; the extraction of
            interactions takes some ten times that.

    Raises:
        ValueError: that says how many forwards and bytes it would be.

    Example:
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
