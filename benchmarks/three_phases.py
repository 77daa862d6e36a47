"""Whether the stored runs have the three phases of generalization power, and whether what does not hold makes the gap.

`python -m benchmarks three_phases`, seconds: from the 51 runs to choose on beside finished references that
`python -m gallery.references` keeps. Later work of the papers' group (arXiv 2505.06993): at first noise is removed and
simple interactions are learned that generalize, then ever more complex ones that do so less, and these are what opens
the gap between test and training loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gallery.references import CHOOSING, Stored, load, with_seeds
from interaction_monitor.plots.theory_text import rank_correlation

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Parts:
    """The strength of a run over its measurements, of what references have too and of the rest, and its loss gap."""

    epochs: Array  # (E,)
    common: Array  # (E,) mean over samples
    rest: Array  # (E,)
    gap: Array  # (E,)

    @property
    def share(self) -> Array:
        """The common part of all strength, (E,)."""
        return self.common / (self.common + self.rest)


def parts_of(run: Stored) -> Parts:
    epochs = run["epochs"].astype(int)
    common = run["finished"].mean(1)
    return Parts(epochs, common, run["strength"].mean(1) - common, (run["val_loss"] - run["train_loss"])[epochs])


def main() -> None:
    runs = {name: parts_of(run) for name, run in with_seeds(load(), CHOOSING).items()}
    every = list(runs.values())
    print(f"{len(every)} runs")
    removed = [parts.rest.min() / parts.rest[0] for parts in every]
    fewer, halved = (sum(x < limit for x in removed) for limit in (1, 0.5))
    print(f"the rest is less than at the start in {fewer}, by half in {halved}")
    peak = [int(parts.share.argmax()) for parts in every]
    inside = sum(0 < at < len(parts.share) - 1 for at, parts in zip(peak, every, strict=True))
    print(f"the share has its highest within the run in {inside}")
    grows = [
        all(part[-1] > part[at] for part in (parts.common, parts.rest)) for at, parts in zip(peak, every, strict=True)
    ]
    print(f"after it both the common part and the rest end higher in {sum(grows)}")
    print("rank correlation with the loss gap of: the rest, the common part, all of the strength, 1 - share")
    within = [
        [
            rank_correlation(x[1:], parts.gap[1:])
            for x in (parts.rest, parts.common, parts.rest + parts.common, -parts.share)
        ]
        for parts in every
    ]
    print("  over the measurements of a run, median:", *(f"{x:.2f}" for x in np.median(within, axis=0)))
    for family in ("lenet", "vgg6", "mlp", ""):
        chosen = [parts for name, parts in runs.items() if name.startswith(family)]
        rest, common, gap = (np.array([getattr(x, name)[-1] for x in chosen]) for name in ("rest", "common", "gap"))
        found = [rank_correlation(x, gap) for x in (rest, common, rest + common, rest / (rest + common))]
        print(f"  over the ends of {len(chosen)} runs {family}:", *(f"{x:.2f}" for x in found))


if __name__ == "__main__":
    main()
