"""Pages that pictures are drawn on: one style, axes placed by hand, and what a drawn page is turned into."""

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
from numpy.typing import NDArray

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


# Inches at 100 pixels each. Placed by hand: a layout engine takes longer than all the drawing.
WIDTH, LEFT, RIGHT = 10.0, 0.82, 0.95


def page(width: float, height: float) -> Figure:
    """Make an empty figure of so many inches."""
    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
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
    """Render a figure.

    Args:
        figure: The figure.

    Returns:
        (height, width, 3) pixels.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib leaves it untyped
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]  # matplotlib leaves it untyped
    return pixels


def to_png(figure: Figure, *, dpi: int = 100) -> bytes:
    """Write a figure as a PNG file.

    Args:
        figure: The figure.
        dpi: Pixels per inch.
    """
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def data_uri(png: bytes) -> str:
    """Write a PNG file as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def picture_html(figure: Figure, *, alt: str) -> str:
    """Write a figure as an HTML image with its pixels inside.

    Args:
        figure: The figure.
        alt: What it shows, for those who do not see it; no markup is left in it.
    """
    return f'<img style="max-width: 100%" alt="{alt}" src="{data_uri(to_png(figure))}">'
