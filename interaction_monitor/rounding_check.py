"""Whether the rounding inside a network reaches its interactions."""

from __future__ import annotations

import math

from interaction_monitor.functional import noise_floor
from interaction_monitor.functional.extraction import NOISE
from interaction_monitor.history.row import Row
from interaction_monitor.settings import Settings

ADVICE = "measure in float32 (Precision in docs/forward.md says how)"


def rounding_warning(row: Row, settings: Settings) -> str | None:
    """Warn where interactions come from rounding rather than from the network.

    AND interactions alone take rounding up as it is: σ 2^{k/2} in order k (Ren et al. 2024, Lemma 1). The extraction of
    AND and OR interactions leaves out of the outputs what its correction can reach, so that rounding does nothing to
    them as long as the largest of 2^n errors, about σ √(2 n ln 2), stays below the correction (docs/forward.md).

    Args:
        row: the measurement.
        settings: how it was measured.

    Returns:
        A sentence with the fix; None where all is well or σ is not known.
    """
    sigma, n = row.rounding, row.n_players
    if sigma is None:
        return None
    known = f"rounding inside the network gives its outputs a standard deviation of {sigma:.2g}"
    if settings.interactions == "and":
        drowned = [k for k, floor in enumerate(noise_floor(n, sigma).tolist(), start=1) if floor > row.tau]
        if drowned:
            return (
                f"{known}. That alone makes interactions of order {drowned[0]} and above salient (τ = {row.tau:.2g}): "
                f"{ADVICE}, or take fewer players"
            )
        return None
    correction = settings.thresholds.noise * row.output_change
    if correction == 0 and sigma > 0:
        why, fix = "here masking changes no output", ""
        if settings.thresholds.noise == 0:
            why, fix = "Thresholds(noise=0) forbids that", f"give Thresholds(noise={NOISE}), or "
        return (
            f"{known}. The extraction can remove it only where it may correct outputs, and {why}. Interactions of high "
            f"order may be rounding: {fix}{ADVICE}"
        )
    if largest_of_all(sigma, n) > correction:
        return (
            f"{known}. That is more than the extraction can remove (it corrects outputs by {correction:.2g}). "
            f"Interactions of high order may be rounding: {ADVICE}"
        )
    return None


def largest_of_all(sigma: float, n: int) -> float:
    """Return about how large the largest of 2^n normally distributed errors is.

    Example:
        >>> round(largest_of_all(1.0, 10), 1)
        3.7
    """
    return sigma * math.sqrt(2 * n * math.log(2))
