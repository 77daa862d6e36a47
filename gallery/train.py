"""From a line of the table to a stored run: a plain training loop, measured on the way."""

from __future__ import annotations

import time
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from gallery.ingredients import network, splits
from gallery.runs import Run
from gallery.stored import KINDS, Stored, Theory, path_of, write
from interaction_monitor import Observer, Probe, assign_players
from interaction_monitor.functional import and_interactions, order_effects, order_strength
from interaction_monitor.measurement import Measurement, measure
from interaction_monitor.progress_bar import counted
from interaction_monitor.theory import fit_sigma2


def train(run: Run, *, data: Path | None = None, outputs: Path | None = None, unfinished: Path | None = None) -> Stored:
    """Train a run, measure it on the way and lay the theory over it.

    Args:
        run: what to train.
        data: folder with the data sets that no package brings.
        outputs: folder in which to keep the masked outputs too, some megabytes, for other numbers of players.
        unfinished: file that keeps all that the run needs after each measurement, to go on from if this is
            interrupted; it is removed at the end.

    Returns:
        What is kept of it.
    """
    parts = splits(run, data)
    model, kind = network(run, parts.vocabulary)
    probe = Probe.from_loader([parts.validation], n_samples=run.n_samples, seed=run.seed)
    observer = Observer(probe, assign_players(model, kind, probe, seed=run.seed))
    beside = None
    if run.n_train_samples:
        training_probe = Probe.from_loader([parts.train], n_samples=run.n_train_samples, seed=run.seed)
        beside = training_probe, assign_players(model, kind, training_probe, seed=run.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=run.learning_rate, momentum=0.9, weight_decay=run.weight_decay)
    generator = torch.Generator().manual_seed(run.seed)
    looks: list[dict[str, Tensor]] = []
    curves: dict[str, list[float]] = {}
    seconds = {"training": 0.0, "measuring": 0.0}
    step = 0
    torch.manual_seed(run.seed)  # dropout
    begin = 0
    if (state := _kept(unfinished, run)) is not None:
        begin, step = state["epoch"] + 1, state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        observer.load_state_dict(state["observer"])
        looks, curves, seconds = state["looks"], state["curves"], state["seconds"]
        generator.set_state(state["batches"])
        torch.set_rng_state(state["dropout"])
    for epoch in counted(f"{run.name}, epochs", range(begin, run.epochs + 1)):
        started = time.perf_counter()
        if epoch > 0:
            step += _train_epoch(model, optimizer, *parts.train, batch=run.batch, generator=generator)
        for name, part in (("train", parts.train), ("val", parts.validation), ("test", parts.test)):
            loss, accuracy = evaluate(model, *part)
            curves.setdefault(f"{name}_loss", []).append(loss)
            curves.setdefault(f"{name}_accuracy", []).append(accuracy)
        seconds["training"] += time.perf_counter() - started
        if epoch % run.every == 0 or epoch == run.epochs:
            losses = {"train_loss": curves["train_loss"][-1], "test_loss": curves["val_loss"][-1]}
            row = observer.observe(model, epoch=epoch, step=step, **losses)
            seconds["measuring"] += row.seconds
            assert observer.last is not None
            looks.append({"v": observer.last.v, "strength": observer.last.strength, "test": _effects(observer.last)})
            if beside is not None:
                looks[-1]["train"] = _effects(measure(model, *beside))
            if unfinished is not None and epoch < run.epochs:
                state = {"run": repr(run), "epoch": epoch, "step": step, "looks": looks, "curves": curves}
                state |= {"seconds": seconds, "batches": generator.get_state(), "dropout": torch.get_rng_state()}
                parts_of_state = {"model": model, "optimizer": optimizer, "observer": observer}
                _keep(state | {name: part.state_dict() for name, part in parts_of_state.items()}, unfinished)
    if outputs is not None:
        write(path_of(run.name, outputs), {"v": torch.stack([x["v"] for x in looks]).float().numpy()})
    if unfinished is not None:
        unfinished.unlink(missing_ok=True)
    return _stored(run, observer, looks, curves, (seconds["training"], seconds["measuring"]))


def _keep(state: dict[str, Any], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".new")
    torch.save(state, beside)
    beside.replace(file)


def _kept(file: Path | None, run: Run) -> dict[str, Any] | None:
    """What an interrupted training of this very run has left; None if there is nothing of use."""
    if file is None or not file.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(file, weights_only=True)
    except (EOFError, OSError, RuntimeError, UnpicklingError):
        return None
    return state if state.get("run") == repr(run) else None


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
    *,
    batch: int,
    generator: torch.Generator,
) -> int:
    model.train()
    batches = torch.randperm(len(labels), generator=generator).split(batch)
    for chosen in batches:
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
        optimizer.step()
    return len(batches)


@torch.no_grad()
def evaluate(model: nn.Module, inputs: Tensor, labels: Tensor, *, most: int = 5000) -> tuple[float, float]:
    """Give mean loss and accuracy, of at most so many samples."""
    model.eval()
    logits = torch.cat([model(part) for part in inputs[:most].split(500)])
    labels = labels[:most]
    return float(functional.cross_entropy(logits, labels)), float((logits.argmax(1) == labels).double().mean())


def _effects(measurement: Measurement) -> Tensor:
    valid = measurement.valid
    return order_effects(measurement.and_[valid], measurement.or_[valid]).mean(0)


def _stored(
    run: Run,
    observer: Observer,
    looks: list[dict[str, Tensor]],
    curves: dict[str, list[float]],
    seconds: tuple[float, float],
) -> Stored:
    history, last = observer.history, observer.last
    assert last is not None
    tau = history.column("tau")
    dividends = [and_interactions(look["v"]) for look in looks]
    strength = {
        "and-or": torch.stack([look["strength"] for look in looks]),
        "and": torch.stack([order_strength(d, None, float(t)) for d, t in zip(dividends, tau, strict=True)]),
    }
    final = {"and-or": (last.and_, last.or_), "and": (dividends[-1], None)}
    theory = {}
    for kind in KINDS:
        try:
            fit = fit_sigma2(strength[kind], *final[kind], tau=last.tau)
        except ValueError:  # nothing is salient in the end
            continue
        theory[kind] = Theory(
            sigma2=fit.sigma2.numpy(),
            low=fit.low.numpy(),
            high=fit.high.numpy(),
            cosine=fit.cosine.numpy(),
            distribution=fit.theory.numpy(),
        )
    return Stored(
        run=run,
        epochs=history.epochs,
        steps=history.steps,
        strength={kind: values.numpy() for kind, values in strength.items()},
        tau=tau,
        output_change=history.column("output_change"),
        solver_gap=history.column("solver_gap"),
        theory=theory,
        effect={name: torch.stack([x[name] for x in looks]).numpy() for name in ("test", "train") if name in looks[0]},
        curves={name: np.array(values) for name, values in curves.items()},
        seconds=seconds,
    )
