"""Turn the formulas of a page into MathML when the site is built, so that it needs no script and no network."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Called by MkDocs with the HTML of each page."""

    def to_mathml(match: re.Match[str]) -> str:
        formula = convert(html.unescape(match[2]), display="block" if match[1] == "div" else "inline")
        # Few fonts have the sign for set difference, U+29F5; a backslash looks the same.
        formula = formula.replace("<mi>&#x029F5;</mi>", "<mo>&#x0005C;</mo>")
        return f'<div class="formula">{formula}</div>' if match[1] == "div" else formula

    return _FORMULA.sub(to_mathml, content)
