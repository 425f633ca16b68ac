"""The page of a campaign: counts, groups, and every answer as far as a page holds them."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from jmlv.report.html import Markup, Page, facts, section, table
from jmlv.shown import column

Row = Mapping[str, Any]

MOST = 1000
"""Rows of the table of answers, at most: a page stays small."""

HIDDEN = ("key",)


def campaign_page(
    rows: Sequence[Row],
    told: str,
    groups: Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]],
) -> Page:
    """What was asked and what came out.

    Args:
        rows: one for every question, as a campaign's table has them.
        told: how far it is, in a sentence.
        groups: summaries by their headings: names of columns, and rows.
    """
    parts = [section("Counts", facts(_counts(rows)))]
    parts += [section(name, table(name, *content)) for name, content in groups.items()]
    failures = [row for row in rows if row.get("failure")]
    if failures:
        parts.append(section("What failed", _table(failures, "Failures")))
    parts.append(section("Every answer", _table(rows, _caption(rows))))
    return Page("A campaign", told, tuple(parts))


def _counts(rows: Sequence[Row]) -> list[tuple[str, int]]:
    states = collections.Counter(str(row.get("state")) for row in rows)
    statuses = collections.Counter(str(row["status"]) for row in rows if row.get("status"))
    return [("questions", len(rows)), *states.items(), *statuses.items()]


def _caption(rows: Sequence[Row]) -> str:
    if len(rows) <= MOST:
        return f"All {len(rows)} questions"
    return f"The first {MOST} of {len(rows)} questions; 'jmlv campaign table' has all"


def _table(rows: Sequence[Row], caption: str) -> Markup:
    """The rows' columns, without those that hold lists."""
    rows = rows[:MOST]
    names = [n for n in dict.fromkeys(n for row in rows for n in row) if n not in HIDDEN]
    names = [n for n in names if not any(isinstance(row.get(n), (list, dict)) for row in rows)]
    names = [n for n in names if any(row.get(n) is not None for row in rows)]
    return table(
        caption, names, [[_short(column(name, row.get(name))) for name in names] for row in rows]
    )


def _short(value: Any) -> Any:
    return value if not isinstance(value, str) or len(value) <= 200 else value[:199] + "…"
