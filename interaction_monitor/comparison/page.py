"""A comparison as one HTML file that works offline, and as a part of a run's report."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from matplotlib.figure import Figure

from interaction_monitor import __version__
from interaction_monitor.comparison import figures, words
from interaction_monitor.comparison.compared import Comparison


@dataclass(frozen=True)
class Shown:
    """What the template shows of a comparison: text and pictures."""

    names: tuple[str, ...]
    n_samples: int
    n_players: int
    alpha: float
    control: bool
    verdict: str
    findings: list[str]
    ks: list[int]
    powers: list[tuple[str, list[tuple[float, float]]]]  # extraction -> (s_and, s_or) for each k
    orders: list[tuple[str, list[str]]]  # extraction -> shared share of each order, and of all
    pictures: dict[str, str]  # name -> data URI


def shown(comparison: Comparison, sample: int = 0) -> Shown:
    """Draw and put into words what a page shows.

    Args:
        comparison: The networks.
        sample: Which sample of the comparison, from 0 on, has its patterns drawn.

    Returns:
        What the template `comparison.html.jinja` takes.
    """
    ks = words.strengths_of_interest(comparison.n_players)
    findings = words.findings(comparison)
    pictures = {name: _uri(figures.draw(name, comparison, sample)) for name in figures.PICTURES}
    return Shown(
        names=comparison.names,
        n_samples=len(comparison.samples),
        n_players=comparison.n_players,
        alpha=comparison.alpha,
        control=comparison.control is not None,
        verdict=words.verdict(comparison),
        findings=findings,
        ks=ks,
        powers=[(e.name, list(zip(*words.powers(e, ks), strict=True))) for e in comparison.extractions],
        orders=[(e.name, words.shared_percentages(e)) for e in comparison.extractions],
        pictures=pictures,
    )


def page(comparison: Comparison, sample: int = 0) -> str:
    """Write a comparison as a page that needs nothing else and runs no script.

    Whatever the networks and players are called is shown as text, never as markup.

    Args:
        comparison: The networks.
        sample: Which sample of the comparison, from 0 on, has its patterns drawn.

    Returns:
        The page's HTML.

    Raises:
        ModuleNotFoundError: If jinja2 is not installed (`pip install 'interaction-monitor[report]'`).
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("interaction_monitor", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    template = environment.get_template("comparison_page.html.jinja")
    return template.render(comparison=shown(comparison, sample), version=__version__)


def _uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
