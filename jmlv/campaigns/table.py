"""Rows of answers as a table: pandas where it is installed, else a plain value."""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns by name, all of one length; a cell that a row does not have is None.

    >>> table = Table.of([{"image": 0, "status": "ROBUST"}, {"image": 1}])
    >>> table.names, table.column("status")
    (('image', 'status'), ['ROBUST', None])
    """

    names: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    @staticmethod
    def of(rows: Sequence[Row]) -> Table:
        """A table with a column for every name that occurs, in the order of their first occurrence."""
        names = tuple(dict.fromkeys(name for row in rows for name in row))
        return Table(names, tuple(tuple(row.get(name) for name in names) for row in rows))

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> list[Any]:
        """The cells under one name.

        Raises:
            KeyError: there is no such column.
        """
        if name not in self.names:
            raise KeyError(f"{name!r}: expected one of {list(self.names)}.")
        place = self.names.index(name)
        return [row[place] for row in self.rows]

    def __repr__(self) -> str:
        return f"Table({len(self)} rows: {', '.join(self.names)})"


def in_pandas(table: Table) -> Any:
    """The table as a pandas data frame if pandas is installed, else as it is."""
    try:
        import pandas
    except ImportError:
        return table
    return pandas.DataFrame(list(table.rows), columns=list(table.names))


def summary(rows: Sequence[Row], by: Sequence[str]) -> Table:
    """One row for each combination of the values under ``by``.

    It has the number of questions, how many have each status, the mean of every number that all answered
    rows of some group have, and the median of their seconds.

    >>> rows = [{"radius": 0.1, "status": "ROBUST", "size": s, "seconds": s} for s in (1.0, 2.0, 6.0)]
    >>> summary(rows, ["radius"])
    Table(1 rows: radius, questions, ROBUST, mean size, median seconds)
    >>> summary(rows, ["radius"]).rows
    ((0.1, 3, 3, 3.0, 2.0),)

    Raises:
        ValueError: no row has a column of that name.
    """
    known = dict.fromkeys(name for row in rows for name in row)
    for name in by:
        if rows and name not in known:
            raise ValueError(f"by: got {name!r}; expected some of {list(known)}.")
    groups: dict[tuple, list[Row]] = collections.defaultdict(list)
    for row in rows:
        groups[tuple(row.get(name) for name in by)].append(row)
    statuses = list(dict.fromkeys(str(row.get("status", "-")) for row in rows))
    numbers = [name for name in known if name not in by and _is_number(rows, name)]
    return Table.of(
        [
            dict(zip(by, group)) | _counts(members, statuses) | _means(members, numbers)
            for group, members in groups.items()
        ]
    )


def _counts(members: Sequence[Row], statuses: Sequence[str]) -> dict[str, int]:
    found = collections.Counter(str(row.get("status", "-")) for row in members)
    return {"questions": len(members)} | {status: found[status] for status in statuses}


def _means(members: Sequence[Row], names: Sequence[str]) -> dict[str, float]:
    found = {}
    for name in names:
        values = [float(row[name]) for row in members if row.get(name) is not None]
        if values:
            middle = statistics.median if name == "seconds" else statistics.fmean
            found[f"{'median' if name == 'seconds' else 'mean'} {name}"] = middle(values)
    return found


def _is_number(rows: Sequence[Row], name: str) -> bool:
    values = [row[name] for row in rows if row.get(name) is not None]
    return bool(values) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in values
    )
