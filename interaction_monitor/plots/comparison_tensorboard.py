"""A comparison in TensorBoard, in a run of its own."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from interaction_monitor.comparison.extraction import Comparison
from interaction_monitor.plots import comparison_figures, comparison_text

_EVENTS = "events.out.tfevents."
_SUFFIX = ".comparison"


def write(
    comparison: Comparison, folder: Path, *, name: str = "comparison", pictures: Mapping[str, bytes] | None = None
) -> None:
    """Write the pictures, the table and s_and and s_or, in place of what an earlier call wrote there.

    The scalars have the number k of strongest interactions for their step.

    Args:
        comparison: The networks.
        folder: The TensorBoard run.
        name: Prefix of the tags.
        pictures: Its pictures from `figures.draw_all`; None draws them.

    Raises:
        OSError: If the folder cannot be written.
    """
    for earlier in folder.glob(f"{_EVENTS}*{_SUFFIX}"):
        earlier.unlink()
    ks = comparison_text.strengths_of_interest(comparison.n_players)
    with SummaryWriter(str(folder), filename_suffix=_SUFFIX) as writer:
        for key, picture in (pictures or comparison_figures.draw_all(comparison)).items():
            pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
            writer.add_image(f"{name}/{key}", pixels, 0, dataformats="HWC")
        for extraction in comparison.extractions:
            for kind, power in zip(("s_and", "s_or"), comparison_text.powers(extraction, ks), strict=True):
                for k, share in zip(ks, power, strict=True):
                    writer.add_scalar(f"{name}/{kind}/{extraction.name.replace(' ', '_')}", share, k)
        found = "\n\n".join(comparison_text.findings(comparison))
        table = comparison_text.table(comparison).replace("\n", "\n    ")
        writer.add_text(f"{name}/findings", f"{' | '.join(comparison.names)}\n\n{found}\n\n    {table}", 0)
