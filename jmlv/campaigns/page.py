"""A campaign's rows as a page for people."""

from __future__ import annotations

from collections.abc import Sequence

from jmlv.campaigns.status import Status
from jmlv.campaigns.table import Row, summary
from jmlv.report import Page, campaign_page


def page_of(rows: Sequence[Row], status: Status, by: Sequence[str]) -> Page:
    """Counts, a summary by columns, failures, and the answers.

    Args:
        rows: one for every question.
        status: how far the campaign is.
        by: columns that the summary is grouped by; none for no summary.

    Raises:
        ValueError: no row has a column of that name.
    """
    groups = {}
    if by and rows:
        grouped = summary(rows, by)
        groups[f"By {', '.join(by)}"] = grouped.names, grouped.rows
    return campaign_page(rows, f"{status}.", groups)
