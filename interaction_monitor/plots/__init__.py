"""What a run looks like; here what all pictures are drawn on: pages of one style, axes by hand, the axis of a run."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from interaction_monitor.history import History
from interaction_monitor.history.landmarks import marks, phase_turn, positions

STYLE: list[Any] = [
    "default",  # a user's own style, TeX for instance, must not change what the labels look like
    {
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.axisbelow": True,
        "axes.titley": 1.0,  # fixed, since looking for a free place takes a sixth of the drawing
    },
]


def styled(make: Callable[..., Figure]) -> Callable[..., Figure]:
    """Let a function that draws a figure draw it in the package's style, whatever the user's is."""

    @wraps(make)
    def drawn(*arguments: Any, **settings: Any) -> Figure:
        with style.context(STYLE):
            return make(*arguments, **settings)

    return drawn


# Okabe and Ito's colours, which stay apart for every kind of colour vision.
GAP = "#B2558A"
ONSET = "#009E73"
PHASE_ONE = "#E9EEF5"
PHASE_TWO = "#FBF0DD"
NOTE = "#555555"

# Inches at 100 pixels each. Placed by hand: a layout engine takes longer than all the drawing.
WIDTH, LEFT, RIGHT = 10.0, 0.82, 0.95


class Page(Figure):
    """A figure that a notebook shows at the end of a cell, whether or not pyplot has been set up there."""

    def _repr_png_(self) -> bytes:
        return to_png(self)


def page(width: float, height: float, *, laid_out: bool = False) -> Figure:
    """Make an empty figure of so many inches; with `laid_out` matplotlib places its axes, which takes a while."""
    figure = Page(figsize=(width, height), dpi=100, facecolor="white", layout="constrained" if laid_out else None)
    FigureCanvasAgg(figure)
    return figure


def headline(figure: Figure, text: str, *, size: float = 11, weight: str = "normal") -> None:
    """Write a headline at the left of a figure's upper edge."""
    y = 1 - 0.1 / figure.get_figheight()
    figure.suptitle(text, x=LEFT / WIDTH, y=y, ha="left", va="top", fontsize=size, fontweight=weight)


def row(figure: Figure, *, top: float, height: float, n: int = 6) -> list[Axes]:
    """Place axes beside each other on one y axis; `top` is measured from the upper edge."""
    step = (WIDTH - LEFT - 0.1) / n
    axes: list[Axes] = []
    for i in range(n):
        axes.append(place(figure, LEFT + i * step, top, step - 0.1, height, sharey=axes[0] if axes else None))
    return axes


def stack(figure: Figure, heights: list[float], *, top: float, gap: float = 0.42) -> list[Axes]:
    """Place axes under each other on one x axis."""
    axes: list[Axes] = []
    for height in heights:
        first = axes[0] if axes else None
        axes.append(place(figure, LEFT, top, WIDTH - LEFT - RIGHT, height, sharex=first))
        top += height + gap
    return axes


def place(figure: Figure, left: float, top: float, width: float, height: float, **shared: Any) -> Axes:
    """Place axes by inches from the left and the upper edge."""
    page_width, page_height = figure.get_size_inches()
    bottom = page_height - top - height
    return figure.add_axes(
        (left / page_width, bottom / page_height, width / page_width, height / page_height), **shared
    )


def name_the_lowest(axes: list[Axes]) -> None:
    """Leave the run's axis to the lowest of charts that share it."""
    for ax in axes[:-1]:
        ax.set_xlabel("")
        ax.tick_params(labelbottom=False)


def to_image(figure: Figure) -> NDArray[np.uint8]:
    """Render a figure into (height, width, 3) pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib leaves it untyped
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]  # matplotlib leaves it untyped
    return pixels


def to_png(figure: Figure, *, dpi: int = 100) -> bytes:
    """Write a figure as a PNG file of so many pixels per inch."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def data_uri(png: bytes) -> str:
    """Write a PNG file as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def picture_html(figure: Figure, *, alt: str) -> str:
    """Write a figure as an HTML image with its pixels inside; `alt`, without markup, is for those who do not see it."""
    return f'<img style="max-width: 100%" alt="{alt}" src="{data_uri(to_png(figure))}">'


def edges_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where the columns of measurements at `values` begin and end."""
    if len(values) == 1:
        return np.array([values[0] - 0.5, values[0] + 0.5])
    middles = (values[1:] + values[:-1]) / 2
    return np.concatenate([[2 * values[0] - middles[0]], middles, [2 * values[-1] - middles[-1]]])


def run_axis(ax: Axes, history: History) -> None:
    """Let x be the run, from its first measurement to its last."""
    values, unit = positions(history)
    ax.set_xlim(*edges_of(values)[[0, -1]])
    ax.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    ax.set_xlabel(unit)


def marker_of(history: History) -> str:
    """Return what marks the measurements on a curve: nothing where there are too many."""
    return "o" if len(history) <= 2 else "." if len(history) <= 60 else ""


def plot_known(ax: Axes, history: History, column: NDArray[np.float64], **line: Any) -> None:
    """Draw a curve over the run that joins what is known of it."""
    # Where a loss is logged less often than the run is measured, its points are still joined.
    known = ~np.isnan(column)
    if known.any():
        ax.plot(positions(history)[0][known], column[known], marker=marker_of(history), **line)


def mark_phases(ax: Axes, history: History, *, names_at: float | None = None) -> None:
    """Shade the phases behind a chart over the run, as far as they are decided at its last measurement.

    Their names are written at the part `names_at` of the height; None leaves them out.
    """
    left, right = ax.get_xlim()
    turn, decided = phase_turn(history)
    if turn is None:
        return
    after = (PHASE_TWO, "phase two") if decided else ("none", "not decided yet")
    for begin, end, colour, name in ((left, turn, PHASE_ONE, "phase one"), (turn, right, *after)):
        if end <= begin:
            continue
        if colour != "none":
            ax.axvspan(begin, end, color=colour, linewidth=0, zorder=0)
        width = (end - begin) / (right - left)
        # A name that is wider than its phase would run into the next one: it is turned, or left out.
        if names_at is not None and width > 0.03:
            place: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "ha": "center", "va": "top"}
            turned = 0 if width > 0.1 else 90
            ax.text((begin + end) / 2, names_at, name, color=NOTE, rotation=turned, **place)


def mark_onsets(ax: Axes, history: History, *, height: float = 1.0) -> None:
    """Draw where phase two began and from where the loss gap rises, from the bottom up to a part of the height."""
    values, _ = positions(history)
    for kind, index, name in marks(history):
        if kind != "over-fitting":
            colour, dashes = (ONSET, "-") if kind == "onset" else (GAP, ":")
            ax.axvline(values[index], ymax=height, color=colour, linestyle=dashes, linewidth=2, label=name)


def write_inside(ax: Axes, text: str) -> None:
    """Say in the middle of a chart why it is empty."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=NOTE)


def bare(ax: Axes) -> None:
    """Leave out the lines above and at the right of a chart."""
    ax.spines[["top", "right"]].set_visible(False)


def legend_above(figure: Figure, ax: Axes) -> None:
    """Put the legend of one of a figure's charts above all of them."""
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=4, frameon=False)
