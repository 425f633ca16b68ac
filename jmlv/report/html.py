"""A page as one file: escaped text in, a document that fetches nothing out."""

from __future__ import annotations

import dataclasses
import html
import importlib.resources
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jmlv.records import plain, version

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
"""What a browser may load for the page: what is in it."""


HATCH = (
    '<svg width="0" height="0" aria-hidden="true" style="position: absolute"><defs>'
    '<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect width="2" height="6" class="stripe"/></pattern></defs></svg>'
)
"""What a page's hatched bars are filled with."""


class Markup(str):
    """Text that is HTML already; any other text is escaped where it is put into a page."""


def text(value: Any) -> Markup:
    """A value for a page: numbers with four digits, None as a dash, all else escaped.

    >>> text("a < b"), text(0.123456), text(None), text(True)
    ('a &lt; b', '0.1235', '–', 'yes')
    """
    if isinstance(value, Markup):
        return value
    if isinstance(value, bool):
        return Markup("yes" if value else "no")
    if value is None:
        return Markup("–")
    if isinstance(value, float):
        return Markup(_number(value))
    return Markup(html.escape(str(value)))


def _number(value: float) -> str:
    if math.isfinite(value):
        return f"{value:.4g}"
    return "not a number" if math.isnan(value) else "unbounded"


def element(name: str, *children: Any, **attributes: Any) -> Markup:
    """One element; ``_`` at the end of an attribute's name is dropped, inside it is a hyphen.

    >>> element("p", "a < b", class_="lead", aria_live="polite")
    '<p class="lead" aria-live="polite">a &lt; b</p>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{''.join(map(text, children))}</{name}>")


def section(heading: str, *children: Any, **attributes: Any) -> Markup:
    """A part of the page with its heading."""
    return element("section", element("h2", heading), *children, **attributes)


def facts(pairs: Iterable[tuple[str, Any]]) -> Markup:
    """Terms and what they are; pairs of None are left out."""
    rows = (element("dt", k) + element("dd", v) for k, v in pairs if v is not None)
    return element("dl", Markup("".join(rows)))


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Markup:
    """A table that a screen reader can walk; its first column names the rows."""
    head = element("tr", *(element("th", name, scope="col") for name in header))
    body = [
        element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in rest))
        for first, *rest in rows
    ]
    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", head),
            element("tbody", *body),
        ),
        class_="wide",
        tabindex=0,
        role="region",
        aria_label=caption,
    )


def folded(summary: str, *children: Any) -> Markup:
    """A part that is unfolded by a click or the enter key."""
    return element("details", element("summary", summary), *children)


def script(**data: Any) -> Markup:
    """Data for the page's script, which comes with it."""
    content = json.dumps(plain(data), allow_nan=False).replace("<", "\\u003c")
    holder = Markup(f'<script type="application/json" id="data">{content}</script>')
    return Markup(f"{holder}<script>{_bundled('neighborhood.js')}</script>")


@dataclasses.dataclass(frozen=True)
class Page:
    """A page: its title, what it says in a sentence or two, and its parts."""

    title: str
    lead: str
    parts: tuple[Markup, ...]
    network: str = ""

    def html(self) -> str:
        """The whole document."""
        made = f"Made by jmlv {version()}" + (f"; network {self.network}" if self.network else "")
        head = Markup(
            '<meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
            f"<title>{html.escape(self.title)}</title><style>{_bundled('page.css')}</style>"
        )
        body = element(
            "main",
            Markup(HATCH),
            element("h1", self.title),
            element("p", self.lead, class_="lead"),
            *self.parts,
            element("footer", made),
        )
        return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'

    def write(self, path: str | Path) -> None:
        """Writes the document, and its folder if there is none.

        Raises:
            ValueError: the path does not end in ``.html``.
        """
        path = require_page(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.html(), encoding="utf-8")


def require_page(path: str | Path) -> Path:
    """The path, if it is one of a page: asked before the work that the page is about.

    Raises:
        ValueError: it does not end in ``.html``.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"path: a page's name ends in .html, got {str(path)!r}.")
    return path


def counted(values: Mapping[str, int]) -> str:
    """Counts as text.

    >>> counted({"CROWN": 3, "PGD": 1})
    '3 CROWN, 1 PGD'
    """
    return ", ".join(f"{count} {name}" for name, count in values.items()) or "none"


def _bundled(name: str) -> str:
    return (importlib.resources.files("jmlv.report") / name).read_text(encoding="utf-8")
