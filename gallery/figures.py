"""The pictures of docs/gallery.md: what the paper's Figures 2 and 4 show, for runs of the gallery."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from gallery.detection import Detected, detect
from gallery.gaps import READINGS, correlation
from gallery.spindle import FILE as SPINDLE
from gallery.stops import RULES
from gallery.stored import RESULTS, load_all, read
from interaction_monitor.functional import first_high_order
from interaction_monitor.history.landmarks import representative_measurements
from interaction_monitor.progress_bar import counted

IMAGES = RESULTS.parent.parent / "docs" / "images"
REAL, THEORY, GAP = "#4c72b0", "#dd8452", "#55a868"


def run_figure(run: Detected) -> Figure:
    """Draw a run: six measurements with the theory's answer above, ⟨k⟩ and the losses below."""
    history, settings = run.history, run.stored.run
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    rows = figure.subfigures(2, 1, height_ratios=(1, 1.25))
    columns = representative_measurements(history)
    bars = rows[0].subplots(1, len(columns), sharey=True)
    for ax, index in zip(np.atleast_1d(bars), columns, strict=True):
        _bars(ax, run, index)
    np.atleast_1d(bars)[0].set_ylabel("share of the strength")
    rows[0].legend(*np.atleast_1d(bars)[0].get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    left, right = rows[1].subplots(1, 2)
    _orders(left, run)
    _losses(right, run)
    figure.suptitle(
        f"{settings.name}: {settings.network}, {settings.n_train} samples of {settings.dataset}, "
        f"{settings.wrong_labels:.0%} of the labels drawn anew ({settings.expectation})",
        fontsize=11,
    )
    return figure


def _bars(ax: Axes, run: Detected, index: int) -> None:
    row, theory = run.history[index], run.stored.theory.get("and-or")
    orders = np.arange(1, row.n_players + 1)
    share = np.array(row.distribution) / row.n_players
    ax.bar(orders, share, color=REAL, label="measured")
    title = f"epoch {row.epoch}\n⟨k⟩ = {row.mean_order:.2f}"
    if theory is not None and np.isfinite(theory.sigma2[index]):
        ax.plot(orders, theory.distribution[index] / row.n_players, "o-", color=THEORY, ms=3, lw=1, label="theory")
        title += f", σ̂² = {theory.sigma2[index]:.0e}"
    ax.set_title(title, fontsize=8)
    ax.set_xticks(orders)
    ax.tick_params(labelsize=7)
    ax.set_xlabel("order", fontsize=8)


def _orders(ax: Axes, run: Detected) -> None:
    history, epochs = run.history, run.stored.epochs
    ax.fill_between(
        epochs, history.column("mean_order_low"), history.column("mean_order_high"), color=REAL, alpha=0.2, lw=0
    )
    ax.plot(epochs, history.column("mean_order"), color=REAL, label="⟨k⟩, with its 95% interval")
    ax.set_ylabel("mean order ⟨k⟩")
    ax.set_xlabel("epoch")
    other = ax.twinx()
    first = first_high_order(history.n_players)
    other.plot(
        epochs, history.column("high_order_share"), color=THEORY, ls="--", label=f"share of orders {first} and up"
    )
    other.set_ylabel("share of high orders")
    other.set_ylim(bottom=0)
    _mark(ax, run)
    _legend(ax, other)


def _losses(ax: Axes, run: Detected) -> None:
    curves = run.stored.curves
    epochs = np.arange(run.stored.n_epochs + 1)
    ax.plot(epochs, curves["train_loss"], color="0.3", label="training loss")
    ax.plot(epochs, curves["val_loss"], color="0.3", ls="--", label="validation loss")
    ax.plot(epochs, curves["val_loss"] - curves["train_loss"], color=GAP, label="gap")
    ax.axhline(0, color="0.8", lw=0.8)
    ax.set_xlabel("epoch")
    ax.set_ylabel("loss")
    other = ax.twinx()
    other.plot(epochs, 100 * curves["test_accuracy"], color=REAL, lw=1, alpha=0.7, label="test accuracy")
    other.set_ylabel("test accuracy, %")
    _mark(ax, run)
    _legend(ax, other)


def _legend(ax: Axes, other: Axes) -> None:
    handles = [*ax.get_legend_handles_labels()[0], *other.get_legend_handles_labels()[0]]
    names = [str(handle.get_label()) for handle in handles]
    # Above the curves, which may be anywhere.
    ax.legend(handles, names, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)


def _mark(ax: Axes, run: Detected) -> None:
    """Mark the onset as the tracker gives it, when it knew, and where the default rule would have stopped."""
    last = run.history[-1]
    stop = RULES["HighOrdersAndGap(0.1, 0.05)"](run).epoch
    marks = [(last.onset_epoch, "onset", ":"), (last.detected_epoch, "known", "-.")]
    if stop < run.stored.n_epochs:
        marks.append((stop, "stop", "-"))
    for height, (epoch, name, style) in enumerate(marks):
        if epoch is not None:
            ax.axvline(epoch, color="0.4", ls=style, lw=1)
            ax.annotate(
                f" {name}", (epoch, 0.02 + 0.07 * height), xycoords=("data", "axes fraction"), fontsize=7, color="0.3"
            )


def spindle_figure() -> Figure:
    """Draw the spindle of one network before training by four extractions."""
    strengths = read(SPINDLE, remedy="make it again with python -m gallery spindle")
    figure = Figure(figsize=(11, 2.6), layout="constrained")
    for ax, (name, strength) in zip(figure.subplots(1, len(strengths), sharey=True), strengths.items(), strict=True):
        orders = np.arange(1, len(strength) + 1)
        ax.bar(orders, strength / strength.sum(), color=REAL)
        ax.set_title(f"{name}\n⟨k⟩ = {(orders * strength).sum() / strength.sum():.2f}", fontsize=9)
        ax.set_xticks(orders)
        ax.set_xlabel("order")
    figure.axes[0].set_ylabel("share of the strength")
    return figure


def gap_figure(detected: Sequence[Detected]) -> Figure:
    """Lay the opening of the loss gap over the onset of phase two, by each way to read it; on the line both are one."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    groups = {"LeNet": REAL, "VGG-6": THEORY, "MLP": GAP, "VGG-11": "0.5"}
    for ax, (name, reading) in zip(figure.subplots(1, len(READINGS), sharey=True), READINGS.items(), strict=True):
        for network, colour in groups.items():
            for labels, marker in (("clean", "^"), ("wrong labels", "o")):
                runs = [run for run in detected if run.stored.run.network == network]
                chosen = [run for run in runs if (run.stored.run.wrong_labels > 0) == (labels != "clean")]
                places = correlation(chosen, reading).places
                if places:
                    ax.plot(*zip(*places, strict=True), marker, color=colour, ms=5, label=f"{network}, {labels}")
        ax.axline((0, 0), slope=1, color="0.7", lw=0.8)
        ax.set_title(
            f"{textwrap.fill(name, 45)}:\nrank correlation {correlation(detected, reading).value:.2f}", fontsize=8
        )
        ax.set_xlabel("onset of phase two, part of the run", fontsize=8)
    figure.axes[0].set_ylabel("opening of the loss gap, part of the run", fontsize=8)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    return figure


def write_all(folder: Path = IMAGES) -> list[Path]:
    """Draw every stored run, the spindle, and the readings of the loss gap.

    Args:
        folder: where to.

    Returns:
        The files.
    """
    detected = [detect(run) for run in counted("detection, runs", load_all())]
    figures = {run.stored.run.name: run_figure(run) for run in counted("pictures, runs", detected)}
    figures |= {"spindle": spindle_figure(), "gaps": gap_figure(detected)}
    return [_save(figure, folder / f"gallery_{name}.png") for name, figure in figures.items()]


def _save(figure: Figure, target: Path) -> Path:
    """Write a picture in few colours, which takes a third of the bytes."""
    drawn = BytesIO()
    figure.savefig(drawn, dpi=80, format="png")
    Image.open(drawn).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(target, optimize=True)
    return target
