"""The gallery's pages, whose tables stand between markers, so that a test can compare them with the stored runs."""

from __future__ import annotations

import re

from gallery.stored import RESULTS

DOCS = RESULTS.parent.parent / "docs"
PAGES = (DOCS / "gallery.md", DOCS / "gallery_runs.md")


def fill(text: str, tables: dict[str, str]) -> str:
    """Put tables between their markers.

    Args:
        text: a page with `<!-- table: NAME -->` and `<!-- end -->`.
        tables: name to Markdown.

    Returns:
        The page.

    Raises:
        KeyError: if the page asks for a table that there is not.

    Examples:
        >>> fill("<!-- table: a -->old<!-- end -->", {"a": "new"}).split()
        ['<!--', 'table:', 'a', '-->', 'new', '<!--', 'end', '-->']
    """
    return re.sub(
        r"(<!-- table: (.+?) -->).*?(<!-- end -->)",
        lambda match: f"{match[1]}\n{tables[match[2]]}\n{match[3]}",
        text,
        flags=re.DOTALL,
    )
