"""Runs beside references: what finished networks, and twins trained in step, tell of over-fitting.

    python -m gallery.references                       # the tables of docs/generalizing.md, from what is stored
    python -m gallery.references --data FOLDER         # train what is not stored yet, a minute or two each

The data are MNIST from the folder, and what scikit-learn brings. A run's references are trained on other samples, as
many of them, with as many wrong labels, and taken at their lowest validation loss.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from examples import datasets, networks
from gallery.ingredients import with_wrong_labels
from gallery.stored import RESULTS, write
from gallery.train import evaluate
from interaction_monitor import Probe, assign_players, interpret, masked_outputs
from interaction_monitor.functional import generalizing_strength
from interaction_monitor.phases import OverfittingTracker
from interaction_monitor.players import Columns, FeaturePatches, Players

FOLDER = RESULTS / "references"
CONDITIONS = ("clean", "decay", "wrong10", "wrong20")
CHOOSING, FRESH = (0, 1), (10, 11, 12)
KINDS = ("finished", "twins_both", "twins_one")
Stored = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Family:
    """What all runs of one kind of network have in common."""

    network: Callable[[], nn.Module]
    players: Players
    n_train: int
    n_other: int  # samples of each finished reference
    references: int
    n_validation: int
    epochs: int
    every: int
    batch: int
    decay: float


FAMILIES = {
    "lenet": Family(
        networks.LeNet, FeaturePatches("features.1", grid=7, margin=1, n_players=6),
        1000, 1000, 2, 600, 72, 3, 128, 0.02,
    ),
    "vgg6": Family(
        lambda: networks.Vgg((2, 2, 1), channels=1, width=8),
        FeaturePatches("features.3", grid=8, margin=1, n_players=6),
        400, 390, 2, 250, 90, 4, 64, 0.02,
    ),
    "mlp": Family(lambda: networks.Perceptron(30), Columns(n_players=6), 160, 155, 1, 110, 300, 12, 64, 0.05),
}  # fmt: skip


def names() -> list[str]:
    """Name all runs, those to choose on first."""
    many = [
        f"{family}-{condition}-{seed}"
        for seed in (*CHOOSING, *FRESH)
        for condition in CONDITIONS
        for family in FAMILIES
        if seed < FRESH[-1] or (family, condition) == ("mlp", "wrong20")
    ]
    return [*many, "lenet-much-0", "lenet-much-10"]


def train(name: str, data: Path | None) -> dict[str, NDArray[np.generic]]:
    """Train a run, its finished references and its twins.

    Args:
        name: one of `names`.
        data: folder with MNIST, for LeNets.

    Returns:
        Its losses and accuracy after each epoch; at each measurement the strength of each sample, (E, S), all of it and
        what references have too.
    """
    kind, condition, seed = name.split("-")[0], name.split("-")[1], int(name.split("-")[2])
    family, much = FAMILIES[kind], condition == "much"
    n, other = (6000, 3000) if much else (family.n_train, family.n_other)
    epochs, every = (16, 1) if much else (family.epochs, family.every)
    wrong = {"wrong10": 0.1, "wrong20": 0.2}.get(condition, 0.0)
    x, y, test = _data(kind, data, seed)
    bounds = [n + number * other for number in range(family.references + 1)]
    held, n_classes = slice(bounds[-1], bounds[-1] + family.n_validation), int(y.max()) + 1
    validation = x[held], y[held]
    test = test or (x[held.stop :], y[held.stop :])
    probe = Probe.from_loader([validation], n_samples=25, seed=seed)
    model = _made(family, seed)
    players = assign_players(model, family.players, probe, seed=seed)

    def sgd(network: nn.Module) -> torch.optim.Optimizer:
        decay = family.decay if condition == "decay" else 0.0
        return torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=decay)

    def look(network: nn.Module) -> tuple[Tensor, Tensor, float]:
        found = interpret(masked_outputs(network, probe, players))
        return found.and_, found.or_, found.tau

    finished = []
    for number in range(family.references):
        part = slice(bounds[number], bounds[number] + other)
        labels = with_wrong_labels(y[part], wrong, n_classes=n_classes, seed=500 + seed + number)
        network = _made(family, 7000 + 10 * seed + number)
        most = 1e9 if condition == "decay" else 1.5
        _to_lowest_loss(
            network, sgd(network), (x[part], labels), validation, family.batch, epochs, seed=900 + number, most=most
        )
        finished.append(look(network))
    twins = [_made(family, 8000 + 10 * seed + number) for number in range(2)]
    optimizers = [sgd(network) for network in (model, *twins)]
    inputs, labels = x[:n], with_wrong_labels(y[:n], wrong, n_classes=n_classes, seed=seed)
    generator, rows, curves = torch.Generator().manual_seed(seed), [], []
    for epoch in range(epochs + 1):
        for batch in torch.randperm(n, generator=generator).split(family.batch) if epoch else ():
            parts = (batch, batch[batch % 2 == 0], batch[batch % 2 == 1])
            for network, optimizer, part in zip((model, *twins), optimizers, parts, strict=True):
                _step(network, optimizer, inputs[part], labels[part])
        losses = [evaluate(model, inputs, labels)[0], evaluate(model, *validation)[0]]
        curves.append([*losses, evaluate(model, *test)[1]])
        if epoch % every == 0 or epoch == epochs:
            and_, or_, tau = look(model)
            beside = [(finished, 1), ([look(network) for network in twins], 2)]
            beside.append((beside[-1][0], 1))
            everything = generalizing_strength(and_, or_, [(and_, or_, tau)], tau=tau)
            held_too = [generalizing_strength(and_, or_, r, tau=tau, at_least=k) for r, k in beside]
            rows.append((epoch, torch.stack([everything, *held_too]).sum(-1).float().numpy()))
    strengths = np.stack([strength for _, strength in rows], 1)
    train_loss, val_loss, accuracy = np.array(curves, dtype=np.float32).T
    return {
        "epochs": np.array([epoch for epoch, _ in rows], dtype=np.int32),
        **dict(zip(("strength", *KINDS), strengths, strict=True)),
        "train_loss": train_loss,
        "val_loss": val_loss,
        "test_accuracy": accuracy,
    }


def _made(family: Family, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return family.network()


def _data(kind: str, data: Path | None, seed: int) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    if kind == "lenet":
        loaded = datasets.mnist(data, n_train=20_000, n_test=1500, seed=seed)
        images, labels = loaded.test.tensors
        return *loaded.train.tensors, (images, labels)  # type: ignore[return-value]  # two of them
    loaded = datasets.sklearn_digits(seed=seed) if kind == "vgg6" else datasets.breast_cancer(seed=seed)
    x, y = (torch.cat(pair) for pair in zip(loaded.train.tensors, loaded.test.tensors, strict=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1000 + seed))
    return x[order], y[order], None


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    if len(x) < 2:
        return
    network.train()
    optimizer.zero_grad()
    functional.cross_entropy(network(x), y).backward()
    optimizer.step()


def _to_lowest_loss(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    samples: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    size: int,
    epochs: int,
    *,
    seed: int,
    most: float,
) -> None:
    """Train a network until its validation loss is so many times its lowest, and give it the weights that had that."""
    generator, best, weights = torch.Generator().manual_seed(seed), float("inf"), network.state_dict()
    for epoch in range(epochs):
        for batch in torch.randperm(len(samples[1]), generator=generator).split(size):
            _step(network, optimizer, samples[0][batch], samples[1][batch])
        loss = evaluate(network, *validation)[0]
        if loss < best:
            best, weights = loss, copy.deepcopy(network.state_dict())
        elif epoch > 15 and loss > most * best:
            break
    network.load_state_dict(weights)


def load(folder: Path = FOLDER) -> dict[str, Stored]:
    """Read the stored runs, by name."""
    return {path.stem: dict(np.load(path)) for path in sorted(folder.glob("*.npz"))}


def shares(run: Stored, kind: str) -> NDArray[np.float64]:
    """Give the generalizing share at each measurement."""
    return np.asarray(run[kind].sum(1) / run["strength"].sum(1), dtype=np.float64)


def overfits(run: Stored) -> bool:
    """Tell whether the validation loss ends 5% above its lowest."""
    return bool(run["val_loss"][-1] >= 1.05 * run["val_loss"].min())


def onset(run: Stored, kind: str) -> tuple[int | None, int | None]:
    """Give the onset of over-fitting and the epoch at which it is known; None where it is not."""
    tracker = OverfittingTracker()
    for epoch, part, whole in zip(run["epochs"], run[kind], run["strength"], strict=True):
        tracker.update(epoch=int(epoch), generalizing=torch.tensor(part), strength=torch.tensor(whole))
    return tracker.state.onset_epoch, tracker.state.detected_epoch


def sunk(run: Stored, kind: str, *, drop: float = 0.15, measurements: int = 3) -> int:
    """Give the epoch after which `stopping.GeneralizingShare` stops the run, or the last."""
    share = shares(run, kind)
    highest = np.maximum.accumulate(share)
    low = (share <= (1 - drop) * highest) & (highest > share[0])
    held = [bool(low[max(0, i + 1 - measurements) : i + 1].all()) and i + 1 >= measurements for i in range(len(low))]
    return int(run["epochs"][held.index(True)] if True in held else run["epochs"][-1])


def patient(run: Stored, patience: int) -> tuple[int, int]:
    """Give the epoch at which patience on the validation loss ends, and the best until then."""
    best = 0
    for epoch, loss in enumerate(run["val_loss"]):
        if loss < run["val_loss"][best]:
            best = epoch
        elif epoch - best >= patience:
            return epoch, best
    return len(run["val_loss"]) - 1, best


def tables(runs: Mapping[str, Stored]) -> Iterator[str]:
    """Give the lines of all tables."""
    for family in FAMILIES:
        for condition in (*CONDITIONS, "much"):
            group = [run for name, run in runs.items() if name.startswith(f"{family}-{condition}-")]
            if group:
                cells = [np.mean([(s.max(), s[-1]) for s in (shares(run, kind) for run in group)], 0) for kind in KINDS]
                accuracy = 100 * np.mean([(run["test_accuracy"].max(), run["test_accuracy"][-1]) for run in group], 0)
                shown = " | ".join(f"{first:.2f} → {last:.2f}" for first, last in cells)
                yield f"{family} {condition} ({len(group)}): {accuracy[0]:.1f} → {accuracy[1]:.1f} | {shown}"
    fresh = {name: run for name, run in runs.items() if int(name.split("-")[-1]) in FRESH}
    for kind in KINDS:
        found = {name: onset(run, kind) for name, run in fresh.items()}
        over = [name for name in fresh if overfits(fresh[name])]
        known = [name for name in over if found[name][1] is not None]
        false = sum(found[name][1] is not None for name in fresh if name not in over)
        lags = [float(found[name][1] or 0) - float(fresh[name]["val_loss"].argmin()) for name in known]
        lag = np.median(lags) if lags else float("nan")
        yield (
            f"{kind}: {false} false of {len(fresh) - len(over)}, {len(known)} found of {len(over)} "
            f"({', '.join(known)}), known {lag:.0f} epochs after the lowest validation loss"
        )
    rules: dict[str, Callable[[Stored], tuple[int, int]]] = {
        "patience 10, best weights": lambda run: patient(run, 10),
        "patience 5, best weights": lambda run: patient(run, 5),
        "patience 10, last weights": lambda run: (patient(run, 10)[0],) * 2,
        "share sunk, twins": lambda run: (sunk(run, "twins_both"),) * 2,
        "share sunk, finished": lambda run: (sunk(run, "finished"),) * 2,
        "to the end": lambda run: (len(run["val_loss"]) - 1,) * 2,
    }
    for name, rule in rules.items():
        taken = [(run, *rule(run)) for run in fresh.values()]
        lost = [100 * float(run["test_accuracy"].max() - run["test_accuracy"][used]) for run, _, used in taken]
        part = np.mean([stop / (len(run["val_loss"]) - 1) for run, stop, _ in taken])
        yield f"{name}: {np.mean(lost):.2f} | {np.median(lost):.2f} | {max(lost):.2f} | {part:.2f}"


def main() -> None:
    """Train what is missing where data is given, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with mnist/; trains what is not stored yet")
    chosen = parser.parse_args()
    for name in names() if chosen.data is not None else ():
        if not (FOLDER / f"{name}.npz").exists():
            write(FOLDER / f"{name}.npz", train(name, chosen.data))
            print(f"{name}: trained", flush=True)
    print("\n".join(tables(load())))


if __name__ == "__main__":
    main()
