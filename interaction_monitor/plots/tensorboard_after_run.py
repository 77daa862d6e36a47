"""What is found after a run, shown in TensorBoard: the theory in the run itself, a comparison in a run of its own.

It goes into an event file that names its purpose, and that file is replaced each time, so that writing twice leaves
what writing once does.
"""

from __future__ import annotations

import glob
import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from interaction_monitor.comparison.comparison import Comparison
from interaction_monitor.history.landmarks import representative_measurements
from interaction_monitor.plots import comparison_figures, comparison_text, theory_figures, theory_text
from interaction_monitor.plots.layout import to_image
from interaction_monitor.plots.tensorboard import write_histogram
from interaction_monitor.theory.overlay import Overlay

_EVENTS = "events.out.tfevents."
_OF_COMPARISON = ".comparison"
# TensorBoard keeps ten pictures of a tag and drops others at random.
_MOST_PICTURES = 10


def run_folder(record: Path) -> Path | None:
    """Find the TensorBoard run that a record belongs to: the folder above it, if that holds event files.

    Args:
        record: The record's folder.

    Returns:
        The run's folder, or None where the run was not logged to TensorBoard.
    """
    folder = record.resolve().parent
    return folder if any(folder.glob(f"{_EVENTS}*")) else None


def write_theory(overlay: Overlay, folder: Path, *, name: str = "interactions") -> None:
    """Write the overlay into a TensorBoard run, in place of what an earlier call wrote there.

    Args:
        overlay: The run.
        folder: The run's folder.
        name: Prefix of the tags, the monitor's name.

    Raises:
        OSError: If the folder cannot be written.
    """
    suffix = f".theory-of-{name}"
    for earlier in folder.glob(f"{_EVENTS}*{glob.escape(suffix)}"):
        earlier.unlink()
    with SummaryWriter(str(folder), filename_suffix=suffix) as writer:
        _write_overlay(writer, overlay, name)


def _write_overlay(writer: SummaryWriter, overlay: Overlay, name: str) -> None:
    history, fit = overlay.history, overlay.fit
    pictured = representative_measurements(history, _MOST_PICTURES)
    for index, row in enumerate(history):
        if index in pictured:
            image = to_image(theory_figures.bars(overlay, [index]))
            writer.add_image(f"{name}/theory/bars", image, row.step, dataformats="HWC")
        if not overlay.in_phase_two[index] or fit.sigma2[index].isnan():
            continue
        write_histogram(writer, fit.theory[index].tolist(), tag=f"{name}/theory/orders", step=row.step)
        for key, value in (
            ("sigma2", fit.sigma2[index]),
            ("sigma2_low", fit.low[index]),
            ("sigma2_high", fit.high[index]),
            ("cosine", fit.cosine[index]),
            ("divergence", fit.divergence[index]),
            ("mean_order", overlay.predicted_order[index]),
        ):
            writer.add_scalar(f"{name}/theory/{key}", float(value), row.step)
    last = history[-1].step
    for key, picture in (("overview", theory_figures.bars), ("noise_level", theory_figures.noise_level)):
        writer.add_image(f"{name}/theory/{key}", to_image(picture(overlay)), last, dataformats="HWC")
    findings = "\n\n".join(theory_text.findings(overlay))
    text = theory_text.HOW_TO_READ.format(name=name, findings=findings, why=theory_text.WHY_GREY)
    writer.add_text(f"{name}/theory/how_to_read", text, last)


def write_comparison(
    comparison: Comparison, folder: Path, *, name: str = "comparison", pictures: Mapping[str, bytes] | None = None
) -> None:
    """Write the pictures, the table and s_and and s_or, in place of what an earlier call wrote there.

    The scalars have the number k of strongest interactions for their step.

    Args:
        comparison: The networks.
        folder: The TensorBoard run.
        name: Prefix of the tags.
        pictures: Its pictures from `comparison_figures.draw_all`; None draws them.

    Raises:
        OSError: If the folder cannot be written.
    """
    for earlier in folder.glob(f"{_EVENTS}*{_OF_COMPARISON}"):
        earlier.unlink()
    ks = comparison.ks
    with SummaryWriter(str(folder), filename_suffix=_OF_COMPARISON) as writer:
        for key, picture in (pictures or comparison_figures.draw_all(comparison)).items():
            pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
            writer.add_image(f"{name}/{key}", pixels, 0, dataformats="HWC")
        for extraction in comparison.extractions:
            for kind, power in zip(("s_and", "s_or"), comparison_text.powers(extraction, ks), strict=True):
                for k, share in zip(ks, power, strict=True):
                    if math.isnan(share):  # the OR of an extraction that has none
                        continue
                    writer.add_scalar(f"{name}/{kind}/{extraction.name.replace(' ', '_')}", share, k)
        found = "\n\n".join(comparison_text.findings(comparison))
        table = comparison_text.table(comparison).replace("\n", "\n    ")
        writer.add_text(f"{name}/findings", f"{' | '.join(comparison.names)}\n\n{found}\n\n    {table}", 0)
