"""The spindle at initialisation by three extractions: dividends alone, the papers' procedure, and the sparsest.

`python -m gallery spindle lenet-wrong-10 --outputs FOLDER` makes it anew from masked outputs that
`train --outputs` kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gallery.stored import RESULTS, UnusableError, load_outputs, write
from interaction_monitor.functional import (
    and_interactions,
    or_interactions,
    order_strength,
    saliency_threshold,
    sparsest_and_or,
)

SHOWN = "lenet-wrong-10"  # the run whose spindle docs/gallery.md describes
N_SAMPLES = 8


def path_in(results: Path) -> Path:
    """Give the file of the comparison in a folder of results."""
    return results / "spindle" / "spindle.npz"


FILE = path_in(RESULTS)


def published(v: Tensor, *, steps: int = 20_000, rate: float = 1e-4, noise: float = 0.02) -> tuple[Tensor, Tensor]:
    """Extract AND and OR interactions as Ren et al. 2024, Appendix C, do: momentum SGD on γ and δ from γ = δ = 0.

    In units of mean |u|, which the rate goes with; it falls to a tenth, and of those from 1e-5 to 0.1 that per 2^n is
    the best one tried.

    Args:
        v: (S, 2^n) masked outputs.
        steps: the papers take 20,000.
        rate: of SGD, per 2^n.
        noise: bound of δ, as a part of |v(x) - v(x_∅)|.

    Returns:
        AND and OR interactions (S, 2^n).
    """
    u = v - v[:, :1]
    scale = u.abs().mean(-1, keepdim=True)
    u = u / scale
    bound = noise * u[:, -1:].abs()
    identity = torch.eye(v.shape[-1], dtype=v.dtype)
    to_and, to_or = and_interactions(identity), or_interactions(identity)  # row T: what output T adds
    gamma, delta, speed_gamma, speed_delta = (torch.zeros_like(u) for _ in range(4))
    for step in range(steps):
        and_, or_ = ((u - delta) / 2 + gamma) @ to_and, ((u - delta) / 2 - gamma) @ to_or
        pull_and, pull_or = and_.sign() @ to_and.T, or_.sign() @ to_or.T
        step_size = rate * 0.1 ** (step / steps) / v.shape[-1]
        speed_gamma = 0.9 * speed_gamma + pull_and - pull_or
        speed_delta = 0.9 * speed_delta - (pull_and + pull_or) / 2
        gamma = gamma - step_size * speed_gamma
        delta = torch.minimum(torch.maximum(delta - step_size * speed_delta, -bound), bound)
        delta[:, 0] = 0
    return ((u - delta) / 2 + gamma) @ to_and * scale, ((u - delta) / 2 - gamma) @ to_or * scale


def compare(outputs: Path, run: str) -> dict[str, NDArray[np.float64]]:
    """Extract the first measurement of a run in four ways.

    Args:
        outputs: folder in which `train` kept the outputs.
        run: its name.

    Returns:
        Name of the extraction to mean strength per order, (n,).
    """
    v = torch.tensor(load_outputs(run, outputs)[0][:N_SAMPLES]).double()
    tau = saliency_threshold(v)
    plain, canonical = sparsest_and_or(v, tie_break=0.0), sparsest_and_or(v)
    found = {
        "dividends": (and_interactions(v), None),
        "published": published(v),
        "sparsest, no tie-break": (plain.and_, plain.or_),
        "sparsest": (canonical.and_, canonical.or_),
    }
    return {name: order_strength(and_, or_, tau).mean(0).numpy() for name, (and_, or_) in found.items()}


def keep(outputs: Path, run: str, results: Path) -> Path:
    """Compare and keep the result.

    Args:
        outputs: folder in which `train` kept the outputs.
        run: its name.
        results: folder of the results; that of the repository takes the run that the page describes, and no other.

    Returns:
        The file.

    Raises:
        UnusableError: if there are no outputs, or the result would replace that of the page's run.
    """
    if run != SHOWN and results.resolve() == RESULTS.resolve():
        raise UnusableError(f"{FILE} is of {SHOWN}, not of {run}; choose another folder with --results")
    return write(path_in(results), compare(outputs, run))
