"""The same runs with fewer players: from masked outputs that were kept, without training.

The outputs on the coalitions that contain all dropped players are those of a game in which these are always present,
as the background is.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gallery.stored import RESULTS, Stored, UnusableError, load_outputs, path_of
from interaction_monitor.functional import and_interactions, order_strength
from interaction_monitor.measurement import interpret


def folder_in(results: Path) -> Path:
    """Give the folder of the runs with fewer players in a folder of results."""
    return results / "fewer_players"


FOLDER = folder_in(RESULTS)


def restrict(v: Tensor, n_players: int) -> Tensor:
    """Keep the first players; the others are always present.

    Args:
        v: (..., 2^n) masked outputs.
        n_players: how many to keep.

    Returns:
        (..., 2^n_players).

    Examples:
        >>> restrict(torch.arange(8), 2).tolist()
        [4, 5, 6, 7]
    """
    return v[..., v.shape[-1] - (1 << n_players) :]


def with_players(stored: Stored, outputs: Path, n_players: int) -> Stored:
    """Analyse a run's masked outputs with fewer players.

    Args:
        stored: the run.
        outputs: folder in which `train` kept the outputs.
        n_players: how many.

    Returns:
        The run as it would have been measured; the theory is not laid over it.

    Raises:
        UnusableError: if there are no outputs, or those of a run with other settings.
    """
    outputs_of_run = load_outputs(stored.run.name, outputs)
    expected = (len(stored.epochs), stored.run.n_samples, 1 << stored.run.n_players)
    if outputs_of_run.shape != expected:
        path = path_of(stored.run.name, outputs)
        raise UnusableError(
            f"{path} holds outputs {outputs_of_run.shape}, and the stored run has {expected}; "
            "keep run and outputs of one training"
        )
    looks = [interpret(restrict(torch.tensor(v).double(), n_players)) for v in outputs_of_run]
    dividends = [order_strength(and_interactions(look.v), None, look.tau) for look in looks]
    return replace(
        stored,
        run=replace(stored.run, name=f"{stored.run.name}-{n_players}", n_players=n_players),
        strength={
            "and-or": torch.stack([look.strength for look in looks]).numpy(),
            "and": torch.stack(dividends).numpy(),
        },
        tau=np.array([look.tau for look in looks]),
        output_change=np.array([float((look.v[:, -1] - look.v[:, 0]).abs().mean()) for look in looks]),
        solver_gap=np.array([float(look.gap.max()) for look in looks]),
        theory={},
        effect={},
    )
