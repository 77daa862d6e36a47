"""The overlay in TensorBoard, in the same run as the measurements.

Everything goes into one event file that names its purpose, and that file is replaced each time, so that
writing twice leaves what writing once does.
"""

from __future__ import annotations

import glob
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from interaction_monitor.history.landmarks import telling_columns
from interaction_monitor.plots import theory_figures, theory_text
from interaction_monitor.plots.run_figures import to_image
from interaction_monitor.plots.tensorboard import write_histogram
from interaction_monitor.theory.overlay import Overlay

_EVENTS = "events.out.tfevents."
# TensorBoard keeps ten pictures of a tag and drops others at random.
_MOST_PICTURES = 10

HOW_TO_READ = """\
### What the theory predicts for this run

From the interactions of the **last** network the theory of Ren et al. 2024 (Theorem 3) predicts those of every noise
level σ². For each measurement the level is taken at which the predicted distribution over orders comes closest.

- **Images**, `{name}/theory/bars`: measured and predicted side by side, one picture for each of up to ten measurements;
  move the slider. `{name}/theory/overview` has six in one picture, `{name}/theory/noise_level` the level over the run.
- **Histograms**, `{name}/theory/orders`: the prediction, to lay beside `{name}/orders`.
- **Scalars**: `{name}/theory/sigma2` with the ends of its interval, `cosine`, `divergence`, and `mean_order`, all of
  phase two only. The axis of σ² is best made logarithmic.

{findings}

{why}
"""


def run_folder(record: Path) -> Path | None:
    """Find the TensorBoard run that a record belongs to: the folder above it, if that holds event files.

    Args:
        record: The record's folder.

    Returns:
        The run's folder, or None where the run was not logged to TensorBoard.
    """
    folder = record.resolve().parent
    return folder if any(folder.glob(f"{_EVENTS}*")) else None


def write(overlay: Overlay, folder: Path, *, name: str = "interactions") -> None:
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
        _write(writer, overlay, name)


def _write(writer: SummaryWriter, overlay: Overlay, name: str) -> None:
    history, fit = overlay.history, overlay.fit
    pictured = telling_columns(history, _MOST_PICTURES)
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
    text = HOW_TO_READ.format(name=name, findings=findings, why=theory_text.WHY_GREY)
    writer.add_text(f"{name}/theory/how_to_read", text, last)
