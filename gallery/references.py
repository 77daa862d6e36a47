"""What references tell of over-fitting while a run goes on, beside what its losses and accuracy show afterwards.

python -m gallery.references                       # the tables of docs/generalizing.md, from what is stored
python -m gallery.references --data FOLDER         # train what is not stored yet, a minute or two each
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gallery.reference_runs import FAMILIES, KINDS, train
from gallery.stored import RESULTS, write
from interaction_monitor.phases import OverfittingTracker

FOLDER = RESULTS / "references"
CONDITIONS = ("clean", "decay", "wrong10", "wrong20")
CHOOSING, FRESH, LATER = (0, 1, 10, 11, 12), (20, 21, 22), tuple(range(30, 36))
LEAST = (0.03, 0.07, 0.085, 0.1, 0.12, 0.15)
Stored = Mapping[str, NDArray[np.float64]]
# An epoch at which a rule stops a run, and the one whose weights it takes.
Rule = Callable[[Stored], tuple[int, int]]


def names(seeds: Sequence[int] = (*CHOOSING, *FRESH)) -> list[str]:
    """Name the runs of some seeds, those to choose on first, without those of `later`."""
    many = [
        f"{family}-{condition}-{seed}"
        for seed in seeds
        for condition in CONDITIONS
        for family in ("lenet", "vgg6", "mlp")
        if seed != 12 or (family, condition) == ("mlp", "wrong20")
    ]
    others = ("lenet-much-0", "lenet-much-10", "resnet20-clean-20", "resnet20-wrong20-20", "bert-clean-20")
    return [*many, *(name for name in others if int(name.split("-")[-1]) in seeds)]


def later() -> list[str]:
    """Name the runs of the last seeds: half of them of kinds that rarely over-fit, as few of the others do not."""
    mlps = [
        f"mlp-{condition}-{seed}"
        for seed in LATER
        for condition in ("annealed", "decay", "clean", "wrong10", "wrong20")
        if seed < 34 or condition in ("annealed", "decay")
    ]
    conditions = ("clean", "annealed", "wrong20", "decay")
    small = [f"vgg6-{condition}-{seed}" for seed in LATER[:3] for condition in conditions]
    return [*mlps, "dgcnn-clean-30", "dgcnn-wrong20-30", *small]


def load(folder: Path = FOLDER) -> dict[str, Stored]:
    """Read the stored runs, by name."""
    return {path.stem: dict(np.load(path)) for path in sorted(folder.glob("*.npz"))}


def with_seeds(runs: Mapping[str, Stored], seeds: tuple[int, ...]) -> dict[str, Stored]:
    """Keep the runs of some seeds."""
    return {name: run for name, run in runs.items() if int(name.split("-")[-1]) in seeds}


def shares(run: Stored, kind: str) -> NDArray[np.float64]:
    """Give the generalizing share at each measurement."""
    return np.asarray(run[kind].sum(1) / run["strength"].sum(1), dtype=np.float64)


def unseen(run: Stored) -> list[float | None]:
    """Give the twins' mean loss on what they do not learn from between each measurement and the one before."""
    epochs, loss = run["epochs"].astype(int), run["cross_loss"]
    return [None, *(float(loss[before + 1 : after + 1].mean()) for before, after in pairwise(epochs))]


def overfits(run: Stored) -> bool:
    """Tell whether the validation loss ends 5% above its lowest."""
    return bool(run["val_loss"][-1] >= 1.05 * run["val_loss"].min())


def overfits_for_good(run: Stored) -> bool:
    """Tell whether the validation loss ends 5% above its lowest or the test accuracy 1.5 points below its best.

    Of either the median over a tenth of the epochs counts, as single epochs jitter by more.
    """

    def rise(curve: NDArray[np.float64]) -> tuple[float, float]:
        width = max(3, round(len(curve) / 10))
        medians = np.median(np.lib.stride_tricks.sliding_window_view(curve.astype(np.float64), width), axis=1)
        return float(medians[-1] - medians.min()), float(medians.min())

    loss, lowest = rise(run["val_loss"])
    return loss >= 0.05 * lowest or rise(-run["test_accuracy"])[0] >= 0.015


def onset(run: Stored, kind: str, *, with_loss: bool = False, least: float = 0.1) -> tuple[int | None, int | None]:
    """Give the onset of over-fitting and the epoch at which it is known; None where it is not.

    Args:
        run: the run.
        kind: of its references.
        with_loss: whether the tracker sees the twins' loss too.
        least: the least rise of that loss.
    """
    tracker = OverfittingTracker(min_loss_rise=least)
    losses = unseen(run) if with_loss else [None] * len(run["epochs"])
    for epoch, part, whole, loss in zip(run["epochs"], run[kind], run["strength"], losses, strict=True):
        generalizing, strength = torch.tensor(part), torch.tensor(whole)
        tracker.update(epoch=int(epoch), generalizing=generalizing, strength=strength, unseen_loss=loss)
    return tracker.state.onset_epoch, tracker.state.detected_epoch


def sunk(run: Stored, kind: str, *, drop: float = 0.15, measurements: int = 3) -> int:
    """Give the epoch after which `stopping.GeneralizingShare` stops the run, or the last."""
    share = shares(run, kind)
    highest = np.maximum.accumulate(share)
    low = (share <= (1 - drop) * highest) & (highest > share[0])
    held = [bool(low[max(0, i + 1 - measurements) : i + 1].all()) and i + 1 >= measurements for i in range(len(low))]
    return int(run["epochs"][held.index(True)] if True in held else run["epochs"][-1])


def patient(curve: NDArray[np.float64], patience: int) -> tuple[int, int]:
    """Give where patience on a curve ends, and its lowest until then."""
    best = 0
    for index, value in enumerate(curve):
        if value < curve[best]:
            best = index
        elif index - best >= patience:
            return index, best
    return len(curve) - 1, best


def discounted(run: Stored, kind: str) -> NDArray[np.float64]:
    """Give the validation loss after each epoch, divided by 1 + the generalizing share of the last measurement."""
    epochs = np.arange(len(run["val_loss"]))
    last = np.searchsorted(run["epochs"], epochs, side="right") - 1
    return np.asarray(run["val_loss"] / (1 + shares(run, kind)[last]), dtype=np.float64)


def measured(run: Stored, curve: NDArray[np.float64], patience: int) -> tuple[int, int]:
    """Give what `patient` gives where only the epochs with a measurement are seen."""
    epochs = run["epochs"].astype(int)
    stop, best = patient(curve[epochs], patience)
    return int(epochs[stop]), int(epochs[best])


def label_wave(run: Stored, *, width: int = 5, patience: int = 10) -> tuple[int, int]:
    """Stop after the first low of how many training samples are told otherwise than an epoch before.

    Yuan et al. 2025, "Early stopping against label noise without validation data": the first local minimum of a moving
    average. How wide, and how long it has to stay the lowest, is set by us.
    """
    changed = run["changed"]
    mean = [float(changed[max(1, epoch + 1 - width) : epoch + 1].mean()) for epoch in range(1, len(changed))]
    stop, best = patient(np.array(mean), patience)
    return stop + 1, best + 1


def _last(epoch: int) -> tuple[int, int]:
    return epoch, epoch


def _end(run: Stored) -> int:
    return len(run["val_loss"]) - 1


RULES: Mapping[str, Rule] = {
    "patience 10, best weights": lambda run: patient(run["val_loss"], 10),
    "patience 5, best weights": lambda run: patient(run["val_loss"], 5),
    "patience 10, last weights": lambda run: _last(patient(run["val_loss"], 10)[0]),
    "discounted loss, twins, patience 10, best weights": lambda run: patient(discounted(run, "twins_both"), 10),
    "discounted loss, finished, patience 10, best weights": lambda run: patient(discounted(run, "finished"), 10),
    "discounted loss, twins, patience 10, last weights": lambda run: _last(
        patient(discounted(run, "twins_both"), 10)[0]
    ),
    "loss, measured epochs, patience 5, best weights": lambda run: measured(run, run["val_loss"], 5),
    "discounted loss, twins, measured epochs, best weights": lambda run: measured(
        run, discounted(run, "twins_both"), 5
    ),
    "over-fitting known, twins": lambda run: _last(onset(run, "twins_both", with_loss=True)[1] or _end(run)),
    "share sunk, twins": lambda run: _last(sunk(run, "twins_both")),
    "share sunk, finished": lambda run: _last(sunk(run, "finished")),
    "Label Wave": label_wave,
    "to the end": lambda run: _last(_end(run)),
}


def mean_shares(runs: Mapping[str, Stored]) -> Iterator[str]:
    """Give a line for each family and condition: test accuracy and shares, highest and last."""
    for family in FAMILIES:
        for condition in (*CONDITIONS, "much", "annealed"):
            group = [run for name, run in runs.items() if name.startswith(f"{family}-{condition}-")]
            if group:
                cells = [np.mean([(s.max(), s[-1]) for s in (shares(run, kind) for run in group)], 0) for kind in KINDS]
                accuracy = 100 * np.mean([(run["test_accuracy"].max(), run["test_accuracy"][-1]) for run in group], 0)
                shown = " | ".join(f"{first:.2f} → {last:.2f}" for first, last in cells)
                yield f"{family} {condition} ({len(group)}): {accuracy[0]:.1f} → {accuracy[1]:.1f} | {shown}"


def onsets(runs: Mapping[str, Stored]) -> Iterator[str]:
    """Give a line for each kind of references, with and without the twins' loss, by either meaning of over-fitting."""
    for kind, with_loss in (*((kind, False) for kind in KINDS), ("twins_both", True)):
        known = {name: onset(run, kind, with_loss=with_loss)[1] for name, run in runs.items()}
        cells = []
        for meaning in (overfits, overfits_for_good):
            over = [name for name in runs if meaning(runs[name])]
            found = [name for name in over if known[name] is not None]
            false = [name for name in runs if name not in over and known[name] is not None]
            lags = [float(known[name] or 0) - float(runs[name]["val_loss"].argmin()) for name in found]
            lag = f"{np.median(lags):.0f}" if lags else "-"
            cells += [f"{len(false)} of {len(runs) - len(over)}", f"{len(found)} of {len(over)}", lag]
        yield f"{kind}{' and loss' if with_loss else ''}: {' | '.join(cells)}"


def told_by_test(runs: Mapping[str, Stored]) -> Iterator[str]:
    """Give, by family, what the test loss of the very run says of whether it over-fits: false and found.

    That is the validation loss on other samples. What has seen neither can hardly know more.
    """
    known = {name: run for name, run in runs.items() if "test_loss" in run}
    yield from _counted(known, {name: overfits({"val_loss": run["test_loss"]}) for name, run in known.items()})


def left_out(runs: Mapping[str, Stored]) -> Iterator[str]:
    """Give false and found of each family, with the least rise of the twins' loss chosen on all others.

    Chosen is what has the highest part found less the part false, the highest of equal ones.
    """
    known = {name: run for name, run in runs.items() if "cross_loss" in run}
    said = {
        least: {
            name: onset(run, "twins_both", with_loss=True, least=least)[1] is not None for name, run in known.items()
        }
        for least in LEAST
    }

    def worth(least: float, family: str) -> float:
        def part(over: bool) -> float:
            group = [n for n in known if not n.startswith(f"{family}-") and overfits(known[n]) == over]
            return float(np.mean([said[least][n] for n in group]))

        return part(True) - part(False)

    best = {family: max(LEAST, key=lambda least: (worth(least, family), least)) for family in FAMILIES}
    for family, least in best.items():
        yield f"{family}, without it {least}"
    yield from _counted(known, {name: said[best[name.split("-")[0]]][name] for name in known})


def _counted(runs: Mapping[str, Stored], said: Mapping[str, bool]) -> Iterator[str]:
    """Give how often it is said falsely and rightly that a run over-fits, by family and of all."""
    for family in (*FAMILIES, ""):
        group = [name for name in runs if name.startswith(family)]
        over = [name for name in group if overfits(runs[name])]
        false, found = (sum(said[n] for n in names) for names in ({*group} - {*over}, over))
        yield f"{family or 'all'}: {false} of {len(group) - len(over)} | {found} of {len(over)}"


def regrets(runs: Mapping[str, Stored]) -> Iterator[str]:
    """Give a line for each rule: lost test accuracy in points, mean, median and worst, and the part of the epochs."""
    for name, rule in RULES.items():
        taken = [(run, *rule(run)) for run in runs.values()]
        lost = [100 * float(run["test_accuracy"].max() - run["test_accuracy"][used]) for run, _, used in taken]
        part = np.mean([stop / _end(run) for run, stop, _ in taken])
        yield f"{name}: {np.mean(lost):.2f} | {np.median(lost):.2f} | {max(lost):.2f} | {part:.2f}"


def main() -> None:
    """Train what is missing where data is given, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, help="folder with mnist/, sst2/ and modelnet10/; trains what is not stored yet"
    )
    chosen = parser.parse_args()
    for name in (*names(), *later()) if chosen.data is not None else ():
        if not (FOLDER / f"{name}.npz").exists():
            write(FOLDER / f"{name}.npz", train(name, chosen.data))
            print(f"{name}: trained", flush=True)
    runs = load()
    print("\n".join(mean_shares(with_seeds(runs, CHOOSING))))
    for table in (onsets, regrets, told_by_test):
        print("\n" + "\n".join(table(with_seeds(runs, FRESH))))
    print("\n" + "\n".join(left_out(with_seeds(runs, (*CHOOSING, *FRESH)))))
    for table in (onsets, told_by_test):
        print("\n" + "\n".join(table(with_seeds(runs, LATER))))


if __name__ == "__main__":
    main()
