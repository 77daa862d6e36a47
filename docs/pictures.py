"""Draw the pictures of the documentation that are of the demo, all from one run.

    python examples/digits.py --train-samples 25 --out runs/pictures
    python docs/pictures.py runs/pictures

Measuring training samples too changes nothing about the training, so this is the run of `make demo`. The two pictures
of TensorBoard take Chromium and playwright. Afterwards look at each, and put the figures that the pages quote right.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

IMAGES = Path(__file__).parent / "images"


def main(run: Path) -> None:
    """Draw all from the newest record below a folder."""
    from interaction_monitor import console
    from interaction_monitor.plots import run_figures
    from interaction_monitor.record import Record

    folder = max(run.glob("version_*/interactions"), key=lambda path: path.stat().st_mtime)
    history = Record.open(folder).history
    run_figures.story(history).savefig(IMAGES / "digits.png")
    run_figures.carry_over(history).savefig(IMAGES / "carry_over.png")
    draw_beginning(IMAGES / "beginning.png", history)
    photograph(folder.parent)
    print(console.table(history), console.verdict(history), console.advice(history), sep="\n\n")


def draw_beginning(target: Path, history) -> None:
    """Draw what a newcomer looks at first: six moments, and which part of it will hold."""
    from interaction_monitor.plots import WIDTH, charts, headline, page, row, stack, styled

    @styled
    def draw(history):
        figure = page(WIDTH, 4.8)
        headline(figure, "What the network encodes: patterns of few inputs (left) or many (right)", size=12)
        charts.bar_row(row(figure, top=0.9, height=1.3), history)
        (ax,) = stack(figure, [1.3], top=3.0)
        charts.generalizing_curve(ax, history)
        ax.set_title("How much of it networks encode too that learn from other samples")
        return figure

    draw(history).savefig(target)


def photograph(logs: Path) -> None:
    """Take pictures of the tab Interactions and of Custom Scalars."""
    from playwright.sync_api import sync_playwright
    from tensorboard import default, program

    from interaction_monitor.tensorboard_tab import InteractionsPlugin

    board = program.TensorBoard(plugins=[*default.get_static_plugins(), InteractionsPlugin])
    board.configure(argv=[None, "--logdir", str(logs.parent), "--port", "0", "--load_fast=false"])
    url = board.launch()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1100, "height": 1000})
        page.goto(f"{url}?darkMode=false#interactions")
        page.frame_locator("iframe").locator("[data-figure=orders] svg[tabindex]").first.wait_for(timeout=120_000)
        page.wait_for_timeout(3000)
        page.screenshot(path=IMAGES / "tab.png")
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto(f"{url}?darkMode=false#custom_scalars")
        page.locator("tf-custom-scalar-multi-line-chart-card svg").first.wait_for(timeout=120_000)
        page.wait_for_timeout(3000)
        page.locator("paper-slider").first.focus()
        page.keyboard.press("Home")  # no smoothing, as the page advises
        page.wait_for_timeout(3000)
        # Last, since it is what makes the charts choose their scales anew.
        page.get_by_text("Ignore outliers in chart scaling").first.click()
        page.wait_for_timeout(5000)
        page.screenshot(path=IMAGES / "custom_scalars.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
