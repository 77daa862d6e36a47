"""A comparison as one HTML file that works offline, and as a part of a run's report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from interaction_monitor import __version__
from interaction_monitor.comparison.comparison import Comparison
from interaction_monitor.plots import comparison_figures, comparison_text
from interaction_monitor.plots.layout import data_uri

TEMPLATES = Environment(
    loader=PackageLoader("interaction_monitor", "report"), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """What the template shows of a comparison: text and pictures."""

    names: tuple[str, ...]
    n_samples: int
    n_players: int
    alpha: float
    control: bool
    verdict: str
    threshold: str
    pooled: bool
    findings: list[str]
    ks: list[int]
    powers: list[tuple[str, list[tuple[float, float]]]]  # extraction -> (s_and, s_or) for each k
    orders: list[tuple[str, list[str]]]  # extraction -> shared share of each order, and of all
    pictures: dict[str, str]  # name -> data URI


def shown(comparison: Comparison, pictures: Mapping[str, bytes] | None = None) -> Shown:
    """Draw and put into words what a page shows.

    Args:
        comparison: The networks.
        pictures: Its pictures from `comparison_figures.draw_all`; None draws them.

    Returns:
        What the template `comparison.html.jinja` takes.
    """
    ks = comparison.ks
    findings = comparison_text.findings(comparison)
    pictures = pictures or comparison_figures.draw_all(comparison)
    return Shown(
        names=comparison.names,
        n_samples=len(comparison.samples),
        n_players=comparison.n_players,
        alpha=comparison.alpha,
        control=comparison.control is not None,
        verdict=comparison_text.verdict(comparison),
        threshold=comparison_text.threshold(comparison),
        pooled=comparison.counting.pooled,
        findings=findings,
        ks=ks,
        powers=[(e.name, list(zip(*comparison_text.powers(e, ks), strict=True))) for e in comparison.extractions],
        orders=[(e.name, comparison_text.shared_percentages(e)) for e in comparison.extractions],
        pictures={name: data_uri(picture) for name, picture in pictures.items()},
    )


def page(comparison: Comparison, pictures: Mapping[str, bytes] | None = None) -> str:
    """Write a comparison as a page that needs nothing else and runs no script.

    Whatever the networks and players are called is shown as text, never as markup.

    Args:
        comparison: The networks.
        pictures: Its pictures from `comparison_figures.draw_all`; None draws them.

    Returns:
        The page's HTML.
    """
    template = TEMPLATES.get_template("comparison_page.html.jinja")
    return template.render(comparison=shown(comparison, pictures), version=__version__)
